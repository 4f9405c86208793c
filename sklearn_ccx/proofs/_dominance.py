"""Dominant contributions of samples, from the active entries of their codes."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import sparse

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int32]

# Up to so many dominant features are held while the others go by; more are sorted.
_MAX_HELD = 4

# Numbers of one array that is worked through at a time: a few fit a processor's cache.
_TILE_SIZE = 2**15


def dominant_contributions(
    codes_BM: sparse.csr_array, M_MN: FloatArray, n_dominant: int
) -> tuple[FloatArray, FloatArray]:
    """Sums of the dominant contributions, and of the magnitudes of the others.

    The magnitudes of those that are not dominant are added up without the dominant
    ones, so that nothing cancels. Ties go to the feature with the lower index.

    Parameters
    ----------
    codes_BM : csr_array of shape (B, M)
        Codes, their active entries in the order of the features.
    M_MN : ndarray of shape (M, N)
        What one unit of each feature writes to each neuron.
    n_dominant : int
        How many contributions a neuron keeps.

    Returns
    -------
    kept_BN : ndarray of shape (B, N)
        Sums of the dominant contributions.
    interaction_BN : ndarray of shape (B, N)
        Sums of the magnitudes of the others.
    """
    n_samples, n_neurons = codes_BM.shape[0], M_MN.shape[1]
    kept_BN, interaction_BN = np.zeros((2, n_samples, n_neurons))
    n_active_B = np.diff(codes_BM.indptr)
    if n_dominant <= _MAX_HELD:
        for tile in _tiles(n_neurons, n_samples * n_dominant):
            held = _held(codes_BM, M_MN[:, tile], n_dominant)
            kept_BN[:, tile], interaction_BN[:, tile] = held
        return kept_BN, interaction_BN
    keeps_all_B = n_active_B <= n_dominant
    kept_BN[keeps_all_B] = codes_BM[keeps_all_B] @ M_MN
    for row in np.flatnonzero(~keeps_all_B).tolist():
        for tile in _tiles(n_neurons, n_active_B[row]):
            _, value_AT, order_AT = _falling(codes_BM, row, M_MN, tile)
            falling_AT = np.take_along_axis(value_AT, order_AT, axis=0)
            kept_BN[row, tile] = falling_AT[:n_dominant].sum(axis=0)
            interaction_BN[row, tile] = np.abs(falling_AT[n_dominant:]).sum(axis=0)
    return kept_BN, interaction_BN


def dominant_features(
    codes_BM: sparse.csr_array, M_MN: FloatArray, n_dominant: int
) -> Iterator[IntArray]:
    """Dominant features by falling magnitude, for some neurons after the other.

    Yields
    ------
    feature_BRT : ndarray of shape (B, R, T), int32
        Features that are dominant at `T` neurons, -1 for none.
    """
    n_samples, n_neurons = codes_BM.shape[0], M_MN.shape[1]
    holds = n_dominant <= _MAX_HELD
    n_largest = n_dominant if holds else np.diff(codes_BM.indptr).max(initial=0)
    for tile in _tiles(n_neurons, n_samples * n_largest):
        width = tile.stop - tile.start
        feature_BRT = np.full((n_samples, n_dominant, width), -1, dtype=np.int32)
        if holds:
            feature_RBT = feature_BRT.transpose(1, 0, 2)
            _held(codes_BM, M_MN[:, tile], n_dominant, feature_RBT)
        else:
            for row in range(n_samples):
                feature_A, value_AT, order_AT = _falling(codes_BM, row, M_MN, tile)
                kept_AT = order_AT[:n_dominant]
                writes_AT = np.take_along_axis(value_AT, kept_AT, axis=0) != 0
                kept_AT = np.where(writes_AT, feature_A[kept_AT], -1)
                feature_BRT[row, : len(kept_AT)] = kept_AT
        yield feature_BRT


def _tiles(n_neurons: int, n_rows: int) -> Iterator[slice]:
    """Ranges of neurons with about so many numbers as fit a cache, in so many rows."""
    length = max(1, _TILE_SIZE // max(n_rows, 1))
    for start in range(0, n_neurons, length):
        yield slice(start, min(start + length, n_neurons))


def _held(
    codes_BM: sparse.csr_array,
    M_MT: FloatArray,
    n_dominant: int,
    feature_RBT: IntArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Hold the largest contributions so far while the active features go by.

    The features of those that are held are written to ``feature_RBT``.
    """
    n_samples, n_neurons = codes_BM.shape[0], M_MT.shape[1]
    n_active_B = np.diff(codes_BM.indptr)
    # Fullest first: the samples that have another active feature are the first ones.
    order_B = np.argsort(-n_active_B, kind="stable")
    first_B, n_active_B = codes_BM.indptr[:-1][order_B], n_active_B[order_B]
    kept_RBT = np.zeros((n_dominant, n_samples, n_neurons))
    held_RBT = np.full(kept_RBT.shape if feature_RBT is not None else 0, -1, np.int32)
    interaction_BT = np.zeros((n_samples, n_neurons))
    for slot in range(n_active_B.max(initial=0)):
        n_rows = np.count_nonzero(n_active_B > slot)
        entry_S = first_B[:n_rows] + slot
        feature_S = codes_BM.indices[entry_S]
        value_ST = M_MT[feature_S]
        value_ST *= codes_BM.data[entry_S, np.newaxis]
        size_ST = np.abs(value_ST)
        feature_ST = feature_S[:, np.newaxis]
        wins_ST = np.zeros(value_ST.shape, dtype=bool)
        for rank in range(n_dominant):
            kept_ST = kept_RBT[rank, :n_rows]
            # What has lost its rank takes the next one, also from one as large.
            wins_ST |= size_ST > np.abs(kept_ST)
            losing_ST = np.where(wins_ST, kept_ST, value_ST)
            np.copyto(kept_ST, value_ST, where=wins_ST)
            if feature_RBT is not None:
                held_ST = held_RBT[rank, :n_rows]
                losing_feature_ST = np.where(wins_ST, held_ST, feature_ST)
                np.copyto(held_ST, feature_ST, where=wins_ST)
                feature_ST = losing_feature_ST
            value_ST, size_ST = losing_ST, np.abs(losing_ST)
        interaction_BT[:n_rows] += size_ST
    if feature_RBT is not None:
        feature_RBT[:, order_B] = held_RBT
    back_B = np.argsort(order_B)
    return kept_RBT.sum(axis=0)[back_B], interaction_BT[back_B]


def _falling(
    codes_BM: sparse.csr_array, row: int, M_MN: FloatArray, tile: slice
) -> tuple[IntArray, FloatArray, npt.NDArray[np.int64]]:
    """Active features of a sample, contributions, and their order by magnitude."""
    entries = slice(*codes_BM.indptr[row : row + 2])
    feature_A = codes_BM.indices[entries]
    value_AT = codes_BM.data[entries, np.newaxis] * M_MN[feature_A, tile]
    return feature_A, value_AT, np.argsort(-np.abs(value_AT), axis=0, kind="stable")
