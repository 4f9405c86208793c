"""What the callbacks of this package share, and what they ask of a fit."""

from typing import Any, Protocol

from .._sklearn_compat import HAS_CALLBACKS
from .._validation import shown


class RunningFit(Protocol):
    """The part of a coder's fit that callbacks use."""

    method: str

    @property
    def state(self) -> dict[str, Any]: ...

    @property
    def metrics(self) -> dict[str, float]: ...

    @property
    def n_passes_done(self) -> int: ...

    def key(self) -> str: ...

    def go_on_from(self, state: dict[str, Any]) -> None: ...

    def listen(self, every: int, listener: Any) -> None: ...


class CoderCallback:
    """Base of callbacks for the fits of coders; does nothing.

    Raises
    ------
    ImportError
        If scikit-learn is older than 1.9, which has no callbacks.
    """

    def __init__(self) -> None:
        if not HAS_CALLBACKS:
            raise ImportError(
                f"{type(self).__name__} needs the callbacks of scikit-learn 1.9; "
                "pip install 'scikit-learn>=1.9'."
            )

    def _running_fit(self, estimator: Any) -> RunningFit:
        """The fit that an estimator is in.

        Raises
        ------
        TypeError
            If it is no coder.
        """
        running: RunningFit | None = getattr(estimator, "_running_fit", None)
        if running is None:
            raise TypeError(
                f"{type(self).__name__} is for InteractionCrosscoder and "
                f"InteractionSAE; got {shown(estimator)}. Call set_callbacks of the "
                "coder that is inside it."
            )
        return running

    def setup(self, estimator: Any, context: Any) -> None:
        """Prepare for a fit; called by the estimator.

        Parameters
        ----------
        estimator : InteractionCrosscoder or InteractionSAE
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            The task of the fit.

        Raises
        ------
        TypeError
            If the estimator is no coder.
        """
        self._running_fit(estimator)

    def teardown(self, estimator: Any, context: Any) -> None:
        """Clean up after a fit; called by the estimator.

        Parameters
        ----------
        estimator : InteractionCrosscoder or InteractionSAE
            The estimator that was fitted.

        context : sklearn.callback.CallbackContext
            The task of the fit.
        """

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Take notice of a task that begins; called by the estimator.

        Parameters
        ----------
        estimator : InteractionCrosscoder or InteractionSAE
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            The task: the fit, a pass of it, or some steps of a pass.
        """

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Take notice of a task that ends; called by the estimator.

        Parameters
        ----------
        estimator : InteractionCrosscoder or InteractionSAE
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            The task: the fit, a pass of it, or some steps of a pass.
        """
