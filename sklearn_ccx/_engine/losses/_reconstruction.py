"""What the features leave unexplained."""

import torch
from torch import Tensor

from .._model import CrosscoderModel


def squared_norms(rows_BF: Tensor, n_sites: int) -> Tensor:
    """Squared norm of each row at each site, (B, L)."""
    return rows_BF.view(len(rows_BF), n_sites, -1).square().sum(dim=2)


def auxiliary_loss(
    model: CrosscoderModel,
    x_BF: Tensor,
    residual_BF: Tensor,
    variance_L: Tensor,
    dead_D: Tensor,
    aux_k: int,
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
    """
    n_sites = len(variance_L)
    pre_BD = torch.addmm(model.b_enc_M[dead_D], x_BF, model.W_enc_MF[dead_D].T)
    kept_BK, features_BK = pre_BD.topk(min(aux_k, len(dead_D)), dim=1)
    codes_BD = torch.zeros_like(pre_BD).scatter(1, features_BK, kept_BK)
    left_BF = residual_BF - codes_BD @ model.W_dec_MF[dead_D]
    left_L = squared_norms(left_BF, n_sites).mean(dim=0)
    residual_L = squared_norms(residual_BF, n_sites).mean(dim=0)
    tiny = torch.finfo(residual_L.dtype).tiny
    varies_L = torch.isfinite(variance_L)
    return (left_L / residual_L.clamp(min=tiny))[varies_L].sum()
