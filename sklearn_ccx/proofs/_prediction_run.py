"""Samples, how far the network can be from its explanation, and what both predict."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ._code_boxes import CodeBoxes
from ._dense_network import DenseNetwork
from ._deviation import Deviation, hidden_deviation
from ._explained_samples import ExplainedSamples
from ._nonlinearity import nonlinearity_value
from ._premises import Premises
from ._proof_length import ProofLength, prediction_proof_length

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Predicted:
    """Samples, and what network and explanation predict for them.

    Parameters
    ----------
    rows : ndarray of shape (B,), int64
        The samples.
    group_B : ndarray of shape (B,), int64
        The row of `deviation` that holds for each.
    deviation : Deviation
        How far the network can be from its explanation.
    kept_BO, true_BO : ndarray of shape (B, O)
        Output of the explanation and of the network.
    """

    rows: IntArray
    group_B: IntArray
    deviation: Deviation
    kept_BO: FloatArray
    true_BO: FloatArray


class PredictionRun:
    """Samples, the deviation of their groups, and what is predicted for them."""

    def __init__(
        self,
        estimator: Any,
        X: npt.ArrayLike,
        network: DenseNetwork,
        premises: Premises,
        n_dominant: int | None,
        batch_size: int | None,
    ) -> None:
        self.samples = ExplainedSamples(
            estimator, X, network.first, n_dominant, batch_size
        )
        self.rounding = premises.rounding(network.unit_roundoff)
        self.partition = self.samples.partition(premises)
        self._n_possible: IntArray | None = None
        if premises.level != "sample":
            self._n_possible = np.zeros(len(self.partition), dtype=np.int64)
        self._network = network
        self._premises = premises

    def batches(self) -> Iterator[Predicted]:
        """All samples, group by group."""
        samples, network = self.samples, self._network
        (mlp,) = samples.mlps
        bound = self._premises.bound
        for groups, codes in samples.sets(self.partition, self._premises):
            if self._n_possible is not None and isinstance(codes, CodeBoxes):
                self._n_possible[groups] = codes.n_possible_G
            ranges = codes.ranges(mlp, samples.n_dominant, self.rounding)
            deviation = hidden_deviation(network, ranges, bound, self.rounding)
            for rows, group_B, batch in samples.members(self.partition, groups):
                kept_BN = batch.kept_input(mlp, samples.n_dominant)
                hidden_BN = nonlinearity_value(network.first.activation, kept_BN)
                kept_BO = network.output(hidden_BN)
                true_BO = network.true_output(batch.x_BF[:, mlp.columns])
                yield Predicted(rows, group_B, deviation, kept_BO, true_BO)

    def length(self, n_margins: int) -> ProofLength:
        """Operations of the proof, with so many margins or output intervals.

        Call it after the batches, which tell how large the sets are.
        """
        return prediction_proof_length(
            self.samples.mlps[0],
            self._network,
            self.samples.n_active,
            self._n_possible,
            self.samples.components.shape[1],
            self._premises.bound,
            n_margins,
        )
