r"""What gated neurons can receive from the codes in boxes.

Which feature of a code is dominant depends on the weights of its two contributions,
:math:`\mathrm{Lip}(\varphi) \bar v` and :math:`|\varphi(\hat g)|`
(:mod:`._gated_dominance`). In a box both have a range, and with them their share in
their sum. A size is linear in that share, so that its extremes are at the ends. Hence

- a feature can be dominant only if the most that its size can be is no less than the
  least of as many others as are kept; if it is, its code is large enough for that;
- the features that are not dominant contribute most to one factor where those of the
  least contributions there are dominant;
- their sizes, without those of the dominant ones, grow with every size: they add up to
  most where every code and both weights are at their upper ends. With more than one
  dominant feature :math:`\bar v` has more terms in the bound than in the sizes; what
  these add is counted by itself.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ._box_ranges import (
    blocks,
    largest,
    largest_interaction,
    padded_entries,
    range_of_dominant,
)
from ._intervals import nonlinearity_range
from ._nonlinearity import NONLINEARITIES
from ._rounding import TINY, UNIT_ROUNDOFF

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]

# A size is a sum of two products, of which the weights are sums and products too: it is
# off by less than so many roundoffs, relative to itself.
_SIZE_ROUNDOFFS = 64.0


@dataclass(frozen=True)
class GatedBoxRanges:
    """Ranges over boxes: 2N columns of what is received, those of the gates first.

    Parameters
    ----------
    kept_lower_GN, kept_upper_GN : ndarray of shape (G, 2N)
        Of the dominant contributions and the bias.
    recon_lower_GN, recon_upper_GN : ndarray of shape (G, 2N)
        Of all contributions and the bias.
    interaction_GN : ndarray of shape (G, 2N)
        Largest sum of the magnitudes of contributions that are not dominant.
    moved_GN : ndarray of shape (G, N)
        Most that these move the hidden activations.
    """

    kept_lower_GN: FloatArray
    kept_upper_GN: FloatArray
    recon_lower_GN: FloatArray
    recon_upper_GN: FloatArray
    interaction_GN: FloatArray
    moved_GN: FloatArray


def gated_box_ranges(
    lower_GM: sparse.csr_array,
    upper_GM: sparse.csr_array,
    max_active_G: npt.NDArray[np.int64],
    M_MN: FloatArray,
    bias_N: FloatArray,
    rounding_GN: FloatArray,
    activation: str,
    n_dominant: int,
) -> GatedBoxRanges:
    """Ranges of what gated neurons receive from the codes in boxes.

    Parameters
    ----------
    lower_GM, upper_GM : csr_array of shape (G, M)
        Range of each feature's code, with the same entries in the same order.
    max_active_G : ndarray of shape (G,), int64
        How many features may be active at once.
    M_MN : ndarray of shape (M, 2N)
        What one unit of each feature writes to the gates and the linear factors.
    bias_N : ndarray of shape (2N,)
        What they receive without features.
    rounding_GN : ndarray of shape (G, 2N)
        Bound on the rounding of what they receive.
    activation : str
        The gates' nonlinearity.
    n_dominant : int
        How many features a neuron keeps.
    """
    n_possible_G = np.diff(upper_GM.indptr)
    shape = len(n_possible_G), len(bias_N)
    n_neurons = shape[1] // 2
    kept_lower_GN, kept_upper_GN, recon_lower_GN, recon_upper_GN = np.broadcast_to(
        bias_N, (4, *shape)
    ).copy()
    interaction_GN = np.zeros(shape)
    moved_GN = np.zeros((shape[0], n_neurons))
    for boxes_K, n_slots, tile in blocks(n_possible_G, max_active_G, n_neurons):
        entry_KA, is_feature_KA = padded_entries(upper_GM, boxes_K, n_slots)
        tiles = tile, slice(n_neurons + tile.start, n_neurons + tile.stop)
        feature_KA = upper_GM.indices[entry_KA]
        codes = _Codes(
            np.where(is_feature_KA, lower_GM.data[entry_KA], 0.0)[:, :, np.newaxis],
            np.where(is_feature_KA, upper_GM.data[entry_KA], 0.0)[:, :, np.newaxis],
            is_feature_KA,
            max_active_G[boxes_K],
        )
        written = [M_MN[feature_KA, part] for part in tiles]
        for part, value_KAT in zip(tiles, written, strict=True):
            lower_KT, upper_KT = codes.range_of_sum(value_KAT)
            recon_lower_GN[boxes_K, part] += lower_KT
            recon_upper_GN[boxes_K, part] += upper_KT
        rounding_KT = rounding_GN[boxes_K, tile]
        open_range = nonlinearity_range(
            activation,
            recon_lower_GN[boxes_K, tile] - rounding_KT,
            recon_upper_GN[boxes_K, tile] + rounding_KT,
        )
        sizes = _Sizes(
            codes,
            np.abs(written[0]),
            np.abs(written[1]),
            np.abs(bias_N[tiles[1]]),
            *_magnitude(*open_range),
            NONLINEARITIES[activation].lipschitz,
            n_dominant,
        )
        can_dominate_KAT, least_KAT = sizes.dominant()
        for part, value_KAT in zip(tiles, written, strict=True):
            magnitude_KAT = np.abs(value_KAT)
            most_KAT = codes.most_KA1 * magnitude_KAT
            lower_KT, upper_KT = range_of_dominant(
                least_KAT * magnitude_KAT,
                most_KAT,
                value_KAT > 0,
                can_dominate_KAT,
                n_dominant,
            )
            kept_lower_GN[boxes_K, part] += lower_KT
            kept_upper_GN[boxes_K, part] += upper_KT
            interaction_GN[boxes_K, part] = codes.largest_without_dominant(
                most_KAT, can_dominate_KAT, n_dominant
            )
        moved_GN[boxes_K, tile] = sizes.moved(interaction_GN[boxes_K, tile])
    return GatedBoxRanges(
        kept_lower_GN,
        kept_upper_GN,
        recon_lower_GN,
        recon_upper_GN,
        interaction_GN,
        moved_GN,
    )


@dataclass(frozen=True)
class _Codes:
    """The codes of some boxes.

    Parameters
    ----------
    least_KA1, most_KA1 : ndarray of shape (K, A, 1)
        Range of each feature's code, 0 for none.
    is_feature_KA : ndarray of shape (K, A)
        Where there is a feature.
    max_active_K : ndarray of shape (K,)
        How many features may be active at once.
    """

    least_KA1: FloatArray
    most_KA1: FloatArray
    is_feature_KA: BoolArray
    max_active_K: IntArray

    @property
    def n_possible_K(self) -> IntArray:
        """How many features can be active."""
        return np.count_nonzero(self.is_feature_KA, axis=1)

    @property
    def is_crowded(self) -> bool:
        """Whether they cannot all be at once: so in all boxes of a block or none."""
        return bool((self.n_possible_K > self.max_active_K).any())

    def range_of_sum(self, value_KAT: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Range of ``sum_h a_h value_h``, (K, T): exactly what the codes can give."""
        ends = self.least_KA1 * value_KAT, self.most_KA1 * value_KAT
        return -self._largest_sum(-np.minimum(*ends)), self._largest_sum(
            np.maximum(*ends)
        )

    def _largest_sum(self, most_KAT: FloatArray) -> FloatArray:
        if not self.is_crowded:
            sum_KT: FloatArray = most_KAT.sum(axis=1)
            return sum_KT
        # What is always active counts in any case; of the rest, as many as there is
        # room for.
        is_certain_KA1 = self.least_KA1 > 0
        n_free_K = self.max_active_K - np.count_nonzero(is_certain_KA1[:, :, 0], axis=1)
        certain_KT = np.where(is_certain_KA1, most_KAT, 0.0).sum(axis=1)
        other_KAT = np.where(is_certain_KA1, 0.0, most_KAT)
        return _sum_of_first(other_KAT, n_free_K) + certain_KT

    def largest_without_dominant(
        self, most_KAT: FloatArray, can_dominate_KAT: BoolArray, n_dominant: int
    ) -> FloatArray:
        """Largest sum of terms of features that are not dominant, (K, T)."""
        candidate_KAT = np.where(can_dominate_KAT, most_KAT, np.inf)
        if n_dominant == 1:
            dominant_KRT = candidate_KAT.argmin(axis=1, keepdims=True)
        else:
            order_KAT = np.argsort(candidate_KAT, axis=1)
            dominant_KRT = order_KAT[:, :n_dominant]
        other_KAT = most_KAT.copy()
        np.put_along_axis(other_KAT, dominant_KRT, 0.0, axis=1)
        if not self.is_crowded:
            sum_KT: FloatArray = other_KAT.sum(axis=1)
            return sum_KT
        return _sum_of_first(other_KAT, self.max_active_K - n_dominant)


