r"""Intervals through the nonlinearities, and bounds on the rounding of float64.

Every quantity a proof needs is a sum of products of given float64 numbers, followed
by a nonlinearity. A sum of :math:`n` products, in whatever order, is off by at most

.. math::

    \gamma_n \sum_i |x_i y_i|, \qquad \gamma_n = \frac{n u}{1 - n u},

with the unit roundoff :math:`u = 2^{-53}` (Higham, "Accuracy and Stability of Numerical
Algorithms", section 3.1). Bounds are widened by :math:`\gamma_n` times such a sum of
magnitudes, with :math:`n` large enough for all steps that precede. That covers both the
rounding of the bound itself and the rounding of whoever evaluates the network in
float64.
"""

import numpy as np
import numpy.typing as npt
import torch

from .._engine.neurons._nonlinearity import NONLINEARITIES

FloatArray = npt.NDArray[np.float64]

UNIT_ROUNDOFF = float(np.finfo(np.float64).eps) / 2

# What underflow may take from a product; a sum of a million of them is still covered.
TINY = 1e6 * float(np.finfo(np.float64).tiny)

# Rounding of one evaluation, in units of roundoff. GELU and SiLU are u times a factor
# in [0, 1], which a handful of operations gives to a few roundoffs *absolutely*
# (1 + erf cancels in the left tail); tanh and logistic are given to a few roundoffs of
# their value. relu and identity do not round.
_EVALUATION_ROUNDOFFS = 16.0


def gamma(n_terms: int, unit_roundoff: float = UNIT_ROUNDOFF) -> float:
    r""":math:`\gamma_n = n u / (1 - n u)`, the relative rounding of a sum of products.

    Parameters
    ----------
    n_terms : int
        Number of roundings that one term can go through.
    unit_roundoff : float
        Half the distance from 1 to the next larger number of the precision.

    Raises
    ------
    ValueError
        If there are too many terms for the precision to say anything.
    """
    product = n_terms * unit_roundoff
    if product >= 0.5:
        raise ValueError(
            f"a sum of {n_terms} terms cannot be bounded in a precision with unit "
            f"roundoff {unit_roundoff:.1e}; use weights in float64."
        )
    return product / (1.0 - product)


def nonlinearity_value(activation: str, u: FloatArray) -> FloatArray:
    """Value of a nonlinearity of :class:`MLPWeights`, elementwise."""
    tensor = torch.from_numpy(np.array(u, dtype=np.float64))
    value: FloatArray = NONLINEARITIES[activation].function(tensor).numpy()
    return value


def evaluation_rounding(
    activation: str, u: FloatArray, unit_roundoff: float = UNIT_ROUNDOFF
) -> FloatArray:
    """Bound on the rounding of :func:`nonlinearity_value`, elementwise."""
    if activation in ("identity", "relu"):
        return np.zeros_like(u)
    if NONLINEARITIES[activation].minimum is not None:
        size = np.abs(u)
    else:
        size = np.abs(nonlinearity_value(activation, u))
    return _EVALUATION_ROUNDOFFS * unit_roundoff * size + TINY


def nonlinearity_range(
    activation: str,
    lower: FloatArray,
    upper: FloatArray,
    unit_roundoff: float = UNIT_ROUNDOFF,
) -> tuple[FloatArray, FloatArray]:
    """Range of a nonlinearity over intervals, rounded outward.

    Where the nonlinearity is monotone these are its values at the ends. "gelu",
    "gelu_tanh" and "silu" fall to a minimum and rise after it: their largest value is
    at an end all the same, and the least is the minimum where the interval has it.

    Parameters
    ----------
    activation : str
        Name of the nonlinearity.
    lower, upper : ndarray of the same shape
        Ends of the intervals.
    unit_roundoff : float
        That of the precision in which the nonlinearity is evaluated.

    Returns
    -------
    lowest, highest : ndarray
        No value, exact or as evaluated in that precision, is outside.
    """
    at_lower = nonlinearity_value(activation, lower)
    at_upper = nonlinearity_value(activation, upper)
    lowest, highest = np.minimum(at_lower, at_upper), np.maximum(at_lower, at_upper)
    minimum = NONLINEARITIES[activation].minimum
    if minimum is not None:
        location, value = minimum
        has_minimum = (lower <= location) & (location <= upper)
        lowest = np.where(has_minimum, value, lowest)
    # The rounding of what lies between is no larger than at one of the ends.
    slack = np.maximum(
        evaluation_rounding(activation, lower, unit_roundoff),
        evaluation_rounding(activation, upper, unit_roundoff),
    )
    return lowest - slack, highest + slack
