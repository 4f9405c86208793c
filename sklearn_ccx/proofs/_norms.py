"""Norms that rounding and the range of float64 cannot make too small."""

import numpy as np
import numpy.typing as npt

from ._rounding import TINY, gamma

FloatArray = npt.NDArray[np.float64]

# A computed singular value is off by a modest multiple of the roundoff [Higham, section
# 3.5, and the LAPACK users' guide, section 4.9].
_SINGULAR_VALUE_FACTOR = 100


def row_norms(values_GN: FloatArray) -> FloatArray:
    """Euclidean norm of each row, whatever the size of the numbers.

    Each row is divided by a power of two before it is squared, which is exact, so that
    squares neither overflow nor vanish.
    """
    largest_G = np.abs(values_GN).max(axis=1)
    # The inverse of the largest power would not be a finite number.
    exponent_G = np.clip(np.frexp(largest_G)[1], -1000, None)
    scaled_GN = values_GN * np.ldexp(1.0, -exponent_G)[:, np.newaxis]
    norm_G: FloatArray = np.ldexp(np.linalg.norm(scaled_GN, axis=1), exponent_G)
    return norm_G


def spectral_norm(W: FloatArray) -> float:
    """The largest singular value of a matrix, rounded up."""
    n_terms = _SINGULAR_VALUE_FACTOR * sum(W.shape)
    return float(np.linalg.norm(W, 2)) * (1 + gamma(n_terms)) + TINY
