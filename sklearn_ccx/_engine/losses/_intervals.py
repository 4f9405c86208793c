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

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..neurons import Contributions, FrozenMLP, written


@dataclass(frozen=True)
class HiddenRanges:
    """Hidden activations of the explanation, and the range of the true ones, (B, N)."""

    kept_BN: Tensor
    lowest_BN: Tensor
    highest_BN: Tensor

    @property
    def radius_BN(self) -> Tensor:
        """Half the width of the ranges."""
        return (self.highest_BN - self.lowest_BN) / 2

    @property
    def centre_BN(self) -> Tensor:
        """The middle of the ranges."""
        return (self.highest_BN + self.lowest_BN) / 2


def hidden_ranges(
    contributions: Contributions, x_BF: Tensor, mlp: FrozenMLP
) -> HiddenRanges:
    """Ranges of a batch, differentiable in the codes and in ``M``."""
    codes, M_MN = contributions.codes, contributions.M_MN
    kept_RBN = written(codes, M_MN, contributions.entry_RBN)
    all_BN = codes.decode(M_MN.abs())
    # What cancels leaves rounding, of either sign.
    interaction_BN = (all_BN - kept_RBN.abs().sum(dim=0)).clamp(min=0.0)
    residual_BN = (mlp.received(x_BF) - codes.decode(M_MN)).abs()
    radius_BN = interaction_BN + residual_BN
    kept_BN = kept_RBN.sum(dim=0)
    lower_BN, upper_BN = kept_BN - radius_BN, kept_BN + radius_BN
    ends_EBN = torch.stack([mlp.hidden(lower_BN), mlp.hidden(upper_BN)])
    lowest_BN, highest_BN = ends_EBN.amin(dim=0), ends_EBN.amax(dim=0)
    if mlp.nonlinearity.minimum is not None:
        location, value = mlp.nonlinearity.minimum
        bias = mlp.input_bias
        has_minimum_BN = (lower_BN + bias <= location) & (location <= upper_BN + bias)
        lowest_BN = lowest_BN.masked_fill(has_minimum_BN, value)
    return HiddenRanges(mlp.hidden(kept_BN), lowest_BN, highest_BN)


def margin_loss(
    ranges: HiddenRanges, x_BF: Tensor, mlp: FrozenMLP, n_samples: int
) -> Tensor:
    """Cross-entropy of the worst logits that the ranges allow.

    The class is the one that the MLP itself predicts. Where it is proved, the loss of
    the sample is less than log 2.

    Parameters
    ----------
    ranges : HiddenRanges
        Ranges of B samples.
    x_BF : Tensor of shape (B, F)
        The batch in training units.
    mlp : FrozenMLP
        An MLP of which the output is logits; a single logit stands for two classes.
    n_samples : int
        Samples of the batch that the B are a part of.
    """
    W_NO, b_O = _with_one_column_per_class(mlp)
    with torch.no_grad():
        hidden_BN = mlp.hidden(mlp.received(x_BF))
        class_B = (hidden_BN @ W_NO + b_O).argmax(dim=1)
    centre_BO = ranges.centre_BN @ W_NO + b_O
    # Class by class, so that nothing of size (B, N, O) is held.
    order_B = class_B.argsort(stable=True)
    n_by_class = torch.bincount(class_B, minlength=W_NO.shape[1]).tolist()
    worst = []
    for radius_SN, index in zip(
        ranges.radius_BN[order_B].split(n_by_class), range(len(b_O)), strict=True
    ):
        difference_NO = (W_NO[:, [index]] - W_NO).abs()
        worst.append(radius_SN @ difference_NO)
    logits_BO = centre_BO[order_B] + torch.cat(worst)
    losses = functional.cross_entropy(logits_BO, class_B[order_B], reduction="sum")
    return losses / n_samples


def interval_loss(ranges: HiddenRanges, mlp: FrozenMLP, n_samples: int) -> Tensor:
    """Largest infidelity that the ranges allow.

    The mean squared bound on the output's error over the output's variance: no less
    than the one-feature infidelity. Parameters are those of :func:`margin_loss`.
    """
    radius_BO, centre_BO = ranges.radius_BN, ranges.centre_BN - ranges.kept_BN
    if mlp.W_out_NO is not None:
        centre_BO = centre_BO @ mlp.W_out_NO
        radius_BO = radius_BO @ mlp.W_out_NO.abs()
    bound_BO = (centre_BO.abs() + radius_BO) / mlp.output_unit
    return bound_BO.square().sum(dim=1).sum() / n_samples / mlp.output_variance


def _with_one_column_per_class(mlp: FrozenMLP) -> tuple[Tensor, Tensor]:
    """Output weights and bias; a single logit stands beside one that is 0."""
    assert mlp.W_out_NO is not None
    assert mlp.b_out_O is not None
    W_NO, b_O = mlp.W_out_NO, mlp.b_out_O
    if len(b_O) == 1:
        return functional.pad(W_NO, (1, 0)), functional.pad(b_O, (1, 0))
    return W_NO, b_O
