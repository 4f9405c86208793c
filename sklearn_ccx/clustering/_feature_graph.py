"""Affinities between features, and the graph of each feature's nearest neighbors."""

from copy import copy
from typing import Any

import networkx as nx
import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize as normalize_rows

from ..coders._base import BaseInteractionCoder
from .._engine._tensors import to_tensor, torch_dtype
from ..interactions._interaction import interaction_matrix
from ..networks._site_mlps import check_mlps, freeze_mlps

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.floating]


def sparse_codes(coder: BaseInteractionCoder, X: Any) -> sparse.csr_array:
    """Codes of a fitted estimator as CSR, whatever its own output format."""
    encoder = copy(coder).set_params(sparse_output=True)
    encoder._sklearn_output_config = {"transform": "default"}
    return encoder.transform(X)


def activation_frequency(codes: sparse.csr_array) -> npt.NDArray[np.float64]:
    """Share of the samples on which each feature is active."""
    counts = np.bincount(codes.indices[codes.data != 0], minlength=codes.shape[1])
    return counts / codes.shape[0]


def interaction_affinity(
    coder: BaseInteractionCoder,
    X: Any,
    codes: sparse.csr_array,
    normalize: str | None,
) -> sparse.csr_array:
    """Interaction of each pair, normalized as asked for."""
    if normalize != "code_product":
        return symmetrized(interaction_matrix(coder, X, normalize=normalize))
    A = symmetrized(interaction_matrix(coder, X))
    codes = codes.astype(np.float64)
    products = sparse.csr_array(codes.T @ codes)
    products.data = codes.shape[0] / products.data
    return sparse.csr_array(A.multiply(products))


def coactivation_affinity(codes: sparse.csr_array) -> sparse.csr_array:
    """Cosine between the samples on which two features are active."""
    is_active = (codes != 0).astype(np.float64)
    is_active = normalize_rows(sparse.csr_array(is_active.T))
    return sparse.csr_array(is_active @ is_active.T)


def weights_affinity(
    coder: BaseInteractionCoder, is_alive: BoolArray, n_neighbors: int | None
) -> sparse.csr_array:
    """Cosine between what features write to the neurons, to the nearest neighbors.

    The neighbors are found in blocks, so that the matrix is never dense.
    """
    writes = neuron_writes(coder)
    features = np.flatnonzero(is_alive & writes.any(axis=1))
    A = sparse.csr_array((len(writes), len(writes)), dtype=np.float64)
    if len(features) < 2:
        return A
    n_others = len(features) - 1
    search = NearestNeighbors(
        n_neighbors=min(n_neighbors or n_others, n_others), algorithm="brute"
    ).fit(normalize_rows(writes[features]))
    distances, neighbors = search.kneighbors()
    cosines = np.maximum(1.0 - distances.astype(np.float64) ** 2 / 2, 0.0)
    rows = np.repeat(features, search.n_neighbors)
    columns = features[neighbors.ravel()]
    return sparse.csr_array((cosines.ravel(), (rows, columns)), shape=A.shape)


def neuron_writes(coder: BaseInteractionCoder) -> FloatArray:
    """Absolute input of every neuron from each feature, times its output norm.

    Returns
    -------
    ndarray of shape (n_components, n_inputs)
        The neurons of all MLPs side by side. Gated neurons have two inputs.
    """
    dtype, device = torch_dtype(coder.components_.dtype), torch.device("cpu")
    n_sites = coder.n_sites_
    weights = check_mlps(coder.mlp, n_sites, coder.n_features_in_ // n_sites)
    mlps = freeze_mlps(weights, coder.intercept_, n_sites, dtype=dtype, device=device)
    components_MF = to_tensor(coder.components_, dtype, device)
    writes = [mlp.neuron_inputs(components_MF) * mlp.input_norm for mlp in mlps]
    return torch.cat(writes, dim=1).abs().numpy()


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
    n_features = affinity.shape[0]
    # scikit-learn's clusterers take 32-bit indices only.
    rows = np.repeat(np.arange(n_features, dtype=np.int32), np.diff(affinity.indptr))
    columns = affinity.indices.astype(np.int32, copy=False)
    is_pair = (columns != rows) & (affinity.data > 0)
    rows, columns, data = rows[is_pair], columns[is_pair], affinity.data[is_pair]
    if n_neighbors is not None:
        ends = np.cumsum(np.bincount(rows, minlength=n_features))
        largest = [
            start + _largest(data[start:end], n_neighbors)
            for start, end in zip([0, *ends[:-1]], ends, strict=True)
        ]
        kept = np.concatenate(largest)
        rows, columns, data = rows[kept], columns[kept], data[kept]
    near = sparse.csr_array(
        (data.astype(np.float64), (rows, columns)), shape=affinity.shape
    )
    return sparse.csr_array(near.maximum(near.T))


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
