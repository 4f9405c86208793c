"""Modules that normalise, and modules that are not what they look like."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from packaging.version import Version
from torch import nn

from sklearn_ccx import MLPWeights
from sklearn_ccx.networks import norm_layer

WIDTH = 24
_IS_OLD = Version(torch.__version__) < Version("2.5")


class Gemma(nn.Module):
    """Adds 1 to the weight that it stores, in the dtype of float32."""

    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        x32 = x.float()
        scaled = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return (scaled * (1 + self.weight.float())).type_as(x)


class Olmo(nn.Module):
    """Has neither parameters nor an eps that could be read."""

    def forward(self, x):
        shape = x.shape[-1:]
        return nn.functional.layer_norm(x.float(), shape, None, None, 1e-5).type_as(x)


class Cohere(nn.Module):
    """A LayerNorm without a shift."""

    def __init__(self, width):
        super().__init__()
        self.variance_epsilon = 1e-5
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        x32 = x.float()
        centred = x32 - x32.mean(-1, keepdim=True)
        scale = torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)
        return (self.weight.float() * (centred * scale)).type_as(x)


NORMS = {
    "layer_norm": (lambda: nn.LayerNorm(WIDTH), "layernorm", 1e-5),
    "small_eps": (lambda: nn.LayerNorm(WIDTH, eps=1e-12), "layernorm", 1e-12),
    "no_shift": (lambda: nn.LayerNorm(WIDTH, bias=False), "layernorm", 1e-5),
    "no_parameters": (
        lambda: nn.LayerNorm(WIDTH, elementwise_affine=False),
        "layernorm",
        1e-5,
    ),
    "rms_norm": (lambda: nn.RMSNorm(WIDTH, eps=1e-6), "rmsnorm", 1e-6),
    "rms_no_parameters": (
        lambda: nn.RMSNorm(WIDTH, eps=0.01, elementwise_affine=False),
        "rmsnorm",
        0.01,
    ),
    "rms_default_eps": (lambda: nn.RMSNorm(WIDTH), "rmsnorm", None),
    "gemma": (lambda: Gemma(WIDTH), "rmsnorm", 1e-6),
    "gemma_large_eps": (lambda: Gemma(WIDTH, eps=1e-3), "rmsnorm", 1e-3),
    "olmo": (Olmo, "layernorm", 1e-5),
    "cohere": (lambda: Cohere(WIDTH), "layernorm", 1e-5),
}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def randomised(module, dtype=torch.float32):
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return module.to(dtype)


def rows_of_all_sizes():
    sizes = torch.tensor([1e-6, 1e-4, 3e-3, 0.1, 1.0, 30.0])[:, None, None]
    return sizes * (0.5 + torch.randn(6, 4, WIDTH))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
@pytest.mark.parametrize("name", NORMS)
def test_norms_are_described_by_their_formula(name, dtype):
    make, kind, eps = NORMS[name]
    module = randomised(make(), dtype)
    if dtype == torch.float16 and isinstance(module, nn.RMSNorm) and _IS_OLD:
        pytest.skip("before 2.5 torch squares in float16, where small rows vanish")
    norm = norm_layer(module, "norm", WIDTH)
    assert norm.kind == kind
    if eps is not None:
        assert norm.eps == eps
    rows = rows_of_all_sizes().to(dtype)
    with torch.no_grad():
        expected = module(rows).double().reshape(-1, WIDTH).numpy()
    result = norm.of(rows.double().reshape(-1, WIDTH).numpy())
    tolerance = 16 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    assert_allclose(result, expected, rtol=tolerance, atol=4 * tolerance)


@pytest.mark.parametrize("bias", [True, False])
def test_parameters_are_those_of_the_module(bias):
    module = randomised(nn.LayerNorm(WIDTH, bias=bias))
    norm = norm_layer(module, "norm", WIDTH)
    assert np.array_equal(norm.weight, module.weight.detach())
    assert (norm.bias is not None) == bias
    assert norm.weight.dtype == np.float32
    assert norm_layer(Olmo(), "norm", WIDTH).weight is None
    gemma = randomised(Gemma(WIDTH))
    norm = norm_layer(gemma, "norm", WIDTH)
    assert_allclose(norm.weight, 1 + gemma.weight.detach().numpy(), rtol=1e-7)


@pytest.mark.parametrize("width", [2, 3, 768, 4096])
def test_widths(width):
    assert norm_layer(randomised(nn.LayerNorm(width)), "norm", width).kind == (
        "layernorm"
    )
    assert norm_layer(randomised(nn.RMSNorm(width)), "norm", width).kind == "rmsnorm"


# Module, class and kind, arguments.
OF_TRANSFORMERS = [
    ("llama", "LlamaRMSNorm", "rmsnorm", (WIDTH,)),
    ("gemma", "GemmaRMSNorm", "rmsnorm", (WIDTH,)),
    ("gemma2", "Gemma2RMSNorm", "rmsnorm", (WIDTH,)),
    ("gemma3", "Gemma3RMSNorm", "rmsnorm", (WIDTH,)),
    ("llama4", "Llama4TextRMSNorm", "rmsnorm", (WIDTH,)),
    ("llama4", "Llama4TextL2Norm", "rmsnorm", ()),
    ("t5", "T5LayerNorm", "rmsnorm", (WIDTH,)),
    ("olmo", "OlmoLayerNorm", "layernorm", (WIDTH,)),
    ("olmo2", "Olmo2RMSNorm", "rmsnorm", (WIDTH,)),
    ("cohere", "CohereLayerNorm", "layernorm", (WIDTH,)),
    ("cohere2", "Cohere2LayerNorm", "layernorm", (WIDTH,)),
    ("glm4", "Glm4RMSNorm", "rmsnorm", (WIDTH,)),
    ("gpt_oss", "GptOssRMSNorm", "rmsnorm", (WIDTH,)),
]


@pytest.mark.parametrize(("module", "name", "kind", "arguments"), OF_TRANSFORMERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_norms_of_transformers(module, name, kind, arguments, dtype):
    models = pytest.importorskip("transformers.models")
    modelling = pytest.importorskip(f"{models.__name__}.{module}.modeling_{module}")
    layer = randomised(getattr(modelling, name)(*arguments), dtype)
    norm = norm_layer(layer, "norm", WIDTH)
    assert norm.kind == kind
    assert norm.eps in (1e-5, 1e-6)
    rows = rows_of_all_sizes().to(dtype)
    with torch.no_grad():
        expected = layer(rows).double().reshape(-1, WIDTH).numpy()
    result = norm.of(rows.double().reshape(-1, WIDTH).numpy())
    tolerance = 16 * torch.finfo(dtype).eps
    assert_allclose(result, expected, rtol=tolerance, atol=4 * tolerance)


class Shrunk(nn.RMSNorm):
    def forward(self, x):
        return 0.97 * super().forward(x)


class MeanAbsolute(nn.Module):
    def forward(self, x):
        return x / (x.abs().mean(-1, keepdim=True) + 1e-6)


class Gate(nn.RMSNorm):
    def forward(self, x, gate):
        return super().forward(x) * gate


class Unbiased(nn.Module):
    def forward(self, x):
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)


OTHERS = [
    Shrunk(WIDTH),
    MeanAbsolute(),
    Gate(WIDTH),
    Unbiased(),
    nn.Identity(),
    nn.BatchNorm1d(WIDTH),
    nn.GroupNorm(4, WIDTH),
    nn.Tanh(),
    nn.LayerNorm((3, WIDTH)),
]


@pytest.mark.parametrize("module", OTHERS, ids=lambda module: type(module).__name__)
def test_modules_that_compute_something_else_are_refused_by_name(module):
    with pytest.raises(ValueError, match=rf"norm is a {type(module).__name__}"):
        norm_layer(module.eval(), "norm", WIDTH)


def test_hooks_and_modes_are_named():
    module = randomised(nn.LayerNorm(WIDTH))
    module.register_forward_hook(lambda _m, _a, output: 2 * output)
    with pytest.raises(ValueError, match="It has hooks; remove them"):
        norm_layer(module, "norm", WIDTH)
    module = nn.Sequential(nn.LayerNorm(WIDTH), nn.Dropout(0.5))
    with pytest.raises(ValueError, match=r"is in training mode; call eval\(\)"):
        norm_layer(module, "norm", WIDTH)


def test_weights_that_cannot_be_read_are_refused():
    with pytest.raises(ValueError, match="norm is a LayerNorm whose weights are on"):
        norm_layer(nn.LayerNorm(WIDTH, device="meta"), "norm", WIDTH)
    module = nn.LayerNorm(WIDTH, bias=False)
    codes = torch.ones(WIDTH).to(torch.float8_e4m3fn)
    module.weight = nn.Parameter(codes, requires_grad=False)
    with pytest.raises(ValueError, match=r"norm is a LayerNorm with quantised.*float8"):
        norm_layer(module, "norm", WIDTH)
    with pytest.raises(ValueError, match=r"weight has shape \(23,\).*reads 24"):
        norm_layer(nn.LayerNorm(WIDTH - 1), "norm", WIDTH)


@pytest.mark.parametrize("module", [None, 3, nn.LayerNorm, "layernorm"])
def test_other_objects_are_refused(module):
    with pytest.raises(TypeError, match=r"norm must be a module that normalises rows"):
        norm_layer(module, "norm", WIDTH)


def test_the_caller_s_modes_do_not_matter_and_the_generator_stays():
    module = randomised(nn.LayerNorm(WIDTH))
    state = torch.get_rng_state()
    for mode in (torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with mode:
            assert norm_layer(module, "norm", WIDTH).eps == 1e-5
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", NORMS)
def test_mlps_with_their_norm(name):
    norm = randomised(NORMS[name][0]())
    network = nn.Sequential(norm, nn.Linear(WIDTH, 40), nn.GELU(), nn.Linear(40, 5))
    mlp = MLPWeights.from_torch(network[1], network[3], network[2], norm=norm, site=2)
    assert (mlp.norm, mlp.site) == (NORMS[name][1], 2)
    rows = torch.randn(50, WIDTH)
    expected = network(rows).detach().numpy()
    read = norm_layer(norm, "norm", WIDTH)
    assert_allclose(mlp.norm_weight, 1 if read.weight is None else read.weight)
    u = read.of(rows.double().numpy())
    hidden = nn.functional.gelu(torch.from_numpy(u @ mlp.W_in + mlp.b_in)).numpy()
    result = hidden @ mlp.W_out + mlp.b_out
    assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    plain = MLPWeights.from_torch(network[1], network[3], network[2])
    assert plain.norm is None
    assert np.array_equal(plain.W_in, mlp.W_in)


def test_norms_of_mlps_that_are_none():
    layers = nn.Linear(WIDTH, 40), nn.Linear(40, 5), "gelu"
    with pytest.raises(ValueError, match="norm is a Tanh without a weight"):
        MLPWeights.from_torch(*layers, norm=nn.Tanh())
    with pytest.raises(TypeError, match=r"norm must be a module.*'layernorm'"):
        MLPWeights.from_torch(*layers, norm="layernorm")
    with pytest.raises(ValueError, match=r"norm is a LayerNorm .*\(5,\).*reads 24"):
        MLPWeights.from_torch(*layers, norm=nn.LayerNorm(5))
