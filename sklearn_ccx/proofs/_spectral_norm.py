"""Norms of matrices that rounding cannot make too small."""

import numpy as np
import numpy.typing as npt

from ._rounding import TINY, gamma

FloatArray = npt.NDArray[np.float64]

# A computed singular value is off by a modest multiple of the roundoff [Higham, section
# 3.5, and the LAPACK users' guide, section 4.9].
_SINGULAR_VALUE_FACTOR = 100


def spectral_norm(W: FloatArray) -> float:
    """The largest singular value of a matrix, rounded up."""
    n_terms = _SINGULAR_VALUE_FACTOR * sum(W.shape)
    return float(np.linalg.norm(W, 2)) * (1 + gamma(n_terms)) + TINY
