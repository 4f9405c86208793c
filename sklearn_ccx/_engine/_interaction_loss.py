r"""The interaction bound and the one-feature fidelity, as differentiable losses.

With :math:`p_{bnh} = a_{bh} M_{hn}` the contribution of feature :math:`h` to
neuron :math:`n` on sample :math:`b` and :math:`D_{bn}` the dominant features,

.. math::

    I(b) = \mathrm{Lip}(\varphi) \sum_n \|W_{out}[n]\|
           \Bigl(\sum_h |p_{bnh}| - \sum_{h \in D_{bn}} |p_{bnh}|\Bigr).

The first sum over :math:`h` is separable, :math:`a_b \cdot (|M| w)`, so that only
the dominant contributions are ever held per sample and neuron.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ._dominance import dominant_contributions, dominant_features
from ._frozen_mlp import FrozenMLP


@dataclass(frozen=True)
class InteractionLosses:
    """Scale-free losses, each a scalar summed over MLPs.

    Parameters
    ----------
    interaction : Tensor
        ``sum_p mean_b I_p(b) / (Lip_p * mass_p)``. The Lipschitz constant cancels:
        it scales the bound as it scales what the data sends through the neurons.
    infidelity : Tensor
        ``sum_p E|f_p(dominant features only) - f_p(x)|**2 / Var f_p(x)``.
    """

    interaction: Tensor
    infidelity: Tensor


def interaction_losses(
    codes_BM: Tensor,
    W_dec_MF: Tensor,
    x_BF: Tensor,
    mlps: Sequence[FrozenMLP],
    *,
    n_dominant: int,
    with_infidelity: bool,
) -> InteractionLosses:
    """Losses of a batch; see :class:`InteractionLosses`.

    Parameters
    ----------
    codes_BM : Tensor of shape (B, M)
        Non-negative codes.
    W_dec_MF : Tensor of shape (M, F)
        Decoder in training units.
    x_BF : Tensor of shape (B, F)
        The batch in training units.
    mlps : sequence of FrozenMLP
        The MLPs.
    n_dominant : int
        How many features a neuron keeps.
    with_infidelity : bool
        Whether to compute the fidelity term; 0 otherwise.
    """
    interaction = infidelity = x_BF.new_zeros(())
    # One split, so that the backward pass joins the sites' gradients once instead of
    # adding up one full-sized gradient for each MLP.
    sites = W_dec_MF.split(mlps[0].width, dim=1) if mlps else ()
    for mlp in mlps:
        M_MN = mlp.neuron_inputs_of_site(sites[mlp.site])
        index_RBN = dominant_features(codes_BM, M_MN, n_dominant)
        dominant_RBN = dominant_contributions(codes_BM, M_MN, index_RBN)
        bound_B = interaction_bound(codes_BM, M_MN, dominant_RBN, mlp.output_norm_N)
        interaction = interaction + bound_B.mean() / mlp.mass
        if with_infidelity:
            kept_BO = mlp.output(dominant_RBN.sum(dim=0))
            true_BO = mlp.output(mlp.neuron_inputs(x_BF))
            squared_error = (kept_BO - true_BO).square().sum(dim=1).mean()
            infidelity = infidelity + squared_error / mlp.output_variance
    return InteractionLosses(interaction, infidelity)


def interaction_bound(
    codes_BM: Tensor, M_MN: Tensor, dominant_RBN: Tensor, output_norm_N: Tensor
) -> Tensor:
    """``I(b) / Lip`` of each sample, (B,)."""
    all_B = codes_BM @ (M_MN.abs() @ output_norm_N)
    dominant_B = dominant_RBN.abs().sum(dim=0) @ output_norm_N
    return all_B - dominant_B


def dominant_share_sum(
    codes_BM: Tensor, M_MN: Tensor, dominant_RBN: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum of ``max|p| / sum|p|`` over the neurons that receive any input.

    Returns the sum and the number of pairs of sample and neuron it runs over.
    """
    all_BN = codes_BM @ M_MN.abs()
    reached_BN = all_BN > 0
    share_BN = dominant_RBN.abs().sum(dim=0) / all_BN
    return share_BN[reached_BN].clamp(max=1.0).sum(), reached_BN.sum()
