r"""What the neurons of an MLP can receive, for samples and for sets of codes.

On a sample :math:`b`, neuron :math:`n` keeps its dominant contributions, which with the
bias are :math:`c_{bn}`. What it truly receives differs from that by at most

.. math::

    r_{bn} = \underbrace{\sum_{h \notin D_{bn}} |p_{bnh}|}_{\text{interaction}}
           + \underbrace{|((x_b - \hat x_b) W_{in})_n|}_{\text{reconstruction}}.

A :class:`CodeBoxes` has the same for every code and residual inside given ranges. All
ranges here are those of exact arithmetic up to :attr:`NeuronRanges.rounding_GN`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..networks._mlp_weights import MLPWeights
from ._intervals import TINY, UNIT_ROUNDOFF, gamma

FloatArray = npt.NDArray[np.float64]

# The kept contribution, the interaction, the residual, and the two sides of an actual
# error are each off by at most one gamma times the magnitudes: five, and some.
_ROUNDED_TERMS = 8.0

# Elements of (features, neurons) that a box is worked through at a time.
_MAX_TILE = 2**22


@dataclass(frozen=True)
class NeuronRanges:
    """Ranges of what the neurons of one MLP receive, for G samples or boxes.

    Parameters
    ----------
    code_lower_GM, code_upper_GM : ndarray of shape (G, M)
        Range of the codes; equal for a sample.
    kept_lower_GN, kept_upper_GN : ndarray of shape (G, N)
        Range of the dominant contributions and the bias; equal for a sample.
    interaction_GN, residual_GN : ndarray of shape (G, N)
        Most that the other features and the residual add, in magnitude.
    rounding_GN : ndarray of shape (G, N)
        Bound on the rounding of all of these, and of what is compared with them.
    """

    code_lower_GM: FloatArray
    code_upper_GM: FloatArray
    kept_lower_GN: FloatArray
    kept_upper_GN: FloatArray
    interaction_GN: FloatArray
    residual_GN: FloatArray
    rounding_GN: FloatArray


class ExplainedMLP:
    """An MLP and what the features write to its neurons, in float64.

    Parameters
    ----------
    weights : MLPWeights
        The MLP.
    components : ndarray of shape (M, F)
        Decoder of all sites.
    intercept : ndarray of shape (F,)
        Its bias.
    unit_roundoff : float
        That of the precision in which the network is run; the explanation and the
        bounds are computed in float64.

    Attributes
    ----------
    columns : slice
        The columns of the site that the MLP reads.
    M_MN : ndarray of shape (M, N)
        What one unit of each feature writes to each neuron.
    bias_N : ndarray of shape (N,)
        What a neuron receives when no feature is active.
    output_norm_N : ndarray of shape (N,)
        Euclidean norm of each neuron's output weights.
    """

    def __init__(
        self,
        weights: MLPWeights,
        components: npt.NDArray[np.floating],
        intercept: npt.NDArray[np.floating],
        unit_roundoff: float = UNIT_ROUNDOFF,
    ) -> None:
        width = len(weights.W_in)
        self.weights = weights
        self.unit_roundoff = unit_roundoff
        self.columns = slice(weights.site * width, (weights.site + 1) * width)
        self.W_in_DN = weights.W_in.astype(np.float64)
        self.W_out_NO = weights.W_out.astype(np.float64)
        self.b_in_N = weights.b_in.astype(np.float64)
        self.b_out_O = weights.b_out.astype(np.float64)
        self.W_dec_MD = components[:, self.columns].astype(np.float64)
        self.b_dec_D = intercept[self.columns].astype(np.float64)
        self.M_MN = self.W_dec_MD @ self.W_in_DN
        self.bias_N = self.b_in_N + self.b_dec_D @ self.W_in_DN
        self.output_norm_N = np.linalg.norm(self.W_out_NO, axis=1)

    def residual(self, codes_BM: FloatArray, x_BF: FloatArray) -> FloatArray:
        """Magnitude of what the residual sends to the neurons, (B, N)."""
        recon_BD = codes_BM @ self.W_dec_MD + self.b_dec_D
        sent_BN: FloatArray = (x_BF[:, self.columns] - recon_BD) @ self.W_in_DN
        return np.abs(sent_BN)

    def rounding(self, size_GD: FloatArray, slack: float) -> FloatArray:
        """Bound on the rounding of what the neurons receive, (G, N).

        Parameters
        ----------
        size_GD : ndarray of shape (G, D)
            Sum of the magnitudes that make up activations, reconstruction and
            residual.
        slack : float
            How many times the bound to take.
        """
        n_features, width = self.W_dec_MD.shape
        mass_GN = size_GD @ np.abs(self.W_in_DN) + np.abs(self.b_in_N)
        relative = _ROUNDED_TERMS * gamma(n_features + width + 16)
        relative += gamma(width + 16, self.unit_roundoff)
        return slack * (relative * mass_GN + TINY)


def sample_ranges(
    mlp: ExplainedMLP,
    codes_BM: FloatArray,
    x_BF: FloatArray,
    n_dominant: int,
    slack: float,
) -> NeuronRanges:
    """Ranges of samples: the code and the residual of each are known."""
    residual_BN = mlp.residual(codes_BM, x_BF)
    x_BD = x_BF[:, mlp.columns]
    size_BD = np.abs(x_BD) + codes_BM @ np.abs(mlp.W_dec_MD) + np.abs(mlp.b_dec_D)
    _, kept_RBN, interaction_BN = dominant_contributions(codes_BM, mlp.M_MN, n_dominant)
    kept_BN = kept_RBN.sum(axis=0) + mlp.bias_N
    rounding_BN = mlp.rounding(size_BD, slack)
    return NeuronRanges(
        code_lower_GM=codes_BM,
        code_upper_GM=codes_BM,
        kept_lower_GN=kept_BN,
        kept_upper_GN=kept_BN,
        interaction_GN=interaction_BN,
        residual_GN=residual_BN,
        rounding_GN=rounding_BN,
    )


def dominant_contributions(
    codes_BM: FloatArray, M_MN: FloatArray, n_dominant: int
) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray]:
    """Dominant features, their contributions, and the sum of the others' magnitudes.

    The magnitudes of those that are not dominant are added up as they lose, so that
    nothing cancels.

    Returns
    -------
    feature_RBN : ndarray of shape (R, B, N), int64
        Features by falling magnitude, -1 for none; ties go to the lower index.
    kept_RBN : ndarray of shape (R, B, N)
        Their contributions.
    interaction_BN : ndarray of shape (B, N)
        Sum of the magnitudes of the others.
    """
    n_samples, n_neurons = len(codes_BM), M_MN.shape[1]
    kept_RBN = np.zeros((n_dominant, n_samples, n_neurons))
    feature_RBN = np.full(kept_RBN.shape, -1, dtype=np.int64)
    interaction_BN = np.zeros((n_samples, n_neurons))
    is_active_BM = codes_BM > 0
    # Active features come first, by index; slot by slot nothing exceeds (B, N).
    order_BM = np.argsort(~is_active_BM, axis=1, kind="stable")
    n_active_B = is_active_BM.sum(axis=1)
    for slot in range(n_active_B.max(initial=0)):
        rows_S = np.flatnonzero(n_active_B > slot)
        feature_S = order_BM[rows_S, slot]
        value_SN = codes_BM[rows_S, feature_S, np.newaxis] * M_MN[feature_S]
        feature_SN = np.repeat(feature_S[:, np.newaxis], n_neurons, axis=1)
        for kept_BN, held_BN in zip(kept_RBN, feature_RBN, strict=True):
            old_SN, old_feature_SN = kept_BN[rows_S], held_BN[rows_S]
            wins_SN = np.abs(value_SN) > np.abs(old_SN)
            kept_BN[rows_S] = np.where(wins_SN, value_SN, old_SN)
            held_BN[rows_S] = np.where(wins_SN, feature_SN, old_feature_SN)
            value_SN = np.where(wins_SN, old_SN, value_SN)
            feature_SN = np.where(wins_SN, old_feature_SN, feature_SN)
        interaction_BN[rows_S] += np.abs(value_SN)
    return feature_RBN, kept_RBN, interaction_BN


@dataclass(frozen=True)
class CodeBoxes:
    """G sets of codes: the range of each feature, and the most active features.

    A sample is in a set if its code is and if what its residual sends to each neuron is
    no larger than given. For the rounding, no coordinate of its residual may be larger
    than on the samples that the set was made of.

    Parameters
    ----------
    lower_GM, upper_GM : ndarray of shape (G, M)
        Range of each feature's code.
    max_active_G : ndarray of shape (G,), int
        How many features may be active at once.
    size_GF : ndarray of shape (G, F)
        Largest magnitude of each activation; for the rounding only.
    residuals : list of ndarray of shape (G, N)
        For each MLP, the largest magnitude of what the residual sends to its neurons.
    """

    lower_GM: FloatArray
    upper_GM: FloatArray
    max_active_G: npt.NDArray[np.int64]
    size_GF: FloatArray
    residuals: list[FloatArray]

    def __len__(self) -> int:
        return len(self.lower_GM)

    def ranges(
        self,
        mlp: ExplainedMLP,
        mlp_index: int,
        n_dominant: int,
        batch: slice,
        slack: float,
    ) -> NeuronRanges:
        """Ranges of the neurons of one MLP, for some of the boxes."""
        recon_GD = self.upper_GM[batch] @ np.abs(mlp.W_dec_MD) + np.abs(mlp.b_dec_D)
        # With a reconstruction of its own and the residual of a sample, activations may
        # be larger than the samples': by the reconstructions of both.
        size_GD = 3 * recon_GD + self.size_GF[batch, mlp.columns]
        by_box = [
            _box_ranges(
                self.lower_GM[box],
                self.upper_GM[box],
                int(self.max_active_G[box]),
                mlp.M_MN,
                n_dominant,
            )
            for box in range(batch.start, batch.stop)
        ]
        kept_lower_GN, kept_upper_GN, interaction_GN = map(
            np.array, zip(*by_box, strict=True)
        )
        return NeuronRanges(
            code_lower_GM=self.lower_GM[batch],
            code_upper_GM=self.upper_GM[batch],
            kept_lower_GN=kept_lower_GN + mlp.bias_N,
            kept_upper_GN=kept_upper_GN + mlp.bias_N,
            interaction_GN=interaction_GN,
            residual_GN=self.residuals[mlp_index][batch],
            rounding_GN=mlp.rounding(size_GD, slack),
        )


def _box_ranges(
    lower_M: FloatArray,
    upper_M: FloatArray,
    max_active: int,
    M_MN: FloatArray,
    n_dominant: int,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Range of the kept contributions, and the largest interaction, of one box, (N,).

    The interaction, a sum without its largest terms, grows with each term: it is
    largest where every code is at its upper end.
    """
    active = np.flatnonzero(upper_M > 0)
    n_neurons = M_MN.shape[1]
    if not len(active):
        return (np.zeros(n_neurons),) * 3
    tile = max(1, _MAX_TILE // len(active))
    parts = [
        _tile_ranges(
            lower_M[active],
            upper_M[active],
            max_active,
            M_MN[active, start : start + tile],
            n_dominant,
        )
        for start in range(0, n_neurons, tile)
    ]
    lower_N, upper_N, interaction_N = map(np.concatenate, zip(*parts, strict=True))
    return lower_N, upper_N, interaction_N


def _tile_ranges(
    lower_A: FloatArray,
    upper_A: FloatArray,
    max_active: int,
    M_AN: FloatArray,
    n_dominant: int,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """:func:`_box_ranges` of the active features and some neurons."""
    n_active = len(M_AN)
    magnitude_AN = np.abs(M_AN)
    least_AN = lower_A[:, np.newaxis] * magnitude_AN
    most_AN = upper_A[:, np.newaxis] * magnitude_AN
    falling_AN = -np.sort(-most_AN, axis=0)
    interaction_N = falling_AN[n_dominant:max_active].sum(axis=0)

    # A feature can be dominant only if it can exceed the n_dominant-th of those that
    # are there in any case; if it is, its own contribution exceeds it too.
    n_kept = min(n_dominant, n_active)
    threshold_N = np.zeros(M_AN.shape[1])
    if n_dominant <= n_active:
        threshold_N = -np.sort(-least_AN, axis=0)[n_dominant - 1]
    # Rounding is monotone, so that the rounded products are in the same order.
    can_dominate_AN = most_AN >= threshold_N
    dominant_least_AN = np.minimum(np.maximum(least_AN, threshold_N), most_AN)
    is_positive_AN = M_AN > 0
    upper_AN = np.where(is_positive_AN, most_AN, -dominant_least_AN)
    lower_AN = np.where(is_positive_AN, dominant_least_AN, -most_AN)
    upper_AN = np.where(can_dominate_AN, upper_AN, -np.inf)
    lower_AN = np.where(can_dominate_AN, lower_AN, np.inf)
    kept_upper_N = -np.sort(-upper_AN, axis=0)[:n_kept].sum(axis=0)
    kept_lower_N = np.sort(lower_AN, axis=0)[:n_kept].sum(axis=0)
    return kept_lower_N, kept_upper_N, interaction_N
