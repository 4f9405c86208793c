"""MLPs that read the residual stream in front of their normalisation."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_ccx import InteractionSAE, MLPWeights, dominant_share
from sklearn_ccx.lm import harvest, mlp_weights, routed_experts

from .manual_forward import base_of
from .test_patched_loss import mlp_output
from .tiny_models import (
    GATED_FUSED,
    MIXTURES,
    MODELS,
    PARALLEL,
    POST_NORM,
    make_model,
    random_ids,
)

IDS = random_ids(9, 12, 5)
READERS = {
    "mlp.c_fc": "in",
    "mlp.dense_h_to_4h": "in",
    "mlp.fc1": "in",
    "mlp.fc_in": "in",
    "fc1": "in",
    "mlp.Wi": "fused",
    "mlp.gate_up_proj": "fused",
    "mlp.up_proj": "in",
    "mlp.gate_proj": "gate",
    "feed_forward.up_proj": "in",
    "feed_forward.gate_proj": "gate",
    "intermediate.dense": "in",
    "ffn.lin1": "in",
}


def site_of(name):
    return "resid_pre" if name in PARALLEL else "resid_mid"


def hooked(model, run):
    """What ``run`` makes the first layers of the MLPs write, by block and layer."""
    written = {}

    def hook_of(block, role):
        def hook(_module, _args, output):
            flat = output.detach().reshape(-1, output.shape[-1])
            written.setdefault((block, role), []).append(flat.clone())

        return hook

    blocks = [m for m in base_of(model).modules() if isinstance(m, torch.nn.ModuleList)]
    handles = [
        block.get_submodule(path).register_forward_hook(hook_of(number, role))
        for number, block in enumerate(blocks[0])
        for path, role in READERS.items()
        if path in dict(block.named_modules())
    ]
    result = run()
    for handle in handles:
        handle.remove()
    written = {key: torch.cat(parts).numpy() for key, parts in written.items()}
    for block, role in list(written):
        if role == "fused":
            gate, linear = np.hsplit(written.pop((block, role)), 2)
            written |= {(block, "gate"): gate, (block, "in"): linear}
    return result, written


def normalised(mlp, rows):
    """The normalisation by its definition, in float64."""
    rows = rows.astype(np.float64)
    if mlp.norm is None:
        return rows
    if mlp.norm == "layernorm":
        rows = rows - rows.mean(axis=1, keepdims=True)
    scale = np.sqrt((rows**2).mean(axis=1, keepdims=True) + mlp.eps)
    return rows / scale * mlp.norm_weight + mlp.norm_bias


def assert_reads(mlp, rows, block, written):
    u = normalised(mlp, rows)
    pairs = [(u @ mlp.W_in + mlp.b_in, written[block, "in"])]
    if mlp.W_gate is not None:
        pairs.append((u @ mlp.W_gate + mlp.b_gate, written[block, "gate"]))
    for result, expected in pairs:
        assert_allclose(result, expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", MODELS)
def test_pre_activations_from_the_residual_stream(name):
    model = make_model(name)
    sites = ["attn_in", site_of(name), "mlp_in"]
    harvested, written = hooked(
        model, lambda: harvest(model, IDS, sites=sites, batch_size=1)
    )
    mlps = mlp_weights(model, site=site_of(name), sites=sites)
    assert len(mlps) == 2
    for block, mlp in enumerate(mlps):
        assert harvested.sites[mlp.site] == f"blocks.{block}.{site_of(name)}"
        assert (mlp.norm is None) == (name in POST_NORM)
        assert mlp.W_in.dtype == np.float32
        assert_reads(mlp, harvested.activations[:, mlp.site], block, written)


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_read_the_residual_stream(name):
    model = make_model(name)
    X = harvest(model, IDS, sites=["resid_mid", "mlp_in"]).activations
    is_routed = (routed_experts(model, IDS, 0) == 1).any(axis=1)
    (mlp,) = mlp_weights(
        model, 0, site="resid_mid", sites=["resid_mid", "mlp_in"], expert=1
    )
    (plain,) = mlp_weights(model, 0, expert=1)
    assert (mlp.site, mlp.norm) == (0, "rmsnorm")
    u = normalised(mlp, X[is_routed, 0])
    assert_allclose(u, X[is_routed, 1], rtol=1e-5, atol=1e-5)
    expected = mlp_output(plain, X[is_routed, 1])
    assert_allclose(mlp_output(mlp, u), expected, rtol=1e-4, atol=1e-4)


def test_sites_follow_the_site_that_is_read():
    model = make_model("llama")
    assert [mlp.site for mlp in mlp_weights(model, site="resid_mid")] == [0, 1]
    sites = ["resid_pre", "blocks.1.resid_mid", "mlp_in"]
    (only,) = mlp_weights(model, site="resid_mid", sites=sites)
    assert only.site == 3
    assert [mlp.site for mlp in mlp_weights(model, sites=sites)] == [1, 4]
    with pytest.raises(ValueError, match=r"blocks\.0\.resid_mid'.*not among sites"):
        mlp_weights(model, 0, site="resid_mid", sites=sites)
    with pytest.raises(ValueError, match=r'any of sites; add "resid_mid"'):
        mlp_weights(model, site="resid_mid", sites="mlp_in")


@pytest.mark.parametrize("name", PARALLEL)
def test_parallel_blocks_have_no_resid_mid(name):
    with pytest.raises(ValueError, match=r'side by side.*read site="resid_pre"'):
        mlp_weights(make_model(name), site="resid_mid")


@pytest.mark.parametrize("name", [name for name in MODELS if name not in PARALLEL])
def test_attention_is_between_resid_pre_and_the_mlps_of_other_blocks(name):
    with pytest.raises(ValueError, match=r'attention writes.*Harvest "resid_mid"'):
        mlp_weights(make_model(name), site="resid_pre")


def test_weights_are_not_folded():
    model = make_model("gemma2")
    (plain,), (mlp,) = (mlp_weights(model, 0, site=s) for s in ("mlp_in", "resid_mid"))
    assert plain.norm is None
    assert_array_equal(mlp.W_in, plain.W_in)
    norm = model.model.layers[0].pre_feedforward_layernorm
    assert_allclose(mlp.norm_weight, 1 + norm.weight.detach().numpy(), rtol=1e-6)
    assert mlp.eps == model.config.rms_norm_eps


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "olmo", "cohere", "modernbert"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name, dtype):
    single = mlp_weights(make_model(name), site=site_of(name))[1]
    half = mlp_weights(make_model(name).to(dtype), site=site_of(name))[1]
    assert (half.norm, half.eps) == (single.norm, single.eps)
    assert_allclose(half.norm_weight, single.norm_weight, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", GATED_FUSED)
def test_from_torch_reads_the_norm_of_a_block(name):
    model = make_model(name)
    block = base_of(model).layers[0]
    norm = block.mlp_norm if name == "modernbert" else block.post_attention_layernorm
    expected = mlp_weights(model, 0, site="resid_mid")[0]
    D, N = expected.W_in.shape
    halves = [torch.nn.Linear(D, N), torch.nn.Linear(D, N)]
    for half, W, b in zip(
        halves,
        (expected.W_gate, expected.W_in),
        (expected.b_gate, expected.b_in),
        strict=True,
    ):
        half.weight.data = torch.tensor(W.T)
        half.bias.data = torch.tensor(b)
    mlp = MLPWeights.from_torch(
        halves[1],
        block.mlp.Wo if name == "modernbert" else block.mlp.down_proj,
        expected.activation,
        linear_gate=halves[0],
        norm=norm,
    )
    assert mlp == expected


def test_bad_sites():
    model = make_model("gpt2")
    for site in ("attn_in", "resid_post", "blocks.0.mlp_in", None):
        with pytest.raises(ValueError, match="site must be one of"):
            mlp_weights(model, site=site)
    with pytest.raises(ValueError, match=r"fold_norm=True.*'resid_mid'.*part of the"):
        mlp_weights(model, site="resid_mid", fold_norm=True)


def test_other_norms_are_refused_by_name():
    model = make_model("gpt2")
    model.transformer.h[1].ln_2 = torch.nn.Softmax(-1)
    message = "the normalisation before the MLP of block 1 is a Softmax without"
    with pytest.raises(ValueError, match=message):
        mlp_weights(model, site="resid_mid")
    assert len(mlp_weights(model)) == 2


def test_a_dictionary_on_the_residual_stream_is_measured():
    model = make_model("gpt2")
    site = "blocks.0.resid_mid"
    X = harvest(model, random_ids(*[12] * 20), sites=site).activations[:, 0]
    (mlp,) = mlp_weights(model, site="resid_mid", sites=site)
    sae = InteractionSAE(32, k=4, mlp=mlp, max_iter=20, random_state=0).fit(X)
    # The scale of a sample's norm is common to all that its features contribute.
    directions = sae.components_ - sae.components_.mean(axis=1, keepdims=True)
    M = (directions * mlp.norm_weight) @ mlp.W_in
    written = np.abs(sae.transform(X)[:, :, np.newaxis] * M)
    total = written.sum(axis=1)
    shares = written.max(axis=1)[total > 0] / total[total > 0]
    assert_allclose(dominant_share(sae, X), shares.mean(), rtol=1e-4)
