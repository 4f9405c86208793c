"""Sets of codes: the range of each feature, and the most active features."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ._explained_mlp import ExplainedMLP, NeuronRanges, SampleBatch
from ._rounding import Rounding

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
AnyArray = npt.NDArray[Any]


@dataclass(frozen=True)
class CodeBoxes:
    """G sets of codes: the range of each feature, and the most active features.

    A sample is in a set if its code is and if what its residual sends to each neuron is
    no larger than given. For the rounding, no coordinate of its residual may be larger
    than on the samples that the set was made of.

    Parameters
    ----------
    lower_GM, upper_GM : csr_array of shape (G, M)
        Range of each feature's code, with the same entries.
    max_active_G : ndarray of shape (G,), int64
        How many features may be active at once.
    size_GF : ndarray of shape (G, F)
        Largest magnitude of each activation; for the rounding only.
    residuals : dict of ExplainedMLP to ndarray of shape (G, N)
        For each MLP, the largest magnitude of what the residual sends to its neurons.
    """

    lower_GM: sparse.csr_array
    upper_GM: sparse.csr_array
    max_active_G: IntArray
    size_GF: FloatArray
    residuals: dict[ExplainedMLP, FloatArray]

    @classmethod
    def around(
        cls,
        members: Iterable[tuple[IntArray, SampleBatch]],
        mlps: list[ExplainedMLP],
        n_boxes: int,
    ) -> "CodeBoxes":
        """The smallest boxes around samples.

        Parameters
        ----------
        members : iterable of (ndarray of shape (B,), SampleBatch)
            The box of each sample, in rising order, and the samples.
        mlps : list of ExplainedMLP
            The MLPs.
        n_boxes : int
            ``G``.
        """
        entries = _Entries.none()
        n_members_G, max_active_G = np.zeros((2, n_boxes), dtype=np.int64)
        size_GF = np.zeros((n_boxes, 0))
        residuals = {mlp: np.zeros((n_boxes, len(mlp.bias_N))) for mlp in mlps}
        for box_B, batch in members:
            codes_BM = batch.codes_BM
            n_features = codes_BM.shape[1]
            entries = entries.merged(_Entries.of_samples(box_B, codes_BM))
            n_members_G += np.bincount(box_B, minlength=n_boxes)
            if not size_GF.size:
                size_GF = np.zeros((n_boxes, batch.x_BF.shape[1]))
            first_K = np.flatnonzero(np.diff(box_B, prepend=-1))
            for largest_G, value_B in (
                (max_active_G, np.diff(codes_BM.indptr)),
                (size_GF, np.abs(batch.x_BF)),
                *((residuals[mlp], mlp.residual(codes_BM, batch.x_BF)) for mlp in mlps),
            ):
                box_K = box_B[first_K]
                largest_K = np.maximum.reduceat(value_B, first_K, axis=0)
                largest_G[box_K] = np.maximum(largest_G[box_K], largest_K)
        lower_GM, upper_GM = entries.ranges(n_members_G, n_features)
        return cls(lower_GM, upper_GM, max_active_G, size_GF, residuals)

    def __len__(self) -> int:
        return len(self.max_active_G)

    @property
    def n_possible_G(self) -> IntArray:
        """Number of features that can be active in each box."""
        return np.diff(self.upper_GM.indptr).astype(np.int64)

    def ranges(
        self, mlp: ExplainedMLP, n_dominant: int, rounding: Rounding
    ) -> NeuronRanges:
        """Ranges of what the neurons of an MLP receive in each box."""
        # With a reconstruction of its own and the residual of a sample, activations may
        # be larger than the samples': by the reconstructions of both.
        recon_GD = mlp.reconstruction_size(self.upper_GM)
        size_GD = 3 * recon_GD + self.size_GF[:, mlp.columns]
        return mlp.box_ranges(
            self.lower_GM,
            self.upper_GM,
            self.max_active_G,
            self.residuals[mlp],
            mlp.rounding_of_received(size_GD, rounding),
            n_dominant,
        )


@dataclass(frozen=True)
class _Entries:
    """Boxes by their active features: entries in the order of boxes and features.

    Parameters
    ----------
    key_E : ndarray of shape (E,), int64
        Box times the number of features, plus the feature.
    lower_E, upper_E : ndarray of shape (E,)
        Least and largest code among the samples on which the feature is active.
    n_active_E : ndarray of shape (E,), int64
        Number of these samples.
    """

    key_E: IntArray
    lower_E: FloatArray
    upper_E: FloatArray
    n_active_E: IntArray

    @classmethod
    def none(cls) -> "_Entries":
        """No entries."""
        no_index, no_code = np.zeros(0, dtype=np.int64), np.zeros(0)
        return cls(no_index, no_code, no_code, no_index)

    @classmethod
    def of_samples(cls, box_B: IntArray, codes_BM: sparse.csr_array) -> "_Entries":
        """Those of samples, one after the other."""
        box_E = np.repeat(box_B, np.diff(codes_BM.indptr))
        key_E = box_E * codes_BM.shape[1] + codes_BM.indices
        return cls(key_E, codes_BM.data, codes_BM.data, np.ones_like(key_E))

    def merged(self, other: "_Entries") -> "_Entries":
        """The entries of both, those of the same box and feature as one."""
        key_E = np.concatenate([self.key_E, other.key_E])
        if not len(key_E):
            return self
        order_E = np.argsort(key_E, kind="stable")
        key_E = key_E[order_E]
        first_E = np.flatnonzero(np.diff(key_E, prepend=-1))

        def reduced(operation: np.ufunc, one: AnyArray, two: AnyArray) -> AnyArray:
            values: AnyArray = np.concatenate([one, two])[order_E]
            return operation.reduceat(values, first_E)

        return _Entries(
            key_E[first_E],
            reduced(np.minimum, self.lower_E, other.lower_E),
            reduced(np.maximum, self.upper_E, other.upper_E),
            reduced(np.add, self.n_active_E, other.n_active_E),
        )

    def ranges(
        self, n_members_G: IntArray, n_features: int
    ) -> tuple[sparse.csr_array, sparse.csr_array]:
        """Range of each feature's code: from 0 where some sample is without it."""
        box_E, feature_E = np.divmod(self.key_E, n_features)
        is_in_all_E = self.n_active_E == n_members_G[box_E]
        lower_E = np.where(is_in_all_E, self.lower_E, 0.0)
        first_G = np.searchsorted(box_E, np.arange(len(n_members_G) + 1))
        shape = len(n_members_G), n_features
        return (
            sparse.csr_array((lower_E, feature_E, first_G), shape=shape),
            sparse.csr_array((self.upper_E, feature_E, first_G), shape=shape),
        )
