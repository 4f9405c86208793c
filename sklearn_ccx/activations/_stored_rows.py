"""Rows of numbers in several files, and views of their rows and columns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

IndexArray = npt.NDArray[np.intp]

STORAGE_DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),  # numpy has no bfloat16; these are its bits
    "float32": np.dtype("<f4"),
}


@dataclass(frozen=True)
class ShardFile:
    """Where some rows lie on disk.

    Attributes
    ----------
    path : Path
        The file.
    offset : int
        Bytes before the first row.
    n_rows : int
        Number of rows, one after the other without gaps.
    """

    path: Path
    offset: int
    n_rows: int


class StoredRows:
    """Rows of several files, one after the other, mapped into memory.

    The maps have the dtype of the files; what is read is converted, and nothing else.

    Parameters
    ----------
    files : sequence of ShardFile
        Where the rows lie.
    row_length : int
        Numbers in a row.
    storage_dtype : {"float16", "bfloat16", "float32"}
        Of the numbers, in little-endian order.
    """

    def __init__(
        self, files: Sequence[ShardFile], row_length: int, storage_dtype: str
    ) -> None:
        self.files = tuple(files)
        self.row_length = row_length
        self.storage_dtype = storage_dtype
        self._maps = [self._map(file) for file in self.files]
        self._ends = np.cumsum([file.n_rows for file in self.files], dtype=np.intp)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.files else 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the memory maps, which pickle as the data they hold.
        return type(self), (self.files, self.row_length, self.storage_dtype)

    def _map(self, file: ShardFile) -> npt.NDArray[Any]:
        shape = file.n_rows, self.row_length
        dtype = STORAGE_DTYPES[self.storage_dtype]
        if 0 in shape:  # no system maps nothing
            return np.empty(shape, dtype)
        return np.memmap(file.path, dtype, mode="r", offset=file.offset, shape=shape)

    def read(
        self, rows: range | IndexArray, columns: slice | IndexArray
    ) -> Iterator[tuple[slice | IndexArray, npt.NDArray[Any]]]:
        """Some columns of some rows: file by file, which of the rows, and they."""
        for here, number, within in self._by_file(rows):
            stored = _take(self._maps[number], within, columns)
            if self.storage_dtype == "bfloat16":  # the upper half of a float32
                stored = (stored.astype(np.uint32) << 16).view(np.float32)
            yield here, stored

    def _by_file(
        self, rows: range | IndexArray
    ) -> Iterator[tuple[slice | IndexArray, int, slice | IndexArray]]:
        """The files that hold the rows, and where."""
        if not len(rows):
            return
        if isinstance(rows, range) and rows.step == 1:
            ends = [rows[0], rows[-1]]
            first, last = np.searchsorted(self._ends, ends, side="right").tolist()
            for number in range(first, last + 1):
                start = self._start(number)
                begin = max(rows.start, start)
                end = min(rows.stop, int(self._ends[number]))
                if begin < end:
                    here = slice(begin - rows.start, end - rows.start)
                    yield here, number, slice(begin - start, end - start)
            return
        index = np.asarray(rows, dtype=np.intp)
        file_of = np.searchsorted(self._ends, index, side="right")
        for number in np.unique(file_of).tolist():
            chosen = np.flatnonzero(file_of == number)
            yield chosen, number, index[chosen] - self._start(number)

    def _start(self, number: int) -> int:
        return int(self._ends[number]) - self.files[number].n_rows


@dataclass(frozen=True)
class Piece:
    """Some columns of some stored rows, as columns of a view.

    Parameters
    ----------
    stored : StoredRows
        What is viewed.
    rows : range or ndarray of int
        The stored row of each row of the view.
    columns : slice or ndarray of int
        Of the stored rows.
    places : slice or ndarray of int
        The columns of the view that they are.
    """

    stored: StoredRows
    rows: range | IndexArray
    columns: slice | IndexArray
    places: slice | IndexArray

    def fill(self, out: npt.NDArray[Any], rows: range | IndexArray) -> None:
        """Write the given rows of the view into its columns of an array."""
        if not self.has_columns:
            return
        chosen = chosen_of(self.rows, rows)
        for here, values in self.stored.read(chosen, self.columns):
            if isinstance(here, slice) or isinstance(self.places, slice):
                out[here, self.places] = values
            else:
                out[np.ix_(here, self.places)] = values

    @property
    def has_columns(self) -> bool:
        """Whether there is anything to read."""
        return isinstance(self.places, slice) or len(self.places) > 0

    def with_columns(self, chosen: IndexArray, n_columns: int) -> "Piece":
        """What is left of it in a view of some columns of the view."""
        source = np.full(n_columns, -1, dtype=np.intp)
        columns = self.columns
        if isinstance(columns, slice):
            columns = np.arange(columns.start, columns.stop)
        source[self.places] = columns
        source = source[chosen]
        places = np.flatnonzero(source >= 0)
        return replace(self, columns=as_slice(source[places]), places=as_slice(places))

    def moved(self, n_columns: int) -> "Piece":
        """The same, so many columns of the view further on."""
        places = self.places
        if isinstance(places, slice):
            moved: slice | IndexArray = slice(
                places.start + n_columns, places.stop + n_columns
            )
        else:
            moved = places + n_columns
        return replace(self, places=moved)


def chosen_of(
    rows: range | IndexArray, chosen: range | IndexArray
) -> range | IndexArray:
    """Some of the rows; a range where it can be one."""
    if isinstance(chosen, range):
        if not len(chosen):
            return range(0)
        stop = chosen[-1] + (1 if chosen.step > 0 else -1)
        return rows[chosen.start : stop if stop >= 0 else None : chosen.step]
    if isinstance(rows, range):
        return rows.start + rows.step * chosen
    return rows[chosen]


def as_slice(index: IndexArray) -> slice | IndexArray:
    """Consecutive indices as a slice, which reads nothing between them."""
    if len(index) and (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def _take(
    rows: npt.NDArray[Any], within: slice | IndexArray, columns: slice | IndexArray
) -> npt.NDArray[Any]:
    """Some columns of some rows, without reading what lies on either side."""
    if isinstance(columns, slice):
        return rows[within, columns]
    first = int(columns.min())
    near = rows[within, first : int(columns.max()) + 1]
    return near[:, columns - first]
