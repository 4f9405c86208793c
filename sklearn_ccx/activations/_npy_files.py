"""Activations in .npy files, as one array of which rows are chosen without reading."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._validation import check_bool, check_list, check_path, shown
from ._sharded import ShardedActivations
from ._stored_rows import STORAGE_DTYPES, ShardFile

# Bytes that are checked at a time.
_CHUNK_BYTES = 2**26


def open_npy(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    verify: bool = True,
) -> ShardedActivations:
    """Open .npy files as activations that are read when they are needed.

    Choosing rows of a memory map, as every split of a cross-validation does, copies
    them into memory. Choosing rows of this reads nothing: a search hands its workers
    the paths of the files and the numbers of the rows, and each batch is read when it
    is used.

    Parameters
    ----------
    files : path-like or list of path-like
        One file, or several of which the rows follow each other. They hold float16 or
        float32, of shape `(n_samples, d)` or `(n_samples, n_sites, d)`, as
        :func:`numpy.save` writes them.

    verify : bool, default=True
        Whether to read all numbers once and see that they are finite.

    Returns
    -------
    activations : ShardedActivations of shape (n_samples, d) or (n_samples, n_sites, d)
        The rows of all files.

    Raises
    ------
    ValueError
        If a file is not one of these, the files do not fit together, or a number is not
        finite.
    TypeError
        If a parameter has the wrong type.

    See Also
    --------
    load_harvest : Open activations that :func:`~sklearn_ccx.lm.harvest` wrote.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn_ccx import InteractionSAE
    >>> from sklearn_ccx.activations import open_npy
    >>> X = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    >>> sae = InteractionSAE(12, k=2, max_iter=2, random_state=0)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory) / "X.npy"
    ...     np.save(path, X)
    ...     activations = open_npy(path)
    ...     search = GridSearchCV(sae, {"lam": [0.0, 0.1]}, cv=2).fit(activations)
    >>> activations[X[:, 0] > 0].shape == X[X[:, 0] > 0].shape
    True
    """
    verify = check_bool(verify, "verify")
    is_one = isinstance(files, str | os.PathLike)
    paths = [check_path(x, "files") for x in ([files] if is_one else _listed(files))]
    arrays = [_mapped(path) for path in paths]
    first = arrays[0]
    for path, array in zip(paths, arrays, strict=True):
        if array.shape[1:] != first.shape[1:] or array.dtype != first.dtype:
            raise ValueError(
                f"files do not fit together: {str(path)!r} has rows of shape "
                f"{array.shape[1:]} and dtype {array.dtype}, but {str(paths[0])!r} has "
                f"{first.shape[1:]} and {first.dtype}."
            )
        if verify:
            _check_finite(array, path)
    return ShardedActivations(
        [
            ShardFile(path.resolve(), int(array.offset), len(array))
            for path, array in zip(paths, arrays, strict=True)
        ],
        first.shape[1:],
        str(first.dtype),
    )


def _listed(files: Any) -> list[Any]:
    paths = check_list(files, "files")
    if not paths:
        raise ValueError("files is empty; name at least one file.")
    return paths


def _mapped(path: Path) -> np.memmap[Any, Any]:
    """The array of a file, whose layout shards can have."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"files: there is no {str(path)!r}.") from None
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"files: {str(path)!r} cannot be read as an array of numbers: {error}."
        ) from error
    if not isinstance(array, np.memmap):
        raise ValueError(f"files: {str(path)!r} holds {shown(array)}, not one array.")
    if array.dtype not in [STORAGE_DTYPES[name] for name in ("float16", "float32")]:
        raise ValueError(
            f"files: {str(path)!r} holds {array.dtype.str}; save float16 or float32 in "
            "little-endian order, as in np.save(path, X.astype(np.float32))."
        )
    if array.ndim not in (2, 3) or not array.flags.c_contiguous:
        raise ValueError(
            f"files: {str(path)!r} has shape {array.shape} in "
            f"{'C' if array.flags.c_contiguous else 'Fortran'} order; save rows one "
            "after the other, of shape (n_samples, d) or (n_samples, n_sites, d)."
        )
    return array


def _check_finite(array: npt.NDArray[Any], path: Path) -> None:
    n_rows = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), n_rows):
        if not np.isfinite(array[start : start + n_rows]).all():
            raise ValueError(
                f"files: {str(path)!r} contains NaN or infinity in rows {start} to "
                f"{min(start + n_rows, len(array)) - 1}; leave them out."
            )
