"""MLPs of language models whose weights are not what they look like."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from sklearn_ccx.lm import mlp_weights
from tests.networks.test_linear_layers import DequantisingLinear, FP8Linear, Int8Linear

from .tiny_models import make_model


def with_layers(make_layer, name="up_proj"):
    model = make_model("llama")
    for block in model.model.layers:
        setattr(block.mlp, name, make_layer(getattr(block.mlp, name)))
    return model


@pytest.mark.parametrize("quantised", [Int8Linear, FP8Linear])
@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("up_proj", "linear_in"),
        ("gate_proj", "linear_gate"),
        ("down_proj", "linear_out"),
    ],
)
def test_quantised_mlps_are_refused(quantised, name, role):
    message = f"{role} of block 0 is a {quantised.__name__} with quantised weights"
    with pytest.raises(ValueError, match=message):
        mlp_weights(with_layers(quantised, name))


@pytest.mark.parametrize("quantised", [Int8Linear, FP8Linear])
def test_quantised_mlps_with_their_gate_in_one_layer_are_refused(quantised):
    model = make_model("phi3")
    mlp = model.model.layers[1].mlp
    mlp.gate_up_proj = quantised(mlp.gate_up_proj)
    message = f"linear_in of block 1 is a {quantised.__name__} with quantised weights"
    with pytest.raises(ValueError, match=message):
        mlp_weights(model)


def test_dequantised_mlps_are_taken():
    plain = mlp_weights(make_model("llama"))
    for mlp, expected in zip(
        mlp_weights(with_layers(DequantisingLinear)), plain, strict=True
    ):
        assert mlp.W_in.dtype == np.float32
        assert_allclose(mlp.W_in, expected.W_in, atol=np.abs(expected.W_in).max() / 100)


def test_fp8_layers_of_transformers_are_refused():
    from transformers.integrations.finegrained_fp8 import FP8Linear as Layer

    def quantise(linear):
        layer = Layer(linear.in_features, linear.out_features, block_size=(8, 8))
        layer.weight.data.copy_(linear.weight.data.to(torch.float8_e4m3fn))
        return layer

    with pytest.raises(ValueError, match=r"float8_e4m3fn beside weight_scale_inv"):
        mlp_weights(with_layers(quantise))


def test_offloaded_mlps_are_refused():
    model = make_model("gpt2")
    model.transformer.h[1].mlp.c_fc.to("meta")
    with pytest.raises(ValueError, match="linear_in of block 1 is a Conv1D whose wei"):
        mlp_weights(model)


def test_subclasses_of_linear_layers_are_taken():
    class Subclass(nn.Linear):
        pass

    def subclass(linear):
        layer = Subclass(linear.in_features, linear.out_features)
        layer.load_state_dict(linear.state_dict())
        return layer

    assert mlp_weights(with_layers(subclass)) == mlp_weights(make_model("llama"))
