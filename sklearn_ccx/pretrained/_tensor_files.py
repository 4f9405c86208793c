"""Tensors of a file, read without running code from it."""

import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .._validation import as_weights

FloatArray = npt.NDArray[np.floating]

# What the readers raise on files that are truncated, damaged or of another kind.
_DAMAGED = (
    SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    UnicodeError,
    OverflowError,
    MemoryError,
    RecursionError,
)

# How torch and numpy say that a file holds more than tensors.
_PICKLED = (
    "weights only",
    "weights_only",
    "pickle",
    "unsupported global",
    "persistent",
)


class TensorFile:
    """The tensors of one file by name, with errors that name the file.

    Parameters
    ----------
    values : mapping of str to object
        Tensors and arrays, and what else the file holds.
    label : str
        The file, as errors name it.
    """

    def __init__(self, values: Mapping[str, Any], label: str) -> None:
        self._values = values
        self.label = label

    @classmethod
    def read(cls, path: Path, label: str) -> "TensorFile":
        """Read a file of the kind that its name tells.

        Raises
        ------
        ValueError
            If it is damaged, or would have to run code to be read.
        """
        suffix = path.suffix.lower()
        reader = _READERS.get(suffix)
        if reader is None:
            raise ValueError(
                f"{label} is of no kind that can be read; files of tensors end in "
                f"{', '.join(_READERS)}."
            )
        try:
            values = reader(path)
        except OSError as error:
            # Of a file that cannot be opened the system says which.
            if error.filename is not None:
                raise
            raise ValueError(_why_unreadable(label, suffix, error)) from error
        except _DAMAGED as error:
            raise ValueError(_why_unreadable(label, suffix, error)) from error
        if not isinstance(values, Mapping):
            raise ValueError(
                f"{label} must hold tensors by name; got {type(values).__name__}."
            )
        return cls(values, label)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    @property
    def names(self) -> list[str]:
        """Names of what the file holds."""
        return [str(name) for name in self._values]

    def without_prefix(self, prefix: str) -> "TensorFile":
        """The same with a prefix taken from the names that have it."""
        values = {str(k).removeprefix(prefix): v for k, v in self._values.items()}
        return TensorFile(values, self.label)

    def inside(self, name: str) -> "TensorFile":
        """What the file holds under a name; itself if that is not there."""
        values = self._values.get(name)
        if not isinstance(values, Mapping):
            return self
        return TensorFile(values, self.label)

    def other(self, name: str) -> Any:
        """What is under a name and is no tensor; None if there is nothing."""
        return self._values.get(name)

    def first(self, *names: str) -> str:
        """The first of several names that the file has.

        Raises
        ------
        ValueError
            If it has none of them.
        """
        for name in names:
            if name in self._values:
                return name
        raise self._missing(" or ".join(names))

    def array(self, name: str, *axes: tuple[str, int | None]) -> FloatArray:
        """A tensor as an array of float32 or float64.

        Parameters
        ----------
        name : str
            Its name in the file.
        *axes : tuple of str and int or None
            What each axis is, and how long it must be, None if that is not known.

        Raises
        ------
        ValueError
            If there is none, its shape is another, or it is not finite.
        """
        if name not in self._values:
            raise self._missing(name)
        array = self._as_floats(name)
        expected = tuple(length for _, length in axes)
        if array.ndim != len(axes) or any(
            right is not None and length != right
            for length, right in zip(array.shape, expected, strict=True)
        ):
            raise ValueError(self._wrong_shape(name, array.shape, axes))
        if not np.isfinite(array).all():
            raise ValueError(f"{self.label}: {name} contains NaN or infinity.")
        return array

    def scalar(self, name: str) -> float:
        """A single number, which may be NaN."""
        if name not in self._values:
            raise self._missing(name)
        array = self._as_floats(name)
        if array.size != 1:
            raise ValueError(
                f"{self.label}: {name} must be a single number; got shape "
                f"{array.shape}."
            )
        return float(array.reshape(()))

    def is_nan(self, name: str) -> bool:
        """Whether a tensor is all NaN, which some formats take for None."""
        return bool(np.isnan(self._as_floats(name)).all())

    def n_axes(self, name: str) -> int:
        """Number of axes of a tensor, 0 if there is none of the name."""
        return len(getattr(self._values.get(name), "shape", ()))

    def _as_floats(self, name: str) -> FloatArray:
        try:
            array = as_weights(self._values[name], name)
        except _DAMAGED as error:
            raise ValueError(f"{self.label}: {error}") from error
        if array.dtype == np.float64 or array.dtype == np.float32:
            return array
        return array.astype(np.float32)

    def _missing(self, name: str) -> ValueError:
        held = ", ".join(self.names[:12]) or "nothing"
        return ValueError(f"{self.label} has no {name}; it has {held}.")

    def _wrong_shape(
        self,
        name: str,
        shape: tuple[int, ...],
        axes: tuple[tuple[str, int | None], ...],
    ) -> str:
        right = tuple(length for _, length in axes)
        words = ", ".join(word for word, _ in axes)
        sizes = ", ".join("?" if length is None else str(length) for length in right)
        hint = ""
        if len(shape) == 2 and shape[0] != shape[1] and _fits(shape[::-1], right):
            hint = " It is transposed."
        return (
            f"{self.label}: {name} must have shape ({words}) = ({sizes}); got "
            f"{shape}.{hint}"
        )


def _fits(shape: tuple[int, ...], right: tuple[int | None, ...]) -> bool:
    if len(shape) != len(right):
        return False
    pairs = zip(shape, right, strict=True)
    return all(known is None or length == known for length, known in pairs)


def _read_torch(path: Path) -> Any:
    with warnings.catch_warnings():
        # torch warns of pickles that are not its own, before it refuses them.
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_npz(path: Path) -> Any:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


_READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": load_file,
    ".npz": _read_npz,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".bin": _read_torch,
}


def _why_unreadable(label: str, suffix: str, error: BaseException) -> str:
    text = " ".join(str(error).split())
    is_pickled = suffix != ".safetensors" and any(
        word in text.lower() for word in _PICKLED
    )
    if is_pickled:
        return (
            f"{label} holds other pickled objects than tensors, or is damaged. Reading "
            "them would run code from the file, so they are not read; save the "
            "tensors alone, best as safetensors."
        )
    return f"{label} is truncated or damaged, or no {suffix} file: {text[:200]}."
