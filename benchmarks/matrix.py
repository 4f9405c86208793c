"""Rows per second of `interaction_matrix` against a loop over pairs of features.

The loop is the definition written down: for each sample and each pair of its active
features, the sum over the neurons that the first dominates. It gets the codes and what
each feature writes to each neuron; `interaction_matrix` has to compute both.
"""

import argparse
import os
from functools import partial

import numpy as np
import torch
from reporting import interleaved_medians, print_table

from sklearn_ccx import InteractionSAE, MLPWeights, interaction_matrix


def textbook_matrix(codes, M, norm):
    """The interaction matrix, dense, of codes (B, m) at neurons M (m, N)."""
    A = np.zeros((len(M), len(M)))
    for code in codes:
        active = np.flatnonzero(code)
        sent = code[active, None] * np.abs(M[active])
        dominant = sent.argmax(axis=0)
        sent *= norm
        for i in range(len(active)):
            is_dominated = dominant == i
            for j in range(len(active)):
                if j != i:
                    A[active[i], active[j]] += sent[j, is_dominated].sum()
    return A / len(codes)


def package_matrix(sae, X, kernels):
    os.environ["SKLEARN_CCX_KERNELS"] = kernels
    return interaction_matrix(sae, X)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=1536)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--neurons", type=int, default=3072)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--textbook-rows", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    # What the features are does not matter here: a dictionary after one step.
    rng = np.random.default_rng(0)
    W_in = rng.normal(size=(options.width, options.neurons)).astype(np.float32)
    X = rng.normal(size=(options.rows, options.width)).astype(np.float32)
    mlp = MLPWeights(W_in, W_in.T, activation="gelu")
    sae = InteractionSAE(
        options.features,
        k=options.k,
        activation="topk",
        lam=0,
        mlp=mlp,
        max_iter=1,
        random_state=0,
    ).fit(X[:256])

    few = X[: options.textbook_rows]
    codes, M = sae.transform(few), sae.components_ @ W_in
    norm = mlp.lipschitz * np.linalg.norm(W_in.T, axis=1)
    expected = textbook_matrix(codes, M, norm)
    for kernels in ("numba", "torch"):
        A = package_matrix(sae, few, kernels).toarray()
        np.testing.assert_allclose(A, expected, rtol=1e-3, atol=1e-4 * expected.max())

    calls = {
        "numba": partial(package_matrix, sae, X, "numba"),
        "torch": partial(package_matrix, sae, X, "torch"),
        "textbook": partial(textbook_matrix, codes, M, norm),
    }
    seconds = interleaved_medians(calls, options.repeats)
    n_rows = dict.fromkeys(calls, len(X)) | {"textbook": len(few)}
    speed = {form: n_rows[form] / seconds[form] for form in calls}
    print(
        f"{len(X)} rows ({len(few)} for the textbook loop), {options.features} "
        f"features, {np.count_nonzero(codes) / len(few):g} active on average,\n"
        f"one MLP of width {options.width} and {options.neurons} neurons; "
        f"{options.threads} thread(s), float32\n"
    )
    print_table(
        ["form", "rows/s", "form ÷ textbook"],
        [[f, f"{v:,.0f}", f"{v / speed['textbook']:.1f}"] for f, v in speed.items()],
    )


if __name__ == "__main__":
    main()
