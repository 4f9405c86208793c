"""Seconds of a fit with torch's own number of threads, over those with one thread.

Each fit runs in a fresh process, alone and while another process keeps a core busy:
threads that wait for each other spin, and lose most where a core is taken. Run it
*without* OMP_NUM_THREADS, on a machine that does nothing else.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import numpy as np
import torch
from reporting import print_table

from sklearn_ccx import InteractionSAE


def fit(n_samples: int, width: int, n_components: int, max_iter: int | None) -> float:
    """Seconds of a fit in this process."""
    X = np.random.default_rng(0).normal(size=(n_samples, width)).astype(np.float32)
    sae = InteractionSAE(n_components, max_iter=max_iter, random_state=0)
    start = time.perf_counter()
    sae.fit(X)
    return time.perf_counter() - start


def fit_elsewhere(arguments: list[str], n_threads: int | None) -> float:
    """Seconds of a fit in a fresh process."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    if n_threads is not None:
        environment["OMP_NUM_THREADS"] = str(n_threads)
    command = [sys.executable, __file__, "--alone", *arguments]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    )
    return float(result.stdout)


def spin() -> None:
    """Keep a core busy."""
    while True:
        pass


@contextmanager
def busy_core(is_busy: bool) -> Iterator[None]:
    """Another process at work."""
    if not is_busy:
        yield
        return
    process = multiprocessing.Process(target=spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()


def main() -> None:
    """Print the table, or the seconds of one fit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--passes", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    shape = options.samples, options.width, options.features
    if options.alone:
        print(fit(*shape, options.passes))
        return
    arguments = sys.argv[1:]
    print(
        f"{options.samples} samples of width {options.width}, {options.features} "
        f"features; {os.cpu_count()} cores, torch {torch.__version__}\n"
    )
    rows = []
    for is_busy in (False, True):
        seconds: list[tuple[float, float]] = []
        with busy_core(is_busy):
            for _ in range(options.repeats):
                default, one = (fit_elsewhere(arguments, n) for n in (None, 1))
                seconds.append((default, one))
        default, one = map(median, zip(*seconds, strict=True))
        rows.append(
            [
                "a core busy" if is_busy else "idle",
                f"{default:.2f}",
                f"{one:.2f}",
                f"{default / one:.2f}",
            ]
        )
    print_table(["", "default threads", "one thread", "default ÷ one"], rows)


if __name__ == "__main__":
    main()
