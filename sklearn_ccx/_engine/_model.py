"""The crosscoder's weights and the loss of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .activations._code_activation import CodeActivation, SelectingActivation
from .neurons._frozen_mlp import FrozenMLP
from .losses._interaction import interaction_losses
from .losses._intervals import interval_loss, margin_loss
from ._sparse_codes import SparseCodes, encode_active

# Strength of the auxiliary loss that revives dead features (Gao et al., "Scaling
# and evaluating sparse autoencoders", arXiv:2406.04093, who use 1/32 in trainings
# a hundred times as long).
_AUX_STRENGTH = 1 / 8

# Multiplications of one dense product (B * M * F) from which on it takes longer than
# the sparse one and the bookkeeping around it.
_MIN_SPARSE_PRODUCT = 2**23


@dataclass(frozen=True)
class LossStrengths:
    """Strengths of the terms beside the reconstruction.

    Parameters
    ----------
    lam, lam_fidelity : float
        Strengths of the interaction bound and of the one-feature fidelity.
    lam_margin, lam_interval : float
        Strengths of the worst logits and of the largest error that can be excluded.
    n_dominant : int
        How many features a neuron keeps.
    aux_k : int
        How many dead features may explain what the others leave; 0 for none.
    """

    lam: float
    lam_fidelity: float
    n_dominant: int
    aux_k: int
    lam_margin: float = 0.0
    lam_interval: float = 0.0

    @property
    def has_penalty(self) -> bool:
        """Whether the loss looks at the neurons of the MLPs."""
        return max(self.lam, self.lam_fidelity, self.lam_margin, self.lam_interval) > 0


@dataclass(frozen=True)
class BatchLoss:
    """The training loss of a batch and the terms it is made of."""

    total: Tensor
    fvu: Tensor
    interaction: Tensor
    infidelity: Tensor
    margin: Tensor
    interval: Tensor


@dataclass(frozen=True)
class TrainingBatch:
    """The loss of a training batch and how often each feature was active in it."""

    loss: BatchLoss
    n_active_M: Tensor


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
        return torch.addmm(self.b_enc_M, x_BF, self.W_enc_MF.T).to(x_BF.dtype)

    def codes(self, x_BF: Tensor) -> Tensor:
        """Codes at inference, (B, M)."""
        return self.activation.codes(self.pre_activations(x_BF))

    def training_loss(
        self, x_BF: Tensor, strengths: LossStrengths, dead_D: Tensor
    ) -> TrainingBatch:
        """Differentiable loss of a batch in training mode.

        Parameters
        ----------
        x_BF : Tensor of shape (B, F)
            The batch in training units.
        strengths : LossStrengths
            Strengths of the loss terms.
        dead_D : Tensor of shape (D,), int64
            The features to revive.
        """
        sparsity_loss = None
        codes: SparseCodes | None = None
        if self._trains_sparsely(len(x_BF)):
            assert isinstance(self.activation, SelectingActivation)
            weights = self.W_enc_MF, self.b_enc_M
            codes = encode_active(x_BF, *weights, self.activation)
            recon_BF = codes.decode(self.W_dec_MF)
            n_active_M = codes.count_by_feature()
        else:
            pre_BM = self.pre_activations(x_BF)
            codes_BM, sparsity_loss = self.activation.train_codes(pre_BM)
            recon_BF = (codes_BM @ self.W_dec_MF).to(x_BF.dtype)
            n_active_M = (codes_BM > 0).sum(dim=0)
            if strengths.has_penalty:
                codes = SparseCodes.from_dense(codes_BM)
        loss = self.loss(x_BF, codes, recon_BF, strengths)
        total = loss.total
        if sparsity_loss is not None:
            total = total + sparsity_loss
        if strengths.aux_k > 0 and len(dead_D):
            residual_BF = (x_BF - recon_BF).detach()
            aux_loss = self._aux_loss(x_BF, residual_BF, dead_D, strengths.aux_k)
            total = total + _AUX_STRENGTH * aux_loss
        return TrainingBatch(replace(loss, total=total), n_active_M)

    def _trains_sparsely(self, n_samples: int) -> bool:
        """Whether products over active entries only are faster than dense ones."""
        if not isinstance(self.activation, SelectingActivation):
            return False
        n_components, n_columns = self.W_dec_MF.shape
        return n_samples * n_components * n_columns > _MIN_SPARSE_PRODUCT

    def loss(
        self,
        x_BF: Tensor,
        codes: SparseCodes | None,
        recon_BF: Tensor,
        strengths: LossStrengths,
    ) -> BatchLoss:
        """Reconstruction and penalties; the codes serve the latter only."""
        residual_L = self._squared_norm_BL(x_BF - recon_BF).mean(dim=0)
        fvu = (residual_L / self.variance_L).sum()
        if not strengths.has_penalty:
            zero = torch.zeros_like(fvu)
            return BatchLoss(fvu, fvu, zero, zero, zero, zero)
        assert codes is not None
        losses = interaction_losses(
            codes,
            self.W_dec_MF,
            x_BF,
            self.mlps,
            lam=strengths.lam,
            lam_fidelity=strengths.lam_fidelity,
            n_dominant=strengths.n_dominant,
        )
        total = fvu + losses.weighted
        margin = interval = torch.zeros_like(fvu)
        arguments = codes, self.W_dec_MF, x_BF, self.mlps, strengths.n_dominant
        if strengths.lam_margin > 0:
            margin = margin_loss(*arguments)
            total = total + strengths.lam_margin * margin
        if strengths.lam_interval > 0:
            interval = interval_loss(*arguments)
            total = total + strengths.lam_interval * interval
        interaction, infidelity = losses.interaction, losses.infidelity
        return BatchLoss(total, fvu, interaction, infidelity, margin, interval)

    def _aux_loss(
        self, x_BF: Tensor, residual_BF: Tensor, dead_D: Tensor, aux_k: int
    ) -> Tensor:
        """Share of the residual that the strongest dead features leave unexplained.

        Their *pre*-activations serve as codes: after the activation those of a
        dead feature are zero and so is their gradient.
        """
        pre_BD = torch.addmm(self.b_enc_M[dead_D], x_BF, self.W_enc_MF[dead_D].T)
        kept_BK, features_BK = pre_BD.topk(min(aux_k, len(dead_D)), dim=1)
        codes_BD = torch.zeros_like(pre_BD).scatter(1, features_BK, kept_BK)
        left_BF = residual_BF - codes_BD @ self.W_dec_MF[dead_D]
        left_L = self._squared_norm_BL(left_BF).mean(dim=0)
        residual_L = self._squared_norm_BL(residual_BF).mean(dim=0)
        tiny = torch.finfo(residual_L.dtype).tiny
        varies_L = torch.isfinite(self.variance_L)
        return (left_L / residual_L.clamp(min=tiny))[varies_L].sum()

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
