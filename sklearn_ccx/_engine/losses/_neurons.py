r"""The losses at the neurons, with one search for the dominant features of each MLP.

With :math:`p_{bnh} = a_{bh} M_{hn}` the contribution of feature :math:`h` to
neuron :math:`n` on sample :math:`b` and :math:`D_{bn}` the dominant features,

.. math::

    I(b) = \mathrm{Lip}(\varphi) \sum_n \|W_{out}[n]\|
           \Bigl(\sum_h |p_{bnh}| - \sum_{h \in D_{bn}} |p_{bnh}|\Bigr)

for a plain MLP; :mod:`..neurons._gated_contributions` has that of a gated one.

:math:`M` and the dominant features are computed once for each MLP and handed to all
losses. Their gradients with respect to codes and :math:`M` come out of the forward
pass, one MLP after the other, so that what is held does not grow with the number of
MLPs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._settings import LossStrengths
from .._sparse_codes import SparseCodes
from ..neurons import Contributions, FrozenMLP
from ._intervals import hidden_ranges, interval_loss, margin_loss


@dataclass(frozen=True)
class NeuronLosses:
    """Scale-free losses, each a scalar summed over MLPs.

    Parameters
    ----------
    weighted : Tensor
        Their sum, each times its strength, differentiable.
    interaction : Tensor
        ``sum_p mean_b I_p(b) / mass_p``. The Lipschitz constant cancels: it scales the
        bound as it scales what the data sends through the neurons.
    infidelity : Tensor
        ``sum_p E|f_p(dominant features only) - f_p(x)|**2 / Var f_p(x)``; this and
        the next two are 0 where their strength is.
    margin : Tensor
        Cross-entropy of the worst logits.
    interval : Tensor
        Largest infidelity that the intervals allow.
    """

    weighted: Tensor
    interaction: Tensor
    infidelity: Tensor
    margin: Tensor
    interval: Tensor


def neuron_losses(
    codes: SparseCodes,
    W_dec_MF: Tensor,
    x_BF: Tensor,
    mlps: Sequence[FrozenMLP],
    strengths: LossStrengths,
    n_samples: int | None = None,
) -> NeuronLosses:
    """Losses of a batch; see :class:`NeuronLosses`.

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
    strengths : LossStrengths
        Strengths of the losses, and how many features a neuron keeps.
    n_samples : int or None
        Samples of the batch that the B are a part of, so that the losses are shares of
        the batch's; None for all of it.
    """
    n_samples = len(codes) if n_samples is None else n_samples
    return NeuronLosses(
        *_NeuronLosses.apply(
            codes.values_A, W_dec_MF, codes.detach(), x_BF, mlps, strengths, n_samples
        )
    )


class _NeuronLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values_A: Tensor,
        W_dec_MF: Tensor,
        codes: SparseCodes,
        x_BF: Tensor,
        mlps: Sequence[FrozenMLP],
        strengths: LossStrengths,
        n_samples: int,
    ) -> tuple[Tensor, ...]:
        needs_gradient = any(ctx.needs_input_grad)
        if needs_gradient:
            grad_values_A = values_A.new_zeros(values_A.shape)
            grad_W_MF = W_dec_MF.new_zeros(W_dec_MF.shape)
        interaction, infidelity, margin, interval = x_BF.new_zeros(4)
        for mlp in mlps:
            M_MN = mlp.neuron_inputs(W_dec_MF)
            mlp = mlp.on(x_BF)
            contributions = mlp.contributions(codes, M_MN, strengths.n_dominant)
            interaction += contributions.bound_sum() / (n_samples * mlp.mass)
            if needs_gradient:
                # Those of the codes as the neurons see them.
                grad_seen_A = (
                    grad_values_A
                    if mlp.norm is None
                    else torch.zeros_like(grad_values_A)
                )
            grad_kept_BN = None
            if strengths.lam_fidelity > 0:
                kept_BN = contributions.dominant_RBN.sum(dim=0)
                loss, grad_BN = _infidelity(kept_BN, x_BF, mlp, n_samples)
                infidelity += loss
                grad_kept_BN = strengths.lam_fidelity * grad_BN
            if needs_gradient and (strengths.lam > 0 or grad_kept_BN is not None):
                grad_M_MN = contributions.add_gradients(
                    strengths.lam / (n_samples * mlp.mass), grad_kept_BN, grad_seen_A
                )
            elif needs_gradient:
                grad_M_MN = torch.zeros_like(M_MN)
            if strengths.has_intervals:
                terms, gradients = _interval_losses(
                    contributions, x_BF, mlp, strengths, n_samples
                )
                margin += terms[0]
                interval += terms[1]
                if needs_gradient:
                    grad_seen_A += gradients[0]
                    grad_M_MN += gradients[1]
            if needs_gradient:
                if mlp.norm is not None:
                    seen = replace(codes, values_A=grad_seen_A)
                    grad_values_A += mlp.scaled(seen).values_A
                mlp.add_row_gradients(grad_M_MN, grad_W_MF)
        if needs_gradient:
            ctx.save_for_backward(grad_values_A, grad_W_MF)
        ctx.mark_non_differentiable(interaction, infidelity, margin, interval)
        weighted = strengths.lam * interaction + strengths.lam_fidelity * infidelity
        if strengths.has_intervals:
            weighted += strengths.lam_margin * margin
            weighted += strengths.lam_interval * interval
        return weighted, interaction, infidelity, margin, interval

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, saved = grads[0], ctx.saved_tensors
        # In training the weight is 1, and the decoder's gradient is the largest tensor
        # of the step. On CUDA reading the weight would cost a synchronisation.
        if weight.device.type != "cpu" or weight.item() != 1.0:
            saved = [weight * gradient for gradient in saved]
        return *saved, *[None] * 5


def _infidelity(
    kept_BN: Tensor, x_BF: Tensor, mlp: FrozenMLP, n_samples: int
) -> tuple[Tensor, Tensor]:
    """Infidelity of the kept input, and its gradient with respect to it, (B, N)."""
    true_BO = mlp.output(mlp.received(x_BF))
    with torch.enable_grad():
        kept_BN = kept_BN.detach().requires_grad_()
        squared_error_B = mlp.squared_errors(mlp.output(kept_BN), true_BO)
        loss = squared_error_B.sum() / n_samples / mlp.output_variance
        (grad_BN,) = torch.autograd.grad(loss, kept_BN)
    return loss.detach(), grad_BN


def _interval_losses(
    contributions: Contributions,
    x_BF: Tensor,
    mlp: FrozenMLP,
    strengths: LossStrengths,
    n_samples: int,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Margin and interval loss, and the gradient of both with respect to values and M.

    The gradient is that of their sum, each times its strength.
    """
    margin = interval = x_BF.new_zeros(())
    autocast = torch.autocast(x_BF.device.type, enabled=False)
    with torch.enable_grad(), autocast:
        leaf = contributions.with_gradient()
        ranges = hidden_ranges(leaf, x_BF, mlp)
        total = x_BF.new_zeros(())
        if strengths.lam_margin > 0:
            margin = margin_loss(ranges, x_BF, mlp, n_samples)
            total = total + strengths.lam_margin * margin
        if strengths.lam_interval > 0:
            interval = interval_loss(ranges, mlp, n_samples)
            total = total + strengths.lam_interval * interval
        inputs = leaf.codes.values_A, leaf.M_MN
        gradients = torch.autograd.grad(total, inputs, materialize_grads=True)
    return (margin.detach(), interval.detach()), (gradients[0], gradients[1])
