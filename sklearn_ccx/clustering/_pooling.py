"""Codes of the features of each cluster combined into one, and back."""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ._feature_graph import membership

FloatArray = npt.NDArray[np.floating]
Labels = npt.NDArray[np.intp]


def pool(
    codes: sparse.csr_array, labels: Labels, n_clusters: int, pooling: str
) -> FloatArray:
    """Mean, sum or maximum of the codes of each cluster, (n_samples, n_clusters)."""
    if pooling == "max":
        columns = sparse.csc_array(codes)
        largest = [
            columns[:, np.flatnonzero(labels == label)].max(axis=1)
            for label in range(n_clusters)
        ]
        if not largest:
            return np.zeros((codes.shape[0], 0), dtype=codes.dtype)
        return np.column_stack([column.toarray() for column in largest])
    members = membership(labels, codes.dtype)
    pooled = (codes @ members).toarray()
    if pooling == "mean":
        pooled /= members.sum(axis=0)
    return pooled


def unpool(pooled: FloatArray, labels: Labels, pooling: str) -> FloatArray:
    """The same code for each feature of a cluster, such that :func:`pool` undoes it."""
    members = membership(labels, pooled.dtype)
    if pooling == "sum":
        pooled = pooled / members.sum(axis=0)
    return pooled @ members.T
