r"""What the neurons of an MLP receive on samples.

On a sample :math:`b`, neuron :math:`n` keeps its dominant contributions, which with the
bias are :math:`c_{bn}`. What it truly receives differs from that by at most

.. math::

    r_{bn} = \underbrace{\sum_{h \notin D_{bn}} |p_{bnh}|}_{\text{interaction}}
           + \underbrace{|((x_b - \hat x_b) W_{in})_n|}_{\text{reconstruction}}.

All ranges here are those of exact arithmetic up to :attr:`NeuronRanges.rounding_GN`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ..networks import MLPWeights, input_weights, row_norms
from ._box_ranges import box_ranges
from ._dominance import dominant_contributions, dominant_features
from ._explained_norm import ExplainedNorm
from ._intervals import nonlinearity_range
from ._nonlinearity import nonlinearity_value
from ._rounding import Rounding
from ._spectral_norm import spectral_norm

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
RowArray = npt.NDArray[np.integer]
FeatureArray = npt.NDArray[np.int32]
Range = tuple[FloatArray, FloatArray]


@dataclass(frozen=True)
class NeuronRanges:
    """Ranges of what the neurons of one MLP receive, for G samples or boxes.

    A gated neuron receives two numbers. Of a gated MLP, what is received has 2N
    columns: those of the gates and then those of the linear factors.

    Parameters
    ----------
    code_lower_GM, code_upper_GM : csr_array of shape (G, M)
        Range of the codes; equal for a sample.
    kept_lower_GN, kept_upper_GN : ndarray of shape (G, N) or (G, 2N)
        Range of the dominant contributions and the bias; equal for a sample.
    recon_lower_GN, recon_upper_GN : ndarray of the same shape
        Range of all contributions and the bias.
    interaction_GN, residual_GN : ndarray of the same shape
        Most that the other features and the residual add, in magnitude.
    rounding_GN : ndarray of the same shape
        Bound on the rounding of all of these, and of what is compared with them.
    moved_GN : ndarray of shape (G, N)
        Most that the other features move the hidden activations, by the Lipschitz
        constant.
    """

    code_lower_GM: sparse.csr_array
    code_upper_GM: sparse.csr_array
    kept_lower_GN: FloatArray
    kept_upper_GN: FloatArray
    recon_lower_GN: FloatArray
    recon_upper_GN: FloatArray
    interaction_GN: FloatArray
    residual_GN: FloatArray
    rounding_GN: FloatArray
    moved_GN: FloatArray


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
    W_in_DN : ndarray of shape (D, N)
        Weights of what the neurons receive, and so on: 2N columns of a gated MLP.
    M_MN : ndarray of shape (M, N)
        What one unit of each feature writes to each neuron.
    bias_N : ndarray of shape (N,)
        What a neuron receives when no feature is active, unless there is a norm.
    b_dec_written_N : ndarray of shape (N,)
        The part of it that the decoder's bias writes. A norm divides it by the scale of
        a sample.
    output_norm_N : ndarray of shape (N,)
        Euclidean norm of each neuron's output weights.
    norm : ExplainedNorm or None
        The norm before the MLP. Its centring and its weights are in ``W_in_DN``.
    """

    def __init__(
        self, weights: MLPWeights, components: FloatArray, intercept: FloatArray
    ) -> None:
        width = len(weights.W_in)
        self.weights = weights
        self.columns = slice(weights.site * width, (weights.site + 1) * width)
        inputs = input_weights(weights)
        self.W_in_DN = inputs.W_DN.astype(np.float64, copy=False)
        self.b_in_N = inputs.bias_N.astype(np.float64, copy=False)
        self.W_out_NO = weights.W_out.astype(np.float64, copy=False)
        self.b_out_O = weights.b_out.astype(np.float64, copy=False)
        self.W_dec_MD = components[:, self.columns]
        self.b_dec_D = intercept[self.columns]
        self.M_MN = self.W_dec_MD @ self.W_in_DN
        self.b_dec_written_N = self.b_dec_D @ self.W_in_DN
        self.bias_N = self.b_in_N + self.b_dec_written_N
        self.output_norm_N = row_norms(self.W_out_NO)
        self.norm = None if weights.norm is None else ExplainedNorm(weights)
        sizes = input_weights(weights, magnitudes=True)
        self._input_size_DN = sizes.W_DN.astype(np.float64, copy=False)
        self._bias_size_N = sizes.bias_N.astype(np.float64, copy=False)
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

    def output(self, input_BN: FloatArray) -> FloatArray:
        """Output without its bias, given what the neurons receive, (B, O)."""
        output_BO: FloatArray = self.hidden(input_BN) @ self.W_out_NO
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
        mass_GN = size_GD @ self._input_size_DN + self._bias_size_N
        return rounding.of_received(mass_GN, *self.W_dec_MD.shape)

    def rounding_behind_norm(
        self, size_BD: FloatArray, x_BD: FloatArray, rounding: Rounding
    ) -> FloatArray:
        """:meth:`rounding_of_received` of samples behind the norm, (B, N)."""
        assert self.norm is not None
        scale_B = self.norm.scales(x_BD)
        centred_BD = self.norm.magnitudes(size_BD) / scale_B[:, np.newaxis]
        mass_BN = centred_BD @ self._input_size_DN + self._bias_size_N
        n_features, width = self.W_dec_MD.shape
        # The mean and the scale are sums over the width as well.
        rounding_BN = rounding.of_received(mass_BN, n_features, 3 * width)
        factor_B = self.norm.rounding_factor(x_BD, scale_B)
        return factor_B[:, np.newaxis] * rounding_BN

    # What follows depends on the kind of neurons.

    def kept_input(
        self, codes_BM: sparse.csr_array, bias_BN: FloatArray, n_dominant: int
    ) -> FloatArray:
        """What the neurons receive in the explanation, (B, N).

        The parameters are those of :meth:`sample_ranges`.
        """
        kept_BN, _ = dominant_contributions(codes_BM, self.M_MN, n_dominant)
        return kept_BN + bias_BN

    def dominant_features(
        self, codes_BM: sparse.csr_array, n_dominant: int
    ) -> Iterator[tuple[RowArray, FeatureArray]]:
        """Dominant features of some samples at some neurons after the other.

        Yields
        ------
        rows_K : ndarray of shape (K,)
            The samples.
        feature_K : ndarray of shape (K, ...)
            Their features, -1 for none.
        """
        rows_B = np.arange(codes_BM.shape[0])
        for feature_BRT in dominant_features(codes_BM, self.M_MN, n_dominant):
            yield rows_B, feature_BRT

    def sample_ranges(
        self,
        codes_BM: sparse.csr_array,
        bias_BN: FloatArray,
        residual_BN: FloatArray,
        rounding_BN: FloatArray,
        n_dominant: int,
    ) -> NeuronRanges:
        """Ranges of what the neurons receive on each sample.

        Parameters
        ----------
        codes_BM : csr_array of shape (B, M)
            How much of each row of :attr:`M_MN` the neurons receive.
        bias_BN : ndarray of shape (N,) or (B, N)
            What they receive when no feature is active.
        residual_BN : ndarray of shape (B, N)
            Magnitude of what the residual sends to them.
        rounding_BN : ndarray of shape (B, N)
            Bound on the rounding of what they receive.
        n_dominant : int
            How many contributions a neuron keeps.
        """
        kept_BN, interaction_BN = dominant_contributions(
            codes_BM, self.M_MN, n_dominant
        )
        kept_BN += bias_BN
        return NeuronRanges(
            code_lower_GM=codes_BM,
            code_upper_GM=codes_BM,
            kept_lower_GN=kept_BN,
            kept_upper_GN=kept_BN,
            recon_lower_GN=kept_BN - interaction_BN,
            recon_upper_GN=kept_BN + interaction_BN,
            interaction_GN=interaction_BN,
            residual_GN=residual_BN,
            rounding_GN=rounding_BN,
            moved_GN=self.weights.lipschitz * interaction_BN,
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
        """Ranges of what the neurons receive from the codes in boxes.

        Parameters
        ----------
        lower_GM, upper_GM : csr_array of shape (G, M)
            Range of each feature's code, with the same entries in the same order.
        max_active_G : ndarray of shape (G,), int64
            How many features may be active at once.
        residual_GN : ndarray of shape (G, N)
            Largest magnitude of what the residual sends to the neurons.
        rounding_GN : ndarray of shape (G, N)
            Bound on the rounding of what they receive.
        n_dominant : int
            How many contributions a neuron keeps.
        """
        kept_lower_GN, kept_upper_GN, interaction_GN = box_ranges(
            lower_GM, upper_GM, max_active_G, self.M_MN, n_dominant
        )
        kept_lower_GN += self.bias_N
        kept_upper_GN += self.bias_N
        return NeuronRanges(
            code_lower_GM=lower_GM,
            code_upper_GM=upper_GM,
            kept_lower_GN=kept_lower_GN,
            kept_upper_GN=kept_upper_GN,
            recon_lower_GN=kept_lower_GN - interaction_GN,
            recon_upper_GN=kept_upper_GN + interaction_GN,
            interaction_GN=interaction_GN,
            residual_GN=residual_GN,
            rounding_GN=rounding_GN,
            moved_GN=self.weights.lipschitz * interaction_GN,
        )

    def hidden(self, input_BN: FloatArray) -> FloatArray:
        """Hidden activations, given what the neurons receive, (B, N)."""
        return nonlinearity_value(self.weights.activation, input_BN)

    def hidden_range(self, lower_GN: FloatArray, upper_GN: FloatArray) -> Range:
        """Range of the hidden activations, rounded outward."""
        return nonlinearity_range(self.weights.activation, lower_GN, upper_GN)

    def hidden_size(self, reach_GN: FloatArray) -> FloatArray:
        """A bound on hidden activations where so much at most is received, (G, N)."""
        size_GN: FloatArray = 1.0 + self.weights.lipschitz * reach_GN
        return size_GN

    def rounding_of_hidden(
        self,
        received_GN: FloatArray,
        lower_GN: FloatArray,
        upper_GN: FloatArray,
        rounding: Rounding,
    ) -> FloatArray:
        """Rounding of hidden activations, and of differences of them, (G, N).

        Parameters
        ----------
        received_GN : ndarray of shape (G, N)
            Rounding of what the neurons receive.
        lower_GN, upper_GN : ndarray of shape (G, N)
            Range of what they receive.
        rounding : Rounding
            By how much bounds are widened.
        """
        return rounding.of_hidden(self.weights, received_GN, lower_GN, upper_GN)

    def moved_by_residual(
        self, ranges: NeuronRanges, residual_GN: FloatArray
    ) -> FloatArray:
        """Most that a residual moves the hidden activations, by Lipschitz, (G, N).

        They are those of the reconstruction, to which the residual is added.
        """
        moved_GN: FloatArray = self.weights.lipschitz * residual_GN
        return moved_GN

    def lipschitz_around(
        self, ranges: NeuronRanges, distance_B: FloatArray
    ) -> FloatArray:
        """Most that the output moves for each unit the input does, on samples, (B,).

        The input moves away from the reconstruction, by so much at most.
        """
        return np.full(len(distance_B), self._lipschitz)

    @cached_property
    def _lipschitz(self) -> float:
        norms = spectral_norm(self.W_in_DN) * spectral_norm(self.W_out_NO)
        return self.weights.lipschitz * norms

    def deviation_range(
        self,
        lower_GN: FloatArray,
        upper_GN: FloatArray,
        radius_GN: FloatArray,
        most_GN: FloatArray,
    ) -> Range:
        """Range of what hidden activations move by, (G, N).

        Parameters
        ----------
        lower_GN, upper_GN : ndarray of shape (G, N)
            Range of what the neurons receive.
        radius_GN : ndarray of shape (G, N)
            Most that this moves by.
        most_GN : ndarray of shape (G, N)
            A bound on the magnitude of the result, which is intersected with it.
        """
        at_first = self.hidden_range(lower_GN, upper_GN)
        moved = self.hidden_range(lower_GN - radius_GN, upper_GN + radius_GN)
        return (
            np.maximum(moved[0] - at_first[1], -most_GN),
            np.minimum(moved[1] - at_first[0], most_GN),
        )


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
        size_BD = np.abs(x_BD) + mlp.reconstruction_size(codes_BM)
        residual_BN = mlp.residual(codes_BM, self.x_BF)
        if mlp.norm is None:
            rounding_BN = mlp.rounding_of_received(size_BD, rounding)
        else:
            residual_BN /= mlp.norm.scales(x_BD)[:, np.newaxis]
            rounding_BN = mlp.rounding_behind_norm(size_BD, x_BD, rounding)
        ranges = mlp.sample_ranges(
            *self._received(mlp), residual_BN, rounding_BN, n_dominant
        )
        return replace(ranges, code_lower_GM=codes_BM, code_upper_GM=codes_BM)

    def kept_input(self, mlp: ExplainedMLP, n_dominant: int) -> FloatArray:
        """What the neurons of an MLP receive in the explanation, (B, N)."""
        return mlp.kept_input(*self._received(mlp), n_dominant)

    def input(self, mlp: ExplainedMLP, rows_BD: FloatArray) -> FloatArray:
        """What the neurons receive from rows in the place of the activations, (B, N).

        A norm divides them by the scale of the activations.
        """
        if mlp.norm is None:
            return mlp.input(rows_BD)
        scale_B1 = mlp.norm.scales(self.x_BF[:, mlp.columns])[:, np.newaxis]
        input_BN: FloatArray = rows_BD @ mlp.W_in_DN / scale_B1 + mlp.b_in_N
        return input_BN

    def _received(self, mlp: ExplainedMLP) -> tuple[sparse.csr_array, FloatArray]:
        """How much of each feature the neurons receive, and their bias."""
        if mlp.norm is None:
            return self.codes_BM, mlp.bias_N
        scale_B = mlp.norm.scales(self.x_BF[:, mlp.columns])
        codes_BM = self.codes_BM.copy()
        codes_BM.data /= np.repeat(scale_B, np.diff(codes_BM.indptr))
        return codes_BM, mlp.b_in_N + mlp.b_dec_written_N / scale_B[:, np.newaxis]
