"""Loading a dictionary of another package, and encoding with it.

A SAELens file of random weights is written, loaded with `load_dictionary`, and rows are
encoded to a CSR array, in a fresh process each. Printed are seconds and the growth of
the largest resident set over the call, beside the size of the file and of the codes as
a dense float64 array. Linux only: the peak is the kernel's own (VmHWM).
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import print_table
from safetensors.numpy import save_file

from sklearn_ccx.pretrained import load_dictionary

MIB = 2**20


def write_dictionary(directory: Path, options: argparse.Namespace) -> None:
    """A file of SAELens with random weights."""
    d, m = options.width, options.features
    rng = np.random.default_rng(0)
    W_dec = rng.normal(size=(m, d)).astype(np.float32)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    tensors = {"W_enc": np.ascontiguousarray(W_dec.T), "W_dec": W_dec}
    tensors |= {"b_enc": np.zeros(m, np.float32), "b_dec": np.ones(d, np.float32)}
    config = {"d_in": d, "d_sae": m, "architecture": options.architecture}
    if options.architecture == "topk":
        config["k"] = options.k
    else:
        # About k of m normal numbers are above this.
        tensors["threshold"] = np.full(m, normal_quantile(options), np.float32)
    save_file(tensors, directory / "sae_weights.safetensors")
    (directory / "cfg.json").write_text(json.dumps(config))


def normal_quantile(options: argparse.Namespace) -> float:
    share = torch.tensor(1 - options.k / options.features, dtype=torch.float64)
    return float(torch.special.ndtri(share))


def measured(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a call returns, its seconds, and MiB by which the peak exceeds the start."""
    Path("/proc/self/clear_refs").write_text("5")  # see proc(5): resets the peak
    before = resident_mib("VmRSS")
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    return result, seconds, resident_mib("VmHWM") - before


def resident_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"No {field} in /proc/self/status.")


def run(directory: str, options: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(options.threads)
    loaded, load_s, load_mib = measured(
        lambda: load_dictionary(directory, sparse_output=True, device="cpu")
    )
    rng = np.random.default_rng(1)
    X = rng.normal(size=(options.rows, options.width)).astype(np.float32) + 1
    loaded.estimator.transform(X[:1])  # libraries are loaded outside the measurement
    codes, transform_s, transform_mib = measured(lambda: loaded.estimator.transform(X))
    csr_mib = (codes.data.nbytes + codes.indices.nbytes + codes.indptr.nbytes) / MIB
    return {
        "load_s": load_s,
        "load_mib": load_mib,
        "transform_s": transform_s,
        "transform_mib": transform_mib,
        "csr_mib": csr_mib,
        "active": codes.nnz / len(X),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=24_576)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rows", type=int, default=4_096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--architecture", choices=["topk", "jumprelu"], default="topk")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        write_dictionary(Path(directory), options)
        size = (Path(directory) / "sae_weights.safetensors").stat().st_size
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(run, (directory, options))
    dense = 8 * options.rows * options.features
    print(
        f"{options.features} features, width {options.width}, {options.architecture}, "
        f"{options.rows} rows, {found['active']:.1f} features active per row\n"
    )
    print_table(
        ["", "seconds", "peak MiB"],
        [
            ["load", f"{found['load_s']:.2f}", f"{found['load_mib']:.0f}"],
            [
                "transform to CSR",
                f"{found['transform_s']:.2f}",
                f"{found['transform_mib']:.0f}",
            ],
        ],
    )
    print(
        f"\nMiB of the file: {size / MIB:.0f}, of the codes as CSR: "
        f"{found['csr_mib']:.1f}, dense in float64: {dense / MIB:.0f}."
    )


if __name__ == "__main__":
    main()
