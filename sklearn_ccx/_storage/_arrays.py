"""Arrays as the tensors of a file: their types, and their bytes piece by piece."""

import hashlib
import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ._errors import DamagedError

Array = npt.NDArray[Any]

# The types that both safetensors and numpy have.
TENSOR_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in TENSOR_TYPES.items()}

# Bytes that are copied at a time where an array is not stored as it lies in memory.
_PIECE = 2**24


def tensor_type(dtype: np.dtype[Any]) -> tuple[str, int]:
    """The type of a tensor that holds an array, and the tensor's entries per entry.

    Text becomes the numbers of its characters, along an axis of its own, which is what
    more than one entry, or none, stand for. Dates become integers.

    Raises
    ------
    TypeError
        If no tensor holds such an array.
    """
    plain = dtype.newbyteorder("<")
    if dtype.kind in "biuf" and plain in _NAMES:
        return _NAMES[plain], 1
    if dtype.kind == "U":
        return "U32", dtype.itemsize // 4
    if dtype.kind == "S":
        return "U8", dtype.itemsize
    if dtype.kind in "mM":
        return "I64", 1
    raise TypeError(f"arrays of dtype {dtype} cannot be stored")


def tensor_shape(array: Array) -> tuple[int, ...]:
    """Shape of the tensor that holds an array."""
    _, n_entries = tensor_type(array.dtype)
    return (*array.shape, n_entries) if array.dtype.kind in "US" else array.shape


def pieces(array: Array) -> Iterator[memoryview]:
    """The bytes of an array in C order and little-endian.

    No copy of the whole is made, and none at all of an array that lies so in memory.
    """
    dtype = array.dtype.newbyteorder("<")
    if array.flags.c_contiguous and array.dtype == dtype:
        yield _bytes(array)
        return
    rows = array.reshape(1) if array.ndim == 0 else array
    for part in _row_blocks(rows):
        yield _bytes(np.ascontiguousarray(rows[part], dtype=dtype))


def checksum(array: Array) -> str:
    """SHA-256 of the bytes that :func:`pieces` gives."""
    digest = hashlib.sha256()
    for piece in pieces(array):
        digest.update(piece)
    return digest.hexdigest()


def read_array(
    file: BinaryIO,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    fortran: bool,
) -> Array:
    """An array of its own memory from the bytes at the position of a file.

    Raises
    ------
    DamagedError
        If the file ends before.
    """
    plain = dtype.newbyteorder("<")
    is_plain = plain == dtype and not fortran
    array: Array = np.empty(shape, dtype, order="F" if fortran else "C")
    rows = array.reshape(1) if array.ndim == 0 else array
    for part in [slice(None)] if is_plain else _row_blocks(rows):
        block = rows[part] if is_plain else np.empty(rows[part].shape, plain)
        _fill(file, _bytes(block))
        if not is_plain:
            rows[part] = block
    return array


def map_array(
    buffer: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any], *, fortran: bool
) -> Array:
    """An array on the bytes of a memory map, as far as they lie as they should."""
    plain = dtype.newbyteorder("<")
    if math.prod(shape) == 0 or dtype.itemsize == 0:
        return np.empty(shape, dtype, order="F" if fortran else "C")
    array: Array = np.frombuffer(buffer, plain).reshape(shape)
    return array.astype(dtype, order="F" if fortran else "C", copy=False)


def _fill(file: BinaryIO, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        n_bytes = file.readinto(buffer[done:])  # type: ignore[attr-defined]
        if not n_bytes:
            raise DamagedError("it was cut off while it was read")
        done += n_bytes


def _row_blocks(rows: Array) -> Iterator[slice]:
    """Parts of the first axis of about ``_PIECE`` bytes."""
    row_bytes = rows.dtype.itemsize * math.prod(rows.shape[1:])
    step = max(1, _PIECE // max(1, row_bytes))
    for start in range(0, len(rows), step):
        yield slice(start, min(start + step, len(rows)))


def _bytes(array: Array) -> memoryview:
    """The memory of an array in C order."""
    if array.nbytes == 0:
        return memoryview(b"")
    return array.reshape(-1).view(np.uint8).data
