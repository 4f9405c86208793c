"""Weak scaling: samples per second of several processes that fit together, and of one.

Every process has one thread, and as many samples of each batch as the one process has
alone: together they fit so many times the samples, in batches so many times as large.
What a fit does once is left out: counted is what further passes add to its time. Run it
on a machine that does nothing else. Where something else holds the cores, the time that
the processor spent on them says what the time would have been but for waiting.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from activations import sparse_activations
from reporting import print_table

from sklearn_ccx import InteractionSAE, MLPWeights


def processor() -> str:
    """What the machine calls its processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def seconds_of_passes(options: argparse.Namespace) -> tuple[float, ...]:
    """What further passes of a fit take, in this process among the others.

    Seconds that pass, and those that the processor spends.
    """
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    rng = np.random.default_rng(0)
    X = sparse_activations(
        n_processes * options.samples,
        options.width,
        n_directions=2 * options.width,
        n_active=8,
    )
    shapes = (options.width, options.neurons), (options.neurons, options.width)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    seconds = []
    for n_passes in (1, 1 + options.passes):
        sae = InteractionSAE(
            options.features,
            k=options.k,
            mlp=MLPWeights(*weights, activation="gelu"),
            batch_size=n_processes * options.batch,
            max_iter=n_passes,
            device="cpu",
            random_state=0,
        )
        start = np.array([time.perf_counter(), time.process_time()])
        sae.fit(X)
        seconds.append([time.perf_counter(), time.process_time()] - start)
    return tuple((seconds[1] - seconds[0]).tolist())


def measured(n_processes: int, arguments: list[str]) -> list[float]:
    """Seconds of the passes in fresh processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(n_processes)]
    command = [__file__, "--worker", *arguments]
    result = subprocess.run(
        [sys.executable, *(launcher if n_processes > 1 else []), *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(word) for word in result.stdout.split()]


def main() -> None:
    """Print the table, or the seconds of one process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--samples", type=int, default=4096, help="of each process")
    parser.add_argument("--batch", type=int, default=1024, help="of each process")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--neurons", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.worker:
        wall, cpu = seconds_of_passes(options)
        if os.environ.get("RANK", "0") == "0":
            print(wall, cpu)
        return
    print(
        f"{options.batch} samples of width {options.width} a batch and process, "
        f"{options.features} features, an MLP of {options.neurons} neurons;\n"
        f"one thread each; {os.cpu_count()} cores ({processor()}), torch "
        f"{torch.__version__}, gloo;\nload of the machine at the start: "
        f"{os.getloadavg()[0]:.1f}\n"
    )
    numbers = (1, options.processes)
    times: dict[int, list[list[float]]] = {n_processes: [] for n_processes in numbers}
    for _ in range(options.repeats):
        for n_processes in numbers:
            times[n_processes].append(measured(n_processes, sys.argv[1:]))
    rates = {}
    for n_processes, seconds in times.items():
        n_samples = n_processes * options.passes * options.samples
        rates[n_processes] = [
            n_samples / median(column) for column in zip(*seconds, strict=True)
        ]
    header = ["processes", "samples/s", "÷ one", "samples/s of CPU", "÷ one"]
    rows = []
    for n_processes, own in rates.items():
        cells = [
            cell
            for rate, alone in zip(own, rates[1], strict=True)
            for cell in (f"{rate:.0f}", f"{rate / alone:.2f}")
        ]
        rows.append([str(n_processes), *cells])
    print_table(header, rows)


if __name__ == "__main__":
    main()
