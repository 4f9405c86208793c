"""Activations in several files, read row by row."""

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np

from .._validation import as_numpy, shown
from ._stored_rows import IndexArray, Piece, ShardFile, StoredRows, chosen_of

# Bytes that are converted at a time where everything is read.
_CHUNK_BYTES = 2**26


class ShardedActivations:
    """Activations in several files, as one array that is read when it is needed.

    Indexing reads nothing: it chooses rows, sites and columns as that of an array does,
    and gives activations that are read from the same files. Only a single row, as
    in ``activations[5]``, is read at once. ``np.asarray`` reads what was chosen.

    The estimators and the functions of this package take it as X and read it batch by
    batch, searches with cross-validation included. Pickled, it is the paths of its
    files and the rows chosen, not the data.

    It is made by :func:`sklearn_ccx.lm.harvest` and
    :func:`sklearn_ccx.activations.load_harvest`.

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
        float32, that of the rows that are read.

    storage_dtype : str
        That of the files, or "mixed" if they have several. Files stay in it: batches
        are converted as they are read.

    See Also
    --------
    sklearn_ccx.lm.harvest : Write activations of a language model to such files.
    concatenate_sites : Join the sites of several directories.

    Notes
    -----
    Rows are chosen by an integer, a slice, or integers or booleans in a list or an
    array; sites and columns by anything that numpy takes. Where numpy would pair a list
    of rows with a list of sites, it raises: choose one after the other, as in
    ``activations[rows][:, sites]``.

    ``np.asarray(activations, dtype="float16")`` reads half precision as it is
    stored, in half the memory.

    Examples
    --------
    The rows of two tokens at the second site, of which nothing is read before the end:

    >>> import tempfile
    >>> import numpy as np
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from sklearn_ccx.activations import load_harvest
    >>> from sklearn_ccx.lm import harvest
    >>> config = GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=16)
    >>> model = GPT2LMHeadModel(config)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     _ = harvest(model, [[1, 2, 3], [4, 5]], out=directory)
    ...     stored = load_harvest(directory)
    ...     chosen = stored.activations[np.isin(stored.token_ids, [2, 5])][:, 1]
    ...     chosen, np.asarray(chosen).shape
    (ShardedActivations(shape=(2, 8), storage_dtype='float32', n_files=1), (2, 8))
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self, files: Sequence[ShardFile], row_shape: tuple[int, ...], storage_dtype: str
    ) -> None:
        stored = StoredRows(files, int(np.prod(row_shape)), storage_dtype)
        all_columns = slice(0, stored.row_length)
        piece = Piece(stored, range(len(stored)), all_columns, all_columns)
        self._become((piece,), (len(stored), *row_shape))

    def _become(self, pieces: tuple[Piece, ...], shape: tuple[int, ...]) -> None:
        self._pieces = pieces
        self.shape = shape
        self.ndim = len(shape)
        names = {piece.stored.storage_dtype for piece in pieces}
        self.storage_dtype = names.pop() if len(names) == 1 else "mixed"

    @property
    def _n_columns(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.intp))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        rows, *columns = _expanded(key, self.ndim)
        if _is_integer(rows):
            row = self[[int(rows)]].__array__()[0]
            return row[tuple(columns)] if columns else row
        if not isinstance(rows, slice) and any(map(_is_list, columns)):
            raise IndexError(
                "Rows and sites that are both given as lists would be paired; choose "
                "the rows first, as in activations[rows][:, sites]."
            )
        return self._with_rows(rows)._with_columns(columns)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if copy is False:
            raise ValueError("The rows lie in files; they cannot be had uncopied.")
        dtype = self.dtype if dtype is None else np.dtype(dtype)
        out = np.empty((len(self), self._n_columns), dtype=dtype)
        n_rows = max(1, _CHUNK_BYTES // (4 * max(1, self._n_columns)))
        for start in range(0, len(self), n_rows):
            batch = range(start, min(start + n_rows, len(self)))
            for piece in self._pieces:
                piece.fill(out[batch.start : batch.stop], batch)
        return out.reshape(self.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return made_of, (self._pieces, self.shape)

    def __repr__(self) -> str:
        files = {file.path for piece in self._pieces for file in piece.stored.files}
        return (
            f"ShardedActivations(shape={self.shape}, "
            f"storage_dtype={self.storage_dtype!r}, n_files={len(files)})"
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
        row = np.broadcast_to(np.False_, self.shape[1:])
        try:
            if len(new) < 2 or new[0] not in (len(self), -1):
                raise ValueError("the number of rows would change")
            row = row.reshape(new[1:])
        except ValueError as error:
            raise ValueError(
                f"Only rows can be reshaped: {self.shape} does not become "
                f"{tuple(new)}: {error}."
            ) from error
        return made_of(self._pieces, (len(self), *row.shape))

    def _with_rows(self, rows: Any) -> "ShardedActivations":
        chosen = self._row_index(rows)
        if isinstance(chosen, range) and chosen == range(len(self)):
            return self
        # The pieces of one directory have the same rows, which stay one object.
        old = {id(piece.rows): piece.rows for piece in self._pieces}
        made = {key: chosen_of(rows, chosen) for key, rows in old.items()}
        pieces = [replace(piece, rows=made[id(piece.rows)]) for piece in self._pieces]
        return made_of(tuple(pieces), (len(chosen), *self.shape[1:]))

    def _with_columns(self, key: list[Any]) -> "ShardedActivations":
        if not key:
            return self
        n_columns = self._n_columns
        columns = np.arange(n_columns).reshape(self.shape[1:])
        try:
            chosen = columns[tuple(key)]
        except IndexError as error:
            raise IndexError(
                f"The sites and columns {shown(tuple(key))} cannot be chosen from "
                f"rows of shape {self.shape[1:]}: {error}."
            ) from error
        flat = np.ravel(chosen)
        made = [piece.with_columns(flat, n_columns) for piece in self._pieces]
        pieces = tuple(piece for piece in made if piece.has_columns)
        return made_of(pieces or tuple(made[:1]), (len(self), *chosen.shape))

    def _row_index(self, rows: Any) -> range | IndexArray:
        n_rows = len(self)
        if isinstance(rows, slice):
            return range(*rows.indices(n_rows))
        index = as_numpy(rows, "the index of rows")
        if index.ndim != 1 or (index.size and index.dtype.kind not in "biu"):
            raise IndexError(
                "Rows are chosen by an integer, a slice, or a list or array of "
                f"integers or booleans; got {shown(rows)}."
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


def made_of(pieces: tuple[Piece, ...], shape: tuple[int, ...]) -> ShardedActivations:
    """Activations that consist of views of several files."""
    made = ShardedActivations.__new__(ShardedActivations)
    made._become(pieces, shape)
    return made


def _expanded(key: Any, ndim: int) -> tuple[Any, ...]:
    """A key without ellipsis at its beginning."""
    key = key if isinstance(key, tuple) else (key,)
    if not key or key[0] is not Ellipsis:
        return key or (slice(None),)
    n_given = sum(item is not None for item in key[1:])
    return (*[slice(None)] * (ndim - n_given), *key[1:]) or (slice(None),)


def _is_integer(rows: Any) -> bool:
    if isinstance(rows, np.ndarray) and rows.ndim == 0:
        rows = rows[()]
    return isinstance(rows, Integral) and not isinstance(rows, bool)


def _is_list(key: Any) -> bool:
    """Whether numpy pairs the entries of a key with those of others."""
    return not (key is None or key is Ellipsis or isinstance(key, slice | Integral))
