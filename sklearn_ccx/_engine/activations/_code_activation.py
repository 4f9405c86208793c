"""Code activations: from pre-activations to sparse, non-negative codes."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

# Weight of the newest batch in the running estimate of BatchTopK's threshold.
_THRESHOLD_MOMENTUM = 0.01

# Candidates for the largest of a batch are those above this share of the threshold.
_CANDIDATE_SHARE = 0.9

# Width of the window around the threshold in which a pre-activation contributes
# to JumpReLU's gradient. Pre-activations have about unit variance at the start.
_JUMP_BANDWIDTH = 0.2

# Strength with which JumpReLU's mean number of active features is pulled to k.
_JUMP_SPARSITY_STRENGTH = 1.0


class CodeActivation(ABC):
    """Turns pre-activations into codes, differently in training and inference.

    Attributes
    ----------
    threshold : float or Tensor of shape (M,)
        A feature is active where its pre-activation exceeds the threshold. 0
        where the activation has none.
    """

    threshold: float | Tensor = 0.0

    @abstractmethod
    def train_codes(self, pre_BM: Tensor) -> tuple[Tensor, Tensor | None]:
        """Codes of a training batch and a sparsity loss, None if there is none."""

    @abstractmethod
    def codes(self, pre_BM: Tensor) -> Tensor:
        """Codes at inference; a row's code does not depend on the other rows."""

    def parameters(self) -> list[Tensor]:
        """Trainable tensors."""
        return []

    def get_state(self) -> float | None:
        """State that training changes, apart from what :meth:`parameters` returns."""
        return None

    def set_state(self, state: float | None) -> None:
        """Restore what :meth:`get_state` returned."""
        assert state is None


def keep_above(pre_BM: Tensor, threshold: float | Tensor) -> Tensor:
    """Pre-activations above the threshold, 0 elsewhere."""
    return pre_BM.masked_fill(pre_BM <= threshold, 0.0)


def keep_largest(pre_BM: Tensor, k: int) -> Tensor:
    """The ``k`` largest positive pre-activations of each row, 0 elsewhere."""
    kept_BK, features_BK = pre_BM.topk(min(k, pre_BM.shape[1]), dim=1)
    return torch.zeros_like(pre_BM).scatter(1, features_BK, torch.relu(kept_BK))


def _not_below(pre: Tensor, threshold: float | Tensor) -> Tensor:
    """Positions above the threshold, and those of NaN."""
    return (pre <= threshold).logical_not_().nonzero().squeeze(1)


class SelectingActivation(CodeActivation):
    """Keeps some pre-activations as they are, those of them that are positive."""

    @abstractmethod
    def select(self, pre_BM: Tensor) -> Tensor:
        """Positions in the flattened batch that may be active in training, distinct.

        NaN counts as the largest, so that a diverged training shows in its loss.
        """

    def train_codes(self, pre_BM: Tensor) -> tuple[Tensor, None]:
        pre = pre_BM.flatten()
        positions_A = self.select(pre_BM.detach())
        kept_A = keep_above(pre[positions_A], 0.0)
        return torch.zeros_like(pre).scatter(0, positions_A, kept_A).view_as(
            pre_BM
        ), None


class BatchTopK(SelectingActivation):
    """Keep the ``k * B`` largest positive pre-activations of a batch.

    At inference the features above a threshold are kept, a running estimate of
    the smallest pre-activation kept in training.
    """

    _threshold: Tensor

    def __init__(self, k: int, threshold: float | None = None) -> None:
        self._k = k
        self.set_state(threshold)

    @property
    def threshold(self) -> Tensor:  # type: ignore[override]
        return self._threshold.nan_to_num()

    def select(self, pre_BM: Tensor) -> Tensor:
        pre = pre_BM.flatten()
        n_kept = min(self._k * len(pre_BM), len(pre))
        if pre.is_cuda:  # counting candidates would wait for the device
            kept, positions = pre.topk(n_kept, sorted=False)
        else:
            candidates = self._candidates(pre, n_kept)
            n_kept = min(n_kept, len(candidates))
            kept, order = pre[candidates].topk(n_kept, sorted=False)
            positions = candidates[order]
        if n_kept:
            self._update_threshold(kept)
        return positions

    def _candidates(self, pre: Tensor, n_kept: int) -> Tensor:
        """Positions of positive pre-activations with the ``n_kept`` largest among them.

        Sorting all is dear. The threshold tells which ones come into question; if it
        has moved too far and they are too few, all do.
        """
        candidates = _not_below(pre, _CANDIDATE_SHARE * self.threshold)
        if len(candidates) < n_kept and self.threshold > 0:
            return _not_below(pre, 0.0)
        return candidates

    def _update_threshold(self, kept: Tensor) -> None:
        smallest = kept.masked_fill(kept <= 0, torch.inf).min().double()
        self._threshold = self._threshold.to(kept.device)
        step = _THRESHOLD_MOMENTUM * (smallest - self._threshold)
        moved = torch.where(self._threshold.isnan(), smallest, self._threshold + step)
        self._threshold = torch.where(smallest.isfinite(), moved, self._threshold)

    def codes(self, pre_BM: Tensor) -> Tensor:
        return keep_above(pre_BM, self.threshold.to(pre_BM.device))

    def get_state(self) -> float | None:
        threshold = float(self._threshold)
        return None if math.isnan(threshold) else threshold

    def set_state(self, state: float | None) -> None:
        # NaN stands for none yet, so that a step need not ask the device.
        value = math.nan if state is None else state
        self._threshold = torch.tensor(value, dtype=torch.float64)


