"""Every use of scikit-learn's private API, under one name each.

What differs between the supported versions (1.6 and newer) is settled here as well.
"""

from collections.abc import Callable
from typing import Any

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
except ImportError:  # before 1.9 there are no callbacks

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands for support of callbacks where scikit-learn has none."""


__all__ = [
    "CallbackSupportMixin",
    "HasMethods",
    "Interval",
    "StrOptions",
    "fit_context",
    "num_samples",
    "safe_indexing",
    "score_metrics",
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
