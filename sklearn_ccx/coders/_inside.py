"""Which coder is inside an estimator, and the activations that it reads.

The one rule of the package: whatever takes a fitted coder takes what holds one.
"""

from typing import Any

from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from .._validation import as_array
from ._base import BaseInteractionCoder

# Where searches and other fitted meta-estimators keep the estimator that they use.
_BEST, _FITTED = "best_estimator_", "estimator_"


def find_coder(
    estimator: Any, X: Any, *, name: str = "estimator"
) -> tuple[BaseInteractionCoder, Any]:
    """Find the fitted coder inside an estimator.

    Parameters
    ----------
    estimator : estimator
        A fitted coder, or what holds one: a pipeline that ends in it, a
        :class:`~sklearn.frozen.FrozenEstimator`, a search, a meta-estimator that
        keeps it as `estimator_`, or any nesting of these.
    X : array-like
        What `estimator` takes.
    name : str
        Name of the parameter, for the errors.

    Returns
    -------
    coder : InteractionCrosscoder or InteractionSAE
        The coder itself.
    X : array-like
        X after the steps before the coder.

    Raises
    ------
    TypeError
        If there is no coder.
    NotFittedError
        If the coder, or what holds it, is not fitted.
    """
    coder, steps = fitted_parts(estimator, name=name)
    for pipeline in steps:
        X = pipeline.transform(as_array(X, "X"))
    return coder, X


def fitted_parts(
    estimator: Any, *, name: str = "estimator"
) -> tuple[BaseInteractionCoder, list[Pipeline]]:
    """The fitted coder inside an estimator, and the steps before it in their order.

    Raises
    ------
    TypeError
        If there is no coder.
    NotFittedError
        If the coder, or what holds it, is not fitted.
    """
    found, steps = _unwrapped(estimator)
    while not isinstance(found, BaseInteractionCoder):
        if not hasattr(found, _FITTED):
            check_holds_coder(estimator, name=name)
            # A search without `refit` is fitted, but has chosen no estimator.
            raise NotFittedError(
                f"{name} is not fitted: {type(found).__name__} has no fitted coder "
                "yet. Call fit first (a search needs refit)."
            )
        found, inner_steps = _unwrapped(getattr(found, _FITTED))
        steps += inner_steps
    check_is_fitted(found)
    return found, steps


def unfrozen(estimator: Any, *, name: str = "estimator") -> Any:
    """What FrozenEstimators hold, which must be fitted; None if it is not frozen.

    Raises
    ------
    TypeError
        If there is no coder in it.
    NotFittedError
        If the coder, or what holds it, is not fitted.
    """
    if not isinstance(estimator, FrozenEstimator):
        return None
    fitted_parts(estimator, name=name)
    while isinstance(estimator, FrozenEstimator):
        estimator = estimator.estimator
    return estimator


def check_holds_coder(
    estimator: Any, *, name: str = "estimator"
) -> BaseInteractionCoder:
    """The coder that an estimator, fitted or not, is built around.

    It tells what kind of coder there is. To compute with it, use :func:`find_coder`.

    Raises
    ------
    TypeError
        If there is none.
    """
    found: Any = estimator
    while not isinstance(found, BaseInteractionCoder):
        inner = _inner_parameter(found)
        if inner is None:
            raise TypeError(
                f"{name} must be an InteractionCrosscoder or InteractionSAE, a "
                "Pipeline that ends in one, or a FrozenEstimator, search or other "
                f"meta-estimator that holds one; got {_described(estimator)}."
            )
        found = inner
    return found


def holds_coder(estimator: Any) -> bool:
    """Whether an estimator, fitted or not, is built around a coder."""
    try:
        check_holds_coder(estimator)
    except TypeError:
        return False
    return True


def last_step(estimator: Any) -> Any:
    """The estimator at the end of pipelines, inside searches and FrozenEstimators."""
    return _unwrapped(estimator)[0]


def find_last_step(estimator: Any, X: Any) -> tuple[Any, Any]:
    """:func:`last_step`, and X after the steps before it."""
    found, steps = _unwrapped(estimator)
    for pipeline in steps:
        X = pipeline.transform(as_array(X, "X"))
    return found, X


def _unwrapped(estimator: Any) -> tuple[Any, list[Pipeline]]:
    """What is inside what adds nothing but steps, and these steps."""
    steps: list[Pipeline] = []
    while True:
        if isinstance(estimator, Pipeline) and estimator.steps:
            length = _length(estimator)
            if length > 1:
                steps.append(estimator[: length - 1])
            estimator = estimator[length - 1]
        elif isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif hasattr(estimator, _BEST):
            estimator = getattr(estimator, _BEST)
        else:
            return estimator, steps


def _length(pipeline: Pipeline) -> int:
    """Number of steps without those at the end that do nothing, at least 1."""
    length = len(pipeline)
    while length > 1 and _is_passthrough(pipeline[length - 1]):
        length -= 1
    return length


def _is_passthrough(step: Any) -> bool:
    return step is None or isinstance(step, str)


def _inner_parameter(estimator: Any) -> Any:
    """The estimator that another was made from, None if there is none."""
    if isinstance(estimator, type):
        return None
    if isinstance(estimator, Pipeline):
        return estimator[_length(estimator) - 1] if estimator.steps else None
    for attribute in ("estimator", _BEST, _FITTED):
        inner = getattr(estimator, attribute, None)
        if hasattr(inner, "fit"):
            return inner
    return None


def _described(estimator: Any) -> str:
    """Types from the outside to the inside, as an error names them."""
    if isinstance(estimator, type):
        return f"the class {estimator.__name__}; pass an instance of it"
    name = type(estimator).__name__
    inner = _inner_parameter(estimator)
    if inner is None:
        return name
    joint = "that ends in" if isinstance(estimator, Pipeline) else "of"
    return f"{name} {joint} {_described(inner)}"
