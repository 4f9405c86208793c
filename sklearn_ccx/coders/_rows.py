"""Activations as validated rows, one for each sample, sites side by side."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils import gen_batches
from sklearn.utils.validation import validate_data

from .._validation import errors_of_conversion
from ..activations import ShardedActivations

FloatArray = npt.NDArray[np.floating]

# Kept as they are; everything else becomes the first, as in scikit-learn.
DTYPES = (np.float64, np.float32)

# Bytes of float64 that one batch of transform or score may take.
_INFERENCE_BYTES = 2**27


def batch_length(n_columns: int) -> int:
    """Rows of so many numbers that one batch of an inference may have."""
    return max(1, _INFERENCE_BYTES // (8 * n_columns))


def flat(X: Any) -> Any:
    """One row for each sample."""
    if len(X.shape) != 3:
        return X
    return X.reshape(len(X), X.shape[1] * X.shape[2])


def computed_dtype(X: Any) -> np.dtype[Any]:
    """The precision in which validated activations are computed."""
    return np.dtype(np.float32 if X.dtype == np.float16 else X.dtype)


def validated(
    estimator: BaseEstimator, X: Any, *, reset: bool, ensure_min_samples: int = 1
) -> Any:
    """Validate flattened activations.

    Those in shards are finite and are not read. Half-precision arrays, which may be
    memory maps, stay as they are: they are converted batch by batch.
    """
    checks: dict[str, Any] = {"ensure_min_samples": ensure_min_samples}
    if isinstance(X, ShardedActivations):
        in_place_of_X = np.broadcast_to(X.dtype.type(0), X.shape)  # takes no memory
        checks |= {"dtype": None, "ensure_all_finite": False}
        validate_data(estimator, in_place_of_X, reset=reset, **checks)
        return X
    if not (isinstance(X, np.ndarray) and X.dtype == np.float16):
        with errors_of_conversion("X"):
            return validate_data(estimator, X, reset=reset, dtype=DTYPES, **checks)
    X = validate_data(
        estimator, X, reset=reset, dtype=None, ensure_all_finite=False, **checks
    )
    check_finite(X, type(estimator).__name__)
    return X


def check_finite(X: Any, name: str, *, of: str = "Input X") -> None:
    """Check numbers batch by batch, for an estimator of some name.

    Raises
    ------
    ValueError
        If one is not finite; it says about where.
    """
    for batch in gen_batches(len(X), batch_length(X.shape[1])):
        if not np.isfinite(X[batch]).all():
            raise ValueError(
                f"{of} contains NaN or infinity in rows {batch.start} to "
                f"{batch.stop - 1}; {name} takes finite numbers."
            )
