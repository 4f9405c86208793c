"""Samples, their codes and the MLPs that read them, as the proofs need them."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ..interactions import NeuronReader
from ..networks import MLPs, MLPWeights
from ._code_boxes import CodeBoxes
from ._explained_gated_mlp import ExplainedGatedMLP
from ._explained_mlp import ExplainedMLP, SampleBatch
from ._held_codes import HeldCodes
from ._partition import Partition
from ._premises import Premises, cluster_labels, numbered

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Without a batch_size, a batch may take so many bytes, or this share of X if that is
# more.
_BATCH_BYTES = 2**22
_SHARE_OF_X = 1 / 8

# Fewer samples at a time are slow, more are no faster.
_MIN_BATCH, _MAX_BATCH = 32, 512

# Arrays of the size (samples, neurons) that are there at once.
_NEURON_ARRAYS = 16

# Any grouping is sound, so that two patterns with the same digest would do no harm.
_DIGEST_BYTES = 16


class ExplainedSamples:
    """Validated activations and their codes, which are computed once.

    Parameters
    ----------
    estimator : estimator
        A fitted coder, or what holds one.
    X : array-like
        Activations as in its ``transform``.
    mlp : MLPWeights, list of MLPWeights or None
        The MLPs; None takes those of the coder.
    n_dominant : int or None
        How many contributions a neuron keeps; None takes the coder's.
    batch_size : int or None
        Samples read at a time.
    with_norms : bool
        Whether the MLPs may be behind norms.

    Attributes
    ----------
    mlps : list of ExplainedMLP
        The MLPs, gated or not; identity neurons at each site if there are none.
    components : ndarray of shape (M, F)
        The decoder.
    intercept : ndarray of shape (F,)
        Its bias.
    n_sites : int
        Number of sites.
    n_dominant : int
        How many contributions a neuron keeps.
    n_active : ndarray of shape (n_samples,), int64
        Number of active features of each sample.
    """

    def __init__(
        self,
        estimator: Any,
        X: npt.ArrayLike,
        mlp: MLPs,
        n_dominant: int | None,
        batch_size: int | None,
        *,
        with_norms: bool = False,
    ) -> None:
        reader = NeuronReader(
            estimator, X, mlp=mlp, n_dominant=n_dominant, batch_size=batch_size
        )
        coder, weights = reader.coder, reader.weights
        given = None if batch_size is None else reader.batch_size
        self._X = reader.X
        self.components = coder.components_.astype(np.float64, copy=False)
        self.intercept = coder.intercept_.astype(np.float64, copy=False)
        self.n_sites = coder.n_sites_
        n_features, n_columns = self.components.shape
        self.n_dominant = min(reader.n_dominant, n_features)
        if weights is None:
            identity = np.eye(n_columns // self.n_sites)
            weights = [
                MLPWeights(identity, identity, activation="identity", site=site)
                for site in range(self.n_sites)
            ]
        self.mlps = []
        for index, item in enumerate(weights):
            if item.norm is not None and not with_norms:
                raise ValueError(
                    f"mlp[{index}] is behind a norm, which divides each sample by its "
                    'own scale. Only certify with level="sample" covers that.'
                )
            explained = ExplainedMLP if item.W_gate is None else ExplainedGatedMLP
            self.mlps.append(explained(item, self.components, self.intercept))
        # Encoded are codes and what they come from; then the neurons are looked at.
        self._batch_size = given or self._length(
            3 * n_columns
            + _NEURON_ARRAYS * max(len(mlp.bias_N) for mlp in self.mlps)
            + sum(len(mlp.bias_N) for mlp in self.mlps)
        )
        encoded_at_once = given or self._length(2 * n_features + n_columns)
        self._codes = HeldCodes(coder, self._X, encoded_at_once)
        self.n_active = self._codes.n_active_B

    def _length(self, row_length: int) -> int:
        """Samples with so many numbers each that are read at a time."""
        X_bytes = self._X.shape[0] * self._X.shape[1] * self._X.dtype.itemsize
        budget = max(_BATCH_BYTES, int(_SHARE_OF_X * X_bytes))
        return min(max(budget // (8 * row_length), _MIN_BATCH), _MAX_BATCH)

    def __len__(self) -> int:
        return len(self._codes)

    def site_columns(self, site: int) -> slice:
        """The columns of a site."""
        width = len(self.intercept) // self.n_sites
        return slice(site * width, (site + 1) * width)

    def batches(self) -> Iterator[tuple[slice, SampleBatch]]:
        """All samples in their order."""
        for start in range(0, len(self), self._batch_size):
            rows = slice(start, min(start + self._batch_size, len(self)))
            yield rows, self._read(rows)

    def _read(self, rows: slice | IntArray) -> SampleBatch:
        return SampleBatch(
            self._codes[rows], np.asarray(self._X[rows], dtype=np.float64)
        )

    def partition(self, premises: Premises) -> Partition:
        """Which sample or set of codes each sample belongs to."""
        if premises.level == "sample":
            return Partition.of(np.arange(len(self)))
        if premises.level == "domain":
            return Partition.of(np.zeros(len(self), dtype=np.int64))
        if premises.groups is None:
            return Partition.of(self._dominant_patterns())
        cluster_M = cluster_labels(premises.groups, self.components.shape[0])
        if cluster_M is not None:
            return Partition.of(self._strongest_clusters(cluster_M))
        labels = numbered(premises.groups, "groups")
        if len(labels) != len(self):
            raise ValueError(
                f"groups has {len(labels)} entries, but X has {len(self)} "
                "samples; pass one label for each sample."
            )
        return Partition.of(labels)

    def _dominant_patterns(self) -> IntArray:
        """A number for each distinct assignment of dominant features to neurons."""
        n_dominant = min(self.n_dominant, int(self.n_active.max(initial=1)))
        digests = np.empty((len(self), _DIGEST_BYTES), dtype=np.uint8)
        for start in range(0, len(self), self._batch_size):
            rows = slice(start, min(start + self._batch_size, len(self)))
            codes_BM = self._codes[rows]
            hashes = [
                hashlib.blake2b(digest_size=_DIGEST_BYTES)
                for _ in range(rows.stop - rows.start)
            ]
            for mlp in self.mlps:
                for rows_K, feature_K in mlp.dominant_features(codes_BM, n_dominant):
                    for row, feature in zip(rows_K, feature_K, strict=True):
                        hashes[row].update(feature)
            for row, pattern in enumerate(hashes, start=start):
                digests[row] = np.frombuffer(pattern.digest(), dtype=np.uint8)
        return _numbered_as_they_come(digests.view(np.uint64))

    def _strongest_clusters(self, labels_M: npt.NDArray[Any]) -> IntArray:
        """The cluster of features with the largest sum of codes, -1 for no code."""
        cluster_M = numbered(labels_M, "groups.labels_")
        n_features, n_clusters = len(cluster_M), int(cluster_M.max()) + 1
        membership_MC = sparse.csr_array(
            (np.ones(n_features), (np.arange(n_features), cluster_M)),
            shape=(n_features, n_clusters),
        )
        strongest = np.empty(len(self), dtype=np.int64)
        for start in range(0, len(self), self._batch_size):
            rows = slice(start, min(start + self._batch_size, len(self)))
            pooled_BC = (self._codes[rows] @ membership_MC).toarray()
            strongest_B = pooled_BC.argmax(axis=1)
            strongest[rows] = np.where(pooled_BC.any(axis=1), strongest_B, -1)
        return numbered(strongest, "groups")

    def sets(
        self, partition: Partition, premises: Premises
    ) -> Iterator[tuple[slice, SampleBatch | CodeBoxes]]:
        """Groups, and the samples or the sets of codes that a theorem is about."""
        if premises.level == "sample":
            yield from self.batches()
            return
        for groups in partition.batches(self._batch_size):
            n_boxes = groups.stop - groups.start
            members = (
                (group_B, batch)
                for _, group_B, batch in self.members(partition, groups)
            )
            boxes = CodeBoxes.around(members, self.mlps, n_boxes)
            if premises.level == "domain":
                boxes = _domain(premises, boxes)
            yield groups, boxes

    def members(
        self, partition: Partition, groups: slice
    ) -> Iterator[tuple[IntArray, IntArray, SampleBatch]]:
        """Samples of some groups, and the place of each one's group among them."""
        for rows, group_B in partition.members(groups, self._batch_size):
            yield rows, group_B, self._read(rows)


