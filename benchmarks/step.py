"""Time of a training step: forward, backward and optimizer.

First a sparse autoencoder without penalty, against other packages where they are
installed. (overcomplete 0.3 needs a torchvision built for the same torch and
matplotlib<3.9.) Then a crosscoder with the interaction penalty, against itself without,
and the matrix products that no form of the penalty can avoid (see penalty.py).

Each takes its steps on one and the same batch. The last column shows that it trains:
the loss at its last step over the loss at its first.
"""

import argparse
import math
import os
from collections.abc import Callable
from dataclasses import astuple, fields
from importlib.metadata import version

import numpy as np
import torch
from activations import sparse_activations
from peers import LEARNING_RATE, PEERS, Step, why_missing
from penalty import floor
from penalty_forms import Shapes, random_problem
from reporting import interleaved_medians, print_table
from sklearn.base import clone

from sklearn_ccx import InteractionCrosscoder, InteractionSAE, MLPWeights
from sklearn_ccx._engine._data import TrainingData
from sklearn_ccx._engine._fit import Training
from sklearn_ccx._engine._measure_sites import measure_sites


def our_step(
    estimator: InteractionCrosscoder | InteractionSAE,
    X: np.ndarray,
    n_sites: int = 1,
    kernels: str = "auto",
) -> Step:
    """The step that fit takes with X, of shape (B, F), as its batch."""
    rows, generator = np.arange(len(X)), torch.Generator().manual_seed(0)
    settings = estimator._settings(
        X.shape[1], n_sites, len(X), X.dtype, n_all=len(X), n_buffers=1
    )
    scaling = measure_sites(X, rows, n_sites, center=True, normalize=True)
    data = TrainingData(X, scaling, settings.dtype, settings.device)
    mlps = estimator._frozen_mlps(data)
    trainer = Training.begin(data, rows, mlps, settings, generator).trainer
    x_BF = data.load(rows)
    no_dead_features = torch.zeros(0, dtype=torch.int64)

    def step() -> float:
        os.environ["SKLEARN_CCX_KERNELS"] = kernels
        report, _ = trainer.step(x_BF, no_dead_features, LEARNING_RATE)
        return float(report.loss)

    return step


def print_times(steps: dict[str, Step], repeats: int) -> None:
    """Table of the steps' times; the first is the unit."""
    losses: dict[str, list[float]] = {name: [] for name in steps}

    def recorded(name: str) -> Callable[[], None]:
        return lambda: losses[name].append(steps[name]())

    seconds = interleaved_medians({name: recorded(name) for name in steps}, repeats)
    unit = seconds[next(iter(steps))]
    print_table(
        ["", "seconds", "÷ first row", "loss, last ÷ first"],
        [
            [
                name,
                f"{time:.3f}",
                f"{time / unit:.2f}",
                f"{losses[name][-1] / losses[name][0]:.3f}".replace("nan", ""),
            ]
            for name, time in seconds.items()
        ],
    )
    print()


def compare_with_peers(
    width: int, n_features: int, k: int, batch_size: int, repeats: int
) -> None:
    X = sparse_activations(batch_size, width, n_directions=2 * width, n_active=k)
    missing = {name: why_missing(module) for name, (module, *_) in PEERS.items()}
    for activation in ("BatchTopK", "TopK"):
        sae = InteractionSAE(n_features, k=k, activation=activation.lower(), lam=0)
        steps = {"sklearn-ccx": our_step(sae, X)}
        for name, (_, peer_step, activations) in PEERS.items():
            if activation in activations and not missing[name]:
                x_BF = torch.from_numpy(X)
                step = peer_step(x_BF, n_features, k, activation)
                steps[f"{name} {version(name)}"] = step
        print(
            f"Sparse autoencoder, {activation}, k={k}: {batch_size} samples of width "
            f"{width}, {n_features} features"
        )
        print_times(steps, repeats)
    for name, reason in missing.items():
        if reason:
            print(f"{name}: {reason}")


def compare_with_penalty(shapes: Shapes, repeats: int) -> None:
    X = sparse_activations(
        shapes.batch,
        shapes.sites * shapes.width,
        n_directions=shapes.features,
        n_active=shapes.k,
    )
    problem = random_problem(shapes)
    mlps = [
        MLPWeights(mlp.W_in_DN, mlp.W_out_NO, activation="gelu", site=mlp.site)
        for mlp in problem.mlps
    ]
    plain = InteractionCrosscoder(shapes.features, k=shapes.k, lam=0, mlp=mlps)
    penalized = clone(plain).set_params(lam=0.1)
    steps = {"without penalty": our_step(plain, X, shapes.sites)}
    for kernels in ("numba", "torch"):
        if kernels == "torch" or not why_missing("numba"):
            step = our_step(penalized, X, shapes.sites, kernels)
            steps[f"with penalty, {kernels}"] = step
    products = floor(problem)
    steps["the penalty's products alone"] = lambda: products() or math.nan
    print(
        f"Crosscoder, BatchTopK, k={shapes.k}: {shapes.batch} samples, {shapes.sites} "
        f"sites of width {shapes.width}, {shapes.features} features,\n"
        f"{shapes.mlps} MLPs of {shapes.neurons} neurons"
    )
    print_times(steps, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sae",
        nargs=4,
        type=int,
        default=[768, 6144, 32, 4096],
        metavar=("WIDTH", "FEATURES", "K", "BATCH"),
    )
    parser.add_argument(
        "--crosscoder",
        nargs=7,
        type=int,
        default=astuple(Shapes()),
        metavar=tuple(field.name.upper() for field in fields(Shapes)),
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"float32, {options.threads} thread(s)\n")
    compare_with_peers(*options.sae, options.repeats)
    # Its steps are shorter, and with the penalty the loss takes longer to fall.
    compare_with_penalty(Shapes(*options.crosscoder), 4 * options.repeats)
    print("Aim with penalty: numba at most 2.5 times the step without.")


if __name__ == "__main__":
    main()
