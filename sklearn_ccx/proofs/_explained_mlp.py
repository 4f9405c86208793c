r"""What the neurons of an MLP receive on samples.

On a sample :math:`b`, neuron :math:`n` keeps its dominant contributions, which with the
bias are :math:`c_{bn}`. What it truly receives differs from that by at most

.. math::

    r_{bn} = \underbrace{\sum_{h \notin D_{bn}} |p_{bnh}|}_{\text{interaction}}
           + \underbrace{|((x_b - \hat x_b) W_{in})_n|}_{\text{reconstruction}}.

All ranges here are those of exact arithmetic up to :attr:`NeuronRanges.rounding_GN`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ..networks import MLPWeights, row_norms
from ._dominance import dominant_contributions
from ._nonlinearity import nonlinearity_value
from ._rounding import Rounding

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NeuronRanges:
    """Ranges of what the neurons of one MLP receive, for G samples or boxes.

    Parameters
    ----------
    code_lower_GM, code_upper_GM : csr_array of shape (G, M)
        Range of the codes; equal for a sample.
    kept_lower_GN, kept_upper_GN : ndarray of shape (G, N)
        Range of the dominant contributions and the bias; equal for a sample.
    interaction_GN, residual_GN : ndarray of shape (G, N)
        Most that the other features and the residual add, in magnitude.
    rounding_GN : ndarray of shape (G, N)
        Bound on the rounding of all of these, and of what is compared with them.
    """

    code_lower_GM: sparse.csr_array
    code_upper_GM: sparse.csr_array
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
        self, weights: MLPWeights, components: FloatArray, intercept: FloatArray
    ) -> None:
        width = len(weights.W_in)
        self.weights = weights
        self.columns = slice(weights.site * width, (weights.site + 1) * width)
        self.W_in_DN = weights.W_in.astype(np.float64, copy=False)
        self.W_out_NO = weights.W_out.astype(np.float64, copy=False)
        self.b_in_N = weights.b_in.astype(np.float64, copy=False)
        self.b_out_O = weights.b_out.astype(np.float64, copy=False)
        self.W_dec_MD = components[:, self.columns]
        self.b_dec_D = intercept[self.columns]
        self.M_MN = self.W_dec_MD @ self.W_in_DN
        self.bias_N = self.b_in_N + self.b_dec_D @ self.W_in_DN
        self.output_norm_N = row_norms(self.W_out_NO)
        self._input_size_DN = np.abs(self.W_in_DN)
        self._decoder_size_MD = np.abs(self.W_dec_MD)

    def reconstruction(self, codes_BM: sparse.csr_array) -> FloatArray:
        """What the codes stand for at the site, (B, D)."""
        recon_BD: FloatArray = codes_BM @ self.W_dec_MD + self.b_dec_D
        return recon_BD

    def reconstruction_size(self, codes_BM: sparse.csr_array) -> FloatArray:
        """Sums of the magnitudes that make up :meth:`reconstruction`, (B, D)."""
        size_BD: FloatArray = codes_BM @ self._decoder_size_MD + np.abs(self.b_dec_D)
        return size_BD

    def residual(self, codes_BM: sparse.csr_array, x_BF: FloatArray) -> FloatArray:
        """Magnitude of what the residual sends to the neurons, (B, N)."""
        residual_BD = x_BF[:, self.columns] - self.reconstruction(codes_BM)
        return np.abs(residual_BD @ self.W_in_DN)

    def input(self, x_BD: FloatArray) -> FloatArray:
        """What the neurons receive from activations or reconstructions, (B, N)."""
        input_BN: FloatArray = x_BD @ self.W_in_DN + self.b_in_N
        return input_BN

    def kept_input(
        self, codes_BM: sparse.csr_array, n_dominant: int
    ) -> tuple[FloatArray, FloatArray]:
        """What the neurons receive in the explanation, and the interaction, (B, N)."""
        kept_BN, interaction_BN = dominant_contributions(
            codes_BM, self.M_MN, n_dominant
        )
        return kept_BN + self.bias_N, interaction_BN

    def output(self, input_BN: FloatArray) -> FloatArray:
        """Output without its bias, given what the neurons receive, (B, O)."""
        hidden_BN = nonlinearity_value(self.weights.activation, input_BN)
        output_BO: FloatArray = hidden_BN @ self.W_out_NO
        return output_BO

    def rounding_of_received(
        self, size_GD: FloatArray, rounding: Rounding
    ) -> FloatArray:
        """Bound on the rounding of what the neurons receive, (G, N).

        Parameters
        ----------
        size_GD : ndarray of shape (G, D)
            Sum of the magnitudes that make up activations, reconstruction and
            residual.
        rounding : Rounding
            By how much bounds are widened.
        """
        mass_GN = size_GD @ self._input_size_DN + np.abs(self.b_in_N)
        return rounding.of_received(mass_GN, *self.W_dec_MD.shape)


@dataclass(frozen=True)
class SampleBatch:
    """Samples whose codes and residuals are known.

    Parameters
    ----------
    codes_BM : csr_array of shape (B, M)
        Codes.
    x_BF : ndarray of shape (B, F)
        Activations.
    """

    codes_BM: sparse.csr_array
    x_BF: FloatArray

    def __len__(self) -> int:
        return len(self.x_BF)

    def ranges(
        self, mlp: ExplainedMLP, n_dominant: int, rounding: Rounding
    ) -> NeuronRanges:
        """Ranges of what the neurons of an MLP receive on each sample."""
        codes_BM, x_BD = self.codes_BM, self.x_BF[:, mlp.columns]
        kept_BN, interaction_BN = mlp.kept_input(codes_BM, n_dominant)
        size_BD = np.abs(x_BD) + mlp.reconstruction_size(codes_BM)
        return NeuronRanges(
            code_lower_GM=codes_BM,
            code_upper_GM=codes_BM,
            kept_lower_GN=kept_BN,
            kept_upper_GN=kept_BN,
            interaction_GN=interaction_BN,
            residual_GN=mlp.residual(codes_BM, self.x_BF),
            rounding_GN=mlp.rounding_of_received(size_BD, rounding),
        )
