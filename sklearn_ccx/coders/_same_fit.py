"""Whether the processes that are to fit together have been given the same."""

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator

from .._engine._processes import Processes

# Parameters in which the processes of one fit may differ. The weights of the MLPs are
# too large to be compared each time.
_OWN_TO_A_PROCESS = "mlp", "device", "distributed", "random_state", "verbose"


def require_same_fit(estimator: BaseEstimator, X: Any, processes: Processes) -> None:
    """Raise on all processes unless their estimators and activations are the same.

    Of X the shape and some rows are compared.
    """
    if processes.size == 1:
        return
    n_samples = len(X)
    rows = np.array([0, n_samples // 2, n_samples - 1])
    parameters = estimator.get_params(deep=False)
    for name in _OWN_TO_A_PROCESS:
        del parameters[name]
    fitted: tuple[object, ...] | None = None
    if hasattr(estimator, "components_"):
        state = getattr(estimator, "_training_state", None)
        i_pass = None if state is None else state["trainer"]["i_pass"]
        fitted = i_pass, _checksum(estimator.components_)
    processes.require_same(
        {
            "the shape of X": tuple(X.shape),
            "rows of X": _checksum(X[rows]),
            "parameters": repr(parameters),
            "what was fitted before": fitted,
        }
    )


def _checksum(array: npt.NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())
