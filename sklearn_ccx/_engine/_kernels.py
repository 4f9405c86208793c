"""Which kernels compute the interaction loss."""

import importlib.util
import os
from types import ModuleType

import torch

from . import _dominance

# "auto" takes numba's on the CPU and Triton's on CUDA where they are installed, else
# torch's.
_VARIABLE = "SKLEARN_CCX_KERNELS"

_DEVICES = {"numba": "cpu", "triton": "cuda"}


def kernels_for(device: torch.device) -> ModuleType:
    """Module with the kernels to use on a device.

    Kernels that are not for this device give way to torch's.

    Raises
    ------
    ValueError
        If the environment variable ``SKLEARN_CCX_KERNELS`` asks for kernels that are
        unknown.
    ImportError
        If it asks for kernels of a package that is not installed.
    """
    choice = os.environ.get(_VARIABLE, "auto")
    if choice not in ("auto", "torch", *_DEVICES):
        raise ValueError(
            f"{_VARIABLE} must be auto, torch, numba or triton; got {choice!r}."
        )
    for name, device_type in _DEVICES.items():
        if choice not in ("auto", name):
            continue
        is_installed = importlib.util.find_spec(name) is not None
        if choice == name and not is_installed:
            raise ImportError(f"{_VARIABLE}={name} needs {name}; {_how_to_get(name)}.")
        if is_installed and device.type == device_type:
            return importlib.import_module(f"._dominance_{name}", __package__)
    return _dominance


def _how_to_get(name: str) -> str:
    if name == "numba":
        return "pip install 'sklearn-ccx[fast]'"
    return "it comes with torch for CUDA"
