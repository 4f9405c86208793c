"""On how many samples two features are active together."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class CoactivationCounts:
    """Numbers of samples by pairs of features that are active on them.

    Parameters
    ----------
    of_pairs : csr_array of shape (M, M)
        Numbers of samples.
    crowded : list of ndarray of int
        The active features of each sample that is not counted there.
    """

    of_pairs: sparse.csr_array
    crowded: list[npt.NDArray[np.int64]]

    def __add__(self, other: "CoactivationCounts") -> "CoactivationCounts":
        return CoactivationCounts(
            self.of_pairs + other.of_pairs, self.crowded + other.crowded
        )

    def at(self, matrix: sparse.csr_array) -> sparse.csr_array:
        """Counts of the pairs that a matrix stores."""
        stored = matrix.copy()
        stored.data = np.ones(stored.nnz)
        counts = sparse.csr_array(self.of_pairs.multiply(stored))
        if not self.crowded:
            return counts
        n_components = self.of_pairs.shape[0]
        rows = np.repeat(np.arange(len(self.crowded)), list(map(len, self.crowded)))
        active = sparse.csc_array(
            (np.ones(len(rows)), (rows, np.concatenate(self.crowded))),
            shape=(len(self.crowded), n_components),
        )
        blocks = [
            sparse.csr_array((active[:, block].T @ active).multiply(stored[block]))
            for block in gen_batches(n_components, _BLOCK)
        ]
        return sparse.csr_array(counts + sparse.vstack(blocks, format="csr"))


class CoactivationCounter:
    """Counts samples by pairs of features that are active on them.

    Parameters
    ----------
    n_components : int
        Number of features.
    device : torch.device
        Where the codes are.
    """

    def __init__(self, n_components: int, device: torch.device) -> None:
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

    def counts(self) -> CoactivationCounts:
        """What has been counted."""
        return CoactivationCounts(self._counts.total(), self._crowded)

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
