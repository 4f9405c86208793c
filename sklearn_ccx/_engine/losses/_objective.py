"""The whole training loss: reconstruction, penalties, and the revival of features."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._model import CrosscoderModel, Encoded
from .._processes import BatchPart
from .._settings import LossStrengths
from .._sparse_codes import SparseCodes
from ..neurons import FrozenMLP
from ._neurons import neuron_losses
from ._reconstruction import auxiliary_loss, squared_norms

# Strength of the auxiliary loss that revives dead features (Gao et al., "Scaling
# and evaluating sparse autoencoders", arXiv:2406.04093, who use 1/32 in trainings
# a hundred times as long).
_AUX_STRENGTH = 1 / 8


@dataclass(frozen=True)
class LossTerms:
    """The training loss of a batch and the terms it is made of, all scalars.

    Those of a part of a batch are its shares, which add up to those of the batch.
    """

    total: Tensor
    fvu: Tensor
    interaction: Tensor
    infidelity: Tensor
    margin: Tensor
    interval: Tensor


@dataclass(frozen=True)
class Objective:
    """What is minimised.

    Parameters
    ----------
    strengths : LossStrengths
        Strengths of the terms.
    variance_L : Tensor of shape (L,)
        Variance of each site in training units, infinite for constant sites.
    mlps : sequence of FrozenMLP
        The MLPs whose neurons the features share.
    """

    strengths: LossStrengths
    variance_L: Tensor
    mlps: Sequence[FrozenMLP]

    def training_loss(
        self,
        model: CrosscoderModel,
        encoded: Encoded,
        x_BF: Tensor,
        dead_D: Tensor,
        part: BatchPart,
    ) -> LossTerms:
        """Differentiable loss of a batch in training mode.

        Parameters
        ----------
        model : CrosscoderModel
            The model.
        encoded : Encoded
            What it made of the batch.
        x_BF : Tensor of shape (B, F)
            The batch in training units.
        dead_D : Tensor of shape (D,), int64
            The features to revive.
        part : BatchPart
            Which batch the B samples are a part of.
        """
        codes = encoded.active_entries() if self.strengths.has_penalty else None
        terms = self.loss(codes, model.W_dec_MF, x_BF, encoded.recon_BF, part.n_samples)
        total = terms.total
        if encoded.sparsity_loss is not None:
            total = total + encoded.sparsity_loss
        if self.strengths.aux_k > 0 and len(dead_D):
            residual_BF = (x_BF - encoded.recon_BF).detach()
            revival = auxiliary_loss(
                model,
                x_BF,
                residual_BF,
                self.variance_L,
                dead_D,
                self.strengths.aux_k,
                part,
            )
            total = total + _AUX_STRENGTH * revival
        return replace(terms, total=total)

    def loss(
        self,
        codes: SparseCodes | None,
        W_dec_MF: Tensor,
        x_BF: Tensor,
        recon_BF: Tensor,
        n_samples: int,
    ) -> LossTerms:
        """Reconstruction and penalties; the codes serve the latter only.

        The samples are a part of a batch of ``n_samples``.
        """
        residual_BL = squared_norms(x_BF - recon_BF, len(self.variance_L))
        residual_L = residual_BL.sum(dim=0) / n_samples
        fvu = (residual_L / self.variance_L).sum()
        if not self.strengths.has_penalty:
            zero = torch.zeros_like(fvu)
            return LossTerms(fvu, fvu, zero, zero, zero, zero)
        assert codes is not None
        losses = neuron_losses(
            codes, W_dec_MF, x_BF, self.mlps, self.strengths, n_samples
        )
        return LossTerms(
            fvu + losses.weighted,
            fvu,
            losses.interaction,
            losses.infidelity,
            losses.margin,
            losses.interval,
        )
