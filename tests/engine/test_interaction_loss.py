"""The engine's penalties against their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_ccx import MLPWeights
from sklearn_ccx._engine._sparse_codes import SparseCodes
from sklearn_ccx._engine.kernels import kernels_for
from sklearn_ccx._engine.neurons import DataScale, FrozenMLP
from sklearn_ccx.networks import freeze_mlps
from tests import naive
from tests.engine.penalties import losses_of

SETTINGS = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
}
FIDELITY = {"lam": 0, "lam_fidelity": 1}
FLOAT64_ON_CPU = {"dtype": torch.float64, "device": torch.device("cpu")}


pytestmark = pytest.mark.usefixtures("kernels")


@st.composite
def problems(draw):
    """Codes, a decoder and MLPs; small integers, so that ties are exact."""
    integer = st.integers(1, 4)
    n_samples, n_components = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    n_sites, width, n_mlps = draw(integer), draw(integer), draw(integer)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    with_ties = draw(st.booleans())

    def array(*shape):
        if with_ties:
            return rng.integers(-2, 3, size=shape).astype(np.float64)
        return rng.normal(size=shape)

    is_active = rng.random((n_samples, n_components)) < draw(st.floats(0, 1))
    mlps = [
        MLPWeights(
            array(width, n_neurons := draw(integer)),
            array(n_neurons, draw(integer)),
            b_in=array(n_neurons),
            activation=draw(st.sampled_from(["relu", "gelu", "tanh"])),
            site=draw(st.integers(0, n_sites - 1)),
        )
        for _ in range(n_mlps)
    ]
    return {
        "codes": np.abs(array(n_samples, n_components)) * is_active,
        "W_dec": array(n_components, n_sites * width),
        "x": array(n_samples, n_sites * width),
        "offset": array(n_sites * width),
        "site_scale": 2.0 ** rng.integers(-1, 3, size=n_sites),
        "masses": 2.0 ** rng.integers(0, 3, size=n_mlps),
        "mlps": mlps,
        "n_dominant": draw(st.integers(1, 3)),
    }


def frozen(problem):
    n_sites = len(problem["site_scale"])
    mlps = freeze_mlps(problem["mlps"], problem["offset"], n_sites, **FLOAT64_ON_CPU)
    return [
        mlp.in_training_units(problem["site_scale"][weights.site]).with_data_scale(
            # The Lipschitz constant is part of the bound and of the mass.
            DataScale(weights.lipschitz * float(mass), float(mass) / 4, 2.0)
        )
        for mlp, weights, mass in zip(
            mlps, problem["mlps"], problem["masses"], strict=True
        )
    ]


def losses(problem, codes, W_dec, **kwargs):
    return losses_of(
        SparseCodes.from_dense(codes),
        W_dec,
        torch.from_numpy(problem["x"]),
        frozen(problem),
        n_dominant=problem["n_dominant"],
        **{"lam": 1.0, "lam_fidelity": 1.0} | kwargs,
    )


def dominant_features(codes, M, n_dominant):
    """Features that dominate and what they contribute."""
    kernels = kernels_for(torch.device("cpu"))
    codes = SparseCodes.from_dense(codes)
    entries = kernels.dominant_entries(codes, M, n_dominant)
    features = codes.features_A[entries.clamp(min=0)].where(entries >= 0, -1)
    return features, kernels.dominant_contributions(codes, M, entries)


def with_gradient(array):
    return torch.from_numpy(array.copy()).requires_grad_()


@given(problems())
@settings(**SETTINGS, max_examples=200)
def test_interaction_and_its_gradients_equal_the_triple_loop(problem):
    codes, W_dec = with_gradient(problem["codes"]), with_gradient(problem["W_dec"])
    values = losses(problem, codes, W_dec, lam=0.5, lam_fidelity=0.0)
    value = values.interaction
    (2.0 * values.weighted).backward()

    n_samples, width = len(problem["codes"]), problem["mlps"][0].W_in.shape[0]
    expected, d_codes, d_W_dec = 0.0, 0.0, np.zeros(problem["W_dec"].shape)
    for weights, mass in zip(problem["mlps"], problem["masses"], strict=True):
        columns = slice(weights.site * width, (weights.site + 1) * width)
        scale = problem["site_scale"][weights.site]
        I_B, d_codes_BM, d_M = naive.interaction(
            problem["codes"],
            problem["W_dec"][:, columns] / scale @ weights.W_in,
            np.linalg.norm(weights.W_out, axis=1),
            problem["n_dominant"],
        )
        expected += I_B.mean() / mass
        d_codes = d_codes + d_codes_BM / mass / n_samples
        d_W_dec[:, columns] += d_M @ weights.W_in.T / scale / mass / n_samples

    active = problem["codes"] > 0
    np.testing.assert_allclose(value.item(), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(codes.grad[active], d_codes[active], atol=1e-9)
    np.testing.assert_allclose(W_dec.grad, d_W_dec, rtol=1e-10, atol=1e-9)


@given(problems())
@settings(**SETTINGS, max_examples=100)
def test_infidelity_equals_its_definition(problem):
    value = losses(
        problem,
        torch.from_numpy(problem["codes"]),
        torch.from_numpy(problem["W_dec"]),
    ).infidelity

    expected = 0.0
    width = problem["mlps"][0].W_in.shape[0]
    for weights, mlp in zip(problem["mlps"], frozen(problem), strict=True):
        columns = slice(weights.site * width, (weights.site + 1) * width)
        scale = problem["site_scale"][weights.site]
        M = problem["W_dec"][:, columns] / scale @ weights.W_in
        p = naive.contributions(problem["codes"], M)
        kept = np.array(
            [
                [
                    p[b, n, naive.largest(p[b, n], problem["n_dominant"])].sum()
                    for n in range(M.shape[1])
                ]
                for b in range(len(p))
            ]
        )
        bias = weights.b_in + problem["offset"][columns] @ weights.W_in
        true = problem["x"][:, columns] / scale @ weights.W_in
        phi = mlp.nonlinearity.function
        error = (
            phi(torch.from_numpy(kept + bias)) - phi(torch.from_numpy(true + bias))
        ).numpy() @ weights.W_out
        variance = mlp.output_variance * mlp.output_unit**2
        expected += np.square(error).sum(axis=1).mean() / variance
    np.testing.assert_allclose(value.item(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("activation", ["gelu", "silu", "tanh", "logistic"])
@pytest.mark.parametrize("n_dominant", [1, 2])
@pytest.mark.parametrize("strengths", [{"lam": 1, "lam_fidelity": 0.5}, FIDELITY])
def test_gradcheck_where_smooth(activation, n_dominant, strengths):
    rng = np.random.default_rng(0)
    mlps = [
        MLPWeights(
            rng.normal(size=(4, 5)),
            rng.normal(size=(5, 3)),
            b_in=rng.normal(size=5),
            activation=activation,
            site=site,
        )
        for site in (1, 0)
    ]
    frozen_mlps = freeze_mlps(mlps, rng.normal(size=8), 2, **FLOAT64_ON_CPU)
    x = torch.from_numpy(rng.normal(size=(6, 8)))

    def weighted(codes, W_dec):
        return losses_of(
            SparseCodes.from_dense(codes),
            W_dec,
            x,
            frozen_mlps,
            n_dominant=n_dominant,
            **strengths,
        ).weighted

    # All codes active and no two contributions alike: no kink within reach.
    codes = with_gradient(rng.uniform(0.5, 2.0, size=(6, 5)))
    W_dec = with_gradient(rng.normal(size=(5, 8)))
    assert torch.autograd.gradcheck(weighted, (codes, W_dec))


@given(problems(), st.floats(0.1, 10))
@settings(**SETTINGS, max_examples=50)
def test_bound_does_not_change_when_codes_and_decoder_are_rescaled(problem, c):
    codes, W_dec = (
        torch.from_numpy(problem["codes"]),
        torch.from_numpy(problem["W_dec"]),
    )
    before = losses(problem, codes, W_dec)
    after = losses(problem, codes / c, W_dec * c)
    torch.testing.assert_close(after.interaction, before.interaction)


def test_rows_with_at_most_one_active_feature_do_not_interact():
    rng = np.random.default_rng(0)
    codes = np.zeros((3, 4))
    codes[1, 2] = 1.5  # row 0 and row 2 are empty
    mlp = MLPWeights(rng.normal(size=(4, 6)), rng.normal(size=(6, 2)))
    W_dec = with_gradient(rng.normal(size=(4, 4)))
    values = losses_of(
        SparseCodes.from_dense(torch.from_numpy(codes)),
        W_dec,
        torch.zeros((3, 4), dtype=torch.float64),
        freeze_mlps([mlp], np.zeros(4), 1, **FLOAT64_ON_CPU),
        n_dominant=1,
        lam=1,
        lam_fidelity=0,
    )
    values.weighted.backward()
    # What is left is the rounding of two sums over the neurons, in different orders.
    p = 1.5 * W_dec.detach().numpy()[2] @ mlp.W_in
    received = np.abs(p) @ np.linalg.norm(mlp.W_out, axis=1)
    rounding = 2 * len(p) * np.finfo(float).eps
    assert abs(values.interaction.item()) <= rounding * received
    assert W_dec.grad.abs().max() <= rounding * received


def test_ties_go_to_the_first_feature_and_to_one_only():
    codes = torch.tensor([[0.0, 2.0, 1.0, 2.0]])
    M = torch.tensor([[9.0], [-1.0], [2.0], [1.0]])
    features, contributions = dominant_features(codes, M, n_dominant=4)
    assert features[:, 0, 0].tolist() == [1, 2, 3, -1]
    assert contributions[:, 0, 0].tolist() == [-2, 2, 2, 0]


def test_a_neuron_that_receives_nothing_has_no_dominant_feature():
    codes = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    M = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    features, _ = dominant_features(codes, M, 1)
    assert features[0].tolist() == [[-1, 1], [-1, -1]]


@pytest.mark.parametrize("n_mlps", [1, 4, 6, 12])
@pytest.mark.parametrize("strengths", [{"lam": 1, "lam_fidelity": 0}, FIDELITY])
def test_every_mlp_sends_a_gradient(n_mlps, strengths):
    rng = np.random.default_rng(0)
    mlps = [
        MLPWeights(rng.normal(size=(3, 5)), rng.normal(size=(5, 3)), site=site)
        for site in range(n_mlps)
    ]
    codes = with_gradient(rng.exponential(size=(8, 6)))
    W_dec = with_gradient(rng.normal(size=(6, 3 * n_mlps)))
    values = losses_of(
        SparseCodes.from_dense(codes),
        W_dec,
        torch.from_numpy(rng.normal(size=(8, 3 * n_mlps))),
        freeze_mlps(mlps, np.zeros(3 * n_mlps), n_mlps, **FLOAT64_ON_CPU),
        n_dominant=1,
        **strengths,
    )
    values.weighted.backward()
    assert codes.grad.abs().max() > 0
    by_site = W_dec.grad.reshape(6, n_mlps, 3).abs().amax(dim=(0, 2))
    assert (by_site > 0).all()


def test_the_frozen_network_gets_no_gradient():
    tensors = [
        value
        for mlp in freeze_mlps(
            [MLPWeights(np.eye(2), np.eye(2))], np.zeros(2), 1, **FLOAT64_ON_CPU
        )
        for value in vars(mlp).values()
        if isinstance(value, torch.Tensor)
    ]
    assert len(tensors) == 5
    assert not any(tensor.requires_grad for tensor in tensors)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return result


@pytest.mark.parametrize("n_dominant", [1, 3])
def test_no_array_grows_with_neurons_times_active_features(n_dominant):
    n_samples, n_components, n_neurons, width = 64, 48, 96, 8
    rng = np.random.default_rng(0)
    mlp = MLPWeights(
        rng.normal(size=(width, n_neurons)), rng.normal(size=(n_neurons, width))
    )
    codes = with_gradient(rng.exponential(size=(n_samples, n_components)))  # all active
    W_dec = with_gradient(rng.normal(size=(n_components, width)))
    with LargestTensor() as largest:
        values = losses_of(
            SparseCodes.from_dense(codes),
            W_dec,
            torch.zeros((n_samples, width), dtype=torch.float64),
            freeze_mlps([mlp], np.zeros(width), 1, **FLOAT64_ON_CPU),
            n_dominant=n_dominant,
            lam=1,
            lam_fidelity=1,
        )
        values.weighted.backward()
    assert 0 < largest.numel <= n_dominant * n_samples * n_neurons


def test_site_scale_is_divided_out():
    weights = MLPWeights(np.eye(2), np.eye(2))
    (mlp,) = freeze_mlps([weights], np.zeros(2), 1, **FLOAT64_ON_CPU)
    assert isinstance(mlp, FrozenMLP)
    rows = torch.tensor([[3.0, 6.0]], dtype=torch.float64)
    scaled = mlp.in_training_units(3.0)
    assert scaled.neuron_inputs(rows).tolist() == [[1.0, 2.0]]
