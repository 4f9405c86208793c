"""Norms of rows whose squares may not fit the dtype."""

from typing import Any

import numpy as np
import numpy.typing as npt


def row_norms(rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Euclidean norm of each row, without overflow or underflow in between.

    Each row is multiplied by a power of two before it is squared, which is exact, so
    that the result has the bits of ``np.linalg.norm(rows, axis=1)`` where that has no
    overflow. It is float64, since the norm of float32 numbers need not fit float32.
    """
    largest = np.abs(rows).max(axis=1, initial=0)
    # The powers and their inverses must be normal numbers.
    limit = np.finfo(rows.dtype).maxexp
    exponents = np.clip(np.frexp(largest)[1], 24 - limit, limit - 2)
    scales = np.ldexp(np.ones_like(largest), -exponents)
    norms = np.linalg.norm(rows * scales[:, np.newaxis], axis=1)
    unscaled: npt.NDArray[np.float64] = np.ldexp(norms.astype(np.float64), exponents)
    return unscaled
