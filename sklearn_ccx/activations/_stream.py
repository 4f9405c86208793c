"""ActivationStream."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .._validation import as_numbers, check_int, shown

_DEFAULT_BUFFER_SIZE = 2**16


class ActivationStream:
    """Activations that are made while a coder is trained on them.

    ``fit`` and ``partial_fit`` of the coders take it in the place of X. They ask for
    one buffer after the other, shuffle its rows and train on them, so that memory is
    bounded by the buffer. :func:`sklearn_ccx.lm.stream` makes one of a language model.

    Parameters
    ----------
    read : callable
        Called as ``read(start, stop)``; returns the rows from `start` up to `stop`, an
        array of shape `(stop - start, d)` or `(stop - start, n_sites, d)`. It must
        return the same rows whenever it is asked for them.

    n_samples : int
        How many rows there are: the budget of one pass over the stream.

    buffer_size : int, default=65536
        How many rows are held and shuffled at a time. The last buffer may have fewer.

    Raises
    ------
    TypeError
        If `read` is not callable or a number is not an integer.
    ValueError
        If a number is not positive.

    See Also
    --------
    sklearn_ccx.lm.stream : Activations of a language model.
    sklearn_ccx.lm.harvest : The same, stored.
    sklearn_ccx.callbacks.Checkpoint : Go on after a kill.

    Notes
    -----
    Mean, and scales of sites and losses, are those of the first buffer. Its rows should
    be like all others: shuffle texts before. Callbacks are given it as X, so that it
    stays in memory beside the one that is trained on.
    ``max_iter`` is the number of passes over the whole stream, and ``history_`` has a
    row for each buffer. Rows meet only rows of their own buffer in a batch.

    With one buffer for all rows a fit is that on the stored array, bit by bit. With
    several it is that of ``partial_fit`` on one after the other.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionSAE
    >>> from sklearn_ccx.activations import ActivationStream
    >>> def read(start, stop):
    ...     rows = [np.random.default_rng(i).normal(size=8) for i in range(start, stop)]
    ...     return np.array(rows)
    >>> stream = ActivationStream(read, 1000, buffer_size=400)
    >>> stream.n_buffers
    3
    >>> sae = InteractionSAE(16, k=2, max_iter=2, random_state=0).fit(stream)
    >>> len(sae.history_["loss"])
    6
    """

    def __init__(
        self,
        read: Callable[[int, int], Any],
        n_samples: int,
        *,
        buffer_size: int = _DEFAULT_BUFFER_SIZE,
    ) -> None:
        if not callable(read):
            raise TypeError(
                f"read must be callable as read(start, stop); got {shown(read)}."
            )
        self.read = read
        self.n_samples = check_int(n_samples, "n_samples")
        self.buffer_size = check_int(buffer_size, "buffer_size")

    @property
    def n_buffers(self) -> int:
        """Number of buffers of a pass over the stream.

        Returns
        -------
        n_buffers : int
            At least 1.
        """
        return -(-self.n_samples // self.buffer_size)

    def buffer(self, index: int) -> npt.NDArray[Any]:
        """Read a buffer.

        Parameters
        ----------
        index : int
            Which one, from 0.

        Returns
        -------
        rows : ndarray of shape (n_rows, d) or (n_rows, n_sites, d)
            Its rows in their order.

        Raises
        ------
        ValueError
            If there is no such buffer, or `read` returned another number of rows.
        """
        index = check_int(index, "index", minimum=0, maximum=self.n_buffers - 1)
        start = index * self.buffer_size
        stop = min(start + self.buffer_size, self.n_samples)
        rows = np.asarray(as_numbers(self.read(start, stop), "what read returns"))
        if rows.ndim not in (2, 3) or len(rows) != stop - start:
            raise ValueError(
                f"read({start}, {stop}) must return an array of {stop - start} rows, "
                "of shape (n_rows, d) or (n_rows, n_sites, d); got shape "
                f"{rows.shape}."
            )
        return rows

    def __repr__(self) -> str:
        return (
            f"ActivationStream(n_samples={self.n_samples}, "
            f"buffer_size={self.buffer_size})"
        )
