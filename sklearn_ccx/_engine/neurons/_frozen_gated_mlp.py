"""A gated MLP that reads a site, as frozen tensors."""

from dataclasses import dataclass

from torch import Tensor

from .._sparse_codes import SparseCodes
from ._frozen_mlp import FrozenMLP
from ._gated_contributions import GatedContributions, find_gated_contributions


@dataclass(frozen=True)
class FrozenGatedMLP(FrozenMLP):
    r"""``(phi(x W_gate + bias_gate) * (x W_linear + bias_linear)) W_out``.

    Parameters
    ----------
    nonlinearity : Nonlinearity
        The gate's.
    W_in_DN : Tensor of shape (D, 2N)
        ``W_gate`` and ``W_linear`` side by side.
    bias_N : Tensor of shape (2N,)
        ``bias_gate`` and ``bias_linear``, with what the decoder's bias writes unless
        there is a norm.
    mass : float
        Mean of :math:`\sum_n \|W_{out}[n]\| s_n` with the size :math:`s_n` that the
        centred data would have at the neuron if it were a single feature.
    site, W_out_NO, output_norm_N, site_scale, output_variance, output_unit, b_out_O, \
norm, norm_scale_B1
        As in :class:`FrozenMLP`.
    """

    @property
    def sensitivity_N(self) -> Tensor:
        """Output norms: the Lipschitz constant is part of the contributions' sizes."""
        return self.output_norm_N

    @property
    def input_norm(self) -> Tensor:
        """Output norm of the neuron that each input belongs to, (2N,)."""
        return self.output_norm_N.repeat(2)

    def contributions(
        self, codes: SparseCodes, M_MN: Tensor, n_dominant: int
    ) -> GatedContributions:
        """What the features of a batch write to the neurons."""
        return find_gated_contributions(
            self.scaled(codes),
            M_MN,
            self.output_norm_N,
            self.nonlinearity,
            self.input_bias,
            n_dominant,
        )

    def sent_mass(self, input_BN: Tensor, mean_BN: Tensor) -> Tensor:
        """Mass that the neurons receive from centred inputs, (B,)."""
        bias_gate_BN, bias_linear_BN = (self.input_bias + mean_BN).chunk(2, dim=1)
        gate_BN, linear_BN = input_BN.chunk(2, dim=1)
        open_BN = self.nonlinearity.function(gate_BN + bias_gate_BN).abs()
        largest_BN = bias_linear_BN.abs() + linear_BN.abs()
        size_BN = self.nonlinearity.lipschitz * largest_BN * gate_BN.abs()
        size_BN += open_BN * linear_BN.abs()
        return size_BN @ self.output_norm_N

    def hidden(self, input_BN: Tensor) -> Tensor:
        """``phi(gate) * linear`` of the inputs and their bias, (B, N)."""
        gate_BN, linear_BN = (input_BN + self.input_bias).chunk(2, dim=1)
        return self.nonlinearity.function(gate_BN) * linear_BN
