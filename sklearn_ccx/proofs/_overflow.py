"""Results that float64 cannot hold are errors."""

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any, ParamSpec, TypeVar

import numpy as np

_Params = ParamSpec("_Params")
_Certificate = TypeVar("_Certificate", bound=Any)


def refuses_overflow(
    function: Callable[_Params, _Certificate],
) -> Callable[_Params, _Certificate]:
    """Decorate a function that returns a certificate: its numbers are finite.

    An infinite bound would be true and of no use, and what is computed from it need not
    be true.
    """

    @functools.wraps(function)
    def wrapped(*args: _Params.args, **kwargs: _Params.kwargs) -> _Certificate:
        with np.errstate(over="ignore", invalid="ignore"):
            certificate = function(*args, **kwargs)
        for field in fields(certificate):
            value = getattr(certificate, field.name)
            if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
                continue
            if field.name != "y" and not np.isfinite(value).all():
                raise ValueError(
                    f"{field.name} is not finite: X or the weights of the mlp that "
                    "reads it are too large for float64. Divide X by a constant and "
                    "fit again, and multiply the input weights by it."
                )
        return certificate

    return wrapped
