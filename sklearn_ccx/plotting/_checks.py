"""Checks of what is drawn, which the displays share."""

from typing import Any

import numpy as np
import numpy.typing as npt

from .._validation import as_floats, as_numpy, check_list, check_text, shown


def check_numbers(values: Any, name: str) -> npt.NDArray[np.float64]:
    """An array of floating-point numbers, which may be NaN.

    Raises
    ------
    ValueError
        If there are other things than numbers, or infinite ones.
    """
    array = as_floats(values, name)
    if np.isinf(array).any():
        raise ValueError(f"{name} must be finite numbers or NaN; got infinite ones.")
    return array


def check_labels(labels: Any, n_features: int, name: str = "labels") -> Any:
    """A whole number for each feature.

    Raises
    ------
    ValueError
        If there is not one for each, or one is no whole number.
    """
    array = check_numbers(labels, name)
    if array.shape != (n_features,):
        raise ValueError(
            f"{name} must have shape ({n_features},), one entry for each feature; got "
            f"{array.shape}."
        )
    if not (np.isfinite(array) & (array == np.round(array))).all():
        raise ValueError(f"{name} must be whole numbers; got {shown(labels)}.")
    return array.astype(np.int64)


def check_names(names: Any, name: str, n_names: int, what: str) -> list[str]:
    """A string for each of what is drawn.

    Raises
    ------
    ValueError
        If there is not one for each.
    TypeError
        If they are no list.
    """
    # Byte-level tokenizers leave halves of characters, which no font can draw.
    checked = [
        str(item).encode("utf-8", "backslashreplace").decode("utf-8")
        for item in check_list(names, name)
    ]
    if len(checked) != n_names:
        raise ValueError(
            f"{name} must have {n_names} entries, one for each {what}; got "
            f"{len(checked)}."
        )
    return checked


def check_strengths(values: Any, name: str) -> npt.NDArray[Any]:
    """Numbers that are finite and not negative, of the type that they had.

    Raises
    ------
    ValueError
        If they are not, or there is none.
    """
    numbers = check_numbers(values, name)
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"{name} must be a list of numbers; got {shown(values)}.")
    if not np.isfinite(numbers).all() or numbers.min() < 0:
        raise ValueError(
            f"{name} must be finite and not negative; got {shown(values)}."
        )
    array = as_numpy(values, name)
    return array if array.dtype.kind in "iu" else numbers


def check_colormap(cmap: Any) -> None:
    """Raise if matplotlib has no such colors.

    Raises
    ------
    ValueError
        If there is no colormap of this name.
    TypeError
        If it is no name and no colormap.
    """
    import matplotlib as mpl

    if isinstance(cmap, mpl.colors.Colormap):
        return
    if check_text(cmap, "cmap") not in mpl.colormaps:
        raise ValueError(
            f"cmap must be a Colormap or the name of one, such as 'viridis'; got "
            f"{shown(cmap)}."
        )
