"""What a trained model does at inference, measured batch by batch."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ._model import CrosscoderModel
from ._processes import ALONE, Processes
from ._sparse_codes import SparseCodes
from .losses import Objective


@dataclass(frozen=True)
class Evaluation:
    """Means over the evaluated samples, codes taken as at inference.

    Parameters
    ----------
    site_fvu : ndarray of shape (L,)
        Fraction of variance unexplained at each site; NaN at constant sites.
    site_norm_ratio : ndarray of shape (L,)
        Mean norm of the reconstruction over that of the data, both without the
        decoder's bias; NaN at constant sites.
    activation_frequency : ndarray of shape (M,)
        Share of the samples on which each feature is active.
    """

    site_fvu: npt.NDArray[np.float64]
    site_norm_ratio: npt.NDArray[np.float64]
    activation_frequency: npt.NDArray[np.float64]


@torch.no_grad()
def evaluate(
    model: CrosscoderModel, batches: Iterable[Tensor], variance_L: Tensor
) -> Evaluation:
    """Evaluate a model on batches in training units.

    Parameters
    ----------
    model : CrosscoderModel
        The model.
    batches : iterable of Tensor of shape (B, F)
        The data.
    variance_L : Tensor of shape (L,)
        Variance of each site, infinite for constant ones.
    """
    n_samples = 0
    n_sites = len(variance_L)
    zeros = partial(model.b_enc_M.new_zeros, dtype=torch.float64)
    error_L, norm_L, recon_norm_L = zeros((3, n_sites))
    n_active_M = zeros(len(model.b_enc_M))
    for x_BF in batches:
        codes_BM = model.codes(x_BF)
        recon_BF = codes_BM @ model.W_dec_MF
        n_samples += len(x_BF)
        n_active_M += (codes_BM > 0).sum(dim=0)
        x_BLD = x_BF.view(len(x_BF), n_sites, -1)
        recon_BLD = recon_BF.view_as(x_BLD)
        error_L += (x_BLD - recon_BLD).square().sum(dim=(0, 2))
        norm_L += torch.linalg.vector_norm(x_BLD, dim=2).sum(dim=0)
        recon_norm_L += torch.linalg.vector_norm(recon_BLD, dim=2).sum(dim=0)

    varies_L = torch.isfinite(variance_L)
    site_fvu_L = error_L / n_samples / variance_L
    ratio_L = recon_norm_L / norm_L
    site_fvu_L[~varies_L] = ratio_L[~varies_L] = torch.nan
    return Evaluation(
        site_fvu=site_fvu_L.cpu().numpy(),
        site_norm_ratio=ratio_L.cpu().numpy(),
        activation_frequency=(n_active_M / n_samples).cpu().numpy(),
    )


@torch.no_grad()
def mean_loss(
    model: CrosscoderModel,
    batches: Iterable[Tensor],
    objective: Objective,
    processes: Processes = ALONE,
) -> float:
    """Mean loss of batches in training units, penalties included.

    The batches may be the part of them that each of several processes has.
    """
    n_samples, total = 0, 0.0
    for x_BF in batches:
        codes_BM = model.codes(x_BF)
        recon_BF = codes_BM @ model.W_dec_MF
        has_penalty = objective.strengths.has_penalty
        codes = SparseCodes.from_dense(codes_BM) if has_penalty else None
        terms = objective.loss(codes, model.W_dec_MF, x_BF, recon_BF, len(x_BF))
        n_samples += len(x_BF)
        total += len(x_BF) * float(terms.total)
    sums = model.b_enc_M.new_tensor([total, n_samples], dtype=torch.float64)
    processes.add_up(sums)
    total, n_total = sums.tolist()
    return total / n_total
