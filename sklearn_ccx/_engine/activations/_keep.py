"""Which pre-activations become codes, as pure functions."""

import torch
from torch import Tensor


def keep_above(pre_BM: Tensor, threshold: float | Tensor) -> Tensor:
    """Pre-activations above the threshold, 0 elsewhere."""
    return pre_BM.masked_fill(pre_BM <= threshold, 0.0)


def keep_largest(pre_BM: Tensor, k: int) -> Tensor:
    """The ``k`` largest positive pre-activations of each row, 0 elsewhere."""
    kept_BK, features_BK = pre_BM.topk(min(k, pre_BM.shape[1]), dim=1)
    return torch.zeros_like(pre_BM).scatter(1, features_BK, torch.relu(kept_BK))
