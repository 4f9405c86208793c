"""What data say about features: their graph, and which are alive."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ..coders import BaseInteractionCoder
from ._affinities import (
    activation_frequency,
    coactivation_affinity,
    interaction_affinity,
    sparse_codes,
    weights_affinity,
)
from ._feature_graph import nearest_neighbors, symmetrized


class Features(NamedTuple):
    """What some data say about the features.

    Parameters
    ----------
    affinity : csr_array of shape (n_components, n_components)
        Edges of the graph of nearest neighbors.
    is_alive : ndarray of shape (n_components,)
        Which features are active, or have an affinity, at all.
    frequency : ndarray of shape (n_components,) or None
        Share of the samples on which each is active, where there are samples.
    """

    affinity: sparse.csr_array
    is_alive: npt.NDArray[np.bool_]
    frequency: npt.NDArray[np.float64] | None


def features_of_affinities(X: Any, n_neighbors: int | None) -> Features:
    """From affinities that are given."""
    matrix = nearest_neighbors(symmetrized(sparse.csr_array(X)), n_neighbors)
    return Features(matrix, np.diff(matrix.indptr) > 0, None)


def features_of_codes(X: Any, n_neighbors: int | None) -> Features:
    """From codes alone."""
    codes = sparse.csr_array(X)
    frequency = activation_frequency(codes)
    matrix = nearest_neighbors(coactivation_affinity(codes, n_neighbors), n_neighbors)
    return Features(matrix, frequency > 0, frequency)


def features_of_coder(
    coder: BaseInteractionCoder,
    X: Any,
    affinity: str,
    normalize: str | None,
    n_neighbors: int | None,
) -> Features:
    """From a fitted coder and activations."""
    codes = sparse_codes(coder, X)
    if affinity == "coactivation":
        return features_of_codes(codes, n_neighbors)
    frequency = activation_frequency(codes)
    is_alive = frequency > 0
    if affinity == "weights":
        matrix = weights_affinity(coder, is_alive, n_neighbors)
    else:
        matrix = interaction_affinity(coder, X, codes, normalize)
    return Features(nearest_neighbors(matrix, n_neighbors), is_alive, frequency)
