"""Some consecutive rows of activations, as another process can find them."""

import mmap
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class FileRegion:
    """Where in a file the numbers of an array lie.

    Attributes
    ----------
    path : str
        The file, from the root of the file system.
    start, n_bytes : int
        The bytes of the file that hold the numbers.
    offset : int
        Where among these bytes the first number is.
    dtype : dtype
        Of the numbers.
    shape, strides : tuple of int
        As those of an array.
    """

    path: str
    start: int
    n_bytes: int
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> "FileRegion | None":
        """The region that an array is a view of; None if it lies in memory."""
        mapped = _memory_map(array)
        if mapped is None or not array.size:
            return None
        steps = [
            (length - 1) * stride
            for length, stride in zip(array.shape, array.strides, strict=True)
        ]
        before = -sum(step for step in steps if step < 0)
        after = sum(step for step in steps if step > 0) + array.itemsize
        return cls(
            path=str(mapped.filename),
            start=int(mapped.offset) + _address(array) - _address(mapped) - before,
            n_bytes=before + after,
            offset=before,
            dtype=array.dtype,
            shape=array.shape,
            strides=array.strides,
        )

    def open(self) -> npt.NDArray[Any]:
        """The array, mapped into memory again.

        Raises
        ------
        ValueError
            If the file is not there, or too short.
        """
        try:
            mapped = np.memmap(
                self.path, np.uint8, mode="r", offset=self.start, shape=(self.n_bytes,)
            )
        except (OSError, ValueError) as error:
            raise ValueError(
                f"X is a memory map of {self.path!r}, which this process cannot read "
                f"({error}). Put it where every worker finds it under that path, or "
                "pass X in memory."
            ) from error
        return np.ndarray(
            self.shape,
            self.dtype,
            buffer=mapped,
            offset=self.offset,
            strides=self.strides,
        )


class RowRange:
    """Consecutive rows of activations, of which slices can be read.

    Pickled, it is where the rows lie, if that is in files, which are opened when they
    are first read. Rows in memory pickle as they are, without those before and after.

    Parameters
    ----------
    X : array of shape (n_samples, F) or FileRegion
        Validated activations, or where they lie.
    start, stop : int
        Which rows.
    first : int, default=None
        The number of the first row among all samples, None for `start`.

    Attributes
    ----------
    first : int
        That number.
    shape : tuple of int
        `(stop - start, F)`.
    dtype : dtype
        That of `X`.
    """

    def __init__(self, X: Any, start: int, stop: int, first: int | None = None) -> None:
        self.first = start if first is None else first
        self.shape = (stop - start, *X.shape[1:])
        self.dtype = X.dtype
        if not isinstance(X, FileRegion):  # a view, which stays the same object
            X, start, stop = X[start:stop], 0, stop - start
        self._given, self._start, self._stop = X, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, rows: slice) -> Any:
        start, stop, step = rows.indices(len(self))
        return self._X[self._start + start : self._start + stop : step]

    @cached_property
    def _X(self) -> Any:
        # Not when it is unpickled: an error there would end joblib's workers.
        given = self._given
        return given.open() if isinstance(given, FileRegion) else given

    def __reduce__(self) -> tuple[Any, ...]:
        given = self._given  # shards pickle as their paths
        if isinstance(given, np.ndarray):
            given = FileRegion.of(given) or given
        return type(self), (given, self._start, self._stop, self.first)


def _memory_map(array: Any) -> np.memmap[Any, Any] | None:
    """The memory map of a file that an array is a view of, None if there is none.

    Not one that is copied on writing: what has been written is in no file.
    """
    while array is not None:
        if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap):
            is_in_file = array.filename is not None and array.mode != "c"
            return array if is_in_file else None
        array = getattr(array, "base", None)
    return None


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
