"""Between numpy arrays and tensors."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def to_tensor(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Tensor with the values of an array, sharing memory where that is safe.

    What numpy can make an array of, such as rows of files, is read here.
    """
    array = np.asarray(values)
    if not array.flags.writeable:  # torch has no read-only tensors
        array = np.array(array)
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":  # from pinned memory the copy does not hold up the CPU
        return tensor.pin_memory().to(device=device, dtype=dtype, non_blocking=True)
    return tensor.to(device=device, dtype=dtype)


def to_numpy(tensor: Tensor) -> npt.NDArray[Any]:
    """Independent array with the tensor's values."""
    return np.array(tensor.detach().cpu().numpy())


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Torch's name for a numpy float dtype."""
    return torch.float32 if dtype == np.float32 else torch.float64


def power_of_two_near(size: float) -> float:
    """A power of two to divide by before squaring; exact, so that no bit changes.

    1 for sizes that are 0 or not finite.
    """
    if size == 0.0 or not math.isfinite(size):
        return 1.0
    # As far as its inverse and itself are normal numbers.
    return math.ldexp(1.0, min(max(math.frexp(size)[1], -1020), 1020))


def numpy_tree(tree: Any) -> Any:
    """Dictionaries and lists of tensors as the same of independent arrays."""
    if isinstance(tree, Tensor):
        return to_numpy(tree)
    if isinstance(tree, dict):
        return {key: numpy_tree(value) for key, value in tree.items()}
    return [numpy_tree(item) for item in tree] if isinstance(tree, list) else tree


def tensor_tree(tree: Any) -> Any:
    """Undo :func:`numpy_tree`, with independent tensors."""
    if isinstance(tree, np.ndarray):
        return torch.from_numpy(np.array(tree))
    if isinstance(tree, dict):
        return {key: tensor_tree(value) for key, value in tree.items()}
    return [tensor_tree(item) for item in tree] if isinstance(tree, list) else tree
