"""Mixtures of experts: the MLP of one expert, and the rows that it sees."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from sklearn_ccx.lm import (
    harvest,
    mlp_weights,
    patched_loss,
    routed_experts,
    site_names,
)

from .test_patched_loss import mlp_output
from .tiny_models import MIXTURES, N_EXPERTS, N_NEURONS, D, make_model, random_ids

LENGTHS = (9, 12, 5, 16, 7)
# The second block of qwen3_moe has a single MLP.
BLOCKS = {"mixtral": [0, 1], "qwen2_moe": [0, 1], "qwen3_moe": [0]}


def experts_of(model, block):
    return model.model.layers[block].mlp.experts


def seen_by_experts(model, block, ids):
    """What the experts of a block get and give, by a hook: rows, routes, output."""
    seen = []
    handle = experts_of(model, block).register_forward_hook(
        # Copies, since some blocks add a shared expert to the output in place.
        lambda _m, args, output: seen.append([t.clone() for t in (*args, output)])
    )
    with torch.no_grad():
        for row in ids:
            model(torch.tensor([row]))
    handle.remove()
    return [torch.cat(parts).numpy() for parts in zip(*seen, strict=True)]


@pytest.mark.parametrize(
    ("name", "block"), [(name, block) for name in MIXTURES for block in BLOCKS[name]]
)
def test_experts_by_their_weights_give_the_output_of_all(name, block):
    model = make_model(name)
    ids = random_ids(*LENGTHS)
    rows, routes, weights, output = seen_by_experts(model, block, ids)
    expected = np.zeros_like(output)
    for expert in range(N_EXPERTS):
        (mlp,) = mlp_weights(model, block, expert=expert)
        assert mlp.W_gate.shape == (D, N_NEURONS)
        weight = (weights * (routes == expert)).sum(axis=1, keepdims=True)
        expected += weight * mlp_output(mlp, rows)
    scale = np.abs(expected).max()
    assert_allclose(output, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("batch_size", [2, 32])
@pytest.mark.parametrize("name", MIXTURES)
def test_routes_are_those_of_the_model(name, batch_size):
    model = make_model(name)
    ids = random_ids(*LENGTHS)
    rows, routes, _, _ = seen_by_experts(model, 0, ids)
    result = routed_experts(model, ids, 0, batch_size=batch_size)
    assert result.dtype == np.int64
    assert_array_equal(result, routes)
    harvested = harvest(model, ids, sites="blocks.0.mlp_in", batch_size=batch_size)
    assert_allclose(harvested.activations[:, 0], rows, rtol=1e-4, atol=1e-5)
    is_routed = (result == 1).any(axis=1)
    assert 0 < is_routed.sum() < len(rows)


def test_routes_of_the_harvested_tokens_only():
    model = make_model("mixtral")
    ids = random_ids(*LENGTHS)
    options = {"drop_positions": 1, "max_tokens": 20, "max_length": 8}
    result = routed_experts(model, ids, 1, **options)
    harvested = harvest(model, ids, **options)
    everything = routed_experts(model, [row[:8] for row in ids], 1)
    positions = np.concatenate([np.arange(min(8, length)) for length in LENGTHS])
    assert_array_equal(result, everything[positions > 0][:20])
    assert len(result) == len(harvested.activations) == 20


def test_the_model_is_left_as_it_was():
    model = make_model("mixtral").train()
    routed_experts(model, random_ids(4), 0)
    mlp_weights(model.eval(), expert=0)
    assert not any(
        module._forward_pre_hooks or module._forward_hooks for module in model.modules()
    )


def test_single_mlps_beside_mixtures():
    model = make_model("qwen3_moe")
    assert mlp_weights(model, 1)[0].W_in.shape == (D, N_NEURONS)
    with pytest.raises(ValueError, match=r"blocks \[0\] are mixtures.*pass expert"):
        mlp_weights(model)
    with pytest.raises(ValueError, match=r"expert=0.*blocks \[1\] have a single MLP"):
        mlp_weights(model, expert=0)
    with pytest.raises(ValueError, match=r"Block 1 has a single MLP.*\[0\]"):
        routed_experts(model, random_ids(4), 1)
    loss = patched_loss(model, random_ids(9), 1)
    X = harvest(model, random_ids(9), sites="blocks.1.mlp_in").activations[:, 0]
    assert_allclose(loss(mlp_output(mlp_weights(model, 1)[0], X)), loss(None))
    with pytest.raises(ValueError, match="MLP of block 0 is a mixture of experts"):
        patched_loss(model, random_ids(9))


def test_bad_expert_or_block():
    model = make_model("mixtral")
    with pytest.raises(ValueError, match=r"expert must be in 0\.\.3.*got 4"):
        mlp_weights(model, expert=4)
    with pytest.raises(ValueError, match="expert"):
        mlp_weights(model, expert=-1)
    with pytest.raises(TypeError, match="expert"):
        mlp_weights(model, expert="all")
    with pytest.raises(ValueError, match=r"block must be among 0\.\.1"):
        routed_experts(model, random_ids(4), 2)
    with pytest.raises(TypeError, match="block"):
        routed_experts(model, random_ids(4), [0, 1])
    with pytest.raises(ValueError, match="blocks with experts are \\[\\]"):
        routed_experts(make_model("gpt2"), random_ids(4), 0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gpt_oss", r"GptOssExperts\).*min\(g, limit\) sigmoid\(alpha g\) \(u \+ 1\)"),
        ("llama4_moe", r"Llama4TextExperts\).*the router multiplies what an expert"),
    ],
)
def test_experts_that_are_other_functions_are_refused(name, reason):
    model = make_model(name)
    assert "blocks.1.mlp_in" in site_names(model)
    with pytest.raises(ValueError, match=reason):
        mlp_weights(model, 1, expert=0)
    with pytest.raises(ValueError, match=reason):
        routed_experts(model, random_ids(4), 1)


def test_dense_blocks_of_llama4_are_taken():
    model = make_model("llama4_moe")
    X = harvest(model, random_ids(9), sites="blocks.0.mlp_in").activations[:, 0]
    (mlp,) = mlp_weights(model, 0)
    with torch.no_grad():
        expected = model.model.layers[0].feed_forward(torch.from_numpy(X)).numpy()
    assert_allclose(
        mlp_output(mlp, X), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype):
    mlp = mlp_weights(make_model("mixtral").to(dtype), 0, expert=2)[0]
    assert mlp.W_in.dtype == np.float32


def changed(change):
    model = make_model("mixtral")
    change(experts_of(model, 1))
    return model


def swap_halves(experts):
    gate, up = experts.gate_up_proj.data.chunk(2, dim=1)
    apply = experts.forward

    def forward(*args):
        experts.gate_up_proj.data = torch.cat([up, gate], dim=1)
        output = apply(*args)
        experts.gate_up_proj.data = torch.cat([gate, up], dim=1)
        return output

    experts.forward = forward


def quantise(experts):
    codes = experts.gate_up_proj.data.to(torch.float8_e4m3fn)
    experts.gate_up_proj = nn.Parameter(codes, requires_grad=False)
    experts.gate_up_proj_scale_inv = nn.Parameter(torch.ones(N_EXPERTS))


def hide(experts):
    experts.gate_up_proj_blocks = experts.gate_up_proj
    del experts.gate_up_proj


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_halves, "experts of block 1 are a MixtralExperts that does not compute"),
        (quantise, r"gate_up_proj of the experts of block 1 .* quantised.*float8_e4m3"),
        (hide, "MixtralExperts that holds no tensor gate_up_proj"),
        (lambda experts: experts.to("meta"), r"gate_up_proj of the experts .* meta"),
        (
            lambda experts: setattr(experts, "act_fn", nn.ELU()),
            r"experts of block 1 cannot be taken: activation ELU is not known",
        ),
        (
            lambda experts: experts.register_forward_hook(lambda _m, _a, out: 2 * out),
            "does not compute.*It has hooks; remove them",
        ),
    ],
)
def test_experts_that_are_not_what_they_look_like_are_refused(change, message):
    model = changed(change)
    with pytest.raises(ValueError, match=message):
        mlp_weights(model, 1, expert=0)
    assert len(mlp_weights(model, 0, expert=0)) == 1
