"""Which nonlinearity a foreign activation computes."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .._engine._torch_state import torch_state
from .._engine.neurons import NONLINEARITIES
from .._validation import shown

# Close enough together to tell the two forms of GELU apart (they differ by 5e-4), and
# far enough out to find functions that are clipped.
_GRID = np.concatenate(
    [np.linspace(-12, 12, 481), *([-u, u] for u in (20.0, 50.0, 100.0, 1e3, 1e4))]
)
_TOLERANCE = 1e-5


def activation_name(activation: Callable[[Tensor], Tensor]) -> str:
    """Name of the nonlinearity that a module or a function computes.

    It is found by the values and not by the name: some classes share a name and not
    the function, and some functions have many names.

    Raises
    ------
    TypeError
        If it computes none of the nonlinearities that are known.
    """
    known = sorted(NONLINEARITIES)
    if isinstance(activation, type) or not callable(activation):
        raise TypeError(
            f"activation must be one of {known}, or a module that computes one of "
            f"them, such as torch.nn.GELU(); got {shown(activation)}."
        )
    with torch_state(grad=False):
        grid = torch.from_numpy(_GRID)
        try:
            values = activation(grid.clone())
        except Exception as error:  # a foreign function may raise anything
            raise TypeError(
                f"activation {_kind(activation)} is not known: it cannot be evaluated "
                f"on numbers ({type(error).__name__}: {error}); pass one of {known}."
            ) from error
        for name, nonlinearity in NONLINEARITIES.items():
            if _is_close(values, nonlinearity.function(grid)):
                return name
    raise TypeError(
        f"activation {_kind(activation)} is not known: it computes none of {known}. "
        "Only MLPs with one of these nonlinearities can be explained."
    )


def _is_close(values: object, expected: Tensor) -> bool:
    return (
        isinstance(values, Tensor)
        and values.shape == expected.shape
        and torch.allclose(
            values.to(expected), expected, rtol=_TOLERANCE, atol=_TOLERANCE
        )
    )


def _kind(activation: object) -> str:
    return getattr(activation, "__name__", type(activation).__name__)
