r"""From ranges of what the neurons receive to a bound on the MLP's output.

Neuron :math:`n` is off by :math:`e_n = \varphi(z_n) - \varphi(c_n)`, where it truly
receives :math:`z_n \in [c_n - r_n, c_n + r_n]`. So :math:`e_n` lies between
:math:`\min \varphi(z_n) - \max \varphi(c_n)` and
:math:`\max \varphi(z_n) - \min \varphi(c_n)`, and within
:math:`\pm \mathrm{Lip}(\varphi) r_n`. The output is off by :math:`e W_{out}`, of which
the norm is at most

- :math:`\sum_n \|W_{out}[n]\| \max |e_n|`, by the triangle inequality;
- the norm of the box that the intervals of :math:`e` span, coordinate by coordinate.

The interval bound is the smaller of the two. Of a gated neuron, :math:`e_n` has other
ranges: see :mod:`._explained_gated_mlp`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..networks import row_norms
from ._explained_mlp import ExplainedMLP, NeuronRanges
from ._intervals import times_weights
from ._rounding import Rounding

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OutputBounds:
    """Bounds on the distance of MLP outputs, (G,); see ``ErrorCertificate``."""

    error: FloatArray
    reconstruction: FloatArray
    interaction: FloatArray
    rounding: FloatArray


def output_bounds(
    mlp: ExplainedMLP, ranges: NeuronRanges, bound: str, rounding: Rounding
) -> OutputBounds:
    """Bounds on the error of the explained output.

    Parameters
    ----------
    mlp : ExplainedMLP
        The MLP.
    ranges : NeuronRanges
        What its neurons receive.
    bound : {"interval", "lipschitz"}
        Which bound.
    rounding : Rounding
        By how much the bounds are widened.
    """
    norm_N, interaction_moved_GN = mlp.output_norm_N, ranges.moved_GN
    residual_moved_GN = mlp.moved_by_residual(ranges, ranges.residual_GN)
    rounding_G = _rounding(mlp, ranges, rounding)
    interaction_G = interaction_moved_GN @ norm_N
    reconstruction_G = residual_moved_GN @ norm_N
    error_G = interaction_G + reconstruction_G + rounding_G
    if bound == "interval":
        kept_lower_GN, kept_upper_GN = ranges.kept_lower_GN, ranges.kept_upper_GN
        interaction_GN, residual_GN = ranges.interaction_GN, ranges.residual_GN
        interaction_G = np.minimum(
            interaction_G,
            _interval_norm(
                mlp, kept_lower_GN, kept_upper_GN, interaction_GN, interaction_moved_GN
            ),
        )
        # The MLP on the reconstruction against the MLP on the activations.
        reconstruction_G = np.minimum(
            reconstruction_G,
            _interval_norm(
                mlp,
                ranges.recon_lower_GN,
                ranges.recon_upper_GN,
                residual_GN,
                residual_moved_GN,
            ),
        )
        joint_G = _interval_norm(
            mlp,
            kept_lower_GN,
            kept_upper_GN,
            interaction_GN + residual_GN,
            interaction_moved_GN + residual_moved_GN,
        )
        joint_G = np.minimum(joint_G, interaction_G + reconstruction_G)
        error_G = np.minimum(error_G, joint_G + rounding_G)
    return OutputBounds(error_G, reconstruction_G, interaction_G, rounding_G)


def _interval_norm(
    mlp: ExplainedMLP,
    lower_GN: FloatArray,
    upper_GN: FloatArray,
    radius_GN: FloatArray,
    most_GN: FloatArray,
) -> FloatArray:
    """Largest norm of the output's deviation, (G,)."""
    lowest_GN, highest_GN = mlp.deviation_range(lower_GN, upper_GN, radius_GN, most_GN)
    triangle_G = np.maximum(-lowest_GN, highest_GN) @ mlp.output_norm_N
    lowest_GO, highest_GO = times_weights(lowest_GN, highest_GN, mlp.W_out_NO)
    box_G = row_norms(np.maximum(np.abs(lowest_GO), np.abs(highest_GO)))
    return np.minimum(triangle_G, box_G)


def _rounding(
    mlp: ExplainedMLP, ranges: NeuronRanges, rounding: Rounding
) -> FloatArray:
    """Bound on the rounding of the bounds and of the outputs compared, (G,)."""
    norm_N = mlp.output_norm_N
    reach_GN = ranges.interaction_GN + ranges.residual_GN + ranges.rounding_GN
    ends_GN = ranges.kept_lower_GN - reach_GN, ranges.kept_upper_GN + reach_GN
    lowest_GN, highest_GN = mlp.hidden_range(*ends_GN)
    largest_GN = np.maximum(np.abs(lowest_GN), np.abs(highest_GN))
    hidden_GN = mlp.rounding_of_hidden(ranges.rounding_GN, *ends_GN, rounding)
    # Sums over the neurons, norms of output weights and of outputs, on both sides.
    size_G = largest_GN @ norm_N + row_norms(mlp.b_out_O[np.newaxis])[0]
    return hidden_GN @ norm_N + rounding.of_sums(size_G, sum(mlp.W_out_NO.shape))
