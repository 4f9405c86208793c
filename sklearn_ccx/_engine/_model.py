"""The crosscoder's weights and the loss of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._code_activation import CodeActivation
from ._frozen_mlp import FrozenMLP
from ._interaction_loss import interaction_losses

# Strength of the auxiliary loss that revives dead features (Gao et al., "Scaling
# and evaluating sparse autoencoders", arXiv:2406.04093, who use 1/32 in trainings
# a hundred times as long).
_AUX_STRENGTH = 1 / 8


@dataclass(frozen=True)
class LossStrengths:
    """Strengths of the terms beside the reconstruction.

    Parameters
    ----------
    lam, lam_fidelity : float
        Strengths of the interaction bound and of the one-feature fidelity.
    n_dominant : int
        How many features a neuron keeps.
    aux_k : int
        How many dead features may explain what the others leave; 0 for none.
    """

    lam: float
    lam_fidelity: float
    n_dominant: int
    aux_k: int


@dataclass(frozen=True)
class BatchLoss:
    """The training loss of a batch and the terms it is made of."""

    total: Tensor
    fvu: Tensor
    interaction: Tensor
    infidelity: Tensor
    codes_BM: Tensor


@dataclass
class CrosscoderModel:
    """Weights in training units; decoder rows have unit norm.

    Parameters
    ----------
    W_enc_MF : Tensor of shape (M, F)
        Encoder weights.
    b_enc_M : Tensor of shape (M,)
        Encoder bias.
    W_dec_MF : Tensor of shape (M, F)
        Decoder.
    activation : CodeActivation
        From pre-activations to codes.
    variance_L : Tensor of shape (L,)
        Variance of each site in training units, infinite for constant sites.
    mlps : sequence of FrozenMLP
        The MLPs whose neurons the features share.
    """

    W_enc_MF: Tensor
    b_enc_M: Tensor
    W_dec_MF: Tensor
    activation: CodeActivation
    variance_L: Tensor
    mlps: Sequence[FrozenMLP]

    def parameters(self) -> list[Tensor]:
        """Trainable tensors."""
        weights = [self.W_enc_MF, self.b_enc_M, self.W_dec_MF]
        return weights + self.activation.parameters()

    def pre_activations(self, x_BF: Tensor) -> Tensor:
        """Encoder output before the activation, (B, M)."""
        return torch.addmm(self.b_enc_M, x_BF, self.W_enc_MF.T)

    def training_loss(
        self, x_BF: Tensor, strengths: LossStrengths, is_dead_M: Tensor
    ) -> BatchLoss:
        """Differentiable loss of a batch in training mode."""
        pre_BM = self.pre_activations(x_BF)
        codes_BM, sparsity_loss = self.activation.train_codes(pre_BM)
        residual_BF = x_BF - codes_BM @ self.W_dec_MF
        loss = self._loss_of_codes(x_BF, codes_BM, residual_BF, strengths)
        total = loss.total
        if sparsity_loss is not None:
            total = total + sparsity_loss
        if strengths.aux_k > 0 and bool(is_dead_M.any()):
            aux_loss = self._aux_loss(
                pre_BM, residual_BF.detach(), is_dead_M, strengths.aux_k
            )
            total = total + _AUX_STRENGTH * aux_loss
        return BatchLoss(
            total, loss.fvu, loss.interaction, loss.infidelity, loss.codes_BM
        )

    @torch.no_grad()
    def inference_loss(self, x_BF: Tensor, strengths: LossStrengths) -> BatchLoss:
        """Loss of the codes at inference, without sparsity and auxiliary losses."""
        codes_BM = self.activation.codes(self.pre_activations(x_BF))
        residual_BF = x_BF - codes_BM @ self.W_dec_MF
        return self._loss_of_codes(x_BF, codes_BM, residual_BF, strengths)

    def _loss_of_codes(
        self,
        x_BF: Tensor,
        codes_BM: Tensor,
        residual_BF: Tensor,
        strengths: LossStrengths,
    ) -> BatchLoss:
        fvu = (self._squared_norm_BL(residual_BF).mean(dim=0) / self.variance_L).sum()
        total, interaction, infidelity = fvu, fvu.new_zeros(()), fvu.new_zeros(())
        if strengths.lam > 0 or strengths.lam_fidelity > 0:
            losses = interaction_losses(
                codes_BM,
                self.W_dec_MF,
                x_BF,
                self.mlps,
                n_dominant=strengths.n_dominant,
                with_infidelity=strengths.lam_fidelity > 0,
            )
            interaction, infidelity = losses.interaction, losses.infidelity
            total = fvu + strengths.lam * interaction
            total = total + strengths.lam_fidelity * infidelity
        return BatchLoss(total, fvu, interaction, infidelity, codes_BM)

    def _aux_loss(
        self, pre_BM: Tensor, residual_BF: Tensor, is_dead_M: Tensor, aux_k: int
    ) -> Tensor:
        """Share of the residual that the strongest dead features leave unexplained.

        Their *pre*-activations serve as codes: after the activation those of a
        dead feature are zero and so is their gradient.
        """
        dead_pre_BM = pre_BM[:, is_dead_M]
        kept_BK, features_BK = dead_pre_BM.topk(min(aux_k, dead_pre_BM.shape[1]), dim=1)
        aux_codes_BM = torch.zeros_like(dead_pre_BM).scatter(1, features_BK, kept_BK)
        left_BF = residual_BF - aux_codes_BM @ self.W_dec_MF[is_dead_M]
        left_L = self._squared_norm_BL(left_BF).mean(dim=0)
        residual_L = self._squared_norm_BL(residual_BF).mean(dim=0)
        tiny = torch.finfo(residual_L.dtype).tiny
        counts_L = torch.isfinite(self.variance_L)
        return (left_L / residual_L.clamp(min=tiny))[counts_L].sum()

    def _squared_norm_BL(self, rows_BF: Tensor) -> Tensor:
        return rows_BF.view(len(rows_BF), len(self.variance_L), -1).square().sum(dim=2)

    @torch.no_grad()
    def remove_radial_gradient(self) -> None:
        """Remove what would only change the norm of the decoder's rows."""
        grad_MF = self.W_dec_MF.grad
        assert grad_MF is not None
        radial_M1 = (grad_MF * self.W_dec_MF).sum(dim=1, keepdim=True)
        grad_MF.addcmul_(radial_M1, self.W_dec_MF, value=-1.0)

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Give every decoder row unit norm again."""
        norm_M1 = torch.linalg.vector_norm(self.W_dec_MF, dim=1, keepdim=True)
        self.W_dec_MF /= norm_M1.clamp(min=torch.finfo(norm_M1.dtype).tiny)