@dataclass(frozen=True)
class _Sizes:
    """The sizes that decide which features of some boxes are dominant.

    Parameters
    ----------
    codes : _Codes
        The codes.
    gate_KAT, linear_KAT : ndarray of shape (K, A, T)
        Magnitude of what one unit of each feature writes to gate and linear factor.
    bias_size_T : ndarray of shape (T,)
        Magnitude of the linear factor without features.
    open_lower_KT, open_upper_KT : ndarray of shape (K, T)
        Range of ``|phi|`` on the reconstruction.
    lipschitz : float
        Lipschitz constant of the nonlinearity.
    n_dominant : int
        How many features a neuron keeps.
    """

    codes: _Codes
    gate_KAT: FloatArray
    linear_KAT: FloatArray
    bias_size_T: FloatArray
    open_lower_KT: FloatArray
    open_upper_KT: FloatArray
    lipschitz: float
    n_dominant: int

    def _gate_weight(self, code_KA1: FloatArray) -> FloatArray:
        """Weight of the contributions to the gate where these are the codes, (K, T)."""
        largest_KT = (code_KA1 * self.linear_KAT).max(axis=1)
        weight_KT: FloatArray = self.lipschitz * (self.bias_size_T + largest_KT)
        return weight_KT

    def dominant(self) -> tuple[BoolArray, FloatArray]:
        """Which features can be dominant, and the least code of each where it is.

        Both have the shape (K, A, T). The shares of the weights may be off by rounding,
        which the comparison allows for.
        """
        codes = self.codes
        gate_least_KT = self._gate_weight(codes.least_KA1)
        gate_most_KT = self._gate_weight(codes.most_KA1)
        slopes = [
            _share(gate_KT, open_KT, nothing) * self.gate_KAT
            + _share(open_KT, gate_KT, 1.0 - nothing) * self.linear_KAT
            for gate_KT, open_KT, nothing in (
                (gate_most_KT, self.open_lower_KT, 1.0),
                (gate_least_KT, self.open_upper_KT, 0.0),
            )
        ]
        least_slope_KAT, most_slope_KAT = np.minimum(*slopes), np.maximum(*slopes)
        threshold_K1T = np.zeros((len(gate_least_KT), 1, gate_least_KT.shape[1]))
        if self.n_dominant <= self.gate_KAT.shape[1]:
            least_size_KAT = codes.least_KA1 * least_slope_KAT
            threshold_K1T = largest(least_size_KAT, self.n_dominant)
            threshold_K1T = threshold_K1T.min(axis=1, keepdims=True)
        relative = 1.0 - _SIZE_ROUNDOFFS * UNIT_ROUNDOFF
        threshold_K1T = threshold_K1T * relative
        # Without any weight all sizes are 0, and the order of the features decides.
        has_weight_KT = (gate_least_KT > 0) | (self.open_lower_KT > 0)
        has_weight_KT &= threshold_K1T[:, 0] > TINY
        threshold_K1T[~has_weight_KT[:, np.newaxis]] = 0.0
        can_dominate_KAT = ~(codes.most_KA1 * most_slope_KAT < threshold_K1T)
        can_dominate_KAT &= codes.is_feature_KA[:, :, np.newaxis]
        least_KAT = np.divide(
            threshold_K1T * relative,
            most_slope_KAT,
            out=np.zeros_like(most_slope_KAT),
            where=most_slope_KAT > 0,
        )
        least_KAT = np.maximum(least_KAT, codes.least_KA1)
        return can_dominate_KAT, np.minimum(least_KAT, codes.most_KA1)

    def moved(self, gate_interaction_KT: FloatArray) -> FloatArray:
        """Most that features that are not dominant move the hidden activations, (K, T).

        Parameters
        ----------
        gate_interaction_KT : ndarray of shape (K, T)
            Most that they contribute to the gate.
        """
        codes = self.codes
        gate_weight_KT = self._gate_weight(codes.most_KA1)
        slope_KAT = gate_weight_KT[:, np.newaxis] * self.gate_KAT
        slope_KAT += self.open_upper_KT[:, np.newaxis] * self.linear_KAT
        moved_KT = largest_interaction(
            codes.most_KA1 * slope_KAT,
            codes.n_possible_K,
            codes.max_active_K,
            self.n_dominant,
        )
        if self.n_dominant > 1:
            falling_KAT = -np.sort(-codes.most_KA1 * self.linear_KAT, axis=1)
            further_KT = falling_KAT[:, 1 : self.n_dominant].sum(axis=1)
            moved_KT += self.lipschitz * further_KT * gate_interaction_KT
        return moved_KT


def _share(one: FloatArray, other: FloatArray, of_nothing: float) -> FloatArray:
    """``one / (one + other)``, (K, 1, T)."""
    both = one + other
    share = np.divide(one, both, out=np.full_like(both, of_nothing), where=both > 0)
    return share[:, np.newaxis]


def _magnitude(lower: FloatArray, upper: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Range of the magnitude of what is in an interval."""
    at_ends = np.abs(lower), np.abs(upper)
    has_zero = (lower <= 0) & (upper >= 0)
    return np.where(has_zero, 0.0, np.minimum(*at_ends)), np.maximum(*at_ends)


def _sum_of_first(values_KAT: FloatArray, n_values_K: IntArray) -> FloatArray:
    """Sum of so many of the largest values of each row, (K, T)."""
    counts_KA = np.arange(values_KAT.shape[1]) < n_values_K[:, np.newaxis]
    falling_KAT = -np.sort(-values_KAT, axis=1)
    sum_KT: FloatArray = np.einsum("kat,ka->kt", falling_KAT, counts_KA * 1.0)
    return sum_KT
