"""Memory that a fit takes, by the size of its activations.

The same coder is fitted on activations of growing size: on a memory map of a sparse
file, of which one row in a thousand is written, and on a stream that makes them.
Counted is the largest anonymous resident set during the fit less the one before it, in
a fresh process: pages of the memory map belong to the file and are not counted. Linux
only.
"""

import argparse
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from reporting import print_table

from sklearn_ccx import InteractionSAE
from sklearn_ccx.activations import ActivationStream

WIDTH, N_COMPONENTS, BUFFER_SIZE = 768, 256, 2**14


class PeakMemory:
    """The largest anonymous resident set while the block runs, in MiB."""

    def __enter__(self) -> "PeakMemory":
        self._before = self.mib = _anonymous_mib()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        self.mib -= self._before

    def _watch(self) -> None:
        while not self._ends.wait(0.005):
            self.mib = max(self.mib, _anonymous_mib())


def _anonymous_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("No RssAnon in /proc/self/status.")


def memory_map(n_rows: int, directory: Path) -> np.ndarray:
    """A sparse file of zeros with some rows of numbers."""
    rows = np.memmap(
        directory / "activations.npy",
        dtype=np.float32,
        mode="w+",
        shape=(n_rows, WIDTH),
    )
    rng = np.random.default_rng(0)
    for start in range(0, n_rows, 1000):
        rows[start] = rng.normal(size=WIDTH)
    rows.flush()
    return rows


def stream(n_rows: int) -> ActivationStream:
    """Rows that are made when they are read: always those of one block."""
    block = np.random.default_rng(0).normal(size=(BUFFER_SIZE, WIDTH))
    block = block.astype(np.float32)

    def read(start: int, stop: int) -> np.ndarray:
        return np.roll(block, -start, axis=0)[: stop - start]

    return ActivationStream(read, n_rows, buffer_size=BUFFER_SIZE)


def _measure(kind: str, n_rows: int, threads: int) -> tuple[float, float]:
    torch.set_num_threads(threads)
    sae = InteractionSAE(
        N_COMPONENTS, k=8, lam=0, batch_size=4096, max_iter=1, random_state=0
    )
    with tempfile.TemporaryDirectory() as directory:
        # Libraries are loaded outside the measurement.
        sae.fit(np.random.default_rng(0).normal(size=(100, WIDTH)).astype(np.float32))
        X = memory_map(n_rows, Path(directory)) if kind == "map" else stream(n_rows)
        begun = time.perf_counter()
        with PeakMemory() as peak:
            sae.fit(X)
        return peak.mib, time.perf_counter() - begun


def measured(kind: str, n_rows: int, threads: int) -> tuple[float, float]:
    """Peak in MiB and seconds of a fit in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (kind, n_rows, threads))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--gigabytes", type=float, nargs="+", default=[0.5, 5.0, 50.0], metavar="GB"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(f"width {WIDTH}, {N_COMPONENTS} features, float32, one pass", end="\n\n")
    lines = []
    for gigabytes in options.gigabytes:
        n_rows = max(2000, round(gigabytes * 1e9 / (4 * WIDTH)))
        for kind in ("map", "stream"):
            mib, seconds = measured(kind, n_rows, options.threads)
            lines.append(
                [f"{gigabytes:g}", f"{n_rows:,}", kind, f"{mib:.0f}", f"{seconds:.0f}"]
            )
    print_table(["GB", "rows", "from", "peak MiB", "seconds"], lines)


if __name__ == "__main__":
    main()
