"""TopK: exactly ``k`` active features a sample."""

import torch
from torch import Tensor

from .._processes import BatchPart
from ._base import SelectingActivation
from ._keep import keep_largest


class TopK(SelectingActivation):
    """Keep the ``k`` largest positive pre-activations of each sample [1]_.

    Parameters
    ----------
    k : int
        Active features per sample, fewer where fewer are positive.

    References
    ----------
    .. [1] Gao et al., "Scaling and evaluating sparse autoencoders",
           arXiv:2406.04093.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self._k = k

    def select(self, pre_BM: Tensor, part: BatchPart | None = None) -> Tensor:
        n_samples, n_components = pre_BM.shape
        features_BK = pre_BM.topk(self._k, dim=1).indices
        rows_B = torch.arange(n_samples, device=pre_BM.device) * n_components
        return (rows_B.unsqueeze(1) + features_BK).flatten()

    def codes(self, pre_BM: Tensor) -> Tensor:
        return keep_largest(pre_BM, self._k)
