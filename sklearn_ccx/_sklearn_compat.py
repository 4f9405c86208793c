"""Every use of scikit-learn's private API, under one name each.

What differs between the supported versions (1.6 and newer) is settled here as well.
"""

import re
from collections.abc import Callable
from typing import Any

from sklearn import config_context
from sklearn.base import _fit_context as fit_context
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    validate_parameter_constraints,
    validate_params,
)
from sklearn.utils.validation import _num_samples as num_samples

try:
    from sklearn.callback import CallbackSupportMixin

    HAS_CALLBACKS = True
except ImportError:  # before 1.9 there are no callbacks
    HAS_CALLBACKS = False

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands for support of callbacks where scikit-learn has none."""


__all__ = [
    "CALLBACK_ATTRIBUTES",
    "HAS_CALLBACKS",
    "REQUESTS_ATTRIBUTE",
    "CallbackSupportMixin",
    "HasMethods",
    "Interval",
    "StrOptions",
    "fit_context",
    "metadata_requests",
    "num_samples",
    "safe_indexing",
    "score_metrics",
    "set_metadata_requests",
    "validate_parameter_constraints",
    "validate_params",
    "with_default_output",
]


def score_metrics() -> list[str]:
    """Names of the metrics of labels and of scores without a unit."""
    return [name for name in get_scorer_names() if _takes_scores(get_scorer(name))]


def _takes_scores(scorer: Callable[..., float]) -> bool:
    return "decision_function" in getattr(scorer, "_response_method", ())


def with_default_output(transformer: Any) -> Any:
    """The transformer, of which ``transform`` returns arrays whatever its settings.

    It is changed in place: pass a copy.
    """
    transformer._sklearn_output_config = {"transform": "default"}
    return transformer


# What callbacks, which scikit-learn has from 1.9 on, leave on an estimator.
CALLBACK_ATTRIBUTES = frozenset(
    {
        "_callback_fit_ctx",
        "_parent_callback_ctx",
        "_skl_callbacks",
        "_skl_callbacks_to_teardown",
    }
)

# Where an estimator keeps what it was told by set_fit_request and its kin.
REQUESTS_ATTRIBUTE = "_metadata_request"


def metadata_requests(estimator: Any) -> dict[str, dict[str, Any]]:
    """What was asked for with ``set_fit_request`` and its kin: {method: requests}."""
    kept = vars(estimator)[REQUESTS_ATTRIBUTE]
    return {name: dict(getattr(kept, name).requests) for name in _requesting(estimator)}


def set_metadata_requests(estimator: Any, requests: dict[str, dict[str, Any]]) -> None:
    """Ask for it again."""
    with config_context(enable_metadata_routing=True):
        for name in _requesting(estimator):
            getattr(estimator, f"set_{name}_request")(**requests.get(name, {}))


def _requesting(estimator: Any) -> list[str]:
    """Names of the methods that can ask for metadata."""
    found = (re.fullmatch(r"set_(\w+)_request", name) for name in dir(type(estimator)))
    return [match[1] for match in found if match]
