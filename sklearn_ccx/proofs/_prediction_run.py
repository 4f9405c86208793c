"""Samples, how far the network can be from its explanation, and what both predict."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..coders._base import BaseInteractionCoder
from ._dense_network import DenseNetwork
from ._deviation import Deviation, hidden_deviation
from ._explained_samples import ExplainedSamples, Premises
from ._intervals import nonlinearity_value
from ._neuron_ranges import CodeBoxes, dominant_contributions
from ._proof_length import ProofLength, prediction_proof_length

FloatArray = npt.NDArray[np.float64]


class PredictionRun:
    """Samples, the deviation of their groups, and what is predicted for them."""

    def __init__(
        self,
        estimator: BaseInteractionCoder,
        X: npt.ArrayLike,
        network: DenseNetwork,
        premises: Premises,
        n_dominant: int | None,
        batch_size: int | None,
    ) -> None:
        self.samples = ExplainedSamples(
            estimator, X, network.first, n_dominant, batch_size, network.unit_roundoff
        )
        self.slack = premises.slack
        self.labels = self.samples.group_labels(premises)
        self.n_groups = int(self.labels.max()) + 1
        self._boxes: CodeBoxes | None = self.samples.boxes(self.labels, premises)
        self._network = network
        self._bound = premises.bound

    def batches(self) -> Iterator[tuple[slice, Deviation, FloatArray, FloatArray]]:
        """Rows, deviations, and outputs of explanation and network, (B, O).

        The deviations are those of the rows, or of all groups.
        """
        (mlp,) = self.samples.mlps
        network = self._network
        by_group = self._deviations() if self._boxes is not None else None
        by_sample = iter(()) if by_group is not None else self._sample_deviations()
        for rows, codes_BM, x_BF in self.samples.batches():
            _, kept_RBN, _ = dominant_contributions(
                codes_BM, mlp.M_MN, self.samples.n_dominant
            )
            kept_BN = kept_RBN.sum(axis=0) + mlp.bias_N
            hidden_BN = nonlinearity_value(network.first.activation, kept_BN)
            deviation = next(by_sample) if by_group is None else by_group
            true_BO = network.true_output(x_BF[:, mlp.columns])
            yield rows, deviation, network.output(hidden_BN), true_BO

    def groups_of(
        self, rows: slice, members: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows of the deviations that some samples of a batch need, and which each."""
        if self._boxes is None:
            return members, np.arange(len(members))
        unique, inverse = np.unique(self.labels[rows][members], return_inverse=True)
        return unique, inverse

    def length(self, n_margins: int) -> ProofLength:
        """Operations of the proof, with so many margins or output intervals."""
        return prediction_proof_length(
            self.samples.mlps[0],
            self._network,
            self.samples.n_active(),
            self._boxes,
            self.samples.components.shape[1],
            self._bound,
            n_margins,
        )

    def _sample_deviations(self) -> Iterator[Deviation]:
        for _, ranges in self.samples.ranges(0, self._boxes, self.slack):
            yield hidden_deviation(self._network, ranges, self._bound, self.slack)

    def _deviations(self) -> Deviation:
        return Deviation.concatenate(list(self._sample_deviations()))
