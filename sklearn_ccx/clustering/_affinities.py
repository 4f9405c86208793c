"""Affinities between features: how they interact, fire and write."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize as normalize_rows

from .._engine._tensors import to_tensor, torch_dtype
from .._engine._torch_state import with_torch_state
from ..coders import BaseInteractionCoder
from ..interactions import interaction_matrix
from ..networks import check_mlps, freeze_mlps
from ._feature_graph import largest_in_rows, symmetrized

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.floating]

# Entries of a matrix of pairs that are held at a time, of 12 to 16 bytes each. One
# feature may have more.
_MAX_PAIRS = 2**21


@with_torch_state()
def sparse_codes(coder: BaseInteractionCoder, X: Any) -> sparse.csr_array:
    """Codes of a fitted coder as CSR, whatever its own output format."""
    return coder._encode_sparsely(coder._validate_activations(X))


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
    return per_code_product(symmetrized(interaction_matrix(coder, X)), codes)


def per_code_product(
    affinity: sparse.csr_array, codes: sparse.csr_array
) -> sparse.csr_array:
    """Affinities divided by the mean product of the codes of both features.

    The products are formed block by block and kept where there is an affinity.
    """
    codes = sparse.csr_array(codes.astype(np.float64))
    by_feature = sparse.csr_array(codes.T)
    quotients = []
    for block in _feature_blocks(by_feature, codes):
        products = by_feature[block] @ codes
        products.data = codes.shape[0] / products.data
        quotients.append(affinity[block].multiply(products))
    return sparse.csr_array(sparse.vstack(quotients, format="csr"))


def coactivation_affinity(
    codes: sparse.csr_array, n_neighbors: int | None
) -> sparse.csr_array:
    """Cosine between the samples on which two features are active.

    Of each row only the `n_neighbors` largest entries beside the diagonal are kept,
    block by block: a single sample that activates all features joins every pair.
    """
    is_active = (codes != 0).astype(np.float64)
    by_feature = normalize_rows(sparse.csr_array(is_active.T))
    by_sample = sparse.csr_array(by_feature.T)
    nearest = [
        largest_in_rows(by_feature[block] @ by_sample, n_neighbors, block.start)
        for block in _feature_blocks(by_feature, by_sample)
    ]
    return sparse.csr_array(sparse.vstack(nearest, format="csr"))


def _feature_blocks(
    by_feature: sparse.csr_array, by_sample: sparse.csr_array
) -> Iterator[slice]:
    """Features to take at a time, so that their pairs stay within the limit."""
    n_features = by_feature.shape[0]
    n_active = np.diff(by_sample.indptr)
    samples = sparse.csr_array(
        (np.ones(by_feature.nnz), by_feature.indices, by_feature.indptr),
        shape=by_feature.shape,
    )
    n_partners = np.minimum(samples @ n_active.astype(np.float64), n_features)
    start, n_pairs = 0, 0.0
    for feature, count in enumerate(n_partners.tolist()):
        if n_pairs + count > _MAX_PAIRS and feature > start:
            yield slice(start, feature)
            start, n_pairs = feature, 0.0
        n_pairs += count
    yield slice(start, n_features)


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


@with_torch_state()
def neuron_writes(coder: BaseInteractionCoder) -> FloatArray:
    """Absolute input of every neuron from each feature, times its output norm.

    Returns
    -------
    ndarray of shape (n_components, n_inputs)
        The neurons of all MLPs side by side. Gated neurons have two inputs.
    """
    dtype, device = torch_dtype(coder.components_.dtype), torch.device("cpu")
    n_sites = coder.n_sites_
    weights = check_mlps(coder.mlp_, n_sites, coder.n_features_in_ // n_sites)
    mlps = freeze_mlps(weights, coder.intercept_, n_sites, dtype=dtype, device=device)
    components_MF = to_tensor(coder.components_, dtype, device)
    writes = [mlp.neuron_inputs(components_MF) * mlp.input_norm for mlp in mlps]
    return torch.cat(writes, dim=1).abs().numpy()
