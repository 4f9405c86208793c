import pytest
import torch

from sklearn_ccx._engine.neurons._nonlinearity import NONLINEARITIES


@pytest.mark.parametrize("name", sorted(NONLINEARITIES))
def test_lipschitz_constant_is_the_largest_slope(name):
    nonlinearity = NONLINEARITIES[name]
    u = torch.linspace(-12, 12, 2_000_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(nonlinearity.function(u).sum(), u)
    largest = slope.abs().max().item()
    assert largest <= nonlinearity.lipschitz
    assert largest == pytest.approx(nonlinearity.lipschitz, abs=1e-6)