def _numbered_as_they_come(keys: npt.NDArray[np.uint64]) -> IntArray:
    """A number for each distinct row, from 0 in the order of their first places."""
    order = np.lexsort(keys.T)
    is_new = np.ones(len(keys), dtype=bool)
    is_new[1:] = (keys[order][1:] != keys[order][:-1]).any(axis=1)
    # lexsort is stable: the first place of each key comes first.
    first_place = order[is_new]
    number_of_key = np.empty(len(first_place), dtype=np.int64)
    number_of_key[np.argsort(first_place)] = np.arange(len(first_place))
    numbers = np.empty(len(keys), dtype=np.int64)
    numbers[order] = number_of_key[np.cumsum(is_new) - 1]
    return numbers


def _domain(premises: Premises, seen: CodeBoxes) -> CodeBoxes:
    """The domain as the user wants it, which must cover the data."""
    upper_1M, max_active_1 = seen.upper_GM, seen.max_active_G
    code_max = premises.checked_code_max(upper_1M.shape[1])
    if code_max is not None:
        excess_M = upper_1M.toarray()[0] - code_max
        if excess_M.max() > 0:
            feature = int(excess_M.argmax())
            seen_max = excess_M[feature] + code_max[feature]
            raise ValueError(
                f"X has a code of {seen_max:.4g} for feature {feature}, "
                f"but code_max allows {code_max[feature]:.4g}; the samples must lie "
                "in the domain."
            )
        upper_1M = sparse.csr_array(code_max[np.newaxis])
    if premises.max_active is not None:
        if premises.max_active < max_active_1[0]:
            raise ValueError(
                f"X has a sample with {max_active_1[0]} active features, but "
                f"max_active={premises.max_active}; the samples must lie in the "
                "domain."
            )
        # More than there are features changes nothing.
        max_active_1 = np.array([min(premises.max_active, upper_1M.shape[1])])
    lower_1M = upper_1M.copy()
    lower_1M.data[:] = 0.0
    return replace(
        seen, lower_GM=lower_1M, upper_GM=upper_1M, max_active_G=max_active_1
    )
