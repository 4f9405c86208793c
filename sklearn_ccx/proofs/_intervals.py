"""Intervals through nonlinearities and weights."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ._nonlinearity import NONLINEARITIES, nonlinearity_value
from ._rounding import TINY, UNIT_ROUNDOFF, evaluation_rounding

FloatArray = npt.NDArray[np.float64]


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


def product_range(
    one: tuple[FloatArray, FloatArray], other: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """Range of a product over two intervals, rounded outward: that of its corners.

    Parameters
    ----------
    one, other : tuple of two ndarrays of one shape
        Ends of the intervals.

    Returns
    -------
    lowest, highest : ndarray
        No product, exact or rounded, is outside.
    """
    corners = [end * other_end for end in one for other_end in other]
    lowest, highest = corners[0].copy(), corners[0].copy()
    for corner in corners[1:]:
        np.minimum(lowest, corner, out=lowest)
        np.maximum(highest, corner, out=highest)
    slack = 4 * UNIT_ROUNDOFF * np.maximum(np.abs(lowest), np.abs(highest)) + TINY
    return lowest - slack, highest + slack


def times_weights(
    lower_GN: Any, upper_GN: Any, W_NO: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Range of ``h W`` for ``h`` in intervals, up to rounding.

    Parameters
    ----------
    lower_GN, upper_GN : ndarray or csr_array of shape (G, N)
        Ends of the intervals.
    W_NO : ndarray of shape (N, O)
        The weights.

    Returns
    -------
    lower_GO, upper_GO : ndarray of shape (G, O)
        Ends of the range.
    """
    centre_GO = (lower_GN / 2 + upper_GN / 2) @ W_NO
    radius_GO = (upper_GN / 2 - lower_GN / 2) @ np.abs(W_NO)
    return centre_GO - radius_GO, centre_GO + radius_GO
