"""What each pass of a fit is over: an array, or the buffers of a stream in turn."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .._engine._data import Rows, TrainingData
from ..activations import ActivationStream

FloatArray = npt.NDArray[np.floating]


class Passes:
    """The data of the passes of a fit.

    Parameters
    ----------
    X : array-like or ActivationStream
        As the user gave it.

    Attributes
    ----------
    stream : ActivationStream or None
        The stream, if it is one.
    n_buffers : int
        Passes over parts of X that make one over all of it; 1 without a stream.
    """

    def __init__(self, X: Any) -> None:
        self.stream = X if isinstance(X, ActivationStream) else None
        self.n_buffers = 1 if self.stream is None else self.stream.n_buffers
        self._given = X
        self._held: tuple[TrainingData, Rows] | None = None
        self._number = 0

    def first(self) -> Any:
        """All of X, or the first buffer."""
        return self._given if self.stream is None else self.stream.buffer(0)

    def n_samples(self, first: Any) -> int:
        """How many samples there are, given the first part of X."""
        return len(first) if self.stream is None else self.stream.n_samples

    def begin(
        self,
        data: TrainingData,
        rows: Rows,
        read: Callable[[Any], tuple[TrainingData, Rows]],
    ) -> None:
        """Hold what was read first.

        Parameters
        ----------
        data : TrainingData
            The first part of X.
        rows : ndarray of int
            Those to train on.
        read : callable
            Makes both of another buffer.
        """
        self._held, self._read = (data, rows), read

    def __call__(self, i_pass: int) -> tuple[TrainingData, Rows]:
        """Data and rows of a pass."""
        assert self._held is not None
        number = i_pass % self.n_buffers
        if self.stream is not None and number != self._number:
            self._held = None  # before the next one is there
            self._held = self._read(self.stream.buffer(number))
            self._number = number
        return self._held
