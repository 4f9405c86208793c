"""The coder inside a pipeline or a meta-estimator, and the activations it reads."""

from typing import Any

import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from ._base import BaseInteractionCoder

# Where fitted meta-estimators keep the estimator they were fitted with.
_WRAPPED_AS = ("estimator_", "best_estimator_", "estimator")


def last_step(estimator: BaseEstimator) -> BaseEstimator:
    """The estimator at the end of a pipeline, or the estimator itself."""
    while isinstance(estimator, Pipeline):
        estimator = estimator[-1]
    return estimator


def fitted_coder(
    estimator: BaseEstimator, X: npt.ArrayLike
) -> tuple[BaseInteractionCoder, Any]:
    """Find the coder at the end of pipelines and inside fitted meta-estimators.

    Parameters
    ----------
    estimator : estimator
        A coder, a pipeline that ends in one, or a meta-estimator fitted with one.
    X : array-like
        What `estimator` takes.

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
    """
    found: Any = estimator
    while not isinstance(found, BaseInteractionCoder):
        if isinstance(found, Pipeline):
            if len(found) > 1:
                X = found[:-1].transform(X)
            found = found[-1]
            continue
        wrapped = [name for name in _WRAPPED_AS if hasattr(found, name)]
        if not wrapped:
            raise TypeError(
                "estimator must be an InteractionCrosscoder or InteractionSAE, a "
                "Pipeline that ends in one, or a meta-estimator fitted with one; got "
                f"{type(estimator).__name__}."
            )
        found = getattr(found, wrapped[0])
    return found, X
