"""What the neurons can receive from the codes in boxes: kept and not kept."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import sparse

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]

# Numbers of one array (boxes, features, neurons) that is worked through at a time: a
# few of them fit a processor's cache.
_BLOCK_SIZE = 2**15


def box_ranges(
    lower_GM: sparse.csr_array,
    upper_GM: sparse.csr_array,
    max_active_G: npt.NDArray[np.int64],
    M_MN: FloatArray,
    n_dominant: int,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Range of the kept contributions, and the largest interaction, of boxes.

    The interaction, a sum without its largest terms, grows with each term: it is
    largest where every code is at its upper end.

    Parameters
    ----------
    lower_GM, upper_GM : csr_array of shape (G, M)
        Range of each feature's code, with the same entries in the same order.
    max_active_G : ndarray of shape (G,), int64
        How many features may be active at once.
    M_MN : ndarray of shape (M, N)
        What one unit of each feature writes to each neuron.
    n_dominant : int
        How many contributions a neuron keeps.

    Returns
    -------
    kept_lower_GN, kept_upper_GN, interaction_GN : ndarray of shape (G, N)
        0 for a box without an active feature.
    """
    n_possible_G = np.diff(upper_GM.indptr)
    shape = 3, len(n_possible_G), M_MN.shape[1]
    kept_lower_GN, kept_upper_GN, interaction_GN = np.zeros(shape)
    for boxes_K, n_possible, tile in blocks(n_possible_G, max_active_G, shape[2]):
        entry_KA, is_feature_KA = padded_entries(upper_GM, boxes_K, n_possible)
        M_KAT = M_MN[upper_GM.indices[entry_KA], tile]
        magnitude_KAT = np.abs(M_KAT)
        least_KA = np.where(is_feature_KA, lower_GM.data[entry_KA], 0.0)
        most_KA = np.where(is_feature_KA, upper_GM.data[entry_KA], 0.0)
        least_KAT = least_KA[:, :, np.newaxis] * magnitude_KAT
        most_KAT = most_KA[:, :, np.newaxis] * magnitude_KAT
        interaction_GN[boxes_K, tile] = largest_interaction(
            most_KAT, n_possible_G[boxes_K], max_active_G[boxes_K], n_dominant
        )
        kept_lower_GN[boxes_K, tile], kept_upper_GN[boxes_K, tile] = _kept_range(
            least_KAT, most_KAT, M_KAT > 0, is_feature_KA, n_dominant
        )
    return kept_lower_GN, kept_upper_GN, interaction_GN


