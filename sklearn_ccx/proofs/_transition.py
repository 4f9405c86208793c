r"""How far the explanation's output is from the reconstruction at the next site.

With the reconstruction :math:`\hat x_l` at the site that an MLP reads and
:math:`\hat x_{l'}` at the one it writes to, the single-feature transition is
:math:`f_\mathrm{one}(a) - \hat x_{l'}`, or :math:`\hat x_l + f_\mathrm{one}(a) - \hat
x_{l'}` for a residual block. It depends on the code alone.
"""

import numpy as np
import numpy.typing as npt

from ._explained_samples import ExplainedSamples
from ._intervals import TINY, gamma, nonlinearity_range, nonlinearity_value
from ._neuron_ranges import ExplainedMLP, NeuronRanges
from ._output_bounds import times_weights

FloatArray = npt.NDArray[np.float64]


class Transition:
    """From the explained output of an MLP to a site.

    Parameters
    ----------
    samples : ExplainedSamples
        Gives the decoder.
    mlp : ExplainedMLP
        The MLP.
    output_site : int
        Where its output is found.
    residual : bool
        Whether the MLP's input is added to its output there.
    """

    def __init__(
        self,
        samples: ExplainedSamples,
        mlp: ExplainedMLP,
        output_site: int,
        residual: bool,
    ) -> None:
        columns = samples.site_columns(output_site)
        self._mlp = mlp
        self._difference_MD = -samples.components[:, columns]
        self._constant_D = mlp.b_out_O - samples.intercept[columns]
        # Differences can be small where what is subtracted, and rounded, is not.
        self._size_MD = np.abs(self._difference_MD)
        self._size_D = np.abs(mlp.b_out_O) + np.abs(samples.intercept[columns])
        if residual:
            self._difference_MD = self._difference_MD + mlp.W_dec_MD
            self._constant_D = self._constant_D + mlp.b_dec_D
            self._size_MD = self._size_MD + np.abs(mlp.W_dec_MD)
            self._size_D = self._size_D + np.abs(mlp.b_dec_D)

    def values(self, ranges: NeuronRanges) -> FloatArray:
        """The transition of samples, (B, D)."""
        hidden_BN = nonlinearity_value(
            self._mlp.weights.activation, ranges.kept_lower_GN
        )
        written_BD = ranges.code_lower_GM @ self._difference_MD
        value_BD: FloatArray = hidden_BN @ self._mlp.W_out_NO + written_BD
        return value_BD + self._constant_D

    def errors(self, ranges: NeuronRanges) -> FloatArray:
        """Norm of the transition of samples, (B,)."""
        norm_B: FloatArray = np.linalg.norm(self.values(ranges), axis=1)
        return norm_B

    def bounds(self, ranges: NeuronRanges, slack: float) -> FloatArray:
        """Largest norm of the transition of samples or boxes, (G,)."""
        mlp = self._mlp
        lowest_GN, highest_GN = nonlinearity_range(
            mlp.weights.activation, ranges.kept_lower_GN, ranges.kept_upper_GN
        )
        lower_GD, upper_GD = times_weights(lowest_GN, highest_GN, mlp.W_out_NO)
        code_lower_GD, code_upper_GD = times_weights(
            ranges.code_lower_GM, ranges.code_upper_GM, self._difference_MD
        )
        lower_GD = lower_GD + code_lower_GD + self._constant_D
        upper_GD = upper_GD + code_upper_GD + self._constant_D
        largest_GD = np.maximum(np.abs(lower_GD), np.abs(upper_GD))
        rounding_GD = self.rounding(ranges, lowest_GN, highest_GN)
        norm_G: FloatArray = np.linalg.norm(largest_GD + slack * rounding_GD, axis=1)
        return norm_G

    def rounding(
        self, ranges: NeuronRanges, lowest_GN: FloatArray, highest_GN: FloatArray
    ) -> FloatArray:
        """Bound on the rounding of each coordinate, (G, D).

        Parameters
        ----------
        ranges : NeuronRanges
            What the neurons receive.
        lowest_GN, highest_GN : ndarray of shape (G, N)
            Range of the hidden activations.
        """
        mlp = self._mlp
        hidden_GN = np.maximum(np.abs(lowest_GN), np.abs(highest_GN))
        moved_GN = 2 * mlp.weights.lipschitz * ranges.rounding_GN
        n_terms = sum(mlp.W_out_NO.shape) + len(self._difference_MD) + 16
        size_GD = hidden_GN @ np.abs(mlp.W_out_NO) + self._size_D
        size_GD += ranges.code_upper_GM @ self._size_MD
        return moved_GN @ np.abs(mlp.W_out_NO) + 8 * gamma(n_terms) * size_GD + TINY
