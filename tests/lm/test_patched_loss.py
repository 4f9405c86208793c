import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sklearn_ccx import InteractionCrosscoder, ablation_fidelity
from sklearn_ccx.lm import harvest, mlp_weights, patched_loss

from .tiny_models import ENCODERS, MODELS, N_BLOCKS, D, make_model, random_ids

LENGTHS = (9, 12, 5, 16, 7)


def mlp_output(mlp, u):
    """The MLP's output, by torch."""
    phi = {
        "relu": torch.relu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda v: torch.nn.functional.gelu(v, approximate="tanh"),
        "silu": torch.nn.functional.silu,
    }[mlp.activation]
    hidden = u @ mlp.W_in + mlp.b_in
    if mlp.W_gate is None:
        hidden = phi(torch.from_numpy(hidden)).numpy()
    else:
        hidden *= phi(torch.from_numpy(u @ mlp.W_gate + mlp.b_gate)).numpy()
    return hidden @ mlp.W_out + mlp.b_out


def model_inputs(name):
    """Inputs with labels for the encoders."""
    ids = random_ids(*LENGTHS)
    if name not in ENCODERS:
        return ids
    labels = [[-100 if i % 3 else token for i, token in enumerate(row)] for row in ids]
    return {"input_ids": ids, "labels": labels}


def own_loss(model, name):
    """Cross-entropy of the model on each sequence alone, by transformers."""
    inputs = model_inputs(name)
    ids = inputs["input_ids"] if name in ENCODERS else inputs
    labels = inputs["labels"] if name in ENCODERS else ids
    total = count = 0
    for row, label in zip(ids, labels, strict=True):
        with torch.no_grad():
            loss = model(torch.tensor([row]), labels=torch.tensor([label])).loss
        n_predicted = sum(t != -100 for t in label) - (name not in ENCODERS)
        total, count = total + float(loss) * n_predicted, count + n_predicted
    return total / count


@pytest.mark.parametrize("name", MODELS)
def test_true_outputs_give_the_model_s_own_loss(name):
    model = make_model(name)
    inputs = model_inputs(name)
    loss = patched_loss(model, inputs, batch_size=2)
    result = harvest(model, inputs)
    expected = own_loss(model, name)
    assert_allclose(loss(None), expected, rtol=1e-5)
    for index, mlp in enumerate(mlp_weights(model)):
        output = mlp_output(mlp, result.activations[:, index])
        assert_allclose(loss(output, index), expected, rtol=1e-5)
        assert abs(loss(output + 1 + np.arange(D), index) / expected - 1) > 1e-4


@pytest.mark.parametrize("block", range(N_BLOCKS))
def test_patched_output_reaches_the_rest_of_the_model(block):
    """Against the same change made in the weights."""
    model = make_model("gpt2")
    ids = random_ids(*LENGTHS)
    result = harvest(model, ids)
    mlp = mlp_weights(model, block)[0]
    output = mlp_output(mlp, result.activations[:, block])
    shift = np.linspace(-1, 1, D, dtype=np.float32)
    patched = patched_loss(model, ids, block, batch_size=2)(output + shift)
    with torch.no_grad():
        model.transformer.h[block].mlp.c_proj.bias += torch.from_numpy(shift)
    assert_allclose(patched, own_loss(model, "gpt2"), rtol=1e-5)


def test_positions_that_are_not_harvested_keep_their_output():
    model = make_model("gpt2", bos_token_id=2)
    ids = [[2, *row] for row in random_ids(6, 9)]
    result = harvest(model, ids)
    loss = patched_loss(model, ids, 0)
    assert len(result.activations) == 15
    output = mlp_output(mlp_weights(model)[0], result.activations[:, 0])
    assert_allclose(loss(output), loss(None), rtol=1e-5)
    # The prediction made at the first token does not count, the others' do.
    with torch.no_grad():
        logits = [model(torch.tensor([row])).logits[0, 1:-1] for row in ids]
    targets = torch.cat([torch.tensor(row[2:]) for row in ids])
    expected = torch.nn.functional.cross_entropy(torch.cat(logits), targets)
    assert_allclose(loss(None), float(expected), rtol=1e-5)


def test_max_tokens_and_labels():
    model = make_model("gpt2")
    ids = random_ids(*LENGTHS)
    labels = [list(row) for row in ids]
    labels[1][:] = [-100] * len(labels[1])
    inputs = {"input_ids": ids, "labels": labels}
    loss = patched_loss(model, inputs, 1, max_tokens=25, batch_size=2)
    with torch.no_grad():
        first = model(torch.tensor([ids[0]])).logits[0, :-1]
        third = model(torch.tensor([ids[2]])).logits[0, :4]
    targets = torch.tensor(ids[0][1:] + ids[2][1:])
    expected = torch.nn.functional.cross_entropy(torch.cat([first, third]), targets)
    assert_allclose(loss(None), float(expected), rtol=1e-5)
    result = harvest(model, inputs, max_tokens=25)
    output = mlp_output(mlp_weights(model)[1], result.activations[:, 1])
    assert_allclose(loss(output), float(expected), rtol=1e-5)


def test_fidelity_in_cross_entropy():
    model = make_model("gpt2")
    ids = random_ids(*[12] * 20)
    X = harvest(model, ids).activations
    mlps = mlp_weights(model)
    ccx = InteractionCrosscoder(64, k=16, mlp=mlps, max_iter=30, random_state=0).fit(X)
    loss = patched_loss(model, ids)
    fidelity = ablation_fidelity(ccx, X, loss=loss, schemes=["none", "keep_largest"])
    for index, mlp in enumerate(mlps):
        recon = ccx.inverse_transform(ccx.transform(X))[:, index]
        zero = np.broadcast_to(ccx.intercept_.reshape(2, -1)[index], recon.shape)
        losses = [loss(mlp_output(mlp, u), index) for u in (recon, zero)]
        expected = 1 - (losses[0] - loss(None)) / (losses[1] - loss(None))
        assert_allclose(fidelity["none"][index], expected, rtol=1e-3)


def test_model_is_left_as_it_was():
    model = make_model("gpt2").train()
    loss = patched_loss(model, random_ids(4))
    with pytest.raises(RuntimeError, match="fails"):
        _fail_in_head(model, loss)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def _fail_in_head(model, loss):
    def fail(*args):
        raise RuntimeError("fails")

    handle = model.lm_head.register_forward_pre_hook(fail)
    try:
        loss(np.zeros((4, D), dtype=np.float32))
    finally:
        handle.remove()


def test_bad_input():
    model = make_model("gpt2")
    with pytest.raises(ValueError, match=r"block must be among 0\.\.1"):
        patched_loss(model, [[7, 8]], 2)
    loss = patched_loss(model, [[7, 8]], 1)
    with pytest.raises(ValueError, match=r"patches 1 MLP\(s\).*mlp_index=1"):
        loss(np.zeros((2, D)), 1)
    with pytest.raises(ValueError, match=r"shape \(3, 16\).*need \(2, 16\)"):
        loss(np.zeros((3, D)))
    with pytest.raises(ValueError, match="nothing to predict"):
        patched_loss(model, [[7], [8]])(None)
    with pytest.raises(TypeError, match="no language-model head"):
        patched_loss(model.transformer, [[7, 8]])
    with pytest.raises(ValueError, match='a dict with "labels"'):
        patched_loss(make_model("bert"), [[7, 8]])
