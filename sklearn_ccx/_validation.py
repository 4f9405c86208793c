"""Checks that every door of the package shares, and one converter for arrays."""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from torch import Tensor

# How numpy, pandas and polars say that an entry is no number.
_NO_NUMBER = (
    "could not convert|float\\(\\) argument|Cannot cast|too large to convert|"
    "setting an array element"
)


def as_array(value: Any, name: str) -> Any:
    """Give tensors and lists a shape and a dtype that numpy knows.

    What has a shape already (arrays, memory maps, data frames, sparse matrices,
    shards) is returned as it is.

    Parameters
    ----------
    value : object
        What the user passed.
    name : str
        Name of the parameter, for the errors.

    Raises
    ------
    ValueError
        If entries are masked or complex, a tensor holds no data, a list is ragged, or
        columns of a data frame have the same name.
    """
    if isinstance(value, Tensor):
        return _tensor_as_array(value, name)
    if isinstance(value, list | tuple) and any(isinstance(x, Tensor) for x in value):
        value = [as_array(item, name) for item in value]
    if not isinstance(getattr(value, "shape", None), tuple):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise ValueError(
                f"{name} cannot be made an array: {error}. Its rows must all have the "
                "same length."
            ) from error
    names = list(getattr(value, "columns", []))
    if len(set(names)) < len(names):
        twice = next(column for column in names if names.count(column) > 1)
        raise ValueError(
            f"{name} has several columns of the name {twice!r}; give each its own."
        )
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            raise ValueError(
                f"{name} has masked entries; pass {name}.filled(...) or leave out the "
                "rows that have them."
            )
        value = value.data
    if getattr(getattr(value, "dtype", None), "kind", "") == "c":
        # The words that scikit-learn's check of estimators looks for.
        raise ValueError(
            f"Complex data not supported: {name} has dtype {value.dtype}; pass its "
            "real and imaginary part as columns of their own."
        )
    return value


def as_numpy(value: Any, name: str) -> npt.NDArray[Any]:
    """:func:`as_array`, as an ndarray in memory."""
    value = as_array(value, name)
    return value.toarray() if sparse.issparse(value) else np.asarray(value)


def as_numbers(value: Any, name: str) -> Any:
    """:func:`as_array`, of which an array of objects or of text holds numbers.

    Raises
    ------
    ValueError, TypeError
        As numpy does, with the name of the parameter.
    """
    value = as_array(value, name)
    if not isinstance(value, np.ndarray) or value.dtype.kind in "biuf":
        return value
    if value.dtype.kind in "Mm":
        raise TypeError(f"{name} must hold numbers; got dtype {value.dtype}.")
    with errors_of_conversion(name):
        return value.astype(np.float64)


def as_floats(value: Any, name: str) -> npt.NDArray[np.float64]:
    """:func:`as_numpy` in float64.

    Raises
    ------
    ValueError
        If there are other things than numbers.
    """
    array = as_numpy(value, name)
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{name} must hold numbers; got {shown(value)}: {error}."
        ) from error


def as_weights(value: Any, name: str) -> npt.NDArray[Any]:
    """Numbers of any kind as an array of floats or integers in memory.

    Raises
    ------
    ValueError
        If they are no numbers, or codes that stand for numbers.
    """
    if isinstance(value, Tensor) and value.element_size() == 1:
        raise ValueError(
            f"{name} is a tensor of {value.dtype}, which holds codes of numbers where "
            "a layer is quantised; pass the numbers, in a dtype such as torch.float32."
        )
    array = as_numpy(value, name)
    if array.dtype.kind in "biuf":
        return array
    try:
        if array.dtype.kind != "O":
            raise TypeError("these are not numbers")
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{name} must be an array of numbers; got dtype {array.dtype}: {error}."
        ) from error


