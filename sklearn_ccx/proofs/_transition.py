r"""How far the explanation's output is from the reconstruction at the next site.

With the reconstruction :math:`\hat x_l` at the site that an MLP reads and
:math:`\hat x_{l'}` at the one it writes to, the single-feature transition is
:math:`f_\mathrm{one}(a) - \hat x_{l'}`, or :math:`\hat x_l + f_\mathrm{one}(a) - \hat
x_{l'}` for a residual block. It depends on the code alone.
"""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ..networks import row_norms
from ._explained_mlp import ExplainedMLP, NeuronRanges
from ._explained_samples import ExplainedSamples
from ._intervals import times_weights
from ._rounding import Rounding

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

    def values(self, kept_BN: FloatArray, codes_BM: sparse.csr_array) -> FloatArray:
        """The transition of samples, (B, D)."""
        written_BD = codes_BM @ self._difference_MD
        value_BD: FloatArray = self._mlp.output(kept_BN) + written_BD
        return value_BD + self._constant_D

    def bounds(self, ranges: NeuronRanges, rounding: Rounding) -> FloatArray:
        """Largest norm of the transition of samples or boxes, (G,)."""
        mlp = self._mlp
        kept = ranges.kept_lower_GN, ranges.kept_upper_GN
        lowest_GN, highest_GN = mlp.hidden_range(*kept)
        lower_GD, upper_GD = times_weights(lowest_GN, highest_GN, mlp.W_out_NO)
        code_lower_GD, code_upper_GD = times_weights(
            ranges.code_lower_GM, ranges.code_upper_GM, self._difference_MD
        )
        lower_GD = lower_GD + code_lower_GD + self._constant_D
        upper_GD = upper_GD + code_upper_GD + self._constant_D
        largest_GD = np.maximum(np.abs(lower_GD), np.abs(upper_GD))
        hidden_GN = np.maximum(np.abs(lowest_GN), np.abs(highest_GN))
        moved_GN = mlp.rounding_of_hidden(ranges.rounding_GN, *kept, rounding)
        largest_GD += self.rounding(ranges.code_upper_GM, hidden_GN, moved_GN, rounding)
        return row_norms(largest_GD)

    def rounding(
        self,
        codes_GM: sparse.csr_array,
        hidden_GN: FloatArray,
        moved_GN: FloatArray,
        rounding: Rounding,
    ) -> FloatArray:
        """Bound on the rounding of each coordinate, (G, D).

        Parameters
        ----------
        codes_GM : csr_array of shape (G, M)
            Largest codes.
        hidden_GN : ndarray of shape (G, N)
            Largest magnitudes of the hidden activations.
        moved_GN : ndarray of shape (G, N)
            Rounding of the hidden activations.
        rounding : Rounding
            By how much the bounds are widened.
        """
        W_size_NO = np.abs(self._mlp.W_out_NO)
        size_GD = hidden_GN @ W_size_NO + self._size_D + codes_GM @ self._size_MD
        n_terms = sum(W_size_NO.shape) + len(self._difference_MD)
        rounding_GD: FloatArray = moved_GN @ W_size_NO
        return rounding_GD + rounding.of_sums(size_GD, n_terms)
