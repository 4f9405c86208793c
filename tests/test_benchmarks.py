"""The benchmarks run, at sizes at which their numbers mean nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Large enough for the memory and the time that they take to be measured at all.
SHAPES = (
    "--batch 128 --features 512 --sites 2 --width 64 --mlps 2 --neurons 1024 --k 8 "
    "--repeats 1"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "expected"),
    [
        ("penalty", SHAPES, "÷ floor"),
        ("scaling", SHAPES, "active features"),
        (
            "matrix",
            "--features 24 --width 6 --neurons 12 --k 3 --rows 300 --repeats 1",
            "rows/s",
        ),
        (
            "step",
            "--sae 6 24 3 8 --crosscoder 8 24 2 6 2 12 3 --repeats 1",
            "with penalty",
        ),
        (
            "pretrained",
            "--features 64 --width 16 --rows 40 --k 4",
            "transform to CSR",
        ),
        (
            "fleets",
            "--rows 600 --width 6 --features 12 --neurons 5 --k 3 --repeats 1",
            "open_npy",
        ),
        (
            "threads",
            "--samples 40 --width 4 --features 8 --passes 1 --repeats 1",
            "a core busy",
        ),
        (
            "distributed",
            "--samples 16 --batch 8 --width 4 --features 8 --neurons 6 --k 2 "
            "--passes 2 --repeats 1",
            "samples/s",
        ),
    ],
)
def test_benchmark_prints_its_table(script, options, expected, tmp_path):
    pytest.importorskip("numba")
    assert expected in printed(script, options, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_codes_of_a_large_dictionary_are_never_dense(architecture, tmp_path):
    text = printed("pretrained", f"--architecture {architecture}", tmp_path)
    peak = float(re.search(r"transform to CSR +\S+ +(\d+)", text)[1])
    dense = float(re.search(r"dense in float64: (\d+)", text)[1])
    assert dense == 768
    assert peak < dense / 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_fit_does_not_grow_with_its_rows(tmp_path):
    text = printed("fit_memory", "--gigabytes 0.1 0.4", tmp_path)
    rows = re.findall(r"^(\S+) +[\d,]+ +(map|stream) +(\d+) ", text, re.MULTILINE)
    peaks = {(size, kind): float(mib) for size, kind, mib in rows}
    for kind in ("map", "stream"):
        # 98,000 more rows, of which each has its number in a few permutations.
        assert peaks["0.4", kind] < peaks["0.1", kind] + 100


def printed(script, options, tmp_path):
    """What a benchmark prints."""
    result = subprocess.run(
        [sys.executable, str(ROOT / f"benchmarks/{script}.py"), *options.split()],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