def blocks(
    n_possible_G: IntArray, max_active_G: IntArray, n_neurons: int
) -> Iterator[tuple[IntArray, int, slice]]:
    """Boxes with about as many features, the most of them, and a range of neurons."""
    # Where all features fit in at once, nothing needs to be sorted.
    is_crowded_G = n_possible_G > max_active_G
    order_G = np.lexsort((-n_possible_G, is_crowded_G))
    start = 0
    while start < len(order_G):
        first = order_G[start]
        n_possible = int(n_possible_G[first])
        width = min(n_neurons, max(1, _BLOCK_SIZE // max(n_possible, 1)))
        stop = start + max(1, _BLOCK_SIZE // (max(n_possible, 1) * width))
        boxes_K = order_G[start:stop]
        boxes_K = boxes_K[is_crowded_G[boxes_K] == is_crowded_G[first]]
        start += len(boxes_K)
        boxes_K = boxes_K[n_possible_G[boxes_K] > 0]
        if len(boxes_K):
            for left in range(0, n_neurons, width):
                yield boxes_K, n_possible, slice(left, min(left + width, n_neurons))


def padded_entries(
    codes_GM: sparse.csr_array, rows_K: IntArray, n_slots: int
) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Entries of some rows, (K, A), 0 where there is none, and where there is one."""
    slot_A = np.arange(n_slots)
    n_entries_K = codes_GM.indptr[rows_K + 1] - codes_GM.indptr[rows_K]
    is_entry_KA = slot_A < n_entries_K[:, np.newaxis]
    entry_KA = codes_GM.indptr[rows_K, np.newaxis] + slot_A
    return np.where(is_entry_KA, entry_KA, 0), is_entry_KA


def largest_interaction(
    most_KAT: FloatArray,
    n_possible_K: IntArray,
    max_active_K: IntArray,
    n_dominant: int,
) -> FloatArray:
    """Sum of the ``max_active`` largest terms without the ``n_dominant`` largest."""
    if n_dominant == 1 and (n_possible_K <= max_active_K).all():
        # Without the subtraction of the largest from the sum, which would cancel.
        largest_K1T = most_KAT.max(axis=1, keepdims=True)
        is_smaller_KAT = most_KAT < largest_K1T
        n_largest_KT = most_KAT.shape[1] - np.count_nonzero(is_smaller_KAT, axis=1)
        smaller_KT: FloatArray = np.where(is_smaller_KAT, most_KAT, 0.0).sum(axis=1)
        return smaller_KT + (n_largest_KT - 1) * largest_K1T[:, 0]
    rank_A = np.arange(most_KAT.shape[1])
    counts_KA = (rank_A >= n_dominant) & (rank_A < max_active_K[:, np.newaxis])
    falling_KAT = -np.sort(-most_KAT, axis=1)
    sum_KT: FloatArray = np.einsum("kat,ka->kt", falling_KAT, counts_KA * 1.0)
    return sum_KT


def _kept_range(
    least_KAT: FloatArray,
    most_KAT: FloatArray,
    is_positive_KAT: npt.NDArray[np.bool_],
    is_feature_KA: npt.NDArray[np.bool_],
    n_dominant: int,
) -> tuple[FloatArray, FloatArray]:
    """Range of the sum of the dominant contributions.

    A feature can be dominant only if it can exceed the ``n_dominant``-th of those that
    are there in any case; if it is, its own contribution exceeds that too.
    """
    threshold_K1T = np.zeros((len(least_KAT), 1, least_KAT.shape[2]))
    if n_dominant <= least_KAT.shape[1]:
        threshold_K1T = largest(least_KAT, n_dominant).min(axis=1, keepdims=True)
    # Rounding is monotone, so that the rounded products are in the same order.
    can_dominate_KAT = most_KAT >= threshold_K1T
    can_dominate_KAT &= is_feature_KA[:, :, np.newaxis]
    least_KAT = np.minimum(np.maximum(least_KAT, threshold_K1T), most_KAT)
    return range_of_dominant(
        least_KAT, most_KAT, is_positive_KAT, can_dominate_KAT, n_dominant
    )


def range_of_dominant(
    least_KAT: FloatArray,
    most_KAT: FloatArray,
    is_positive_KAT: npt.NDArray[np.bool_],
    can_dominate_KAT: npt.NDArray[np.bool_],
    n_dominant: int,
) -> tuple[FloatArray, FloatArray]:
    """Range of a sum of ``n_dominant`` contributions among those that can dominate.

    Each has a magnitude in ``[least, most]`` where it dominates.
    """
    upper_KAT = np.where(is_positive_KAT, most_KAT, -least_KAT)
    upper_KAT[~can_dominate_KAT] = -np.inf
    negated_KAT = np.where(is_positive_KAT, -least_KAT, most_KAT)
    negated_KAT[~can_dominate_KAT] = -np.inf
    return -_sum_of_largest(negated_KAT, n_dominant), _sum_of_largest(
        upper_KAT, n_dominant
    )


def _sum_of_largest(values_KAT: FloatArray, n_largest: int) -> FloatArray:
    """Sum of the largest finite values, (K, T)."""
    largest_KRT = largest(values_KAT, n_largest)
    sum_KT: FloatArray = np.where(largest_KRT == -np.inf, 0.0, largest_KRT).sum(axis=1)
    return sum_KT


def largest(values_KAT: FloatArray, n_largest: int) -> FloatArray:
    """The largest values over the features, in any order; all if there are fewer."""
    n_features = values_KAT.shape[1]
    if n_largest >= n_features:
        return values_KAT
    if n_largest == 1:
        return values_KAT.max(axis=1, keepdims=True)
    first = n_features - n_largest
    return np.partition(values_KAT, first, axis=1)[:, first:]
