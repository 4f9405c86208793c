"""How an error at the input of a residual block becomes one at its output."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ._explained_samples import ExplainedSamples, Premises
from ._intervals import TINY, evaluation_rounding, gamma, nonlinearity_value
from ._neuron_ranges import ExplainedMLP, NeuronRanges
from ._output_bounds import deviation_range, times_weights
from ._transition import Transition

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SiteError:
    """Range of activation less reconstruction at one site, (B, D), and its norm."""

    lower_BD: FloatArray
    upper_BD: FloatArray
    norm_B: FloatArray

    @classmethod
    def within(
        cls, lower_BD: FloatArray, upper_BD: FloatArray, norm_B: FloatArray
    ) -> "SiteError":
        """The smaller of a box and a ball."""
        box_BD = np.maximum(np.abs(lower_BD), np.abs(upper_BD))
        norm_B = np.minimum(norm_B, np.linalg.norm(box_BD, axis=1))
        norm_B1 = norm_B[:, np.newaxis]
        return cls(
            np.clip(lower_BD, -norm_B1, norm_B1),
            np.clip(upper_BD, -norm_B1, norm_B1),
            norm_B,
        )


class ResidualBlock:
    """One residual block, and how an error at its input becomes one at its output."""

    def __init__(
        self,
        samples: ExplainedSamples,
        mlp: ExplainedMLP,
        output_site: int,
        premises: Premises,
    ) -> None:
        self.mlp = mlp
        self.transition = Transition(samples, mlp, output_site, residual=True)
        self.lipschitz = 1.0 + mlp.weights.lipschitz * (
            _spectral_norm(mlp.W_in_DN) * _spectral_norm(mlp.W_out_NO)
        )
        self._input_norm_N = np.linalg.norm(mlp.W_in_DN, axis=0)
        self._premises = premises

    def run(self, x_BD: FloatArray) -> FloatArray:
        """Run the block itself."""
        mlp = self.mlp
        hidden_BN = nonlinearity_value(
            mlp.weights.activation, x_BD @ mlp.W_in_DN + mlp.b_in_N
        )
        written_BD: FloatArray = hidden_BN @ mlp.W_out_NO
        return x_BD + (written_BD + mlp.b_out_O)

    def next_error(self, error: SiteError, ranges: NeuronRanges) -> SiteError:
        """Range of the error after the block."""
        mlp = self.mlp
        kept_BN, interaction_BN = ranges.kept_lower_GN, ranges.interaction_GN
        largest_BD = np.maximum(np.abs(error.lower_BD), np.abs(error.upper_BD))
        sent_BN = error.norm_B[:, np.newaxis] * self._input_norm_N
        if self._premises.bound == "interval":
            sent_ends = times_weights(error.lower_BD, error.upper_BD, mlp.W_in_DN)
            sent_BN = np.minimum(sent_BN, np.abs(sent_ends).max(axis=0))
        radius_BN = interaction_BN + sent_BN
        rounding_BD = self._rounding(ranges, largest_BD, radius_BN)
        moved_BD = self.transition.values(ranges)
        norm_B = self.lipschitz * error.norm_B
        norm_B += mlp.weights.lipschitz * (interaction_BN @ mlp.output_norm_N)
        norm_B += np.linalg.norm(moved_BD, axis=1) + np.linalg.norm(rounding_BD, axis=1)
        if self._premises.bound == "lipschitz":
            norm_B1 = np.repeat(norm_B[:, np.newaxis], moved_BD.shape[1], axis=1)
            return SiteError(-norm_B1, norm_B1, norm_B)
        deviation = deviation_range(mlp, kept_BN, kept_BN, radius_BN)
        lowest_BD, highest_BD = times_weights(*deviation, mlp.W_out_NO)
        return SiteError.within(
            error.lower_BD + lowest_BD + moved_BD - rounding_BD,
            error.upper_BD + highest_BD + moved_BD + rounding_BD,
            norm_B,
        )

    def _rounding(
        self, ranges: NeuronRanges, largest_BD: FloatArray, radius_BN: FloatArray
    ) -> FloatArray:
        """Bound on the rounding of block and bound at each coordinate, (B, D)."""
        mlp, slack = self.mlp, self._premises.slack
        # The activations are the reconstruction and the error.
        recon_BD = ranges.code_upper_GM @ np.abs(mlp.W_dec_MD) + np.abs(mlp.b_dec_D)
        size_BD = 2 * recon_BD + largest_BD
        neuron_BN = mlp.rounding(size_BD, slack)
        reach_BN = np.abs(ranges.kept_lower_GN) + radius_BN + neuron_BN
        hidden_BN = 1.0 + mlp.weights.lipschitz * reach_BN
        rounding_BD = self.transition.rounding(
            replace(ranges, rounding_GN=neuron_BN), hidden_BN, hidden_BN
        )
        evaluation_BN = np.maximum(
            evaluation_rounding(mlp.weights.activation, reach_BN),
            evaluation_rounding(mlp.weights.activation, -reach_BN),
        )
        rounding_BD += 4 * evaluation_BN @ np.abs(mlp.W_out_NO)
        n_terms = sum(mlp.W_out_NO.shape) + 16
        rounding_BD += 8 * gamma(n_terms) * size_BD
        return slack * rounding_BD


def first_error(
    samples: ExplainedSamples,
    codes_BM: FloatArray,
    x_BF: FloatArray,
    columns: slice,
    premises: Premises,
) -> SiteError:
    """The known error at the first site, up to rounding."""
    W_dec_MD, b_dec_D = samples.components[:, columns], samples.intercept[columns]
    error_BD = x_BF[:, columns] - (codes_BM @ W_dec_MD + b_dec_D)
    size_BD = np.abs(x_BF[:, columns]) + codes_BM @ np.abs(W_dec_MD) + np.abs(b_dec_D)
    relative = 8 * gamma(sum(W_dec_MD.shape) + 16)
    rounding_BD = premises.slack * (relative * size_BD + TINY)
    norm_B = np.linalg.norm(error_BD, axis=1) + np.linalg.norm(rounding_BD, axis=1)
    if premises.bound == "lipschitz":
        norm_B1 = np.repeat(norm_B[:, np.newaxis], error_BD.shape[1], axis=1)
        return SiteError(-norm_B1, norm_B1, norm_B)
    return SiteError.within(error_BD - rounding_BD, error_BD + rounding_BD, norm_B)


def _spectral_norm(W: FloatArray) -> float:
    """The largest singular value, rounded up.

    The computed one is off by a modest multiple of the unit roundoff [Higham, section
    3.5, and the LAPACK users' guide, section 4.9].
    """
    return float(np.linalg.norm(W, 2)) * (1 + gamma(100 * sum(W.shape))) + TINY
