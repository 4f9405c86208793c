"""Rows per second of the analyses with several jobs, and what the jobs are sent.

The speeds are those of whole calls on activations in a memory map, after one call that
starts the workers. Then the bytes that all tasks of a call are sent, and the peak
memory of a search over a memory map and over the same file opened with `open_npy`. Run
it with OMP_NUM_THREADS=1, so that one job is one core.
"""

import argparse
import pickle
import tempfile
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from joblib import parallel_config
from reporting import interleaved_medians, print_table
from sklearn.model_selection import GridSearchCV

from sklearn_ccx import (
    InteractionSAE,
    MLPWeights,
    ablation_fidelity,
    certify,
    interaction_matrix,
)
from sklearn_ccx.activations import open_npy
from sklearn_ccx.interactions import NeuronReader
from sklearn_ccx.interactions._row_tasks import _task_rows

ANALYSES: dict[str, Callable[..., object]] = {
    "interaction_matrix": interaction_matrix,
    "ablation_fidelity": partial(ablation_fidelity, random_state=0),
    "certify": certify,
}


def speeds(sae: InteractionSAE, X: Any, n_jobs: int, repeats: int) -> None:
    def call(analysis: Callable[..., object], backend: str, jobs: int) -> None:
        with parallel_config(backend):
            analysis(sae, X, n_jobs=jobs)

    rows = []
    for name, analysis in ANALYSES.items():
        seconds = interleaved_medians(
            {
                "one": partial(call, analysis, "loky", 1),
                "processes": partial(call, analysis, "loky", n_jobs),
                "threads": partial(call, analysis, "threading", n_jobs),
            },
            repeats,
        )
        rates = [f"{len(X) / s:.0f}" for s in seconds.values()]
        gains = [f"{seconds['one'] / seconds[x]:.2f}" for x in ("processes", "threads")]
        rows.append([name, *rates, *gains])
    header = ["analysis", "1 job rows/s", f"{n_jobs} processes", f"{n_jobs} threads"]
    print_table([*header, "gain of processes", "gain of threads"], rows)


def bytes_sent(sae: InteractionSAE, X: Any, n_jobs: int) -> None:
    reader = NeuronReader(sae, X)
    tasks = _task_rows(reader, n_jobs)
    sent = sum(len(pickle.dumps(rows)) for rows in tasks)
    state = len(pickle.dumps(reader))
    print(f"\n{len(tasks)} tasks: weights {state / 2**20:.1f} MiB, once or per task;")
    print(f"rows {sent / 2**10:.1f} KiB in all, of a map of {X.nbytes / 2**20:.0f} MiB")


def search_peaks(path: Path) -> None:
    sae = InteractionSAE(16, k=4, max_iter=1, batch_size=4096, random_state=0)
    search = GridSearchCV(sae, {"lam": [0.0]}, cv=2, refit=False, scoring=no_score)
    rows = []
    for name, X in (
        ("memory map", np.load(path, mmap_mode="r")),
        ("open_npy", open_npy(path)),
    ):
        tracemalloc.start()
        search.fit(X)
        rows.append([name, f"{tracemalloc.get_traced_memory()[1] / 2**20:.0f}"])
        tracemalloc.stop()
    print()
    print_table(["search over", "peak MiB"], rows)


def no_score(estimator: Any, X: Any, y: Any = None) -> float:
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--neurons", type=int, default=1024)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = options.width, options.neurons
    mlp = MLPWeights(
        rng.normal(size=shape).astype(np.float32),
        rng.normal(size=shape[::-1]).astype(np.float32),
        activation="gelu",
    )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "X.npy"
        X = rng.normal(size=(options.rows, options.width)).astype(np.float32)
        np.save(path, X)
        sae = InteractionSAE(
            options.features, k=options.k, mlp=mlp, lam=0, max_iter=1, random_state=0
        ).fit(X[:4096])
        X = np.load(path, mmap_mode="r")
        speeds(sae, X, options.jobs, options.repeats)
        bytes_sent(sae, X, options.jobs)
        search_peaks(path)


if __name__ == "__main__":
    main()
