"""Clusters of the nodes of a weighted graph."""

from collections.abc import Iterable
from typing import Any

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import AffinityPropagation
from sklearn.utils import get_tags

from .._engine._tensors import power_of_two_near

Labels = npt.NDArray[np.intp]

METHODS = (
    "louvain",
    "greedy_modularity",
    "label_propagation",
    "affinity_propagation",
    "affinity_propagation_rows",
)


def cluster_nodes(
    affinity: sparse.csr_array,
    method: str | BaseEstimator,
    resolution: float,
    seed: int,
) -> Labels:
    """Cluster the nodes of a graph.

    Parameters
    ----------
    affinity : csr_array of shape (n_nodes, n_nodes)
        Symmetric, non-negative edge weights.
    method : str or clusterer
        One of `METHODS`, or an estimator of scikit-learn that takes a precomputed
        affinity or metric.
    resolution : float
        Of "louvain" and "greedy_modularity": more gives more clusters.
    seed : int
        Seeds the methods that are random.

    Returns
    -------
    ndarray of shape (n_nodes,)
        Clusters in order of decreasing size, -1 for none. Without any edge each
        node is its own.
    """
    if affinity.nnz == 0:
        return np.arange(affinity.shape[0])
    if method == "affinity_propagation":
        method = AffinityPropagation(affinity="precomputed")
    if method == "affinity_propagation_rows":
        rows = AffinityPropagation(random_state=seed)
        return in_order_of_size(rows.fit_predict(affinity.toarray()))
    if not isinstance(method, str):
        return in_order_of_size(_fit_predict(seeded_clone(method, seed), affinity))
    # The communities do not depend on the unit; squares of huge weights overflow.
    unit = power_of_two_near(float(affinity.max()))
    graph = nx.from_scipy_sparse_array(affinity / unit)
    communities: Iterable[set[int]]
    if method == "louvain":
        communities = nx.community.louvain_communities(
            graph, resolution=resolution, seed=seed
        )
    elif method == "greedy_modularity":
        communities = nx.community.greedy_modularity_communities(
            graph, weight="weight", resolution=resolution
        )
    else:
        communities = nx.community.asyn_lpa_communities(
            graph, weight="weight", seed=seed
        )
    labels = np.empty(affinity.shape[0], dtype=np.intp)
    for label, nodes in enumerate(communities):
        labels[list(nodes)] = label
    return in_order_of_size(labels)


def seeded_clone(estimator: Any, seed: int) -> Any:
    """Clone in which every random state that was left open is the seed.

    Those of nested estimators are, too.
    """
    estimator = clone(estimator)
    is_open = {
        name: seed
        for name, value in estimator.get_params().items()
        if name.rpartition("__")[2] == "random_state" and value is None
    }
    return estimator.set_params(**is_open) if is_open else estimator


def takes_precomputed(clusterer: BaseEstimator) -> str | None:
    """Name the parameter that says "precomputed", None if there is none."""
    params = clusterer.get_params(deep=False)
    for name in ("affinity", "metric"):
        if params.get(name) == "precomputed":
            return name
    return None


def _fit_predict(clusterer: Any, affinity: sparse.csr_array) -> Labels:
    if takes_precomputed(clusterer) == "metric":
        distance = 1.0 - affinity.toarray() / affinity.max()
        np.fill_diagonal(distance, 0.0)
        return clusterer.fit_predict(distance)
    if get_tags(clusterer).input_tags.sparse:
        return clusterer.fit_predict(affinity)
    return clusterer.fit_predict(affinity.toarray())


def in_order_of_size(labels: Labels) -> Labels:
    """Relabel clusters by decreasing size; equal sizes by their first node."""
    clustered = labels >= 0
    _, first, index, counts = np.unique(
        labels[clustered], return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(counts), dtype=np.intp)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    ordered = np.full(len(labels), -1, dtype=np.intp)
    ordered[clustered] = rank[index]
    return ordered
