"""Which kernels compute the interaction loss."""

import importlib.util
import os
from types import ModuleType

import torch

from . import _dominance

# "auto" takes numba's on the CPU where it is installed, else torch's.
_VARIABLE = "SKLEARN_CCX_KERNELS"


def kernels_for(device: torch.device) -> ModuleType:
    """Module with the kernels to use on a device.

    Raises
    ------
    ValueError
        If the environment variable ``SKLEARN_CCX_KERNELS`` asks for kernels that are
        unknown.
    ImportError
        If it asks for numba, which is not installed.
    """
    choice = os.environ.get(_VARIABLE, "auto")
    if choice not in ("auto", "torch", "numba"):
        raise ValueError(f"{_VARIABLE} must be auto, torch or numba; got {choice!r}.")
    has_numba = importlib.util.find_spec("numba") is not None
    if choice == "numba" and not has_numba:
        raise ImportError(
            f"{_VARIABLE}=numba needs numba; pip install 'sklearn-ccx[fast]'."
        )
    if device.type != "cpu" or choice == "torch" or not has_numba:
        return _dominance
    from . import _dominance_numba

    return _dominance_numba
