"""What every code activation offers."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from .._processes import BatchPart
from ._keep import keep_above


class CodeActivation(nn.Module, ABC):
    """Turns pre-activations into codes, differently in training and inference.

    What training changes is in its parameters and buffers, hence in the ``state_dict``
    of the model.
    """

    @property
    def threshold(self) -> Tensor:
        """Pre-activation above which a feature is active: () or (M,), 0 for none."""
        return torch.zeros((), dtype=torch.float64)

    @abstractmethod
    def train_codes(
        self, pre_BM: Tensor, part: BatchPart | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Codes of a training batch and a sparsity loss, None if there is none.

        Of a part of a batch the loss is its share of the whole batch's.
        """

    @abstractmethod
    def codes(self, pre_BM: Tensor) -> Tensor:
        """Codes at inference; a row's code does not depend on the other rows."""


class SelectingActivation(CodeActivation):
    """Keeps some pre-activations as they are, those of them that are positive."""

    @abstractmethod
    def select(self, pre_BM: Tensor, part: BatchPart | None = None) -> Tensor:
        """Positions in the flattened batch that may be active in training, distinct.

        NaN counts as the largest, so that a diverged training shows in its loss.
        """

    def train_codes(
        self, pre_BM: Tensor, part: BatchPart | None = None
    ) -> tuple[Tensor, None]:
        pre = pre_BM.flatten()
        positions_A = self.select(pre_BM.detach(), part)
        kept_A = keep_above(pre[positions_A], 0.0)
        codes = torch.zeros_like(pre).scatter(0, positions_A, kept_A)
        return codes.view_as(pre_BM), None
