"""Sizes of made-up data: what they may be, and what they need."""

import os
from collections.abc import Mapping
from numbers import Integral

from .._sklearn_compat import Interval

# The bounds of an argument that counts something.
COUNT = Interval(Integral, 1, 2**31 - 1, closed="both")

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
            f"{arguments} would need {n_bytes / 2**30:,.1f} GiB, and this machine has "
            f"{memory / 2**30:,.1f} GiB; make some of them smaller."
        )


def _physical_memory() -> int:
    """Bytes of memory of the machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on every system
        return _UNKNOWN_MEMORY
