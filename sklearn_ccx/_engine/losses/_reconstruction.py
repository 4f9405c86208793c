"""What the features leave unexplained."""

import torch
from torch import Tensor

from .._model import CrosscoderModel
from .._processes import BatchPart


def squared_norms(rows_BF: Tensor, n_sites: int) -> Tensor:
    """Squared norm of each row at each site, (B, L)."""
    return rows_BF.unflatten(1, (n_sites, -1)).square().sum(dim=2)


def auxiliary_loss(
    model: CrosscoderModel,
    x_BF: Tensor,
    residual_BF: Tensor,
    variance_L: Tensor,
    dead_D: Tensor,
    aux_k: int,
    part: BatchPart,
) -> Tensor:
    """Share of the residual that the strongest dead features leave unexplained.

    Their *pre*-activations serve as codes: after the activation those of a
    dead feature are zero and so is their gradient.

    Parameters
    ----------
    model : CrosscoderModel
        The model.
    x_BF, residual_BF : Tensor of shape (B, F)
        The batch, and what the active features leave of it, without gradient.
    variance_L : Tensor of shape (L,)
        Variance of each site, infinite for those that do not count.
    dead_D : Tensor of shape (D,), int64
        The dead features.
    aux_k : int
        How many of them may explain a sample.
    part : BatchPart
        Which batch the B samples are a part of; the loss is their share of its loss.
    """
    n_sites = len(variance_L)
    pre_BD = torch.addmm(model.b_enc_M[dead_D], x_BF, model.W_enc_MF[dead_D].T)
    kept_BK, features_BK = pre_BD.topk(min(aux_k, len(dead_D)), dim=1)
    codes_BD = torch.zeros_like(pre_BD).scatter(1, features_BK, kept_BK)
    left_BF = residual_BF - codes_BD @ model.W_dec_MF[dead_D]
    left_L = squared_norms(left_BF, n_sites).sum(dim=0) / part.n_samples
    residual_L = squared_norms(residual_BF, n_sites).sum(dim=0)
    residual_L = part.processes.sum(residual_L) / part.n_samples
    tiny = torch.finfo(residual_L.dtype).tiny
    varies_L = torch.isfinite(variance_L)
    return (left_L / residual_L.clamp(min=tiny))[varies_L].sum()
