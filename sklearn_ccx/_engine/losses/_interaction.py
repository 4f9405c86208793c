r"""The interaction bound and the one-feature fidelity, as differentiable losses.

With :math:`p_{bnh} = a_{bh} M_{hn}` the contribution of feature :math:`h` to
neuron :math:`n` on sample :math:`b` and :math:`D_{bn}` the dominant features,

.. math::

    I(b) = \mathrm{Lip}(\varphi) \sum_n \|W_{out}[n]\|
           \Bigl(\sum_h |p_{bnh}| - \sum_{h \in D_{bn}} |p_{bnh}|\Bigr)

for a plain MLP; :mod:`._gated_contributions` has that of a gated one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..neurons._frozen_mlp import FrozenMLP
from .._sparse_codes import SparseCodes


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
        needs_gradient = any(ctx.needs_input_grad)
        if needs_gradient:
            grad_values_A = values_A.new_zeros(values_A.shape)
            grad_W_MF = W_dec_MF.new_zeros(W_dec_MF.shape)
        n_samples = len(codes)
        interaction, infidelity = x_BF.new_zeros(2)
        for mlp in mlps:
            contributions = mlp.contributions(
                codes, mlp.neuron_inputs(W_dec_MF), n_dominant
            )
            interaction += contributions.bound_sum() / (n_samples * mlp.mass)
            grad_kept_BN = None
            if lam_fidelity > 0:
                kept_BN = contributions.dominant_RBN.sum(dim=0)
                loss, grad_BN = _infidelity(kept_BN, x_BF, mlp)
                infidelity += loss
                grad_kept_BN = lam_fidelity * grad_BN
            if needs_gradient:
                grad_M_MN = contributions.add_gradients(
                    lam / (n_samples * mlp.mass), grad_kept_BN, grad_values_A
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
