"""Which kernels are used, and that all of them agree."""

import sys

import numpy as np
import pytest
import torch

from sklearn_ccx import InteractionSAE
from sklearn_ccx._engine import _dominance
from sklearn_ccx._engine._kernels import kernels_for

CPU = torch.device("cpu")


def test_numba_is_used_where_it_is_installed(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.delenv("SKLEARN_CCX_KERNELS", raising=False)
    assert kernels_for(CPU).__name__.endswith("_dominance_numba")
    assert kernels_for(torch.device("cuda")) is _dominance
    monkeypatch.setenv("SKLEARN_CCX_KERNELS", "torch")
    assert kernels_for(CPU) is _dominance


def test_torch_is_used_where_numba_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv("SKLEARN_CCX_KERNELS", raising=False)
    assert kernels_for(CPU) is _dominance
    monkeypatch.setenv("SKLEARN_CCX_KERNELS", "numba")
    with pytest.raises(ImportError, match=r"sklearn-ccx\[fast\]"):
        kernels_for(CPU)


def test_unknown_kernels_raise(monkeypatch):
    monkeypatch.setenv("SKLEARN_CCX_KERNELS", "cython")
    with pytest.raises(ValueError, match="must be auto, torch or numba"):
        kernels_for(CPU)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numba_agrees_with_torch(n_threads, dtype, monkeypatch):
    numba_kernels = pytest.importorskip("sklearn_ccx._engine._dominance_numba")
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    generator = torch.Generator().manual_seed(0)
    # In float32 the order of a sum shows.
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    codes = torch.relu(normal(13, 40) - 1)
    codes[4] = 0
    M, norm = normal(40, 1000), normal(1000).abs()
    M[:, ::7] = 0
    for n_dominant in (1, 3):
        index = _dominance.dominant_features(codes, M, n_dominant)
        assert torch.equal(numba_kernels.dominant_features(codes, M, n_dominant), index)
        grad = normal(n_dominant, 13, 1000)
        results = []
        for kernels in (_dominance, numba_kernels):
            grads = torch.zeros_like(codes), torch.zeros_like(M)
            kernels.add_dominant_gradients(codes, M, index, grad, *grads)
            results.append(grads)
        torch.testing.assert_close(*results, **tolerance)
    outer = [
        k.sign_times_outer(M, codes.sum(0), norm) for k in (_dominance, numba_kernels)
    ]
    assert torch.equal(*outer)
    values, features = codes.topk(20, dim=1)
    sums = [
        kernels.pair_sums(features, values, M, norm, index[0])
        for kernels in (_dominance, numba_kernels)
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
