r"""What the neurons of a gated MLP receive, and what its hidden activations move by.

A gated neuron is :math:`\varphi(g) v`. With the dominant features alone it has
:math:`g_D` and :math:`v_D`, with all features :math:`\hat g` and :math:`\hat v`. What
it truly receives is within :math:`r` of the first and :math:`\rho` of the second, each
factor with radii of its own: :math:`r` is the interaction and the residual together,
:math:`\rho` the residual alone.

*Intervals.* :math:`\varphi` maps the interval of the gate to one, the neuron is in its
product with the interval of the linear factor, of which the ends are among the products
of the ends.

*Lipschitz.* The interaction is bounded in :mod:`._gated_dominance`. The residual moves
the neuron by

.. math::

    \varphi(g) v - \varphi(\hat g) \hat v
    = (\varphi(g) - \varphi(\hat g)) \hat v + \varphi(g) (v - \hat v),

and :math:`|\varphi(g)| \le |\varphi(\hat g)| + \mathrm{Lip}(\varphi) \rho_g`, so that

.. math::

    |\varphi(g) v - \varphi(\hat g) \hat v|
    \le \mathrm{Lip}(\varphi) |\hat v| \rho_g
    + \bigl( |\varphi(\hat g)| + \mathrm{Lip}(\varphi) \rho_g \bigr) \rho_v.

Intervals are intersected with these, so that they are never looser.

A gated MLP has no Lipschitz constant. But all inputs within a distance :math:`\delta`
of the reconstruction have :math:`\rho \le \delta \|W[:, n]\|`. With the largest
:math:`|\hat v|` and :math:`|\varphi|` of the neurons before the sums over them,

.. math::

    \|f(x) - f(\hat x)\| \le \|W_{out}\|_2 \bigl(
    \mathrm{Lip}(\varphi) \max_n |\hat v_n| \, \|W_{gate}\|_2
    + \max_n (|\varphi(\hat g_n)| + \mathrm{Lip}(\varphi) \delta \|W_{gate}[:, n]\|)
    \, \|W_{in}\|_2 \bigr) \delta.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ..networks import row_norms
from ._explained_mlp import (
    ExplainedMLP,
    FeatureArray,
    FloatArray,
    IntArray,
    NeuronRanges,
    Range,
    RowArray,
)
from ._gated_box_ranges import gated_box_ranges
from ._gated_dominance import gated_contributions, gated_dominant_features
from ._intervals import nonlinearity_range, product_range
from ._nonlinearity import nonlinearity_value
from ._rounding import Rounding
from ._spectral_norm import spectral_norm


class ExplainedGatedMLP(ExplainedMLP):
    """A gated MLP and what the features write to its neurons, in float64.

    What the neurons receive has 2N columns, those of the gates and then those of the
    linear factors: so do ``W_in_DN``, ``M_MN`` and ``bias_N``.
    """

    def kept_input(
        self, codes_BM: sparse.csr_array, bias_BN: FloatArray, n_dominant: int
    ) -> FloatArray:
        activation = self.weights.activation
        return gated_contributions(
            codes_BM, self.M_MN, bias_BN, activation, n_dominant
        ).kept_BN

    def dominant_features(
        self, codes_BM: sparse.csr_array, n_dominant: int
    ) -> Iterator[tuple[RowArray, FeatureArray]]:
        activation = self.weights.activation
        return gated_dominant_features(
            codes_BM, self.M_MN, self.bias_N, activation, n_dominant
        )

    def sample_ranges(
        self,
        codes_BM: sparse.csr_array,
        bias_BN: FloatArray,
        residual_BN: FloatArray,
        rounding_BN: FloatArray,
        n_dominant: int,
    ) -> NeuronRanges:
        inputs = gated_contributions(
            codes_BM, self.M_MN, bias_BN, self.weights.activation, n_dominant
        )
        return NeuronRanges(
            code_lower_GM=codes_BM,
            code_upper_GM=codes_BM,
            kept_lower_GN=inputs.kept_BN,
            kept_upper_GN=inputs.kept_BN,
            recon_lower_GN=inputs.recon_BN,
            recon_upper_GN=inputs.recon_BN,
            interaction_GN=inputs.interaction_BN,
            residual_GN=residual_BN,
            rounding_GN=rounding_BN,
            moved_GN=inputs.moved_BN,
        )

    def box_ranges(
        self,
        lower_GM: sparse.csr_array,
        upper_GM: sparse.csr_array,
        max_active_G: IntArray,
        residual_GN: FloatArray,
        rounding_GN: FloatArray,
        n_dominant: int,
    ) -> NeuronRanges:
        ranges = gated_box_ranges(
            lower_GM,
            upper_GM,
            max_active_G,
            self.M_MN,
            self.bias_N,
            rounding_GN,
            self.weights.activation,
            n_dominant,
        )
        return NeuronRanges(
            code_lower_GM=lower_GM,
            code_upper_GM=upper_GM,
            kept_lower_GN=ranges.kept_lower_GN,
            kept_upper_GN=ranges.kept_upper_GN,
            recon_lower_GN=ranges.recon_lower_GN,
            recon_upper_GN=ranges.recon_upper_GN,
            interaction_GN=ranges.interaction_GN,
            residual_GN=residual_GN,
            rounding_GN=rounding_GN,
            moved_GN=ranges.moved_GN,
        )

    def hidden(self, input_BN: FloatArray) -> FloatArray:
        gate_BN, linear_BN = _factors(input_BN)
        return nonlinearity_value(self.weights.activation, gate_BN) * linear_BN

    def hidden_range(self, lower_GN: FloatArray, upper_GN: FloatArray) -> Range:
        gate, linear = self._factor_ranges(lower_GN, upper_GN)
        return product_range(gate, linear)

    def _factor_ranges(
        self, lower_GN: FloatArray, upper_GN: FloatArray
    ) -> tuple[Range, Range]:
        """Range of the gate's nonlinearity and of the linear factor."""
        gate_lower_GN, linear_lower_GN = _factors(lower_GN)
        gate_upper_GN, linear_upper_GN = _factors(upper_GN)
        activation = self.weights.activation
        gate = nonlinearity_range(activation, gate_lower_GN, gate_upper_GN)
        return gate, (linear_lower_GN, linear_upper_GN)

    def hidden_size(self, reach_GN: FloatArray) -> FloatArray:
        gate_GN, linear_GN = _factors(reach_GN)
        size_GN: FloatArray = super().hidden_size(gate_GN) * linear_GN
        return size_GN

    def rounding_of_hidden(
        self,
        received_GN: FloatArray,
        lower_GN: FloatArray,
        upper_GN: FloatArray,
        rounding: Rounding,
    ) -> FloatArray:
        return rounding.of_gated_hidden(self.weights, received_GN, lower_GN, upper_GN)

    def moved_by_residual(
        self, ranges: NeuronRanges, residual_GN: FloatArray
    ) -> FloatArray:
        gate, linear = self._factor_ranges(ranges.recon_lower_GN, ranges.recon_upper_GN)
        gate_residual_GN, linear_residual_GN = _factors(residual_GN)
        gate_moved_GN = self.weights.lipschitz * gate_residual_GN
        moved_GN: FloatArray = _largest(linear) * gate_moved_GN
        moved_GN += (_largest(gate) + gate_moved_GN) * linear_residual_GN
        return moved_GN

    def lipschitz_around(
        self, ranges: NeuronRanges, distance_B: FloatArray
    ) -> FloatArray:
        rounding_BN = ranges.rounding_GN
        gate, linear = self._factor_ranges(
            ranges.recon_lower_GN - rounding_BN, ranges.recon_upper_GN + rounding_BN
        )
        gate_norm, linear_norm, output_norm, gate_norm_N = self._norms
        lipschitz = self.weights.lipschitz
        moved_BN = lipschitz * distance_B[:, np.newaxis] * gate_norm_N
        open_B = (_largest(gate) + moved_BN).max(axis=1)
        steepest_B: FloatArray = lipschitz * gate_norm * _largest(linear).max(axis=1)
        return (steepest_B + linear_norm * open_B) * output_norm

    @cached_property
    def _norms(self) -> tuple[float, float, float, FloatArray]:
        """Spectral norms of gate, linear and output weights; norms of the gates'."""
        gate_DN, linear_DN = _factors(self.W_in_DN)
        return (
            spectral_norm(gate_DN),
            spectral_norm(linear_DN),
            spectral_norm(self.W_out_NO),
            row_norms(gate_DN.T),
        )


def _factors(array: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """The columns of the gates and those of the linear factors."""
    gate, linear = np.split(array, 2, axis=1)
    return gate, linear


def _largest(ends: Range) -> FloatArray:
    """Largest magnitude in an interval."""
    return np.maximum(np.abs(ends[0]), np.abs(ends[1]))
