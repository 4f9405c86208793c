r"""How far the hidden layers of a network are from those of its explanation.

In the explained hidden layer neuron :math:`n` of the network is at
:math:`\varphi(z_n)`, that of the explanation at :math:`\varphi(c_n)`. Their difference
:math:`e` goes through the weights of the next layer as an interval, and on through its
nonlinearity, together with the range of what the explanation has there.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..networks import MLPWeights
from ._dense_network import DenseNetwork
from ._explained_mlp import NeuronRanges
from ._intervals import nonlinearity_range, times_weights
from ._rounding import Rounding

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Deviation:
    """Ranges of one layer, for G samples or boxes.

    Parameters
    ----------
    kept_lower_GN, kept_upper_GN : ndarray of shape (G, N)
        Range of the explanation.
    lower_GN, upper_GN : ndarray of shape (G, N)
        Range of network minus explanation.
    rounding_GN : ndarray of shape (G, N)
        Bound on the rounding of that difference.
    """

    kept_lower_GN: FloatArray
    kept_upper_GN: FloatArray
    lower_GN: FloatArray
    upper_GN: FloatArray
    rounding_GN: FloatArray

    @property
    def size_GN(self) -> FloatArray:
        """Largest magnitude in network or explanation."""
        lowest_GN = self.kept_lower_GN + np.minimum(self.lower_GN, 0.0)
        highest_GN = self.kept_upper_GN + np.maximum(self.upper_GN, 0.0)
        return np.maximum(np.abs(lowest_GN), np.abs(highest_GN)) + self.rounding_GN

    def rows(self, index: npt.NDArray[np.int64]) -> "Deviation":
        """The ranges of some samples or boxes."""
        return Deviation(
            self.kept_lower_GN[index],
            self.kept_upper_GN[index],
            self.lower_GN[index],
            self.upper_GN[index],
            self.rounding_GN[index],
        )

    def through(self, layer: MLPWeights, rounding: Rounding) -> "Deviation":
        """What a layer's output weights make of it: the next input, (G, O)."""
        W_NO = layer.W_out.astype(np.float64)
        kept_lower_GO, kept_upper_GO = times_weights(
            self.kept_lower_GN, self.kept_upper_GN, W_NO
        )
        lower_GO, upper_GO = times_weights(self.lower_GN, self.upper_GN, W_NO)
        size_GO = self.size_GN @ np.abs(W_NO) + np.abs(layer.b_out)
        rounding_GO = self.rounding_GN @ np.abs(W_NO)
        rounding_GO += rounding.of_sums(size_GO, len(W_NO))
        return Deviation(
            kept_lower_GO + layer.b_out,
            kept_upper_GO + layer.b_out,
            lower_GO,
            upper_GO,
            rounding_GO,
        )

    def activated(
        self, layer: MLPWeights, bound: str, rounding: Rounding
    ) -> "Deviation":
        """Hidden activations of a layer that receives it."""
        activation, lipschitz = layer.activation, layer.lipschitz
        lowest_GN = self.kept_lower_GN + self.lower_GN
        highest_GN = self.kept_upper_GN + self.upper_GN
        upper_GN = lipschitz * np.maximum(-self.lower_GN, self.upper_GN)
        lower_GN = -upper_GN
        kept_GN = nonlinearity_range(activation, self.kept_lower_GN, self.kept_upper_GN)
        if bound == "interval":
            values_GN = nonlinearity_range(activation, lowest_GN, highest_GN)
            lower_GN = np.maximum(lower_GN, values_GN[0] - kept_GN[1])
            upper_GN = np.minimum(upper_GN, values_GN[1] - kept_GN[0])
        rounding_GN = rounding.of_hidden(layer, self.rounding_GN, lowest_GN, highest_GN)
        return Deviation(*kept_GN, lower_GN, upper_GN, rounding_GN)


def hidden_deviation(
    network: DenseNetwork, ranges: NeuronRanges, bound: str, rounding: Rounding
) -> Deviation:
    """Deviation of the last hidden layer.

    Parameters
    ----------
    network : DenseNetwork
        The network from the explained layer on.
    ranges : NeuronRanges
        What the neurons of that layer receive.
    bound : {"interval", "lipschitz"}
        What becomes of intervals at the nonlinearities.
    rounding : Rounding
        By how much the bounds are widened.
    """
    radius_GN = ranges.interaction_GN + ranges.residual_GN
    deviation = Deviation(
        ranges.kept_lower_GN,
        ranges.kept_upper_GN,
        -radius_GN,
        radius_GN,
        ranges.rounding_GN,
    ).activated(network.first, bound, rounding)
    before = network.first
    for layer in network.later:
        received = deviation.through(before, rounding)
        deviation = received.activated(layer, bound, rounding)
        before = layer
    return deviation


def least_margins(
    network: DenseNetwork,
    deviation: Deviation,
    class_index: int,
    rounding: Rounding,
) -> FloatArray:
    """Least that the network's margins exceed those of the explanation by, (G, O).

    The margin over class ``c`` is the logit of ``class_index`` less that of ``c``. The
    output weights are subtracted first: an interval of the difference is tighter than
    a difference of intervals.
    """
    W_NO = network.last.W_out.astype(np.float64)
    b_O = network.last.b_out.astype(np.float64)
    if W_NO.shape[1] == 1:  # one logit, positive for class 1
        difference_NO = W_NO if class_index == 1 else -W_NO
        bias_O = np.abs(b_O)
    else:
        difference_NO = W_NO[:, [class_index]] - W_NO
        bias_O = np.abs(b_O) + np.abs(b_O[class_index])
    lower_GO, _ = times_weights(deviation.lower_GN, deviation.upper_GN, difference_NO)
    # The network computes two logits and subtracts: their magnitudes count.
    magnitude_NO = np.abs(W_NO)
    if W_NO.shape[1] > 1:
        magnitude_NO = magnitude_NO + magnitude_NO[:, [class_index]]
    size_GO = deviation.size_GN @ magnitude_NO + bias_O
    rounding_GO = deviation.rounding_GN @ magnitude_NO
    rounding_GO += rounding.of_sums(size_GO, len(W_NO)) + rounding.of_probabilities()
    return lower_GO - rounding_GO
