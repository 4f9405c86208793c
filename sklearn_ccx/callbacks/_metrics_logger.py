"""MetricsLogger."""

from collections.abc import Callable
from typing import Any

from .._validation import shown
from ._running_fits import check_supported, running_fit


class MetricsLogger:
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
        check_supported(self)
        if not callable(log):
            raise TypeError(f"log must be callable as log(row); got {shown(log)}.")
        self.log = log

    def setup(self, estimator: Any, context: Any) -> None:
        """Check that the estimator is a coder; called by its fit."""
        running_fit(estimator, self)

    def teardown(self, estimator: Any, context: Any) -> None:
        """Do nothing; called by the fit of the estimator."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Do nothing; called by the fit of the estimator."""

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Log a pass that has ended; called by the fit of the estimator."""
        if context.task_name == "pass":
            running = running_fit(estimator, self)
            self.log({"pass": running.n_passes_done, **running.metrics})
