r"""What the active features write to the neurons of a gated MLP on a batch.

A gated neuron multiplies :math:`\varphi(g)` with :math:`v`. Feature :math:`h`
contributes :math:`q_{bnh}` to :math:`g` and :math:`p_{bnh}` to :math:`v`. Where the
neuron keeps the features :math:`D` alone,

.. math::

   \varphi(g) v - \varphi(g_D) v_D
   = (\varphi(g) - \varphi(g_D)) v_D + \varphi(g) (v - v_D),

which is at most :math:`\sum_{h \notin D} s_{bnh}` with the sizes

.. math::

   s_{bnh} = \mathrm{Lip}(\varphi) \bar v_{bn} |q_{bnh}|
             + |\varphi(g_{bn})| |p_{bnh}|,
   \qquad
   |v_D| \le \bar v_{bn} = |\gamma_n| + \max_h |p_{bnh}|,

for the largest :math:`|p|`, or the sum of as many as are kept; :math:`\gamma` is what
:math:`v` is without features. Keeping the largest size makes the bound smallest.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from .._sparse_codes import SparseCodes
from ..kernels import kernels_for
from ..kernels._torch import largest_entries, pair_sums_of
from ._contributions import Contributions, at_most_all, share_sum, shifted, written
from ._nonlinearity import Nonlinearity


@dataclass(frozen=True)
class GatedContributions(Contributions):
    """Contributions to both factors of gated neurons, and which features dominate.

    Neurons have two inputs each. ``M_MN`` and all inputs have 2N columns for N neurons,
    those of the gates and then those of the linear factors.

    Parameters
    ----------
    codes, M_MN, sensitivity_N, entry_RBN
        As in :class:`Contributions`.
    nonlinearity : Nonlinearity
        The gates'.
    bias_BN : Tensor of shape (1, 2N) or (B, 2N)
        The inputs without any feature.
    largest_linear_RBN : Tensor of shape (R, B, N)
        Entries that contribute most to the linear factors, -1 for none.
    """

    nonlinearity: Nonlinearity
    bias_BN: Tensor
    largest_linear_RBN: Tensor

    def inputs_of(self, entry_RBN: Tensor) -> Tensor:
        """What entries write to both inputs of their neurons, (R, B, 2N)."""
        return super().inputs_of(_for_both_inputs(entry_RBN))

    def bound(self) -> Tensor:
        """``I(b)`` of each sample, (B,)."""
        all_BN, dominant_BN = self._size_sums()
        return (all_BN - dominant_BN) @ self.sensitivity_N

    def bound_sum(self) -> Tensor:
        """Sum of :meth:`bound` over the samples."""
        return self.bound().sum()

    def add_gradients(
        self, strength: float, grad_kept_BN: Tensor | None, grad_values_A: Tensor
    ) -> Tensor:
        """Gradients as in :meth:`Contributions.add_gradients`, (M, 2N) for ``M``."""
        codes = self.codes
        grad_M_MN = torch.zeros_like(self.M_MN)
        if strength > 0 and len(codes.values_A):
            with torch.enable_grad():
                leaf = self.with_gradient()
                inputs = [leaf.codes.values_A, leaf.M_MN]
                grads = torch.autograd.grad(leaf.bound_sum(), inputs)
            grad_values_A.add_(grads[0], alpha=strength)
            grad_M_MN.add_(grads[1], alpha=strength)
        if grad_kept_BN is not None:
            entry_RBN = _for_both_inputs(self.entry_RBN)
            grad_RBN = grad_kept_BN.expand(entry_RBN.shape)
            kernels_for(self.M_MN.device).add_dominant_gradients(
                codes, self.M_MN, entry_RBN, grad_RBN, grad_values_A, grad_M_MN
            )
        return grad_M_MN

    def share_sum(self) -> tuple[Tensor, Tensor]:
        """Sum over neurons as in :meth:`Contributions.share_sum`, of the sizes."""
        all_BN, dominant_BN = self._size_sums()
        return share_sum(dominant_BN, all_BN)

    def rows(self, rows: slice) -> Self:
        """The contributions of some samples."""
        part = super().rows(rows)
        first = int(self.codes.bounds()[rows.start])
        largest_RBN = shifted(self.largest_linear_RBN[:, rows], first)
        bias_BN = self.bias_BN if len(self.bias_BN) == 1 else self.bias_BN[rows]
        return replace(part, largest_linear_RBN=largest_RBN, bias_BN=bias_BN)

    def _pairs(self, neurons: slice) -> tuple[Tensor, Tensor, Tensor]:
        sizes = self.entry_sizes(neurons)
        entry_BN = self.entry_RBN[0][:, neurons]
        pairs = self.codes.dominant_pairs(entry_BN)

        def sent(entry_S: Tensor) -> Tensor:
            return sizes(entry_S) * self.sensitivity_N[neurons]

        return pairs.different(pair_sums_of(self.codes, entry_BN, pairs, sent))

    def entry_sizes(self, neurons: slice = slice(None)) -> Callable[[Tensor], Tensor]:
        """Function from entries to their sizes at some neurons, (S, N).

        They are those of one dominant entry, so that it does not depend on how many
        are kept which one is the largest.
        """
        codes = self.codes
        gate_weight_BN, linear_weight_BN = (
            weight_BN[:, neurons] for weight_BN in self._weights(1)
        )
        gate_MN, linear_MN = (
            part_MN[:, neurons] for part_MN in self.M_MN.abs().chunk(2, dim=1)
        )

        def sizes(entry_S: Tensor) -> Tensor:
            rows_S, features_S = codes.rows_A[entry_S], codes.features_A[entry_S]
            size_SN = gate_weight_BN[rows_S] * gate_MN[features_S]
            size_SN += linear_weight_BN[rows_S] * linear_MN[features_S]
            return size_SN * codes.values_A[entry_S].unsqueeze(1)

        return sizes

    def _size_sums(self) -> tuple[Tensor, Tensor]:
        """Sizes of all entries and of the dominant ones at each neuron, (B, N)."""
        n_dominant = len(self.entry_RBN)
        gate_weight_BN, linear_weight_BN = self._weights(n_dominant)

        def weighted(input_BN: Tensor) -> Tensor:
            gate_BN, linear_BN = input_BN.chunk(2, dim=1)
            return gate_weight_BN * gate_BN + linear_weight_BN * linear_BN

        all_input_BN = self.codes.decode(self.M_MN.abs())
        entry_RBN = _for_both_inputs(self.entry_RBN)
        dominant_input_BN = written(self.codes, self.M_MN, entry_RBN).abs().sum(dim=0)
        return weighted(all_input_BN), weighted(dominant_input_BN)

    def _weights(self, n_dominant: int) -> tuple[Tensor, Tensor]:
        """Weights of what is written to the gate and to the linear factor, (B, N)."""
        gate_BN, _ = (self.all_inputs() + self.bias_BN).chunk(2, dim=1)
        _, linear_MN = self.M_MN.chunk(2, dim=1)
        largest_RBN = self.largest_linear_RBN[:n_dominant]
        largest_RBN = written(self.codes, linear_MN, largest_RBN).abs()
        _, linear_bias_BN = self.bias_BN.chunk(2, dim=1)
        linear_BN = linear_bias_BN.abs() + largest_RBN.sum(dim=0)
        return (
            self.nonlinearity.lipschitz * linear_BN,
            self.nonlinearity.function(gate_BN).abs(),
        )


def find_gated_contributions(
    codes: SparseCodes,
    M_MN: Tensor,
    output_norm_N: Tensor,
    nonlinearity: Nonlinearity,
    bias: Tensor,
    n_dominant: int,
) -> GatedContributions:
    """Find the dominant entries; see :class:`GatedContributions`.

    The bias, of shape (2N,) or (B, 2N), may be one for all samples.
    """
    _, linear_MN = M_MN.chunk(2, dim=1)
    n_dominant = at_most_all(n_dominant, codes)
    largest_linear_RBN = kernels_for(M_MN.device).dominant_entries(
        codes, linear_MN.contiguous(), n_dominant
    )
    contributions = GatedContributions(
        codes,
        M_MN,
        output_norm_N,
        largest_linear_RBN,  # until the sizes are known
        nonlinearity,
        bias.view(-1, M_MN.shape[1]),
        largest_linear_RBN,
    )
    sizes = contributions.entry_sizes()
    entry_RBN = largest_entries(codes, len(output_norm_N), n_dominant, sizes)
    return replace(contributions, entry_RBN=entry_RBN)


def _for_both_inputs(entry_RBN: Tensor) -> Tensor:
    """Entries of the neurons as entries of their inputs, (R, B, 2N)."""
    return torch.cat([entry_RBN, entry_RBN], dim=-1)
