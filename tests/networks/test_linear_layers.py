"""Layers that are linear, and layers that are not what they look like."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from sklearn_ccx import MLPWeights
from sklearn_ccx.networks._linear_layers import linear_layer


class Int8Linear(nn.Linear):
    """Weights as codes, and the activations quantised too, as in LLM.int8."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features)
        scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        codes = (linear.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.register_buffer("SCB", scale)
        self.bias = linear.bias

    def forward(self, x):
        return nn.functional.linear(x, self.weight.float() * self.SCB, self.bias)


class FP8Linear(nn.Linear):
    """As in transformers' fine-grained fp8."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features)
        scale = linear.weight.detach().abs().max() / 448
        codes = (linear.weight.detach() / scale).to(torch.float8_e4m3fn)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.weight_scale_inv = nn.Parameter(scale)
        self.bias = linear.bias

    def forward(self, x):
        weight = self.weight.float() * self.weight_scale_inv
        return nn.functional.linear(x, weight, self.bias)


class DequantisingLinear(Int8Linear):
    def dequantize(self):
        return self.weight.float() * self.SCB


class WronglyDequantisingLinear(Int8Linear):
    def dequantize(self):
        return self.weight.float()


class FloatCodesLinear(nn.Linear):
    """Codes in a dtype that does not show what they are."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias) * 0.01


class Conv1D(nn.Module):
    """The linear layer of GPT-2 in transformers."""

    def __init__(self, n_out, n_in):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_in, n_out))
        self.bias = nn.Parameter(torch.randn(n_out))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class OwnLinear(nn.Module):
    """A linear layer by duck typing, in either layout."""

    def __init__(self, weight, is_transposed):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.is_transposed = is_transposed

    def forward(self, x):
        return x @ (self.weight.T if self.is_transposed else self.weight)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def assert_reads(layer, n_in, *, rtol=1e-5):
    """What is read computes what the layer computes."""
    W, bias = linear_layer(layer, "linear_in")
    assert W.shape[0] == n_in
    x = torch.randn(7, n_in, dtype=layer.weight.dtype)
    with torch.no_grad():
        expected = layer(x).double().numpy()
    result = x.double().numpy() @ W + (0 if bias is None else bias)
    assert_allclose(result, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
@pytest.mark.parametrize("bias", [True, False])
def test_plain_linear_layers_are_read_as_they_are(dtype, bias):
    layer = nn.Linear(6, 5, bias=bias, dtype=dtype)
    W, read_bias = linear_layer(layer, "linear_in")
    assert_array_equal(W, layer.weight.detach().double().numpy().T)
    assert W.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert (read_bias is None) == (not bias)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_subclasses_that_are_linear_are_accepted(dtype, size):
    class Subclass(nn.Linear):
        pass

    layer = Subclass(64, 48, dtype=dtype)
    with torch.no_grad():
        layer.weight.mul_(size)
    W, bias = linear_layer(layer, "linear_in")
    assert_array_equal(W, layer.weight.detach().double().numpy().T)
    assert_array_equal(bias, layer.bias.detach().double().numpy())


def test_wide_layers_in_half_precision_are_accepted():
    class Subclass(nn.Linear):
        pass

    for dtype in (torch.float16, torch.bfloat16):
        layer = Subclass(2048, 512, dtype=dtype)
        layer.bias.data.mul_(100)
        linear_layer(layer, "linear_in")


def test_conv1d_is_not_transposed():
    for n_in, n_out in ((6, 5), (6, 6)):
        layer = Conv1D(n_out, n_in)
        W, _ = linear_layer(layer, "linear_in")
        assert_array_equal(W, layer.weight.detach().numpy())
    network = Conv1D(12, 6), Conv1D(3, 12)
    mlp = MLPWeights.from_torch(*network, nn.Tanh())
    x = torch.randn(4, 6)
    expected = network[1](network[0](x).tanh()).detach().numpy()
    output = np.tanh(x.numpy() @ mlp.W_in + mlp.b_in) @ mlp.W_out + mlp.b_out
    assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


def test_conv1d_of_transformers():
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils")
    layer = pytorch_utils.Conv1D(5, 6)
    W, _ = linear_layer(layer, "linear_in")
    assert_array_equal(W, layer.weight.detach().numpy())


@pytest.mark.parametrize("is_transposed", [True, False])
@pytest.mark.parametrize("shape", [(6, 6), (4, 7)])
def test_other_linear_modules_are_read_in_their_layout(is_transposed, shape):
    layer = OwnLinear(torch.randn(shape), is_transposed)
    assert_reads(layer, shape[1 if is_transposed else 0])


class _Scaled(nn.Module):
    def forward(self, weight):
        return 3 * weight


def test_parametrised_layers_give_the_matrix_in_use():
    layer = nn.Linear(6, 5)
    plain = layer.weight.detach().clone()
    parametrize.register_parametrization(layer, "weight", _Scaled())
    W, _ = linear_layer(layer, "linear_in")
    assert_array_equal(W, 3 * plain.numpy().T)
    assert_reads(parametrizations.weight_norm(nn.Linear(6, 5)), 6)
    assert_reads(parametrizations.orthogonal(nn.Linear(6, 5)), 6)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_weights_that_a_hook_computes_are_read_after_it():
    layer = nn.utils.weight_norm(nn.Linear(6, 5))
    with torch.no_grad():
        layer.weight_g.mul_(2)  # the layer's weight follows when it is run
    assert_reads(layer, 6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_hooks_that_change_the_product_are_refused(dtype):
    for size_of_bias in (0.1, 1e4):
        layer = nn.Linear(6, 5, dtype=dtype)
        layer.bias.data.mul_(size_of_bias)
        layer.register_forward_hook(
            lambda module, _args, output: module.bias + (output - module.bias) * 1.5
        )
        with pytest.raises(ValueError, match=r"linear_in is a Linear that does not.*"):
            linear_layer(layer, "linear_in")
    layer = nn.Linear(6, 5)
    layer.register_forward_pre_hook(lambda _module, args: (args[0].clamp(max=0.5),))
    with pytest.raises(ValueError, match="It has hooks; remove them"):
        linear_layer(layer, "linear_in")


def test_hooks_that_only_look_are_accepted():
    seen = []
    layer = nn.Linear(6, 5)
    layer.register_forward_hook(lambda _m, _a, output: seen.append(output.shape))
    assert_reads(layer, 6)


def test_a_forward_of_the_instance_is_seen():
    layer = nn.Linear(6, 5)
    forward = layer.forward
    layer.forward = lambda x: forward(x).relu()
    with pytest.raises(ValueError, match="does not compute"):
        linear_layer(layer, "linear_in")


@pytest.mark.parametrize(
    ("quantised", "dtype", "scale"),
    [
        (Int8Linear, "torch.int8", "SCB"),
        (WronglyDequantisingLinear, "torch.int8", "SCB"),
        (FP8Linear, "torch.float8_e4m3fn", "weight_scale_inv"),
    ],
)
def test_quantised_layers_are_refused_by_name(quantised, dtype, scale):
    layer = quantised(nn.Linear(16, 8))
    message = rf"linear_out is a {quantised.__name__} with quantised.*{dtype}.*{scale}"
    with pytest.raises(ValueError, match=message) as error:
        MLPWeights.from_torch(nn.Linear(8, 16), layer, "relu")
    assert "model.dequantize()" in str(error.value)
    assert "MLPWeights(W_in, W_out)" in str(error.value)


def test_codes_in_a_floating_dtype_are_refused():
    with pytest.raises(ValueError, match="FloatCodesLinear that does not compute"):
        linear_layer(FloatCodesLinear(16, 8), "linear_in")


def test_dequantised_weights_are_used_where_they_are_what_the_layer_uses():
    layer = DequantisingLinear(nn.Linear(16, 8))
    W, bias = linear_layer(layer, "linear_in")
    assert_allclose(W, (layer.weight.float() * layer.SCB).T)
    assert_array_equal(bias, layer.bias.detach())


@pytest.mark.filterwarnings("ignore")
def test_quantised_layers_of_torch_are_refused():
    from torch.ao.nn.quantized import dynamic

    layer = dynamic.Linear(6, 5)
    weight = torch.quantize_per_tensor(torch.randn(5, 6), 0.02, 0, torch.qint8)
    layer.set_weight_bias(weight, None)
    with pytest.raises(ValueError, match=r"quantised weights.*qint8"):
        linear_layer(layer, "linear_in")


def test_offloaded_and_lazy_layers_are_refused():
    with pytest.raises(ValueError, match="linear_in is a Linear whose weights are on"):
        linear_layer(nn.Linear(6, 5, device="meta"), "linear_in")
    with pytest.raises(ValueError, match="has no weights yet"):
        linear_layer(nn.LazyLinear(3), "linear_in")


def test_adapters_are_refused():
    class LoraLinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.base_layer = nn.Linear(6, 5)

    with pytest.raises(ValueError, match=r"linear_in.*merge_and_unload"):
        linear_layer(LoraLinear(), "linear_in")


@pytest.mark.parametrize(
    "layer", [nn.ReLU(), nn.LayerNorm(4), nn.Conv1d(2, 2, 1), None, 3, "linear", [1.0]]
)
def test_other_objects_are_refused(layer):
    with pytest.raises(TypeError, match=r"linear_in must be a torch\.nn\.Linear"):
        linear_layer(layer, "linear_in")


def test_tables_are_refused():
    with pytest.raises(ValueError, match="Embedding that does not compute"):
        linear_layer(nn.Embedding(6, 5), "linear_in")


def test_weights_that_are_not_finite_or_complex_are_refused():
    layer = FloatCodesLinear(3, 2)
    layer.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="linear_in contains NaN"):
        linear_layer(layer, "linear_in")
    with pytest.raises(ValueError, match="Complex data not supported"):
        linear_layer(nn.Linear(3, 2, dtype=torch.complex64), "linear_in")


def test_the_caller_s_modes_do_not_matter_and_the_generator_stays():
    class Subclass(nn.Linear):
        pass

    layer = Subclass(6, 5)
    state = torch.get_rng_state()
    for mode in (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
        torch.device("meta"),
    ):
        with mode:
            W, _ = linear_layer(layer, "linear_in")
        assert_array_equal(W, layer.weight.detach().numpy().T)
    assert torch.equal(torch.get_rng_state(), state)
    assert layer.weight.grad is None
