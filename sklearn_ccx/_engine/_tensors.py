"""Between numpy arrays and tensors."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def to_tensor(
    array: npt.NDArray[Any], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Tensor with the array's values, sharing memory where that is safe."""
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
