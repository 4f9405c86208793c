"""BatchTopK: ``k`` active features a sample on average."""

import math

import torch
from torch import Tensor

from .._processes import BatchPart
from ._base import SelectingActivation
from ._keep import keep_above
from ._largest import largest_together, not_below

# Weight of the newest batch in the running estimate of the threshold.
_THRESHOLD_MOMENTUM = 0.01

# Candidates for the largest of a batch are those above this share of the threshold.
_CANDIDATE_SHARE = 0.9


class BatchTopK(SelectingActivation):
    """Keep the ``k * B`` largest positive pre-activations of a batch [1]_.

    At inference the features above a threshold are kept, a running estimate of
    the smallest pre-activation kept in training.

    Parameters
    ----------
    k : int
        Active features per sample, on average.
    threshold : float or None
        Estimate to start from; None for none yet.

    References
    ----------
    .. [1] Bussmann et al., "BatchTopK Sparse Autoencoders", arXiv:2412.06410.
    """

    running_threshold: Tensor

    def __init__(self, k: int, threshold: float | None = None) -> None:
        super().__init__()
        self._k = k
        # NaN stands for none yet, so that a step need not ask the device.
        value = math.nan if threshold is None else threshold
        start = torch.tensor(value, dtype=torch.float64, device="cpu")
        self.register_buffer("running_threshold", start)

    @property
    def threshold(self) -> Tensor:
        return self.running_threshold.nan_to_num()

    def select(self, pre_BM: Tensor, part: BatchPart | None = None) -> Tensor:
        pre = pre_BM.flatten()
        if part is not None and part.processes.size > 1:
            n_own, n_kept = self._k * len(pre_BM), self._k * part.n_samples
            floor = float((_CANDIDATE_SHARE * self.threshold).to(pre.dtype))
            positions, smallest = largest_together(
                pre, n_own, n_kept, floor, part.processes
            )
            self._update_threshold(smallest)
            return positions
        n_kept = min(self._k * len(pre_BM), len(pre))
        if pre.is_cuda:  # counting candidates would wait for the device
            kept, positions = pre.topk(n_kept, sorted=False)
        else:
            candidates = self._candidates(pre, n_kept)
            n_kept = min(n_kept, len(candidates))
            kept, order = pre[candidates].topk(n_kept, sorted=False)
            positions = candidates[order]
        if n_kept:
            self._update_threshold(kept.masked_fill(kept <= 0, torch.inf).min())
        return positions

    def codes(self, pre_BM: Tensor) -> Tensor:
        return keep_above(pre_BM, self.threshold.to(pre_BM.device))

    def _candidates(self, pre: Tensor, n_kept: int) -> Tensor:
        """Positions of positive pre-activations with the ``n_kept`` largest among them.

        Sorting all is dear. The threshold tells which ones come into question; if it
        has moved too far and they are too few, all do.
        """
        candidates = not_below(pre, _CANDIDATE_SHARE * self.threshold)
        if len(candidates) < n_kept and self.threshold > 0:
            return not_below(pre, 0.0)
        return candidates

    def _update_threshold(self, smallest: Tensor) -> None:
        """Move the estimate towards the smallest that was kept, infinite for none."""
        smallest = smallest.double()
        held = self.running_threshold.to(smallest.device)
        step = _THRESHOLD_MOMENTUM * (smallest - held)
        moved = torch.where(held.isnan(), smallest, held + step)
        self.running_threshold = torch.where(smallest.isfinite(), moved, held)
