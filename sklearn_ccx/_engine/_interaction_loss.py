r"""The interaction bound and the one-feature fidelity, as differentiable losses.

With :math:`p_{bnh} = a_{bh} M_{hn}` the contribution of feature :math:`h` to
neuron :math:`n` on sample :math:`b` and :math:`D_{bn}` the dominant features,

.. math::

    I(b) = \mathrm{Lip}(\varphi) \sum_n \|W_{out}[n]\|
           \Bigl(\sum_h |p_{bnh}| - \sum_{h \in D_{bn}} |p_{bnh}|\Bigr).

The first sum over :math:`h` is separable, :math:`a_b \cdot (|M| w)`, so that only
the dominant contributions are ever held per sample and neuron. The gradients come out
of the forward pass, while ``M`` and the dominant features are at hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._frozen_mlp import FrozenMLP
from ._kernels import kernels_for
from ._sparse_codes import SparseCodes


@dataclass(frozen=True)
class InteractionLosses:
    """Scale-free losses, each a scalar summed over MLPs.

    Parameters
    ----------
    weighted : Tensor
        ``lam * interaction + lam_fidelity * infidelity``, differentiable.
    interaction : Tensor
        ``sum_p mean_b I_p(b) / (Lip_p * mass_p)``. The Lipschitz constant cancels:
        it scales the bound as it scales what the data sends through the neurons.
    infidelity : Tensor
        ``sum_p E|f_p(dominant features only) - f_p(x)|**2 / Var f_p(x)``; 0 where
        ``lam_fidelity`` is.
    """

    weighted: Tensor
    interaction: Tensor
    infidelity: Tensor


def interaction_losses(
    codes: SparseCodes,
    W_dec_MF: Tensor,
    x_BF: Tensor,
    mlps: Sequence[FrozenMLP],
    *,
    lam: float,
    lam_fidelity: float,
    n_dominant: int,
) -> InteractionLosses:
    """Losses of a batch; see :class:`InteractionLosses`.

    Parameters
    ----------
    codes : SparseCodes
        Non-negative codes of B samples.
    W_dec_MF : Tensor of shape (M, F)
        Decoder in training units.
    x_BF : Tensor of shape (B, F)
        The batch in training units.
    mlps : sequence of FrozenMLP
        The MLPs.
    lam, lam_fidelity : float
        Strengths of the two losses.
    n_dominant : int
        How many features a neuron keeps.
    """
    return InteractionLosses(
        *_InteractionLoss.apply(
            codes.values_A,
            W_dec_MF,
            codes.detach(),
            x_BF,
            mlps,
            lam,
            lam_fidelity,
            n_dominant,
        )
    )


class _InteractionLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values_A: Tensor,
        W_dec_MF: Tensor,
        codes: SparseCodes,
        x_BF: Tensor,
        mlps: Sequence[FrozenMLP],
        lam: float,
        lam_fidelity: float,
        n_dominant: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kernels = kernels_for(values_A.device)
        needs_gradient = any(ctx.needs_input_grad)
        if needs_gradient:
            grad_values_A = values_A.new_zeros(values_A.shape)
            grad_W_MF = W_dec_MF.new_zeros(W_dec_MF.shape)
        n_samples, total_code_M = len(codes), codes.sum_by_feature()
        interaction, infidelity = x_BF.new_zeros(2)
        for mlp in mlps:
            M_MN, norm_N = mlp.neuron_inputs(W_dec_MF), mlp.output_norm_N
            entry_RBN = kernels.dominant_entries(codes, M_MN, n_dominant)
            dominant_RBN = kernels.dominant_contributions(codes, M_MN, entry_RBN)
            written_M = M_MN.abs() @ norm_N
            dominant_N = dominant_RBN.abs().sum(dim=(0, 1))
            bound = total_code_M @ written_M - dominant_N @ norm_N
            interaction += bound / (n_samples * mlp.mass)
            strength = lam / (n_samples * mlp.mass)
            grad_RBN = dominant_RBN.sign() * (-strength * norm_N)
            if lam_fidelity > 0:
                loss, grad_BN = _infidelity(dominant_RBN.sum(dim=0), x_BF, mlp)
                infidelity += loss
                grad_RBN += lam_fidelity * grad_BN
            if needs_gradient:
                grad_M_MN = kernels.sign_times_outer(
                    M_MN, strength * total_code_M, norm_N
                )
                grad_values_A += strength * written_M[codes.features_A]
                kernels.add_dominant_gradients(
                    codes, M_MN, entry_RBN, grad_RBN, grad_values_A, grad_M_MN
                )
                mlp.add_row_gradients(grad_M_MN, grad_W_MF)
        if needs_gradient:
            ctx.save_for_backward(grad_values_A, grad_W_MF)
        ctx.mark_non_differentiable(interaction, infidelity)
        weighted = lam * interaction + lam_fidelity * infidelity
        return weighted, interaction, infidelity

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, saved = grads[0], ctx.saved_tensors
        # In training the weight is 1, and the decoder's gradient is the largest tensor
        # of the step. On CUDA reading the weight would cost a synchronisation.
        if weight.device.type != "cpu" or weight.item() != 1.0:
            saved = [weight * gradient for gradient in saved]
        return *saved, *[None] * 6


def _infidelity(kept_BN: Tensor, x_BF: Tensor, mlp: FrozenMLP) -> tuple[Tensor, Tensor]:
    """Infidelity of the kept input, and its gradient with respect to it, (B, N)."""
    true_BO = mlp.output(mlp.neuron_inputs(x_BF))
    with torch.enable_grad():
        kept_BN = kept_BN.detach().requires_grad_()
        squared_error_B = (mlp.output(kept_BN) - true_BO).square().sum(dim=1)
        loss = squared_error_B.mean() / mlp.output_variance
        (grad_BN,) = torch.autograd.grad(loss, kept_BN)
    return loss.detach(), grad_BN


def interaction_bound(
    codes: SparseCodes, M_MN: Tensor, dominant_RBN: Tensor, output_norm_N: Tensor
) -> Tensor:
    """``I(b) / Lip`` of each sample, (B,)."""
    written_M = M_MN.abs() @ output_norm_N
    all_B = codes.sum_by_row(codes.values_A * written_M[codes.features_A])
    dominant_B = dominant_RBN.abs().sum(dim=0) @ output_norm_N
    return all_B - dominant_B


def dominant_share_sum(
    codes: SparseCodes, M_MN: Tensor, dominant_RBN: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum of ``max|p| / sum|p|`` over the neurons that receive any input.

    Returns the sum and the number of pairs of sample and neuron it runs over.
    """
    all_BN = codes.decode(M_MN.abs())
    reached_BN = all_BN > 0
    share_BN = dominant_RBN.abs().sum(dim=0) / all_BN
    return share_BN[reached_BN].clamp(max=1.0).sum(), reached_BN.sum()
