r"""Losses on what a proof about the explanation cannot exclude.

In the explanation neuron :math:`n` receives its dominant contributions, with its bias
:math:`c_{bn}`; in truth it receives something in :math:`[c_{bn} - r_{bn}, c_{bn} +
r_{bn}]`, with the interaction and the residual of the reconstruction,

.. math::

    r_{bn} = \sum_{h \notin D_{bn}} |p_{bnh}| + |((x_b - \hat x_b) W_{in})_n|.

The interval goes through the nonlinearity and the output weights. For logits, the worst
that it allows is trained on as in interval bound propagation (Gowal et al.,
arXiv:1810.12715); for other outputs, the largest error.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..neurons._frozen_mlp import FrozenMLP
from .._sparse_codes import SparseCodes


def margin_loss(
    codes: SparseCodes,
    W_dec_MF: Tensor,
    x_BF: Tensor,
    mlps: Sequence[FrozenMLP],
    n_dominant: int,
) -> Tensor:
    """Cross-entropy of the worst logits the intervals allow, summed over MLPs.

    The class is the one that the MLP itself predicts. Where it is proved, the loss of
    the sample is less than log 2.

    Parameters
    ----------
    codes : SparseCodes
        Non-negative codes of B samples, differentiable.
    W_dec_MF : Tensor of shape (M, F)
        Decoder in training units.
    x_BF : Tensor of shape (B, F)
        The batch in training units.
    mlps : sequence of FrozenMLP
        MLPs of which the output is logits; a single logit stands for two classes.
    n_dominant : int
        How many features a neuron keeps.
    """
    total = x_BF.new_zeros(())
    with torch.autocast(x_BF.device.type, enabled=False):
        for mlp in mlps:
            _, lowest_BN, highest_BN = _hidden_ranges(
                codes, W_dec_MF, x_BF, mlp, n_dominant
            )
            W_NO, b_O = _with_one_column_per_class(mlp)
            with torch.no_grad():
                hidden_BN = mlp.hidden(mlp.neuron_inputs(x_BF))
                class_B = (hidden_BN @ W_NO + b_O).argmax(dim=1)
            radius_BN = (highest_BN - lowest_BN) / 2
            centre_BO = (highest_BN + lowest_BN) / 2 @ W_NO + b_O
            # Class by class, so that nothing of size (B, N, O) is held.
            order_B = class_B.argsort(stable=True)
            worst = []
            n_by_class = torch.bincount(class_B, minlength=W_NO.shape[1]).tolist()
            for radius_SN, index in zip(
                radius_BN[order_B].split(n_by_class), range(len(b_O)), strict=True
            ):
                difference_NO = (W_NO[:, [index]] - W_NO).abs()
                worst.append(radius_SN @ difference_NO)
            logits_BO = centre_BO[order_B] + torch.cat(worst)
            total = total + functional.cross_entropy(logits_BO, class_B[order_B])
    return total


def interval_loss(
    codes: SparseCodes,
    W_dec_MF: Tensor,
    x_BF: Tensor,
    mlps: Sequence[FrozenMLP],
    n_dominant: int,
) -> Tensor:
    """Largest infidelity the intervals allow, summed over MLPs.

    The mean squared bound on the output's error over the output's variance: no less
    than the one-feature infidelity. Parameters are those of :func:`margin_loss`.
    """
    total = x_BF.new_zeros(())
    with torch.autocast(x_BF.device.type, enabled=False):
        for mlp in mlps:
            kept_BN, lowest_BN, highest_BN = _hidden_ranges(
                codes, W_dec_MF, x_BF, mlp, n_dominant
            )
            radius_BO = (highest_BN - lowest_BN) / 2
            centre_BO = (highest_BN + lowest_BN) / 2 - kept_BN
            if mlp.W_out_NO is not None:
                centre_BO = centre_BO @ mlp.W_out_NO
                radius_BO = radius_BO @ mlp.W_out_NO.abs()
            bound_BO = centre_BO.abs() + radius_BO
            total = total + bound_BO.square().sum(dim=1).mean() / mlp.output_variance
    return total


def _hidden_ranges(
    codes: SparseCodes,
    W_dec_MF: Tensor,
    x_BF: Tensor,
    mlp: FrozenMLP,
    n_dominant: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The explanation's hidden activations, and the range of the true ones, (B, N)."""
    M_MN = mlp.neuron_inputs(W_dec_MF)
    contributions = mlp.contributions(codes.detach(), M_MN.detach(), n_dominant)
    entry_RBN = contributions.entry_RBN
    kept_RBN = x_BF.new_zeros(entry_RBN.shape)
    if len(codes.values_A):
        held_RBN = entry_RBN.clamp(min=0)
        written_RBN = torch.stack(
            [M_MN.gather(0, codes.features_A[held_BN]) for held_BN in held_RBN]
        )
        kept_RBN = written_RBN * codes.values_A[held_RBN] * (entry_RBN >= 0)
    all_BN = codes.decode(M_MN.abs())
    # What cancels leaves rounding, of either sign.
    interaction_BN = (all_BN - kept_RBN.abs().sum(dim=0)).clamp(min=0.0)
    residual_BN = (mlp.neuron_inputs(x_BF) - codes.decode(M_MN)).abs()
    radius_BN = interaction_BN + residual_BN
    kept_BN = kept_RBN.sum(dim=0)
    lower_BN, upper_BN = kept_BN - radius_BN, kept_BN + radius_BN
    ends_EBN = torch.stack([mlp.hidden(lower_BN), mlp.hidden(upper_BN)])
    lowest_BN, highest_BN = ends_EBN.amin(dim=0), ends_EBN.amax(dim=0)
    if mlp.nonlinearity.minimum is not None:
        location, value = mlp.nonlinearity.minimum
        has_minimum_BN = (lower_BN + mlp.bias_N <= location) & (
            location <= upper_BN + mlp.bias_N
        )
        lowest_BN = lowest_BN.masked_fill(has_minimum_BN, value)
    return mlp.hidden(kept_BN), lowest_BN, highest_BN


def _with_one_column_per_class(mlp: FrozenMLP) -> tuple[Tensor, Tensor]:
    """Output weights and bias; a single logit stands beside one that is 0."""
    assert mlp.W_out_NO is not None
    assert mlp.b_out_O is not None
    W_NO, b_O = mlp.W_out_NO, mlp.b_out_O
    if len(b_O) == 1:
        return functional.pad(W_NO, (1, 0)), functional.pad(b_O, (1, 0))
    return W_NO, b_O
