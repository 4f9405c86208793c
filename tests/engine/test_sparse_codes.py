"""Training over active entries only equals training with dense products."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_ccx import InteractionCrosscoder
from sklearn_ccx._engine import _model
from sklearn_ccx._engine._model import encode_active
from sklearn_ccx._engine.activations import BatchTopK, TopK
from tests.conftest import make_mlp


@given(
    seed=st.integers(0, 2**32 - 1),
    n_samples=st.integers(1, 6),
    n_components=st.integers(1, 8),
    k=st.integers(1, 8),
    shift=st.sampled_from([-10.0, -1.0, 0.0, 10.0]),
    activation=st.sampled_from([BatchTopK, TopK]),
)
@settings(deadline=None, max_examples=100)
def test_codes_and_gradients_equal_the_dense_ones(
    seed, n_samples, n_components, k, shift, activation
):
    k = min(k, n_components)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, target = normal(n_samples, 3), normal(n_samples, 3)
    weights = [normal(n_components, 3), normal(n_components) + shift]
    W_enc, b_enc, W_dec = (
        weight.requires_grad_() for weight in (*weights, normal(n_components, 3))
    )

    def gradients(recon):
        loss = (recon - target).square().sum()
        return torch.autograd.grad(loss, (W_enc, b_enc, W_dec))

    dense_codes, _ = activation(k).train_codes(x @ W_enc.T + b_enc)
    dense = gradients(dense_codes @ W_dec)
    sparse_codes = encode_active(x, W_enc, b_enc, activation(k))
    torch.testing.assert_close(sparse_codes.dense(), dense_codes)
    for one, other in zip(gradients(sparse_codes.decode(W_dec)), dense, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("activation", ["batchtopk", "topk"])
def test_trained_weights_equal_the_dense_ones(acts, activation, monkeypatch):
    mlp = [make_mlp(6, 5, site=site) for site in range(3)]
    ccx = InteractionCrosscoder(
        k=3,
        lam_fidelity=0.1,
        mlp=mlp,
        activation=activation,
        max_iter=10,
        random_state=0,
    )
    fitted = []
    for limit in (0, np.inf):
        monkeypatch.setattr(_model, "_MIN_SPARSE_PRODUCT", limit)
        fitted.append(ccx.fit(acts).components_)
    np.testing.assert_allclose(*fitted, atol=1e-9)


@given(
    seed=st.integers(0, 2**32 - 1),
    threshold=st.sampled_from([None, 0.0, 0.3, 1.0, 100.0]),
    shift=st.sampled_from([-10.0, -1.0, 0.0, 10.0]),
)
@settings(deadline=None, max_examples=100)
def test_threshold_saves_sorting_without_changing_the_selection(seed, threshold, shift):
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randn((5, 7), generator=generator) + shift
    selected = BatchTopK(3, threshold).select(pre)
    expected = [i for i in pre.flatten().topk(15).indices if pre.flatten()[i] > 0]
    selected = selected[pre.flatten()[selected] > 0]
    assert sorted(selected.tolist()) == sorted(int(i) for i in expected)