@contextmanager
def errors_of_conversion(name: str) -> Iterator[None]:
    """Name the parameter where numpy says that an entry is no number."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        if not re.search(_NO_NUMBER, str(error)):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} must hold numbers: {error}.") from error


def _tensor_as_array(tensor: Tensor, name: str) -> npt.NDArray[Any]:
    if tensor.device.type == "meta":
        raise ValueError(
            f"{name} is a tensor on the meta device, which holds no data; load the "
            "weights to the CPU or a GPU first."
        )
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        raise ValueError(f"Complex data not supported: {name} has {tensor.dtype}.")
    if tensor.is_floating_point() and tensor.dtype not in (
        torch.float32,
        torch.float64,
    ):
        tensor = tensor.float()
    return tensor.cpu().resolve_neg().numpy()


def check_int(
    value: Any, name: str, *, minimum: int = 1, maximum: int | None = None
) -> int:
    """A whole number within bounds; numpy's integers count, booleans do not.

    Raises
    ------
    TypeError
        If it is no whole number.
    ValueError
        If it is out of bounds.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not isinstance(value, Integral) or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an integer; got {shown(value)}.")
    number = int(value)
    if number < minimum or (maximum is not None and number > maximum):
        bounds = f"at least {minimum}"
        if maximum is not None:
            bounds = f"in {minimum}..{maximum}"
        raise ValueError(f"{name} must be {bounds}; got {number}.")
    return number


def check_ints(
    values: Any, name: str, *, minimum: int = 0, maximum: int | None = None
) -> list[int]:
    """A list of whole numbers within bounds, of one or of several.

    Raises
    ------
    TypeError
        If an item is no whole number.
    ValueError
        If an item is out of bounds.
    """
    if isinstance(values, Integral) or np.ndim(values) == 0:
        values = [values]
    return [check_int(x, name, minimum=minimum, maximum=maximum) for x in values]


def as_float(value: Any, name: str) -> float:
    """A real number as a float.

    Raises
    ------
    ValueError
        If no float is as large.
    """
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large; got {shown(value)}.") from None


def check_real(
    value: Any, name: str, *, minimum: float = -np.inf, inclusive: bool = True
) -> float:
    """A finite number of at least, or above, a minimum.

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is not finite or too small.
    """
    if not isinstance(value, Real) or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a number; got {shown(value)}.")
    number = as_float(value, name)
    too_small = number < minimum or (not inclusive and number == minimum)
    if not np.isfinite(number) or too_small:
        bound = "" if minimum == -np.inf else f" {'from' if inclusive else 'above'} "
        bound += "" if minimum == -np.inf else f"{minimum:g}"
        raise ValueError(f"{name} must be a finite number{bound}; got {value!r}.")
    return number


def check_bool(value: Any, name: str) -> bool:
    """True or False, also numpy's.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {shown(value)}.")
    return bool(value)


def check_option(value: Any, name: str, options: Collection[Any]) -> Any:
    """One of a few values.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    allowed = list(options)
    # Arrays are neither hashable nor equal to a single truth value.
    if not any(isinstance(value, type(x)) and value == x for x in allowed):
        raise ValueError(f"{name} must be one of {allowed}; got {shown(value)}.")
    return value


def check_list(values: Any, name: str) -> list[Any]:
    """The items of anything that can be iterated over, except a string.

    Raises
    ------
    TypeError
        If it cannot be.
    """
    is_single = isinstance(values, str | bytes) or getattr(values, "ndim", 1) == 0
    if is_single or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list; got {shown(values)}.")
    return list(values)


def check_text(text: Any, name: str) -> str:
    """A string that can be written.

    Raises
    ------
    ValueError
        If it has halves of characters.
    TypeError
        If it is none.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a string; got {shown(text)}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} must be text that UTF-8 can encode; got {text!a}."
        ) from error
    return text


def check_path(value: Any, name: str, *, of: str = "file") -> Path:
    """The path of a file or of a directory.

    Raises
    ------
    TypeError
        If it is none.
    ValueError
        If no file system has such a path.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise TypeError(
            f"{name} must be the path of a {of}, as a str or a pathlib.Path; got "
            f"{shown(value)}."
        )
    try:
        is_path = b"\0" not in os.fsencode(value) and bool(value)
    except UnicodeEncodeError:
        is_path = False
    if not is_path:
        raise ValueError(f"{name} must be a path of the file system; got {value!a}.")
    return Path(value)


