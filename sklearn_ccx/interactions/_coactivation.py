"""On how many samples two features are active together."""

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from sklearn.utils import gen_batches

from .._engine._sparse_codes import SparseCodes
from .._engine.neurons import PairAccumulator

# Pairs that are made at a time.
_MAX_PAIRS = 2**21

# A sample with more active features than this has too many pairs to keep them all in a
# sparse matrix: they are counted where they are asked for.
_MAX_ACTIVE = 1024

# Features of which the counts with all others are held at once.
_BLOCK = 256


class CoactivationCounts:
    """Counts samples by pairs of features that are active on them.

    Parameters
    ----------
    n_components : int
        Number of features.
    device : torch.device
        Where the codes are.
    """

    def __init__(self, n_components: int, device: torch.device) -> None:
        self._shape = n_components, n_components
        self._counts = PairAccumulator(n_components, device)
        self._crowded: list[npt.NDArray[np.int64]] = []

    def add(self, codes: SparseCodes) -> None:
        """Count some samples."""
        n_entries_B = codes.n_entries()
        is_crowded_B = n_entries_B > _MAX_ACTIVE
        if self._counts.is_dense or not bool(is_crowded_B.any()):
            self._add_pairs(codes)
            return
        for row in range(len(codes)):
            part, _ = codes.rows(slice(row, row + 1))
            if is_crowded_B[row]:
                self._crowded.append(part.features_A.cpu().numpy())
            else:
                self._add_pairs(part)

    def at(self, matrix: sparse.csr_array) -> sparse.csr_array:
        """Counts of the pairs that a matrix stores."""
        stored = matrix.copy()
        stored.data = np.ones(stored.nnz)
        counts = sparse.csr_array(self._counts.total().multiply(stored))
        if not self._crowded:
            return counts
        rows = np.repeat(np.arange(len(self._crowded)), list(map(len, self._crowded)))
        active = sparse.csc_array(
            (np.ones(len(rows)), (rows, np.concatenate(self._crowded))),
            shape=(len(self._crowded), self._shape[0]),
        )
        blocks = [
            sparse.csr_array((active[:, block].T @ active).multiply(stored[block]))
            for block in gen_batches(self._shape[0], _BLOCK)
        ]
        return sparse.csr_array(counts + sparse.vstack(blocks, format="csr"))

    def _add_pairs(self, codes: SparseCodes) -> None:
        n_others_A = codes.n_entries()[codes.rows_A]
        ends_A = n_others_A.cumsum(0)
        start = 0
        while start < len(ends_A):
            before = int(ends_A[start] - n_others_A[start])
            stop = int(torch.searchsorted(ends_A, before + _MAX_PAIRS, right=True))
            stop = max(stop, start + 1)
            entries = torch.arange(start, stop, device=ends_A.device)
            pairs = codes.pairs_of(entries)
            ones_P = torch.ones_like(pairs.dominant_P)
            self._counts.add(pairs.dominant_P, pairs.other_P, ones_P)
            start = stop
