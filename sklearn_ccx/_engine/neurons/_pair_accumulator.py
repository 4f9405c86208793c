"""Sums of values over pairs of features."""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

# Up to this many features the sums are held as a dense matrix of float64 (128 MiB).
_MAX_DENSE = 4096

# Values that wait, at least, before they are merged into a sparse matrix.
_MIN_WAITING = 2**22


class PairAccumulator:
    """Adds up values at pairs of features.

    Parameters
    ----------
    n_components : int
        Number of features.
    device : torch.device
        Where the values come from.
    """

    def __init__(self, n_components: int, device: torch.device) -> None:
        self._shape = n_components, n_components
        self._dense_MM: Tensor | None = None
        if n_components <= _MAX_DENSE:
            self._dense_MM = torch.zeros(
                self._shape, dtype=torch.float64, device=device
            )
        self._merged = sparse.csr_array(self._shape, dtype=np.float64)
        self._waiting: list[sparse.coo_array] = []
        self._n_waiting = 0

    @property
    def is_dense(self) -> bool:
        """Whether every pair has its place from the start."""
        return self._dense_MM is not None

    def add(self, rows_P: Tensor, columns_P: Tensor, values_P: Tensor) -> None:
        """Add values to pairs, of which some may be the same."""
        values_P = values_P.double()
        if self._dense_MM is not None:
            pairs_P = rows_P * self._shape[1] + columns_P
            self._dense_MM.view(-1).index_add_(0, pairs_P, values_P)
            return
        rows, columns, values = (
            tensor.cpu().numpy() for tensor in (rows_P, columns_P, values_P)
        )
        batch = sparse.coo_array((values, (rows, columns)), shape=self._shape)
        self._waiting.append(batch)
        self._n_waiting += batch.nnz
        # Merging costs as much as what is merged already, so that it has to wait for
        # as many new values.
        if self._n_waiting >= max(_MIN_WAITING, self._merged.nnz):
            self._merge()

    def total(self) -> sparse.csr_array:
        """The sums, without stored zeros."""
        if self._dense_MM is not None:
            return sparse.csr_array(self._dense_MM.cpu().numpy())
        self._merge()
        return self._merged

    def _merge(self) -> None:
        parts = [self._merged.tocoo(), *self._waiting]
        rows, columns = (
            np.concatenate([part.coords[axis] for part in parts]) for axis in (0, 1)
        )
        values = np.concatenate([part.data for part in parts])
        merged = sparse.coo_array((values, (rows, columns)), shape=self._shape).tocsr()
        merged.eliminate_zeros()
        self._merged = merged
        self._waiting, self._n_waiting = [], 0
