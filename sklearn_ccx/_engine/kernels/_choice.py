"""Which kernels to use on a device."""

import importlib
import importlib.util
import os
from functools import cache
from typing import cast

import torch

from . import _torch
from ._protocol import Kernels

# "auto" takes numba's on the CPU and Triton's on CUDA where they are installed, else
# torch's.
_VARIABLE = "SKLEARN_CCX_KERNELS"

_DEVICES = {"numba": "cpu", "triton": "cuda"}


def kernels_for(device: torch.device) -> Kernels:
    """Kernels to use on a device; those that are not for it give way to torch's.

    Raises
    ------
    ValueError
        If the environment variable ``SKLEARN_CCX_KERNELS`` asks for kernels that are
        unknown.
    ImportError
        If it asks for kernels of a package that is not installed.
    """
    return _kernels(os.environ.get(_VARIABLE, "auto"), device.type)


@cache
def _kernels(choice: str, device_type: str) -> Kernels:
    if choice not in ("auto", "torch", *_DEVICES):
        raise ValueError(
            f"{_VARIABLE} must be auto, torch, numba or triton; got {choice!r}."
        )
    for name, its_device in _DEVICES.items():
        if choice not in ("auto", name):
            continue
        is_installed = importlib.util.find_spec(name) is not None
        if choice == name and not is_installed:
            raise ImportError(f"{_VARIABLE}={name} needs {name}; {_how_to_get(name)}.")
        if is_installed and device_type == its_device:
            return cast(Kernels, importlib.import_module(f"._{name}", __package__))
    return _torch


def _how_to_get(name: str) -> str:
    if name == "numba":
        return "pip install 'sklearn-ccx[fast]'"
    return "it comes with torch for CUDA"
