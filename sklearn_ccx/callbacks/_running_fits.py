"""What the callbacks of this package ask of the fit that calls them."""

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


def running_fit(estimator: Any, callback: object) -> RunningFit:
    """The fit that an estimator is in.

    Raises
    ------
    TypeError
        If it is no coder.
    """
    running: RunningFit | None = getattr(estimator, "_running_fit", None)
    if running is None:
        raise TypeError(
            f"{type(callback).__name__} is for InteractionCrosscoder and "
            f"InteractionSAE; got {shown(estimator)}. Call set_callbacks of the coder "
            "that is inside it."
        )
    return running


def check_supported(callback: object) -> None:
    """Raise where scikit-learn has no callbacks.

    Raises
    ------
    ImportError
        Before version 1.9.
    """
    if not HAS_CALLBACKS:
        raise ImportError(
            f"{type(callback).__name__} needs the callbacks of scikit-learn 1.9; "
            "pip install 'scikit-learn>=1.9'."
        )
