"""Checkpoint."""

import os
from pathlib import Path
from typing import Any

from .._engine._tensors import numpy_tree, tensor_tree
from .._storage import read_tree, write_tree
from .._validation import check_int, check_path
from ._base import CoderCallback, RunningFit

_KIND = "checkpoint"


class Checkpoint(CoderCallback):
    """Callback from which a fit that was killed goes on, and ends in the same bits.

    Every so many steps the whole state of the fit is written to a file: weights, the
    optimizer's moments, the place in the pass, and the state of the random numbers. If
    the same fit begins again, in this process or another, it goes on from there. On the
    CPU its result is then that of a fit that was never interrupted, bit by bit.

    Parameters
    ----------
    directory : str or path-like
        Where the files are; made if it does not exist. Each fit has a file of its own
        there, named by a digest of the estimator's class and parameters, of X and, with
        ``warm_start=True`` or in ``partial_fit``, of the weights that it begins with.
        So the fits of a search may share a directory.

    every : int, default=1000
        Steps between two files. At most so many are lost.

    Raises
    ------
    ValueError
        If `every` is not positive, or, in a fit, a file is damaged.
    TypeError
        If a parameter has the wrong type or, in a fit, the estimator is no coder.
    ImportError
        If scikit-learn is older than 1.9, which has no callbacks.
    OSError
        In a fit, if a file cannot be written.

    See Also
    --------
    sklearn_ccx.save : Keep an estimator that is fitted.

    Notes
    -----
    A file takes about four times the space of the dictionary, and with
    ``early_stopping=True`` five. It takes the place of the one before when it is
    complete, so that one is valid at any time.

    The last file is written after the last step and stays: fitting once more gives the
    same result at once. Remove the directory to fit anew with ``random_state=None``. Of
    ``partial_fit`` only the files of the newest call stay.

    Of several processes that fit together the first one writes and reads the files, and
    tells the others.

    Of X the digest has the shape, the dtype and 256 evenly spaced rows. A fit on X of
    which other rows have changed would go on as if they had not.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionSAE
    >>> from sklearn_ccx.callbacks import Checkpoint
    >>> X = np.random.default_rng(0).normal(size=(200, 8))
    >>> sae = InteractionSAE(16, k=2, max_iter=5, random_state=0)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     once = sae.set_callbacks(Checkpoint(directory, every=2)).fit(X).components_
    ...     again = sae.fit(X).components_  # from the last file
    >>> bool((once == again).all())
    True
    """

    def __init__(self, directory: str | os.PathLike[str], *, every: int = 1000) -> None:
        super().__init__()
        self.directory = check_path(directory, "directory", of="directory")
        self.every = check_int(every, "every")
        self._of_last_call: Path | None = None

    def setup(self, estimator: Any, context: Any) -> None:
        """Make the directory; called by the estimator.

        Parameters
        ----------
        estimator : InteractionCrosscoder or InteractionSAE
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            The task.
        """
        super().setup(estimator, context)
        self.directory.mkdir(parents=True, exist_ok=True)

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Go on from a file if there is one; called by the estimator.

        Parameters
        ----------
        estimator : InteractionCrosscoder or InteractionSAE
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            The task.
        """
        if context.task_name != "fit":
            return
        running = self._running_fit(estimator)
        file = self.directory / f"{running.method}-{running.key()}.safetensors"
        if file.exists():
            running.go_on_from(tensor_tree(read_tree(file, _KIND)))
        running.listen(self.every, lambda: self._write(running, file))

    def _write(self, running: RunningFit, file: Path) -> None:
        write_tree(file, numpy_tree(running.state), _KIND)
        if running.method == "partial_fit":
            if self._of_last_call not in (None, file):
                self._of_last_call.unlink(missing_ok=True)
            self._of_last_call = file
