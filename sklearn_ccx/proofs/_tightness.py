"""How much of a bound is used."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def tightness(error: FloatArray, bound: FloatArray) -> FloatArray:
    """Error over its bound; 1 where the bound is 0, which the error attains."""
    ratio: FloatArray = np.divide(
        error, bound, out=np.ones_like(bound), where=bound > 0
    )
    return ratio
