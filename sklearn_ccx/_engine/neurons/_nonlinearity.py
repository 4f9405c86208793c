"""Nonlinearities of MLP neurons and their Lipschitz constants."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Nonlinearity:
    r"""A neuron's nonlinearity :math:`\varphi` and :math:`\sup |\varphi'|`.

    Parameters
    ----------
    function : callable
        Elementwise, differentiable by autograd.
    lipschitz : float
        The smallest constant with
        :math:`|\varphi(u) - \varphi(v)| \le \mathrm{Lip} |u - v|`.
    minimum : (float, float) or None
        For a function that falls up to one point and rises after it, where that is
        and the value there. None for one that is monotone.
    """

    function: Callable[[Tensor], Tensor]
    lipschitz: float
    minimum: tuple[float, float] | None = None


def _gelu_tanh(u: Tensor) -> Tensor:
    return functional.gelu(u, approximate="tanh")


def _identity(u: Tensor) -> Tensor:
    return u


# The derivative of the exact GELU is Phi(u) + u phi(u), with Phi and phi the
# normal distribution and density. It is largest where its own derivative,
# (2 - u**2) phi(u), vanishes: at u = sqrt(2), hence Phi(sqrt 2) + sqrt(2) phi(sqrt 2).
# The tanh form of GELU and SiLU have no closed form for the maximiser. Their
# constants are the maxima of the derivative, at u = 1.4185 and u = 2.3994, rounded
# up in the last digit so that the bound they enter stays a bound. The minima are roots
# of the derivatives, computed with 40 digits, and their values rounded down.
NONLINEARITIES: dict[str, Nonlinearity] = {
    "identity": Nonlinearity(_identity, 1.0),
    "relu": Nonlinearity(torch.relu, 1.0),
    "tanh": Nonlinearity(torch.tanh, 1.0),
    "logistic": Nonlinearity(torch.sigmoid, 0.25),
    "gelu": Nonlinearity(
        functional.gelu, 1.1289042, (-0.7517915246935645, -0.16997120747990373)
    ),
    "gelu_tanh": Nonlinearity(
        _gelu_tanh, 1.1289931, (-0.7524614220710163, -0.17004075057125413)
    ),
    "silu": Nonlinearity(
        functional.silu, 1.0998394, (-1.2784645427610738, -0.27846454276107383)
    ),
}
