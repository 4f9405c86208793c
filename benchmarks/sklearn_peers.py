"""InteractionSAE against dictionary learning, NMF and sparse PCA of scikit-learn.

All have the same number of components and otherwise their defaults; MiniBatchNMF gets
the data shifted to be non-negative. A fit that has a callback is stopped at the cap.

The codes differ in kind: one pass through an encoder for ours, orthogonal matching
pursuit (OMP) for MiniBatchDictionaryLearning. "R² by OMP" therefore compares their
components alone, with the codes that OMP finds as it does by default for the latter.
"""

import argparse
import math
import time
from bisect import bisect_left
from contextlib import suppress
from functools import cache
from statistics import median
from typing import Any

import numpy as np
import torch
from activations import sparse_activations
from reporting import print_table
from sklearn.base import BaseEstimator
from sklearn.decomposition import (
    MiniBatchDictionaryLearning,
    MiniBatchNMF,
    MiniBatchSparsePCA,
    SparseCoder,
)
from sklearn.metrics import r2_score
from threadpoolctl import threadpool_limits

from sklearn_ccx import InteractionSAE

History = list[tuple[float, np.ndarray]]


class TimeIsUpError(Exception):
    """A fit has reached the cap."""


def fit(
    estimator: BaseEstimator, X: np.ndarray, cap: float = math.inf
) -> tuple[float, History]:
    """Seconds of the fit, and seconds and dictionary after each of its batches.

    Where the estimator has no callback, there is no cap and the second is empty.
    """
    history: History = []

    def callback(variables: dict[str, Any]) -> None:
        seconds, dictionary = time.perf_counter() - start, variables["dictionary"]
        if dictionary.shape[1] == X.shape[1]:  # MiniBatchSparsePCA's is that of X.T
            history.append((seconds, dictionary.copy()))
        if seconds > cap:
            raise TimeIsUpError

    if "callback" in estimator.get_params():
        estimator.set_params(callback=callback)
    start = time.perf_counter()
    with suppress(TimeIsUpError):
        estimator.fit(X)
    return time.perf_counter() - start, history


def explained(X: np.ndarray, recon: np.ndarray) -> float:
    return r2_score(X, recon, multioutput="variance_weighted")


def explained_by_omp(X: np.ndarray, components: np.ndarray) -> float:
    dictionary = components / np.linalg.norm(components, axis=1, keepdims=True)
    codes = SparseCoder(dictionary, transform_algorithm="omp").transform(X)
    return explained(X, codes @ dictionary)


def evaluate(estimator: BaseEstimator, X: np.ndarray) -> list[float]:
    """Seconds of transform, R², and how many components are active on average."""
    if not hasattr(estimator, "components_"):  # the fit was stopped
        return [math.nan] * 3
    start = time.perf_counter()
    codes = estimator.transform(X)
    seconds = time.perf_counter() - start
    l0 = np.count_nonzero(codes) / len(codes)
    return [seconds, explained(X, estimator.inverse_transform(codes)), l0]


def print_results(measured: dict[str, list[float]], our_time: float) -> None:
    our_transform = measured["InteractionSAE"][1]
    measured["InteractionSAE"][0] = our_time
    rows = []
    for name, (fit_time, transform_time, r2, l0) in measured.items():
        row = [name, f"{fit_time:.1f}", f"{fit_time / our_time:.1f}"]
        if math.isnan(transform_time):
            row = [name, *(f"> {cell}" for cell in row[1:]), *[""] * 4]
        else:
            ratio = transform_time / our_transform
            row += [f"{transform_time:.2f}", f"{ratio:.0f}", f"{r2:.3f}", f"{l0:.1f}"]
        rows.append(row)
    header = ["", "fit, s", "÷ ours", "transform, s", "÷ ours", "test R²", "L0"]
    print_table(header, rows)


def print_progress(
    history: History,
    X: np.ndarray,
    ours: InteractionSAE,
    our_r2: float,
    our_time: float,
) -> None:
    """When MiniBatchDictionaryLearning reached what ours did."""
    r2_after = cache(lambda index: explained_by_omp(X, history[index][1]))
    our_r2_by_omp = explained_by_omp(X - ours.intercept_, ours.components_)
    print(
        f"\nR² by OMP: InteractionSAE {our_r2_by_omp:.3f}, "
        f"MiniBatchDictionaryLearning {r2_after(len(history) - 1):.3f}"
    )
    for label, r2 in (("test R²", our_r2), ("R² by OMP", our_r2_by_omp)):
        index = bisect_left(range(len(history)), r2, key=r2_after)
        outcome = "it reached" if index < len(history) else "it was still below"
        ratio = history[min(index, len(history) - 1)][0] / our_time
        print(f"After {ratio:.1f} times our fit {outcome} our {label} of {r2:.3f}.")
    n_batches = bisect_left(history, our_time, key=lambda entry: entry[0])
    reached = f": R² {r2_after(n_batches - 1):.3f}" if n_batches else ""
    print(f"In the time of our fit it went through {n_batches} batches{reached}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--cap", type=float, default=10, help="as a multiple of ours")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    width = options.width
    X = sparse_activations(options.samples, width, n_directions=2 * width, n_active=16)
    X_train, X_test = np.split(X, [len(X) * 4 // 5])
    print(
        f"{len(X_train)} training and {len(X_test)} test samples of width {width}, "
        f"{4 * width} components; {options.threads} thread(s), float32\n"
    )

    sizes = {"n_components": 4 * width, "random_state": 0}
    ours = InteractionSAE(**sizes)
    our_times = [fit(ours, X_train)[0]]
    cap = options.cap * our_times[0]
    measured = {"InteractionSAE": [our_times[0], *evaluate(ours, X_test)]}
    learning = MiniBatchDictionaryLearning(**sizes)
    for peer in (learning, MiniBatchNMF(**sizes), MiniBatchSparsePCA(**sizes)):
        shift = X.min() if isinstance(peer, MiniBatchNMF) else 0
        seconds, dictionaries = fit(peer, X_train - shift, cap)
        measured[type(peer).__name__] = [seconds, *evaluate(peer, X_test - shift)]
        if peer is learning:
            history = dictionaries
        our_times.append(fit(ours, X_train)[0])  # again, to see how much it varies
    unit = median(our_times)
    print_results(measured, unit)
    print(f"\nOur {len(our_times)} fits: {min(our_times):.1f}–{max(our_times):.1f} s")
    print_progress(history, X_test, ours, measured["InteractionSAE"][2], unit)


if __name__ == "__main__":
    main()
