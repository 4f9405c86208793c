"""The nonlinearities of :class:`MLPWeights` on arrays."""

import numpy as np
import numpy.typing as npt
import torch

from .._engine._threads import threads_for
from .._engine.neurons import NONLINEARITIES

__all__ = ["NONLINEARITIES", "nonlinearity_value"]

FloatArray = npt.NDArray[np.float64]


def nonlinearity_value(activation: str, u: FloatArray) -> FloatArray:
    """Value of a nonlinearity, elementwise in float64."""
    tensor = torch.from_numpy(np.array(u, dtype=np.float64))
    with threads_for(tensor.numel()):
        value: FloatArray = NONLINEARITIES[activation].function(tensor).numpy()
    return value
