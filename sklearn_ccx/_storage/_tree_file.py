"""A tree in a safetensors file, with versions and checksums.

The arrays of the tree are the tensors of the file, under names that say where in the
tree they are. The strings in its header are

- "format", what the file is;
- "format_version", which rises when older readers would not understand it;
- "package_version", of the writer;
- "tree", JSON of the tree, and of the type, shape and SHA-256 of each tensor;
- "sha256", of the four before.
"""

import hashlib
import json
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .._version import __version__
from ._arrays import (
    checksum,
    map_array,
    read_array,
    tensor_shape,
    tensor_type,
)
from ._errors import DamagedError
from ._replacing import replacing
from ._safetensors import (
    Tensor,
    metadata_of,
    read_header,
    tensors_of,
    write_tensors,
)
from ._tree import Registry, decode, encode

FORMAT_VERSION = 1

_SIGNED = ("format", "format_version", "package_version", "tree")

_NOTHING = Registry()


def write_tree(
    path: Path,
    tree: Any,
    kind: str,
    *,
    registry: Registry = _NOTHING,
    root: str = "tree",
) -> None:
    """Write a tree to a file, which is complete or what it was before.

    Parameters
    ----------
    path : Path
        The file to make or to replace.
    tree : object
        None, booleans, numbers, strings, arrays, and lists, tuples and dictionaries of
        these, and what the registry knows.
    kind : str
        What the file is: an "estimator", a "checkpoint".
    registry : Registry
        Further types.
    root : str
        What errors call the tree.

    Raises
    ------
    TypeError
        If something in the tree cannot be kept; the error says where it is.
    ValueError
        If the tree holds itself, or `path` is a directory.
    OSError
        If the file cannot be written.
    """
    node, arrays = encode(tree, registry, root)
    described = {
        name: {
            "dtype": tensor_type(array.dtype)[0],
            "shape": list(tensor_shape(array)),
            "sha256": checksum(array),
        }
        for name, array in arrays.items()
    }
    metadata = {
        "format": _format(kind),
        "format_version": str(FORMAT_VERSION),
        "package_version": __version__,
        "tree": json.dumps(
            {"tree": node, "arrays": described},
            allow_nan=False,
            separators=(",", ":"),
        ),
    }
    metadata["sha256"] = _signature(metadata)
    with replacing(path) as file:
        write_tensors(file, arrays, metadata)


def read_tree(
    path: Path,
    kind: str,
    *,
    registry: Registry = _NOTHING,
    verify: bool = True,
    map_arrays: bool = False,
) -> Any:
    """Read what :func:`write_tree` wrote.

    Parameters
    ----------
    path : Path
        The file.
    kind : str
        What it has to be.
    registry : Registry
        Further types. The file decides which of them there are, and nothing else.
    verify : bool
        Whether to compare the checksums of the arrays. All else is always verified.
    map_arrays : bool
        Whether arrays stay in the file until they are used. They can be written to,
        which does not change the file.

    Raises
    ------
    ValueError
        If it is another file, a damaged one or one of a newer version, saying which.
    OSError
        If it cannot be read.
    """
    with path.open("rb") as file:
        try:
            return _Reader.open(file, kind, map_arrays).read(registry, verify=verify)
        except DamagedError as error:
            # Not chained: what there is to say is in one message.
            problem = str(error)
    raise ValueError(f"path={str(path)!r} cannot be loaded: {problem}.")


@dataclass
class _Reader:
    """An open file, of which everything but the bytes of the tensors is verified."""

    file: BinaryIO
    writer: str
    node: Any
    checksums: dict[str, str]
    tensors: dict[str, Tensor]
    buffer: memoryview | None

    @classmethod
    def open(cls, file: BinaryIO, kind: str, map_arrays: bool) -> "_Reader":
        header, first = read_header(file)
        metadata = metadata_of(header)
        _check_kind(metadata, kind)
        tensors = tensors_of(file, header, first)
        node, described = _document(metadata["tree"])
        found = {
            name: (tensor.type_name, list(tensor.shape))
            for name, tensor in tensors.items()
        }
        if found != {name: (a[0], a[1]) for name, a in described.items()}:
            raise DamagedError("it has other arrays than were written")
        checksums = {name: entry[2] for name, entry in described.items()}
        buffer = None
        if map_arrays:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            buffer = memoryview(mapped)
        writer = metadata["package_version"]
        return cls(file, writer, node, checksums, tensors, buffer)

    def read(self, registry: Registry, *, verify: bool) -> Any:
        def array_of(
            name: str, dtype: np.dtype[Any], fortran: bool
        ) -> npt.NDArray[Any]:
            array = self._array(name, dtype, fortran=fortran)
            if verify and checksum(array) != self.checksums[name]:
                raise DamagedError(
                    f"{name} does not have the checksum that it was written with"
                )
            return array

        try:
            return decode(self.node, array_of, registry)
        except DamagedError as error:
            if self.writer == __version__:
                raise
            raise DamagedError(
                f"{error}; it was written by sklearn_ccx {self.writer}, this is "
                f"{__version__}"
            ) from error

    def _array(
        self, name: str, dtype: np.dtype[Any], *, fortran: bool
    ) -> npt.NDArray[Any]:
        tensor, (type_name, n_entries) = self.tensors[name], tensor_type(dtype)
        shape, is_right = tensor.shape, tensor.type_name == type_name
        if dtype.kind in "US":
            is_right &= shape[-1:] == (n_entries,)
            shape = shape[:-1]
        if not is_right:
            raise DamagedError(f"{name} is not of dtype {dtype}")
        if self.buffer is not None:
            part = self.buffer[tensor.start : tensor.stop]
            return map_array(part, shape, dtype, fortran=fortran)
        self.file.seek(tensor.start)
        return read_array(self.file, shape, dtype, fortran=fortran)


def _check_kind(metadata: dict[str, str], kind: str) -> None:
    """Raise unless the strings are those of a file of this kind and version."""
    found = metadata.get("format", "")
    if not found.startswith(_format("")):
        raise DamagedError(
            "it is a safetensors file, but not one that sklearn_ccx wrote with save"
        )
    writer, version = metadata.get("package_version"), metadata.get("format_version")
    if version is None or not version.isdecimal():
        raise DamagedError(f"it is damaged: its format_version is {version!r}")
    if int(version) > FORMAT_VERSION:
        raise DamagedError(
            f"it has format {version}, written by sklearn_ccx {writer}; this is "
            f"sklearn_ccx {__version__}, which reads formats up to {FORMAT_VERSION}. "
            "Install a newer version"
        )
    if found != _format(kind):
        raise DamagedError(
            f"it is of the kind {found.removeprefix(_format(''))!r}, not {kind!r}"
        )
    if metadata.get("sha256") != _signature(metadata):
        raise DamagedError(
            "it is damaged or was edited: its header does not have the checksum that "
            "it was written with"
        )


def _document(text: str) -> tuple[Any, dict[str, tuple[str, list[int], str]]]:
    """The tree, and the type, shape and checksum of each array."""
    try:
        document = json.loads(text)
        described = {
            name: (array["dtype"], array["shape"], array["sha256"])
            for name, array in document["arrays"].items()
        }
        return document["tree"], described
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise DamagedError("it is damaged: its tree is not one") from None


def _format(kind: str) -> str:
    return f"sklearn_ccx {kind}"


def _signature(metadata: dict[str, str]) -> str:
    parts = [metadata.get(name, "") for name in _SIGNED]
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()
