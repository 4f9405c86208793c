"""What the error for an unknown architecture recommends runs, and is right."""

import re

import numpy as np
import pytest
import torch
import transformers
from numpy.testing import assert_allclose

from sklearn_ccx import MLPWeights
from sklearn_ccx.lm import harvest

from .test_patched_loss import mlp_output
from .tiny_models import N_IDS, N_NEURONS, D, random_ids

_N = {"n_embd": D, "n_head": 2, "n_layer": 2, "n_positions": 16, "n_inner": N_NEURONS}
_HIDDEN = {
    "hidden_size": D,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": N_NEURONS,
    "max_position_embeddings": 16,
}
_NO_SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
MODELS = {
    "CodeGen": (_N | {"rotary_dim": 4, "n_head": 4}, "c"),
    "Nemotron": (_HIDDEN | {"hidden_act": "gelu"}, "c"),
    "Persimmon": (_HIDDEN | {"hidden_act": "gelu"}, "c"),
    "Granite": (_HIDDEN, "gated"),
    "Helium": (_HIDDEN | {"head_dim": 8}, "gated"),
    "SmolLM3": (_HIDDEN, "gated"),
    "Ernie4_5": (_HIDDEN, "gated"),
}


def tiny(name):
    config = getattr(transformers, f"{name}Config")(
        vocab_size=N_IDS, **MODELS[name][0], **_NO_SPECIAL
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForCausalLM")(config)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def recommendation(model):
    with pytest.raises(ValueError, match="is not known") as error:
        harvest(model, [[1]])
    message = str(error.value)
    code = re.search(r"MLPs with (\[.*\]) and record what each reads with", message)
    hook = re.search(r"reads with (.*)\.$", message)
    return message, code and code.group(1), hook and hook.group(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_recommended_code_gives_the_mlps(name, dtype):
    model = tiny(name).to(dtype)
    modes = [module.training for module in model.modules()]
    message, code, hook_code = recommendation(model)
    assert code is not None, message
    assert [module.training for module in model.modules()] == modes
    names = {"MLPWeights": MLPWeights, "model": model}
    mlps = eval(code, names)
    assert [mlp.site for mlp in mlps] == [0, 1]
    assert all((mlp.W_gate is not None) == (MODELS[name][1] == "gated") for mlp in mlps)
    read, written = [], []
    blocks = eval(re.search(r"enumerate\((.*?)\)", code).group(1), names)
    for block in blocks:
        eval(
            hook_code,
            names
            | {"block": block, "hook": lambda _module, args: read.append(args[0])},
        )
        block.mlp.register_forward_hook(lambda _m, _a, out: written.append(out))
    with torch.no_grad():
        model.eval()(torch.tensor(random_ids(9)))
    tolerance = 16 * torch.finfo(dtype).eps
    for mlp, u, output in zip(mlps, read, written, strict=True):
        expected = output[0].float().numpy()
        result = mlp_output(mlp, u[0].float().numpy())
        assert_allclose(result, expected, atol=tolerance * np.abs(expected).max() * 4)


def test_models_in_training_mode_are_left_in_it():
    model = tiny("CodeGen").train()
    _, code, _ = recommendation(model)
    assert "block.mlp.fc_in, block.mlp.fc_out, block.mlp.act" in code
    assert all(module.training for module in model.modules())


def test_numbered_modules_are_named_as_python_has_them():
    from transformers import CTRLConfig, CTRLModel

    model = CTRLModel(CTRLConfig(vocab_size=8, n_embd=4, n_layer=2, n_head=1, dff=5))
    _, code, hook = recommendation(model)
    assert code == (
        "[MLPWeights.from_torch(block.ffn[0], block.ffn[2], block.ffn[1], site=site) "
        "for site, block in enumerate(model.h)]"
    )
    assert hook == "block.ffn[0].register_forward_pre_hook(hook)"
    assert len(eval(code, {"MLPWeights": MLPWeights, "model": model})) == 2


def test_mlps_that_are_others_are_not_named():
    """A nonlinearity that is not known, and parts that are put together otherwise."""
    for change in ("activation", "forward"):
        model = tiny("Persimmon")
        for block in model.model.layers:
            if change == "activation":
                block.mlp.act = transformers.activations.ACT2FN["quick_gelu"]
            else:
                block.mlp.forward = lambda x: 2 * x
        message, code, _ = recommendation(model)
        assert code is None
        assert "MLPWeights.from_torch(linear_in, linear_out, activation)" in message
