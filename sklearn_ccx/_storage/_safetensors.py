"""The safetensors format, written from memory and read strictly.

A file is the length of its header in 8 bytes, the header in JSON, and the bytes of the
tensors one after the other. The header has for each tensor its type, its shape and
where it begins and ends, counted from the end of the header, and strings under
"__metadata__".
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ._arrays import TENSOR_TYPES, pieces, tensor_shape, tensor_type
from ._errors import DamagedError

METADATA = "__metadata__"

# What readers of the format accept.
_MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies.

    Parameters
    ----------
    type_name : str
        As the format calls its type.
    shape : tuple of int
        Its shape.
    start, stop : int
        Its bytes, counted from the beginning of the file.
    """

    type_name: str
    shape: tuple[int, ...]
    start: int
    stop: int


def write_tensors(
    file: BinaryIO,
    arrays: Mapping[str, npt.NDArray[Any]],
    metadata: Mapping[str, str],
) -> None:
    """Write a file. Arrays are not copied as a whole.

    Raises
    ------
    ValueError
        If there is more metadata than the format can hold.
    """
    # Those of wide entries first, so that each begins at a multiple of its width.
    names = sorted(arrays, key=lambda name: -_width(arrays[name]))
    header: dict[str, Any] = {METADATA: dict(metadata)}
    stop = 0
    for name in names:
        start, stop = stop, stop + arrays[name].nbytes
        header[name] = {
            "dtype": tensor_type(arrays[name].dtype)[0],
            "shape": list(tensor_shape(arrays[name])),
            "data_offsets": [start, stop],
        }
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise ValueError(
            f"What is not in arrays takes {len(text):,} bytes of JSON; a safetensors "
            f"file can have {_MAX_HEADER:,}."
        )
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        for piece in pieces(arrays[name]):
            file.write(piece)


def read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header of a file, and the number of bytes before its tensors.

    Raises
    ------
    DamagedError
        If it is no safetensors file.
    """
    n_bytes = _size(file)
    file.seek(0)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if n_bytes < 8 or length > min(_MAX_HEADER, n_bytes - 8):
        raise DamagedError(f"it is no safetensors file{_guess(start)}")
    try:
        header = json.loads(file.read(length).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise DamagedError("its header is not a JSON object")
    return header, 8 + length


def metadata_of(header: Mapping[str, Any]) -> dict[str, str]:
    """The strings of a header; none if there are none, or they are not strings."""
    metadata = header.get(METADATA)
    if not isinstance(metadata, dict):
        return {}
    return {name: text for name, text in metadata.items() if isinstance(text, str)}


def tensors_of(
    file: BinaryIO, header: Mapping[str, Any], first: int
) -> dict[str, Tensor]:
    """The tensors of a header, which fill the file without gaps.

    Raises
    ------
    DamagedError
        If they do not, or one is not described as the format demands.
    """
    tensors = {
        name: _tensor(name, entry, first)
        for name, entry in header.items()
        if name != METADATA
    }
    stop = first
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
        if tensor.start != stop:
            raise DamagedError(f"{name!r} does not begin where the one before it ends")
        stop = tensor.stop
    n_bytes = _size(file)
    if n_bytes != stop:
        raise DamagedError(f"it has {n_bytes:,} bytes instead of {stop:,}")
    return tensors


def _guess(start: bytes) -> str:
    """What else a file may be."""
    if start[:1] == b"\x80":
        return ", but perhaps a pickle"
    if start[:2] == b"PK":
        return ", but a zip archive, as torch, numpy and skops write them"
    return " or was cut off"


def _tensor(name: str, entry: Any, first: int) -> Tensor:
    try:
        type_name, shape = entry["dtype"], entry["shape"]
        start, stop = entry["data_offsets"]
        is_known = type_name in TENSOR_TYPES
        numbers = [*shape, start, stop]
        is_sound = all(type(number) is int and number >= 0 for number in numbers)
    except (KeyError, TypeError, ValueError):
        is_known = is_sound = False
    if not is_known or not is_sound:
        raise DamagedError(f"its header does not say what {name!r} is")
    if stop - start != math.prod(shape) * TENSOR_TYPES[type_name].itemsize:
        raise DamagedError(f"{name!r} has another size than its shape")
    return Tensor(type_name, tuple(shape), first + start, first + stop)


def _width(array: npt.NDArray[Any]) -> int:
    """Bytes of an entry of the tensor that holds an array."""
    return np.dtype(TENSOR_TYPES[tensor_type(array.dtype)[0]]).itemsize


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size
