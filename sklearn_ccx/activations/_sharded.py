"""Activations in several files, read row by row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._validation import as_numpy

_ITEM_DTYPES: dict[str, np.dtype[Any]] = {
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


class ShardedActivations:
    """Activations in several files, as one array that is read row by row.

    Indexing reads the rows asked for and nothing else. The estimators and the
    functions of this package take it as X and read it batch by batch.
    ``np.asarray`` reads everything.

    It is made by :func:`sklearn_ccx.lm.harvest` and
    :func:`sklearn_ccx.lm.load_harvest`.

    Parameters
    ----------
    files : sequence of ShardFile
        Where the rows lie.

    row_shape : tuple of int
        Shape of a row, `(n_sites, d)`.

    storage_dtype : {"float16", "bfloat16", "float32"}
        Of the numbers in the files, in little-endian order.

    Attributes
    ----------
    shape : tuple of int
        `(n_samples, n_sites, d)`.

    ndim : int
        Number of axes.

    dtype : dtype
        float32, that of the rows that indexing returns.

    storage_dtype : str
        That of the files.

    See Also
    --------
    sklearn_ccx.lm.harvest : Write activations of a language model to such files.

    Examples
    --------
    >>> import tempfile
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from sklearn_ccx.activations import load_harvest
    >>> from sklearn_ccx.lm import harvest
    >>> config = GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=16)
    >>> model = GPT2LMHeadModel(config)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     _ = harvest(model, [[1, 2, 3], [4, 5]], out=directory)
    ...     activations = load_harvest(directory).activations
    ...     activations.shape, activations[[0, 4]].shape
    ((5, 2, 8), (2, 2, 8))
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self, files: Sequence[ShardFile], row_shape: tuple[int, ...], storage_dtype: str
    ) -> None:
        self._files = tuple(files)
        self._row_shape = tuple(row_shape)
        self.storage_dtype = storage_dtype
        row_length = int(np.prod(self._row_shape))
        self._shards = [
            np.memmap(
                file.path,
                dtype=_ITEM_DTYPES[storage_dtype],
                mode="r",
                offset=file.offset,
                shape=(file.n_rows, row_length),
            )
            for file in self._files
        ]
        self._ends = np.cumsum([file.n_rows for file in self._files])
        self.shape = (int(self._ends[-1]), *self._row_shape)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> npt.NDArray[np.float32]:
        if isinstance(key, tuple):
            rows, *columns = key or (slice(None),)
        else:
            rows, columns = key, []
        if isinstance(rows, int | np.integer):
            return self[[rows], *columns][0]
        index = self._row_index(rows)
        out = np.empty((len(index), self._shards[0].shape[1]), dtype=np.float32)
        shard_of = np.searchsorted(self._ends, index, side="right")
        for number in np.unique(shard_of):
            here = shard_of == number
            start = self._ends[number] - self._files[number].n_rows
            out[here] = self._decode(self._shards[number][index[here] - start])
        by_site = out.reshape(len(index), *self._row_shape)
        return by_site[:, *columns] if columns else by_site

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if copy is False:
            raise ValueError("The rows lie in files; they cannot be had uncopied.")
        return np.asarray(self[:], dtype=dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the memory maps, which pickle as the data they hold.
        return type(self), (self._files, self._row_shape, self.storage_dtype)

    def __repr__(self) -> str:
        return (
            f"ShardedActivations(shape={self.shape}, "
            f"storage_dtype={self.storage_dtype!r}, n_files={len(self._files)})"
        )

    def reshape(self, *shape: Any) -> "ShardedActivations":
        """View the rows in another shape.

        Parameters
        ----------
        *shape : int or tuple of int
            As for an array; the number of rows stays.

        Returns
        -------
        ShardedActivations
            Reads the same files.

        Raises
        ------
        ValueError
            If the rows would not stay rows.
        """
        new = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        row = np.empty(self._row_shape, dtype=np.bool_)
        if len(new) < 2 or new[0] not in (len(self), -1):
            raise ValueError(
                f"Only rows can be reshaped: {self.shape} does not become {tuple(new)}."
            )
        row_shape = row.reshape(new[1:]).shape
        return ShardedActivations(self._files, row_shape, self.storage_dtype)

    def _row_index(self, rows: Any) -> npt.NDArray[np.intp]:
        n_rows = len(self)
        if isinstance(rows, slice):
            return np.arange(*rows.indices(n_rows))
        if rows is Ellipsis:
            return np.arange(n_rows)
        index = as_numpy(rows, "the index of rows")
        if index.ndim != 1 or (index.size and index.dtype.kind not in "biu"):
            raise IndexError(
                "Rows are chosen by an integer, a slice, or a list or array of "
                f"integers or booleans; got {rows!r}."
            )
        if index.dtype == np.bool_:
            if len(index) != n_rows:
                raise IndexError(
                    f"The mask has {len(index)} entries for {n_rows} rows."
                )
            return np.flatnonzero(index)
        index = index.astype(np.intp)
        index = np.where(index < 0, index + n_rows, index)
        if index.size and (index.min() < 0 or index.max() >= n_rows):
            raise IndexError(f"A row is out of range; there are {n_rows}.")
        return index

    def _decode(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if self.storage_dtype == "bfloat16":  # the upper half of a float32
            return (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32)
