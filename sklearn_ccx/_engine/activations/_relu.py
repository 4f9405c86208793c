"""ReLU: sparsity from an L1 loss."""

import torch
from torch import Tensor

from .._processes import BatchPart
from ._base import CodeActivation


class ReLU(CodeActivation):
    """Keep the positive pre-activations; sparsity comes from an L1 loss.

    Parameters
    ----------
    l1_coefficient : float
        Strength of the mean of the codes' sum.
    code_scale : float
        Norm of a typical sample in training units. The codes are divided by it
        so that the strength has no unit.
    """

    def __init__(self, l1_coefficient: float, code_scale: float) -> None:
        super().__init__()
        self._strength = l1_coefficient / code_scale

    def train_codes(
        self, pre_BM: Tensor, part: BatchPart | None = None
    ) -> tuple[Tensor, Tensor]:
        part = part or BatchPart.whole(pre_BM)
        codes_BM = torch.relu(pre_BM)
        mean_sum = codes_BM.sum(dim=1).sum() / part.n_samples
        return codes_BM, self._strength * mean_sum

    def codes(self, pre_BM: Tensor) -> Tensor:
        return torch.relu(pre_BM)
