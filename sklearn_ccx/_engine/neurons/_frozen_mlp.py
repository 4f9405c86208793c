"""An MLP that reads a site, as frozen tensors in the model's training units."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from .._sparse_codes import SparseCodes
from ._contributions import Contributions, find_contributions
from ._frozen_norm import FrozenNorm
from ._nonlinearity import Nonlinearity


@dataclass(frozen=True)
class DataScale:
    """How much some data send through an MLP; see :class:`FrozenMLP`."""

    mass: float
    output_variance: float
    output_unit: float


@dataclass(frozen=True)
class FrozenMLP:
    r"""``phi(x W_in + bias) W_out`` on one site; no tensor requires a gradient.

    The bias of the output is left out of :meth:`output`: no difference of outputs
    depends on it.

    Parameters
    ----------
    site : int
        The site that is read.
    nonlinearity : Nonlinearity
        The neurons' nonlinearity.
    W_in_DN : Tensor of shape (D, N) or None
        Input weights; None stands for the identity: each coordinate is a neuron. Behind
        a norm its centring and its weight are among them.
    W_out_NO : Tensor of shape (N, O) or None
        Output weights; None stands for the identity.
    bias_N : Tensor of shape (N,)
        What a neuron receives when no feature is active: its own bias and, unless there
        is a norm, what the decoder's bias writes to it.
    output_norm_N : Tensor of shape (N,)
        Euclidean norm of each neuron's output weights.
    site_scale : float
        Factor from the user's units to the training units at the site. It is
        divided out, so that the neurons receive what the real network sends them.
    mass : float
        :math:`\mathrm{Lip}(\varphi) E_b \sum_n \|W_{out}[n]\| |(x - \bar x) W_{in}|`,
        what the bound would be if the neurons received the centred data from features
        that all interact.
    output_variance : float
        Total variance of the MLP's output over the data, divided by the square of
        `output_unit`.
    output_unit : float
        A power of two near the output's standard deviation. What is squared is divided
        by it first, so that neither huge nor tiny activations leave the precision.
    b_out_O : Tensor of shape (O,) or None
        Bias of the output; None is zero.
    norm : FrozenNorm or None
        The normalisation between the site and the neurons.
    norm_scale_B1 : Tensor of shape (B, 1) or None
        With a norm, the scales of the samples that the MLP is for; see :meth:`on`.
    """

    site: int
    nonlinearity: Nonlinearity
    W_in_DN: Tensor | None
    W_out_NO: Tensor | None
    bias_N: Tensor
    output_norm_N: Tensor
    site_scale: float = 1.0
    mass: float = 1.0
    output_variance: float = 1.0
    output_unit: float = 1.0
    b_out_O: Tensor | None = None
    norm: FrozenNorm | None = None
    norm_scale_B1: Tensor | None = None

    @property
    def sensitivity_N(self) -> Tensor:
        """How far the output can move for each unit a neuron receives, (N,)."""
        return self.nonlinearity.lipschitz * self.output_norm_N

    @property
    def input_norm(self) -> Tensor:
        """:attr:`sensitivity_N` of the neuron that each input belongs to, (N,)."""
        return self.sensitivity_N

    def neuron_inputs(self, rows_F: Tensor) -> Tensor:
        """``rows[:, site] W_in``: what rows in training units write to the neurons.

        Rows of the decoder give ``M``. Behind a norm it is yet to be divided by the
        scale of a sample.
        """
        rows_D = self._user_rows(rows_F)
        if self.W_in_DN is None:
            return rows_D
        return (rows_D @ self.W_in_DN).to(rows_F.dtype)

    def on(self, x_BF: Tensor) -> Self:
        """The MLP for some samples: behind a norm each of them has its own scale.

        Without a norm it is the MLP itself.
        """
        if self.norm is None:
            return self
        return replace(self, norm_scale_B1=self.norm.scales(self._user_rows(x_BF)))

    def received(self, x_BF: Tensor) -> Tensor:
        """What the neurons receive from samples beside their bias, (B, N).

        Behind a norm these are the samples of :meth:`on`.
        """
        input_BN = self.neuron_inputs(x_BF)
        if self.norm is None:
            return input_BN
        return input_BN / self._scales()

    @cached_property
    def input_bias(self) -> Tensor:
        """What the neurons receive without features, (N,); behind a norm (B, N)."""
        if self.norm is None:
            return self.bias_N
        return self.bias_N + self.norm.offset_written_N / self._scales()

    def scaled(self, codes: SparseCodes) -> SparseCodes:
        """The codes as the neurons see them, divided by the scales of the samples."""
        if self.norm is None:
            return codes
        return codes.divided_by(self._scales().squeeze(1))

    def _scales(self) -> Tensor:
        assert self.norm_scale_B1 is not None, "a norm needs samples: call on() first"
        return self.norm_scale_B1

    def add_row_gradients(self, grad_N: Tensor, grad_F: Tensor) -> None:
        """Add the gradient of :meth:`neuron_inputs` to that of the rows, in place."""
        grad_D = self._read_columns(grad_F)
        if self.W_in_DN is None:
            grad_D.add_(grad_N, alpha=1.0 / self.site_scale)
        elif torch.is_autocast_enabled(grad_N.device.type):  # not for addmm_
            grad_D.add_(grad_N @ self.W_in_DN.T, alpha=1.0 / self.site_scale)
        else:
            grad_D.addmm_(grad_N, self.W_in_DN.T, alpha=1.0 / self.site_scale)

    def _user_rows(self, rows_F: Tensor) -> Tensor:
        return self._read_columns(rows_F) / self.site_scale

    def _read_columns(self, rows_F: Tensor) -> Tensor:
        width = len(self.bias_N if self.W_in_DN is None else self.W_in_DN)
        return rows_F[:, self.site * width : (self.site + 1) * width]

    def contributions(
        self, codes: SparseCodes, M_MN: Tensor, n_dominant: int
    ) -> Contributions:
        """What the features of a batch write to the neurons.

        Behind a norm it is the batch of :meth:`on`.
        """
        return find_contributions(
            self.scaled(codes), M_MN, self.sensitivity_N, n_dominant
        )

    def sent_mass(self, input_BN: Tensor, mean_BN: Tensor) -> Tensor:
        """Mass that the neurons receive from centred inputs, (B,).

        What the mean writes to a neuron, of shape (1, N) or (B, N), is no part of it.
        """
        return input_BN.abs() @ self.sensitivity_N

    def output(self, input_BN: Tensor) -> Tensor:
        """``phi(input + bias) W_out``."""
        hidden_BN = self.hidden(input_BN)
        if self.W_out_NO is None:
            return hidden_BN
        return (hidden_BN @ self.W_out_NO).to(hidden_BN.dtype)

    def hidden(self, input_BN: Tensor) -> Tensor:
        """``phi(input + bias)``."""
        return self.nonlinearity.function(input_BN + self.input_bias)

    def squared_errors(self, output_BO: Tensor, true_BO: Tensor) -> Tensor:
        """Squared distance of outputs in units of ``output_unit ** 2``, (B,)."""
        return ((output_BO - true_BO) / self.output_unit).square().sum(dim=1)

    def in_training_units(self, site_scale: float) -> Self:
        """Copy that reads rows scaled by ``site_scale``."""
        return replace(self, site_scale=site_scale)

    def with_data_scale(self, scale: DataScale) -> Self:
        """Copy with the constants that make its loss terms dimensionless."""
        return replace(
            self,
            mass=scale.mass,
            output_variance=scale.output_variance,
            output_unit=scale.output_unit,
        )