class TopK(SelectingActivation):
    """Keep the ``k`` largest positive pre-activations of each sample."""

    def __init__(self, k: int) -> None:
        self._k = k

    def select(self, pre_BM: Tensor) -> Tensor:
        n_samples, n_components = pre_BM.shape
        features_BK = pre_BM.topk(self._k, dim=1).indices
        rows_B = torch.arange(n_samples, device=pre_BM.device) * n_components
        return (rows_B.unsqueeze(1) + features_BK).flatten()

    def codes(self, pre_BM: Tensor) -> Tensor:
        return keep_largest(pre_BM, self._k)


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
        self._strength = l1_coefficient / code_scale

    def train_codes(self, pre_BM: Tensor) -> tuple[Tensor, Tensor]:
        codes_BM = torch.relu(pre_BM)
        return codes_BM, self._strength * codes_BM.sum(dim=1).mean()

    def codes(self, pre_BM: Tensor) -> Tensor:
        return torch.relu(pre_BM)


class JumpReLU(CodeActivation):
    """Keep the pre-activations above a threshold learned for each feature.

    The threshold is trained with straight-through estimates, and the mean number
    of active features is pulled towards ``k`` [1]_.

    References
    ----------
    .. [1] Rajamanoharan et al., "Jumping Ahead: Improving Reconstruction Fidelity
           with JumpReLU Sparse Autoencoders", arXiv:2407.14435.
    """

    def __init__(self, k: int, log_threshold_M: Tensor) -> None:
        self._k = k
        self._log_threshold_M = log_threshold_M

    @property
    def threshold(self) -> Tensor:  # type: ignore[override]
        return self._log_threshold_M.detach().exp()

    def train_codes(self, pre_BM: Tensor) -> tuple[Tensor, Tensor]:
        threshold_M = self._log_threshold_M.exp()
        codes_BM = _Jump.apply(pre_BM, threshold_M)
        n_active = _Step.apply(pre_BM, threshold_M).sum(dim=1).mean()
        return codes_BM, _JUMP_SPARSITY_STRENGTH * (n_active / self._k - 1.0).square()

    def codes(self, pre_BM: Tensor) -> Tensor:
        return keep_above(pre_BM, self.threshold)

    def parameters(self) -> list[Tensor]:
        return [self._log_threshold_M]


def initial_threshold(k: int, pre_BM: Tensor) -> Tensor:
    """The one threshold that leaves ``k`` active features a sample, (M,)."""
    n_kept = max(1, min(k * len(pre_BM), pre_BM.numel()))
    smallest = pre_BM.flatten().topk(n_kept, sorted=False).values.min()
    return smallest.clamp(min=1e-3).expand(pre_BM.shape[1]).clone()


def fitting_code_scale(x_BF: Tensor, W_dec_MF: Tensor, k: int) -> float:
    """Factor on the codes ``x W_dec.T`` with which they reconstruct ``x`` best.

    With more features than dimensions the active ones overlap, and codes equal to
    the projections would overshoot several times.
    """
    pre_BM = x_BF @ W_dec_MF.T
    recon_BF = keep_above(pre_BM, initial_threshold(k, pre_BM)) @ W_dec_MF
    energy = float(recon_BF.square().sum())
    return max(float((recon_BF * x_BF).sum()), 0.0) / energy if energy else 1.0


def _in_window(pre_BM: Tensor, threshold_M: Tensor) -> Tensor:
    """Rectangle kernel of unit mass around the threshold."""
    inside = (pre_BM - threshold_M).abs() < _JUMP_BANDWIDTH / 2
    return inside.to(pre_BM.dtype) / _JUMP_BANDWIDTH


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
