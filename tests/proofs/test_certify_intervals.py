import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_ccx._engine.neurons._nonlinearity import NONLINEARITIES
from sklearn_ccx.proofs._intervals import nonlinearity_range
from sklearn_ccx.proofs._nonlinearity import nonlinearity_value
from sklearn_ccx.proofs._rounding import (
    UNIT_ROUNDOFF,
    Rounding,
    evaluation_rounding,
    gamma,
)

NAMES = sorted(NONLINEARITIES)
ENDS = st.floats(-40, 40) | st.sampled_from(
    [-1e300, -1e8, -1.5, -0.76, -1e-30, 0.0, 5e-324, 1e-30, 1e8, 1e300]
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=200, deadline=None, derandomize=True)
@given(ends=st.tuples(ENDS, ENDS).map(sorted))
def test_no_value_is_outside_its_range(name, ends):
    lower, upper = np.array(ends)
    inside = np.concatenate(
        [np.linspace(0, 1, 101) * (upper / 2 - lower / 2) * 2 + lower, [upper, -0.75]]
    )
    inside = inside[(lower <= inside) & (inside <= upper)]
    lowest, highest = nonlinearity_range(name, lower[None], upper[None])
    values = nonlinearity_value(name, inside)
    assert (lowest <= values).all()
    assert (values <= highest).all()


@pytest.mark.parametrize("name", NAMES)
def test_ranges_are_exact(name):
    u = np.linspace(-6, 6, 20_001)
    ends = np.random.default_rng(0).uniform(-5, 5, size=(200, 2))
    ends.sort(axis=1)
    lowest, highest = nonlinearity_range(name, *ends.T)
    values = nonlinearity_value(name, u)
    for (lower, upper), low, high in zip(ends, lowest, highest, strict=True):
        inside = values[(lower <= u) & (u <= upper)]
        assert 0 <= inside.min() - low < 1e-3
        assert 0 <= high - inside.max() < 1e-3


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_minimum(name):
    u = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    for _ in range(60):  # Newton's method on the derivative
        value = NONLINEARITIES[name].function(u).sum()
        (slope,) = torch.autograd.grad(value, u, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), u)
        u = (u - slope / curvature).detach().requires_grad_()
    lowest, _ = nonlinearity_range(name, np.array([-9.0]), np.array([9.0]))
    assert 0 <= value.item() - lowest[0] < 1e-13


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_rounding_covers_float32(name):
    """The bound for a precision holds for evaluation in that precision."""
    u = np.concatenate([np.linspace(-20, 20, 100_001), np.geomspace(1e-8, 1e8, 1001)])
    u = u.astype(np.float32).astype(np.float64)
    single = NONLINEARITIES[name].function(torch.from_numpy(u).float()).double().numpy()
    unit = float(np.finfo(np.float32).eps) / 2
    error = np.abs(single - nonlinearity_value(name, u))
    assert (error <= evaluation_rounding(name, u, unit) + 1e-30).all()


def test_gamma():
    assert gamma(0) == 0
    assert gamma(1000) == pytest.approx(1000 * UNIT_ROUNDOFF)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 1000, 300)).astype(np.float32)
    rounded = np.zeros(300, dtype=np.float32)
    for x_row, y_row in zip(x, y, strict=True):
        rounded += x_row * y_row
    exact = (x.astype(float) * y).sum(axis=0)
    limit = gamma(1000, float(np.finfo(np.float32).eps) / 2)
    assert (np.abs(rounded - exact) <= limit * np.abs(x.astype(float) * y).sum(0)).all()


def test_gamma_of_too_many_terms():
    with pytest.raises(ValueError, match="use weights in float64"):
        gamma(200, 2.0**-8)


def test_what_is_looser_is_widened_more_often():
    """By one step for the level and one for the bound."""
    size = np.ones(1)
    widths = [
        [
            Rounding.of_proof(level, bound).of_sums(size, 10)[0]
            for bound in ("interval", "lipschitz")
        ]
        for level in ("sample", "group", "domain")
    ]
    np.testing.assert_allclose(widths / widths[0][0], [[1, 3], [3, 5], [5, 7]])
    assert widths[0][0] > 8 * gamma(10)


def test_the_networks_precision_enters():
    single = float(np.finfo(np.float32).eps) / 2
    mass = np.ones((1, 1))
    double, coarse = (
        Rounding(1.0, unit).of_received(mass, 20, 10)[0, 0]
        for unit in (UNIT_ROUNDOFF, single)
    )
    assert gamma(10, single) < coarse < 3 * gamma(10, single)
    assert double < 1e-6 * coarse
