"""MetricsLogger."""

from collections.abc import Callable
from typing import Any

from .._validation import shown
from ._base import CoderCallback


class MetricsLogger(CoderCallback):
    """Callback that hands each row of `history_` to a function, while the fit runs.

    Parameters
    ----------
    log : callable
        Called as ``log(row)`` after each pass with a dict of floats: "pass", which
        counts from 1, the entries of `history_` and, with ``early_stopping=True``,
        "validation_loss". What it returns is ignored.

    Raises
    ------
    TypeError
        If `log` is not callable.
    ImportError
        If scikit-learn is older than 1.9, which has no callbacks.

    See Also
    --------
    Checkpoint : Writes what a fit that was killed goes on from.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionSAE
    >>> from sklearn_ccx.callbacks import MetricsLogger
    >>> X = np.random.default_rng(0).normal(size=(200, 8))
    >>> sae = InteractionSAE(16, k=2, max_iter=2, random_state=0)
    >>> rows = []
    >>> sae = sae.set_callbacks(MetricsLogger(rows.append)).fit(X)
    >>> [(row["pass"], round(row["l0"], 1)) for row in rows]
    [(1, 2.0), (2, 2.0)]
    """

    def __init__(self, log: Callable[[dict[str, float]], Any]) -> None:
        super().__init__()
        if not callable(log):
            raise TypeError(f"log must be callable as log(row); got {shown(log)}.")
        self.log = log

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Log a pass that has ended; called by the estimator.

        Parameters
        ----------
        estimator : InteractionCrosscoder or InteractionSAE
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            The task.
        """
        if context.task_name == "pass":
            running = self._running_fit(estimator)
            self.log({"pass": running.n_passes_done, **running.metrics})
