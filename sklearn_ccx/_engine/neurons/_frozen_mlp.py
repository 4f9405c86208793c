"""An MLP that reads a site, as frozen tensors in the model's training units."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ._contributions import Contributions, find_contributions
from ._nonlinearity import Nonlinearity
from .._sparse_codes import SparseCodes


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
        Input weights; None stands for the identity: each coordinate is a neuron.
    W_out_NO : Tensor of shape (N, O) or None
        Output weights; None stands for the identity.
    bias_N : Tensor of shape (N,)
        What a neuron receives when no feature is active: its own bias and what
        the decoder's bias writes to it.
    output_norm_N : Tensor of shape (N,)
        Euclidean norm of each neuron's output weights.
    site_scale : float
        Factor from the user's units to the training units at the site. It is
        divided out, so that the neurons receive what the real network sends them.
    mass : float
        :math:`E_b \sum_n \|W_{out}[n]\| |(x - \bar x) W_{in}|`, the mass that the
        neurons receive from the centred data.
    output_variance : float
        Total variance of the MLP's output over the data.
    b_out_O : Tensor of shape (O,) or None
        Bias of the output; None is zero.
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
    b_out_O: Tensor | None = None

    @property
    def bound_factor(self) -> float:
        """Constant that the bound of :meth:`contributions` leaves out."""
        return self.nonlinearity.lipschitz

    @property
    def input_norm(self) -> Tensor:
        """Output norm of the neuron that each input belongs to, (N,)."""
        return self.output_norm_N

    def neuron_inputs(self, rows_F: Tensor) -> Tensor:
        """``rows[:, site] W_in``: what rows in training units write to the neurons.

        Rows of the decoder give ``M``, rows of the data the neurons' input.
        """
        rows_D = self._read_columns(rows_F) / self.site_scale
        if self.W_in_DN is None:
            return rows_D
        return (rows_D @ self.W_in_DN).to(rows_F.dtype)

    def add_row_gradients(self, grad_N: Tensor, grad_F: Tensor) -> None:
        """Add the gradient of :meth:`neuron_inputs` to that of the rows, in place."""
        grad_D = self._read_columns(grad_F)
        if self.W_in_DN is None:
            grad_D.add_(grad_N, alpha=1.0 / self.site_scale)
        elif torch.is_autocast_enabled(grad_N.device.type):  # not for addmm_
            grad_D.add_(grad_N @ self.W_in_DN.T, alpha=1.0 / self.site_scale)
        else:
            grad_D.addmm_(grad_N, self.W_in_DN.T, alpha=1.0 / self.site_scale)

    def _read_columns(self, rows_F: Tensor) -> Tensor:
        width = len(self.bias_N if self.W_in_DN is None else self.W_in_DN)
        return rows_F[:, self.site * width : (self.site + 1) * width]

    def contributions(
        self, codes: SparseCodes, M_MN: Tensor, n_dominant: int
    ) -> Contributions:
        """What the features of a batch write to the neurons."""
        return find_contributions(codes, M_MN, self.output_norm_N, n_dominant)

    def sent_mass(self, input_BN: Tensor, mean_N: Tensor) -> Tensor:
        """Mass that the neurons receive from centred inputs, (B,).

        What the mean writes to a neuron, ``mean_N``, is no part of it.
        """
        return input_BN.abs() @ self.output_norm_N

    def output(self, input_BN: Tensor) -> Tensor:
        """``phi(input + bias) W_out``."""
        hidden_BN = self.hidden(input_BN)
        if self.W_out_NO is None:
            return hidden_BN
        return (hidden_BN @ self.W_out_NO).to(hidden_BN.dtype)

    def hidden(self, input_BN: Tensor) -> Tensor:
        """``phi(input + bias)``."""
        return self.nonlinearity.function(input_BN + self.bias_N)

    def in_training_units(self, site_scale: float) -> "FrozenMLP":
        """Copy that reads rows scaled by ``site_scale``."""
        return replace(self, site_scale=site_scale)

    def with_data_scale(self, mass: float, output_variance: float) -> "FrozenMLP":
        """Copy with the two constants that make its loss terms dimensionless."""
        return replace(self, mass=mass, output_variance=output_variance)


@torch.no_grad()
def measure_data_scale(
    mlp: FrozenMLP, batches: Iterable[Tensor], mean_F: Tensor
) -> tuple[float, float]:
    """Measure the two constants of :meth:`FrozenMLP.with_data_scale` on data.

    Parameters
    ----------
    mlp : FrozenMLP
        The MLP.
    batches : iterable of Tensor of shape (B, F)
        The data in training units.
    mean_F : Tensor of shape (F,)
        Its mean. What the mean writes to a neuron does not count as mass.

    Returns
    -------
    mass, output_variance : float
        Infinite where the data sends nothing, so that the term vanishes.
    """
    n_samples, mass = 0, 0.0
    mean_input_N = mlp.neuron_inputs(mean_F.unsqueeze(0))[0]
    shift_O: Tensor | None = None
    sum_O = sum_of_squares_O = mlp.bias_N.new_zeros((), dtype=torch.float64)
    for x_BF in batches:
        n_samples += len(x_BF)
        input_BN = mlp.neuron_inputs(x_BF - mean_F)
        mass += float(mlp.sent_mass(input_BN, mean_input_N).double().sum())
        output_BO = mlp.output(mlp.neuron_inputs(x_BF)).double()
        if shift_O is None:  # a shift near the mean keeps the sums from cancelling
            shift_O = output_BO.mean(dim=0)
        output_BO -= shift_O
        sum_O = sum_O + output_BO.sum(dim=0)
        sum_of_squares_O = sum_of_squares_O + output_BO.square().sum(dim=0)
    variance_O = sum_of_squares_O / n_samples - (sum_O / n_samples).square()
    return mass / n_samples or math.inf, float(variance_O.sum()) or math.inf
