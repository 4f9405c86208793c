"""ReLU: sparsity from an L1 loss."""

import torch
from torch import Tensor

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

    def train_codes(self, pre_BM: Tensor) -> tuple[Tensor, Tensor]:
        codes_BM = torch.relu(pre_BM)
        return codes_BM, self._strength * codes_BM.sum(dim=1).mean()

    def codes(self, pre_BM: Tensor) -> Tensor:
        return torch.relu(pre_BM)
