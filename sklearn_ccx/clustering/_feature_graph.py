"""The graph of each feature's nearest neighbors, and clusters on it."""

from typing import Any

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy import sparse

FloatArray = npt.NDArray[np.floating]


def symmetrized(affinity: sparse.csr_array) -> sparse.csr_array:
    """Mean of both directions."""
    return sparse.csr_array((affinity + affinity.T) / 2)


def nearest_neighbors(
    affinity: sparse.csr_array, n_neighbors: int | None
) -> sparse.csr_array:
    """Keep the pairs in which one is among the other's nearest neighbors.

    Parameters
    ----------
    affinity : csr_array of shape (n_features, n_features)
        Non-negative. The diagonal does not count.
    n_neighbors : int or None
        Largest entries to keep in each row. None keeps all.

    Returns
    -------
    csr_array of shape (n_features, n_features), float64
        Symmetric, by the larger of both directions, without explicit zeros and with
        an empty diagonal.
    """
    near = largest_in_rows(affinity, n_neighbors)
    return sparse.csr_array(near.maximum(near.T))


def largest_in_rows(
    affinity: sparse.csr_array, n_neighbors: int | None, first_row: int = 0
) -> sparse.csr_array:
    """The largest entries of each row that are positive and not on the diagonal.

    Parameters
    ----------
    affinity : csr_array of shape (n_rows, n_features)
        Some consecutive rows of a matrix of all pairs.
    n_neighbors : int or None
        Entries to keep in each row. None keeps all.
    first_row : int
        Feature that the first row belongs to.

    Returns
    -------
    csr_array of shape (n_rows, n_features), float64
        Without explicit zeros.
    """
    n_rows = affinity.shape[0]
    # scikit-learn's clusterers take 32-bit indices only.
    rows = np.repeat(np.arange(n_rows, dtype=np.int32), np.diff(affinity.indptr))
    columns = affinity.indices.astype(np.int32, copy=False)
    is_pair = (columns != rows + first_row) & (affinity.data > 0)
    rows, columns, data = rows[is_pair], columns[is_pair], affinity.data[is_pair]
    if n_neighbors is not None:
        ends = np.cumsum(np.bincount(rows, minlength=n_rows))
        largest = [
            start + _largest(data[start:end], n_neighbors)
            for start, end in zip([0, *ends[:-1]], ends, strict=True)
        ]
        kept = np.concatenate(largest)
        rows, columns, data = rows[kept], columns[kept], data[kept]
    return sparse.csr_array(
        (data.astype(np.float64), (rows, columns)), shape=affinity.shape
    )


def _largest(values: FloatArray, n: int) -> npt.NDArray[np.intp]:
    if len(values) <= n:
        return np.arange(len(values))
    return np.argpartition(values, -n)[-n:]


def feature_graph(
    affinity: sparse.csr_array, attributes: dict[str, npt.NDArray[Any]]
) -> nx.Graph:
    """Undirected graph with edge weights, and attributes as Python scalars."""
    graph = nx.from_scipy_sparse_array(affinity)
    for name, values in attributes.items():
        nx.set_node_attributes(graph, dict(enumerate(values.tolist())), name)
    return graph


def membership(
    labels: npt.NDArray[np.intp], dtype: npt.DTypeLike = np.float64
) -> sparse.csr_array:
    """Array of shape (n_features, n_clusters), 1 where a feature is in a cluster."""
    features = np.flatnonzero(labels >= 0)
    shape = (len(labels), labels.max(initial=-1) + 1)
    ones = np.ones(len(features), dtype=dtype)
    return sparse.csr_array((ones, (features, labels[features])), shape=shape)


def modularity(affinity: sparse.csr_array, labels: npt.NDArray[np.intp]) -> float:
    """Modularity of the labels on the features that have one; 0 without edges."""
    members = membership(labels)
    between = sparse.csr_array(members.T @ affinity @ members)
    total = between.sum()
    if total == 0:
        return 0.0
    shares = between.sum(axis=1) / total
    return float(between.trace() / total - np.sum(shares**2))
