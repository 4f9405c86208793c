import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_ccx.lm import harvest, mlp_weights

from .manual_forward import base_of
from .test_patched_loss import mlp_output
from .tiny_models import (
    GATED,
    MODELS,
    N_BLOCKS,
    PARALLEL,
    POST_NORM,
    D,
    make_model,
    random_ids,
)

WITH_LAYER_NORM = ("cohere", "cohere2", "modernbert", "olmo", "stablelm")


def outputs(model, sites):
    """Harvested sites, and the outputs of the MLPs by a hook, (n, blocks, d)."""
    ids = random_ids(9, 12)
    names = {"mlp.c_proj", "mlp.dense_4h_to_h", "mlp.down_proj", "fc2", "ffn.lin2"}
    names |= {"feed_forward.down_proj", "mlp.fc_out", "mlp.Wo"}
    recorded = []
    handles = [
        module.register_forward_hook(lambda _m, _a, out: recorded.append(out.clone()))
        for name, module in base_of(model).named_modules()
        if any(name.endswith("." + end) for end in names)
        or (name.endswith(".output.dense") and "attention" not in name)
    ]
    assert len(handles) == N_BLOCKS
    result = harvest(model, ids, sites=sites, batch_size=1)
    for handle in handles:
        handle.remove()
    by_block = [torch.cat([o.reshape(-1, D) for o in recorded[i::2]]) for i in (0, 1)]
    return result, torch.stack(by_block, dim=1).numpy()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sites", ["mlp_in", ["resid_pre", "mlp_in", "resid_post"]])
def test_mlp_weights_reproduce_the_output(name, sites):
    model = make_model(name)
    result, expected = outputs(model, sites)
    mlps = mlp_weights(model, sites=result.sites)
    assert mlps == mlp_weights(model, sites=sites)
    assert len(mlps) == N_BLOCKS
    assert all((mlp.W_gate is not None) == (name in GATED) for mlp in mlps)
    for block, mlp in enumerate(mlps):
        assert mlp.W_in.dtype == np.float32
        assert result.sites[mlp.site] == f"blocks.{block}.mlp_in"
        output = mlp_output(mlp, result.activations[:, mlp.site])
        scale = np.abs(expected[:, block]).max()
        assert_allclose(output, expected[:, block], rtol=1e-5, atol=1e-5 * scale)


ACTIVATIONS = ["relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "silu"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_of_transformers(activation):
    model = make_model("gpt2", activation_function=activation)
    result, expected = outputs(model, "mlp_in")
    output = mlp_output(mlp_weights(model)[1], result.activations[:, 1])
    assert_allclose(output, expected[:, 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_folded_norm(name):
    model = make_model(name)
    sites = ["resid_pre" if name in PARALLEL else "resid_mid", "mlp_in"]
    result, expected = outputs(model, sites)
    if name in POST_NORM:
        with pytest.raises(ValueError, match="normalisation that the MLP reads"):
            mlp_weights(model, fold_norm=True)
        return
    for block, mlp in enumerate(mlp_weights(model, sites=sites, fold_norm=True)):
        stream = torch.from_numpy(result.activations[:, mlp.site - 1])
        if name in GATED and not name.startswith(WITH_LAYER_NORM):
            eps = base_of(model).config.rms_norm_eps
            normalised = torch.nn.functional.rms_norm(stream, (D,), eps=eps)
        else:
            normalised = torch.nn.functional.layer_norm(stream, (D,))
        output = mlp_output(mlp, normalised.numpy())
        scale = np.abs(expected[:, block]).max()
        assert_allclose(output, expected[:, block], rtol=1e-4, atol=1e-4 * scale)


def test_blocks_and_sites():
    model = make_model("gpt2")
    both = mlp_weights(model)
    assert [mlp.site for mlp in both] == [0, 1]
    assert mlp_weights(model, 1) == [both[1]]
    assert mlp_weights(model, [1, 0]) == both[::-1]
    sites = ["blocks.1.mlp_in", "resid_pre"]
    (only,) = mlp_weights(model, sites=sites)
    assert only.site == 2
    assert_array_equal(only.W_in, both[1].W_in)


def test_weights_are_copies():
    model = make_model("gpt_neo")
    mlp = mlp_weights(model)[0]
    before = mlp.W_in.copy()
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.zero_()
    assert_array_equal(mlp.W_in, before)


def test_half_precision_becomes_float32():
    mlp = mlp_weights(make_model("gpt2").bfloat16())[0]
    assert mlp.W_in.dtype == np.float32


def test_bad_input():
    model = make_model("gpt2")
    with pytest.raises(ValueError, match=r"blocks must be among 0\.\.1"):
        mlp_weights(model, 2)
    with pytest.raises(ValueError, match=r"blocks\.0\.mlp_in.*not among sites"):
        mlp_weights(model, 0, sites=["blocks.1.mlp_in"])
    with pytest.raises(ValueError, match="No MLP reads any of sites"):
        mlp_weights(model, sites="resid_pre")
    with pytest.raises(ValueError, match="QuickGELU"):
        mlp_weights(make_model("gpt2", activation_function="quick_gelu"))
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no blocks"):
        mlp_weights(make_model("gpt2", n_layer=0))
    with pytest.raises(ValueError, match="chunk_size_feed_forward=0"):
        mlp_weights(make_model("bert", chunk_size_feed_forward=2))


def test_unmerged_adapter_is_refused():
    model = make_model("gpt_neo")
    model.transformer.h[0].mlp.c_fc.base_layer = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="merge_and_unload"):
        mlp_weights(model)
