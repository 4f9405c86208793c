"""How an error at the input of a residual block becomes one at its output."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..networks import row_norms
from ._explained_mlp import ExplainedMLP, NeuronRanges, SampleBatch
from ._explained_samples import ExplainedSamples
from ._intervals import times_weights
from ._rounding import Rounding
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
        norm_B = np.minimum(norm_B, row_norms(box_BD))
        norm_B1 = norm_B[:, np.newaxis]
        return cls(
            np.clip(lower_BD, -norm_B1, norm_B1),
            np.clip(upper_BD, -norm_B1, norm_B1),
            norm_B,
        )

    @classmethod
    def ball(cls, norm_B: FloatArray, width: int) -> "SiteError":
        """All errors of a norm."""
        norm_BD = np.repeat(norm_B[:, np.newaxis], width, axis=1)
        return cls(-norm_BD, norm_BD, norm_B)


class ResidualBlock:
    """One residual block, and how an error at its input becomes one at its output."""

    def __init__(
        self,
        samples: ExplainedSamples,
        mlp: ExplainedMLP,
        output_site: int,
        bound: str,
        rounding: Rounding,
    ) -> None:
        self.mlp = mlp
        self.transition = Transition(samples, mlp, output_site, residual=True)
        self._input_norm_N = row_norms(mlp.W_in_DN.T)
        self._bound = bound
        self._rounding = rounding

    def run(self, x_BD: FloatArray) -> FloatArray:
        """Run the block itself."""
        return x_BD + (self.mlp.output(self.mlp.input(x_BD)) + self.mlp.b_out_O)

    def lipschitz(self, error: SiteError, ranges: NeuronRanges) -> FloatArray:
        """Lipschitz constant between each reconstruction and what is so near, (B,).

        A plain MLP has one for all inputs.
        """
        return 1.0 + self.mlp.lipschitz_around(ranges, error.norm_B)

    def next_error(
        self, error: SiteError, ranges: NeuronRanges, lipschitz_B: FloatArray
    ) -> SiteError:
        """Range of the error after the block."""
        mlp = self.mlp
        kept_BN, interaction_BN = ranges.kept_lower_GN, ranges.interaction_GN
        largest_BD = np.maximum(np.abs(error.lower_BD), np.abs(error.upper_BD))
        sent_BN = error.norm_B[:, np.newaxis] * self._input_norm_N
        if self._bound == "interval":
            sent_ends = times_weights(error.lower_BD, error.upper_BD, mlp.W_in_DN)
            sent_BN = np.minimum(sent_BN, np.abs(sent_ends).max(axis=0))
        radius_BN = interaction_BN + sent_BN
        rounding_BD = self._rounding_of_output(ranges, largest_BD, radius_BN)
        moved_BD = self.transition.values(kept_BN, ranges.code_lower_GM)
        norm_B = lipschitz_B * error.norm_B + ranges.moved_GN @ mlp.output_norm_N
        norm_B += row_norms(moved_BD) + row_norms(rounding_BD)
        if self._bound == "lipschitz":
            return SiteError.ball(norm_B, moved_BD.shape[1])
        moved_BN = ranges.moved_GN + mlp.moved_by_residual(ranges, sent_BN)
        deviation = mlp.deviation_range(kept_BN, kept_BN, radius_BN, moved_BN)
        lowest_BD, highest_BD = times_weights(*deviation, mlp.W_out_NO)
        return SiteError.within(
            error.lower_BD + lowest_BD + moved_BD - rounding_BD,
            error.upper_BD + highest_BD + moved_BD + rounding_BD,
            norm_B,
        )

    def _rounding_of_output(
        self, ranges: NeuronRanges, largest_BD: FloatArray, radius_BN: FloatArray
    ) -> FloatArray:
        """Bound on the rounding of block and bound at each coordinate, (B, D)."""
        mlp, rounding = self.mlp, self._rounding
        # The activations are the reconstruction and the error.
        size_BD = 2 * mlp.reconstruction_size(ranges.code_upper_GM) + largest_BD
        received_BN = mlp.rounding_of_received(size_BD, rounding)
        reach_BN = np.abs(ranges.kept_lower_GN) + radius_BN + received_BN
        hidden_BN = mlp.hidden_size(reach_BN)
        moved_BN = mlp.rounding_of_hidden(received_BN, -reach_BN, reach_BN, rounding)
        rounding_BD = self.transition.rounding(
            ranges.code_upper_GM, hidden_BN, moved_BN, rounding
        )
        return rounding_BD + rounding.of_sums(size_BD, sum(mlp.W_out_NO.shape))


def first_error(
    samples: ExplainedSamples,
    batch: SampleBatch,
    columns: slice,
    bound: str,
    rounding: Rounding,
) -> SiteError:
    """The known error at the first site, up to rounding."""
    W_dec_MD, b_dec_D = samples.components[:, columns], samples.intercept[columns]
    codes_BM, x_BD = batch.codes_BM, batch.x_BF[:, columns]
    error_BD = x_BD - (codes_BM @ W_dec_MD + b_dec_D)
    size_BD = np.abs(x_BD) + codes_BM @ np.abs(W_dec_MD) + np.abs(b_dec_D)
    rounding_BD = rounding.of_sums(size_BD, sum(W_dec_MD.shape))
    norm_B = row_norms(error_BD) + row_norms(rounding_BD)
    if bound == "lipschitz":
        return SiteError.ball(norm_B, error_BD.shape[1])
    return SiteError.within(error_BD - rounding_BD, error_BD + rounding_BD, norm_B)
