"""Which kernels are used, and that all of them agree."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sklearn_ccx import InteractionSAE
from sklearn_ccx._engine._sparse_codes import SparseCodes
from sklearn_ccx._engine.kernels import _choice, kernels_for
from sklearn_ccx._engine.kernels import _torch as torch_kernels

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def nothing_chosen_yet():
    _choice._kernels.cache_clear()
    yield
    _choice._kernels.cache_clear()


def test_numba_is_used_where_it_is_installed(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.delenv("SKLEARN_CCX_KERNELS", raising=False)
    assert kernels_for(CPU).__name__.endswith("kernels._numba")
    monkeypatch.setenv("SKLEARN_CCX_KERNELS", "torch")
    assert kernels_for(CPU) is torch_kernels


def test_torch_is_used_where_nothing_else_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv("SKLEARN_CCX_KERNELS", raising=False)
    assert kernels_for(CPU) is torch_kernels
    assert kernels_for(CUDA) is torch_kernels
    monkeypatch.setenv("SKLEARN_CCX_KERNELS", "numba")
    with pytest.raises(ImportError, match=r"sklearn-ccx\[fast\]"):
        kernels_for(CPU)
    monkeypatch.setenv("SKLEARN_CCX_KERNELS", "triton")
    with pytest.raises(ImportError, match="needs triton; it comes with torch"):
        kernels_for(CUDA)


def test_unknown_kernels_raise(monkeypatch):
    monkeypatch.setenv("SKLEARN_CCX_KERNELS", "cython")
    with pytest.raises(ValueError, match="must be auto, torch, numba or triton"):
        kernels_for(CPU)


@pytest.fixture
def triton_kernels():
    """Triton's kernels, run by its interpreter where there is no CUDA device."""
    pytest.importorskip("triton")
    return importlib.import_module("sklearn_ccx._engine.kernels._triton")


def test_triton_is_used_on_cuda(triton_kernels, monkeypatch):
    monkeypatch.delenv("SKLEARN_CCX_KERNELS", raising=False)
    assert kernels_for(CUDA) is triton_kernels
    monkeypatch.setenv("SKLEARN_CCX_KERNELS", "torch")
    assert kernels_for(CUDA) is torch_kernels


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numba_agrees_with_torch(n_threads, dtype, monkeypatch):
    numba_kernels = pytest.importorskip("sklearn_ccx._engine.kernels._numba")
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    assert_agrees_with_torch(numba_kernels, dtype, CPU, n_neurons=1000)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_triton_agrees_with_torch(triton_kernels, deterministic, dtype):
    device = CUDA if torch.cuda.is_available() else CPU
    torch.use_deterministic_algorithms(deterministic)
    try:
        assert_agrees_with_torch(triton_kernels, dtype, device, n_neurons=300)
    finally:
        torch.use_deterministic_algorithms(False)


def assert_agrees_with_torch(kernels, dtype, device, n_neurons):
    generator = torch.Generator().manual_seed(0)
    # In float32 the order of a sum shows.
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype).to(device)

    dense = torch.relu(normal(13, 40) - 1)
    dense[4] = 0
    codes = SparseCodes.from_dense(dense)
    M, norm = normal(40, n_neurons), normal(n_neurons).abs()
    M[:, ::7] = 0
    M[1::2, ::5] = M[::2, ::5]  # contributions of equal codes tie
    codes.values_A[::3] = 1.0
    for n_dominant in (1, 3):
        entries = torch_kernels.dominant_entries(codes, M, n_dominant)
        assert torch.equal(kernels.dominant_entries(codes, M, n_dominant), entries)
        contributions = torch_kernels.dominant_contributions(codes, M, entries)
        assert torch.equal(
            kernels.dominant_contributions(codes, M, entries), contributions
        )
        grad = normal(n_dominant, 13, n_neurons)
        results = []
        for implementation in (torch_kernels, kernels):
            grads = torch.zeros_like(codes.values_A), torch.zeros_like(M)
            implementation.add_dominant_gradients(codes, M, entries, grad, *grads)
            results.append(grads)
        torch.testing.assert_close(*results, **tolerance)
    left = dense.sum(dim=0)
    outer = torch_kernels.sign_times_outer(M, left, norm)
    assert torch.equal(kernels.sign_times_outer(M, left, norm), outer)
    pairs = codes.dominant_pairs(entries[0])
    sums = [
        implementation.pair_sums(codes, M, norm, entries[0], pairs)
        for implementation in (torch_kernels, kernels)
    ]
    if tolerance:
        tolerance = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(*sums, **tolerance)


def test_fits_agree_whatever_the_kernels(acts, monkeypatch):
    pytest.importorskip("numba")
    fitted = []
    for name in ("torch", "numba"):
        monkeypatch.setenv("SKLEARN_CCX_KERNELS", name)
        sae = InteractionSAE(
            k=4, lam=0.2, lam_fidelity=0.2, max_iter=20, random_state=0
        )
        fitted.append(sae.fit(acts[:, 0]).components_)
    np.testing.assert_allclose(*fitted, atol=1e-8)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sklearn_ccx._engine.kernels import _triton as kernels

INTEGERS = dict.fromkeys(["features", "bounds", "entry"], "*i64")
for name in ("_search", "_to_values", "_to_M"):
    kernel = getattr(kernels, name)
    for dtype in ("fp32", "fp64"):
        floats = dict.fromkeys(["values", "M", "grad", "grad_values", "grad_M"])
        types = INTEGERS | dict.fromkeys(floats, "*" + dtype) | {"TILE": "constexpr"}
        signature = {arg: types.get(arg, "i32") for arg in kernel.arg_names}
        tile = {(kernel.arg_names.index("TILE"),): kernels._TILE}
        source = ASTSource(fn=kernel, signature=signature, constexprs=tile)
        compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32))
        print(len(compiled.asm["cubin"]) > 0)
"""


@pytest.mark.slow
def test_triton_kernels_compile_for_cuda(tmp_path):
    """The interpreter takes more than the compiler, which needs no device."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    result = subprocess.run(
        [sys.executable, "-c", COMPILE],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert result.stdout.split() == ["True"] * 6, result.stderr
