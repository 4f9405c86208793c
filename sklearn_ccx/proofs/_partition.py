"""Samples by groups."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Partition:
    """Which group each sample belongs to.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int64
        The group of each sample, from 0.
    """

    labels: IntArray
    _rows: IntArray
    _first: IntArray

    @classmethod
    def of(cls, labels: IntArray) -> "Partition":
        """From the group of each sample."""
        rows = np.argsort(labels, kind="stable")
        first = np.concatenate([[0], np.cumsum(np.bincount(labels))])
        return cls(labels, rows, first)

    def __len__(self) -> int:
        return len(self._first) - 1

    def batches(self, n_samples: int) -> Iterator[slice]:
        """Groups that have about so many samples together, at least one at a time."""
        start = 0
        while start < len(self):
            last = self._first[start] + n_samples
            stop = int(np.searchsorted(self._first, last, side="right")) - 1
            stop = max(stop, start + 1)
            yield slice(start, stop)
            start = stop

    def members(
        self, groups: slice, n_samples: int
    ) -> Iterator[tuple[IntArray, IntArray]]:
        """Samples of some groups, so many at a time, and the place of each one's group.

        Both are in the order of the groups.
        """
        stop = self._first[groups.stop]
        for start in range(self._first[groups.start], stop, n_samples):
            rows = self._rows[start : min(start + n_samples, stop)]
            yield rows, self.labels[rows] - groups.start
