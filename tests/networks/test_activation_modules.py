import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from sklearn_ccx import MLPWeights
from sklearn_ccx._engine.neurons import NONLINEARITIES
from sklearn_ccx.networks._activation_modules import activation_name


def of_transformers(name):
    activations = pytest.importorskip("transformers.activations")
    return activations.ACT2FN[name]


TAKEN = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "tanh": "tanh",
    "sigmoid": "logistic",
    "linear": "identity",
}


@pytest.mark.parametrize(("name", "expected"), TAKEN.items())
def test_activations_of_transformers(name, expected):
    module = of_transformers(name)
    assert activation_name(module) == expected
    mlp = MLPWeights.from_torch(nn.Linear(3, 4), nn.Linear(4, 2), module)
    assert mlp.activation == expected


def test_every_activation_of_transformers_is_taken_rightly_or_refused_by_name():
    activations = pytest.importorskip("transformers.activations")
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    layers = conv1d(4, 3), conv1d(2, 4)
    x = torch.linspace(-9, 9, 21).reshape(7, 3)
    assert set(TAKEN) <= set(activations.ACT2FN)
    for name in activations.ACT2FN:
        module = activations.ACT2FN[name]
        if name not in TAKEN:
            refused = rf"activation {type(module).__name__} is not known"
            with pytest.raises(TypeError, match=refused):
                MLPWeights.from_torch(*layers, module)
            continue
        mlp = MLPWeights.from_torch(*layers, module)
        phi = NONLINEARITIES[mlp.activation].function
        with torch.no_grad():
            expected = layers[1](module(layers[0](x))).numpy()
        hidden = phi(torch.from_numpy(x.numpy() @ mlp.W_in + mlp.b_in)).numpy()
        assert_allclose(
            hidden @ mlp.W_out + mlp.b_out, expected, rtol=1e-4, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize(
    "name", ["quick_gelu", "gelu_10", "relu2", "relu6", "leaky_relu", "laplace", "mish"]
)
def test_those_that_look_alike_are_refused(name):
    module = of_transformers(name)
    with pytest.raises(TypeError, match=rf"{type(module).__name__} is not known"):
        activation_name(module)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (torch.relu, "relu"),
        (nn.functional.relu, "relu"),
        (nn.functional.gelu, "gelu"),
        (nn.functional.silu, "silu"),
        (torch.sigmoid, "logistic"),
        (lambda u: u * torch.sigmoid(u), "silu"),
        (nn.Sequential(nn.ReLU(), nn.Identity()), "relu"),
        (nn.ReLU(inplace=True), "relu"),
    ],
)
def test_functions_are_known_by_their_values(function, expected):
    assert activation_name(function) == expected


def test_a_class_of_a_known_name_and_another_function_is_refused():
    class GELU(nn.Module):
        def forward(self, u):
            return 1.001 * nn.functional.gelu(u)

    class SubclassedReLU(nn.ReLU):
        def forward(self, u):
            return super().forward(u) ** 2

    for module in (GELU(), SubclassedReLU(), nn.Hardtanh(-1e3, 1e3), nn.Softmax(0)):
        with pytest.raises(TypeError, match="is not known"):
            activation_name(module)


@pytest.mark.parametrize("activation", [nn.GELU, 3, None, ["relu"], b"relu"])
def test_other_objects_are_refused(activation):
    with pytest.raises(TypeError, match="activation must be one of"):
        activation_name(activation)


@pytest.mark.parametrize("module", [nn.Linear(2, 2), nn.Bilinear(1, 1, 1)])
def test_modules_that_cannot_be_evaluated_are_refused(module):
    with pytest.raises(TypeError, match="cannot be evaluated"):
        activation_name(module)


def test_the_caller_s_modes_do_not_matter():
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert activation_name(nn.GELU()) == "gelu"
