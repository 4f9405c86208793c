"""Where thresholds and codes start."""

from torch import Tensor

from ._keep import keep_above


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
