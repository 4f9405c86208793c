"""JumpReLU: a threshold learned for each feature."""

from typing import Any

import torch
from torch import Tensor, nn

from .._processes import BatchPart
from ._base import CodeActivation
from ._keep import keep_above

# Width of the window around the threshold in which a pre-activation contributes
# to the gradient. Pre-activations have about unit variance at the start.
_BANDWIDTH = 0.2

# Strength with which the mean number of active features is pulled to k.
_SPARSITY_STRENGTH = 1.0


class JumpReLU(CodeActivation):
    """Keep the pre-activations above a threshold learned for each feature.

    The threshold is trained with straight-through estimates, and the mean number
    of active features is pulled towards ``k`` [1]_.

    Parameters
    ----------
    k : int
        Active features per sample to aim for.
    log_threshold_M : Tensor of shape (M,)
        Logarithms of the thresholds to start from.

    References
    ----------
    .. [1] Rajamanoharan et al., "Jumping Ahead: Improving Reconstruction Fidelity
           with JumpReLU Sparse Autoencoders", arXiv:2407.14435.
    """

    def __init__(self, k: int, log_threshold_M: Tensor) -> None:
        super().__init__()
        self._k = k
        self.log_threshold_M = nn.Parameter(log_threshold_M)

    @property
    def threshold(self) -> Tensor:
        return self.log_threshold_M.detach().exp()

    def train_codes(
        self, pre_BM: Tensor, part: BatchPart | None = None
    ) -> tuple[Tensor, Tensor]:
        part = part or BatchPart.whole(pre_BM)
        threshold_M = self.log_threshold_M.exp()
        codes_BM = _Jump.apply(pre_BM, threshold_M)
        n_active = _Step.apply(pre_BM, threshold_M).sum(dim=1).sum()
        mean_active = part.processes.sum(n_active) / part.n_samples
        loss = _SPARSITY_STRENGTH * (mean_active / self._k - 1.0).square()
        return codes_BM, loss / part.processes.size

    def codes(self, pre_BM: Tensor) -> Tensor:
        return keep_above(pre_BM, self.threshold)


def _in_window(pre_BM: Tensor, threshold_M: Tensor) -> Tensor:
    """Rectangle kernel of unit mass around the threshold."""
    inside = (pre_BM - threshold_M).abs() < _BANDWIDTH / 2
    return inside.to(pre_BM.dtype) / _BANDWIDTH


class _Jump(torch.autograd.Function):
    """``pre * 1[pre > threshold]`` with a straight-through threshold gradient."""

    @staticmethod
    def forward(ctx: Any, pre_BM: Tensor, threshold_M: Tensor) -> Tensor:
        ctx.save_for_backward(pre_BM, threshold_M)
        return keep_above(pre_BM, threshold_M)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (grad_BM,) = grads
        pre_BM, threshold_M = ctx.saved_tensors
        window_BM = _in_window(pre_BM, threshold_M)
        grad_threshold_M = -threshold_M * (window_BM * grad_BM).sum(dim=0)
        return grad_BM * (pre_BM > threshold_M), grad_threshold_M


class _Step(torch.autograd.Function):
    """``1[pre > threshold]`` with a straight-through threshold gradient."""

    @staticmethod
    def forward(ctx: Any, pre_BM: Tensor, threshold_M: Tensor) -> Tensor:
        ctx.save_for_backward(pre_BM, threshold_M)
        return (pre_BM > threshold_M).to(pre_BM.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (grad_BM,) = grads
        pre_BM, threshold_M = ctx.saved_tensors
        return None, -(_in_window(pre_BM, threshold_M) * grad_BM).sum(dim=0)