def check_n_rows(values: Any, name: str) -> int:
    """Number of rows of what :func:`as_array` returns.

    Raises
    ------
    ValueError
        If it has no rows at all.
    """
    if not values.shape:
        raise ValueError(f"{name} must have rows, one for each sample; got a scalar.")
    return int(values.shape[0])


@contextmanager
def errors_about(name: str) -> Iterator[None]:
    """Say in errors about X that another argument was passed for it."""
    try:
        yield
    except NotFittedError:
        raise
    except (TypeError, ValueError) as error:
        if re.search(rf"\b{re.escape(name)}\b", str(error)):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} cannot be used: {error}") from error


def check_rows(values: Any, name: str, n_samples: int) -> npt.NDArray[Any]:
    """One number, string or date for each sample, without gaps.

    Raises
    ------
    ValueError
        If there is not one for each sample, or one is missing.
    TypeError
        If they cannot be told apart and sorted, as numbers and strings together.
    """
    array = as_numpy(values, name)
    if array.shape != (n_samples,):
        raise ValueError(
            f"{name} must have shape ({n_samples},), one entry for each sample of X; "
            f"got {array.shape}."
        )
    if array.dtype.kind == "O":  # data frames keep strings and dates so
        if all(isinstance(entry, str) for entry in array):
            return array.astype(str)
        if any(x is None or (isinstance(x, float) and np.isnan(x)) for x in array):
            raise ValueError(f"{name} has missing entries; give each sample a value.")
        kinds = sorted({type(entry).__name__ for entry in array})
        if not all(isinstance(entry, Real) for entry in array):
            raise TypeError(
                f"{name} must hold numbers or strings, the same for all samples; got "
                f"{', '.join(kinds)}."
            )
        array = np.array(array.tolist())
    if array.dtype.kind not in "biufUSMm":
        raise TypeError(
            f"{name} must hold numbers or strings; got dtype {array.dtype}."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity; give each sample a value.")
    if array.dtype.kind in "Mm" and np.isnat(array).any():
        raise ValueError(f"{name} contains NaT; give each sample a value.")
    return array


def check_seed(random_state: Any, name: str = "random_state") -> np.random.RandomState:
    """:func:`sklearn.utils.check_random_state`, with an error that has a name.

    Raises
    ------
    ValueError
        If it is no seed.
    """
    try:
        return check_random_state(random_state)
    except ValueError as error:
        raise ValueError(
            f"{name} must be an int from 0 to {2**32 - 1}, a RandomState or None; got "
            f"{shown(random_state)}."
        ) from error


# What a machine is taken to have that does not tell its memory.
_UNKNOWN_MEMORY = 2**36


def check_memory(n_bytes: int, sizes: Mapping[str, int]) -> None:
    """Raise if arrays of these sizes do not fit into the machine's memory.

    Parameters
    ----------
    n_bytes : int
        What the arrays need together, at least.
    sizes : mapping of str to int
        The arguments that it depends on, for the error.

    Raises
    ------
    ValueError
        If they do not fit.
    """
    memory = _physical_memory()
    if n_bytes > memory:
        arguments = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(
            f"{arguments} would need {n_bytes // 2**30:,} GiB, and this machine has "
            f"{memory // 2**30:,} GiB; make some of them smaller."
        )


def _physical_memory() -> int:
    """Bytes of memory of the machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on every system
        return _UNKNOWN_MEMORY


def shown(value: Any, width: int = 60) -> str:
    """A value as an error shows it: its type, and itself where that is short."""
    if isinstance(value, np.ndarray | Tensor):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    text = repr(value)
    if len(text) > width:
        text = f"{text[: width - 3]}..."
    return (
        text
        if value is None or isinstance(value, str)
        else f"{text} " + (f"({type(value).__name__})")
    )
