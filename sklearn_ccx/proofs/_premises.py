"""What a theorem is about, besides the estimator and the network."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from .._validation import as_floats, as_numpy, check_int, check_option, shown
from ..coders import last_step
from ._rounding import BOUNDS, LEVELS, UNIT_ROUNDOFF, Rounding

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Premises:
    """What the theorem is about, as the user says it.

    Parameters
    ----------
    level : {"sample", "group", "domain"}
        For what it holds.
    bound : {"interval", "lipschitz"}
        How it is proved.
    groups : object
        The parameter `groups` of :func:`certify`.
    code_max : array-like of shape (n_components,) or None
        Largest codes of the domain; None for those of the data.
    max_active : int or None
        Most active features in the domain; None for that of the data.
    """

    level: str
    bound: str
    groups: object = None
    code_max: npt.ArrayLike | None = None
    max_active: int | None = None

    def __post_init__(self) -> None:
        check_option(self.level, "level", LEVELS)
        check_option(self.bound, "bound", BOUNDS)
        for name, level in (
            ("groups", "group"),
            ("code_max", "domain"),
            ("max_active", "domain"),
        ):
            if getattr(self, name) is not None and self.level != level:
                raise ValueError(f'{name} needs level="{level}"; got {self.level!r}.')
        if self.max_active is not None:
            check_int(self.max_active, "max_active", minimum=0)

    def rounding(self, network_unit: float = UNIT_ROUNDOFF) -> Rounding:
        """By how much the bounds are widened."""
        return Rounding.of_proof(self.level, self.bound, network_unit)

    def checked_code_max(self, n_features: int) -> FloatArray | None:
        """The largest codes of the domain, None for those of the data.

        Raises
        ------
        ValueError
            If there is not one finite number from 0 for each feature.
        """
        if self.code_max is None:
            return None
        code_max = as_numpy(self.code_max, "code_max")
        if code_max.shape != (n_features,):
            raise ValueError(
                f"code_max has shape {code_max.shape}; pass one number for each of "
                f"the {n_features} features."
            )
        code_max = as_floats(code_max, "code_max")
        is_wrong = ~np.isfinite(code_max) | (code_max < 0)
        if is_wrong.any():
            feature = int(is_wrong.argmax())
            raise ValueError(
                f"code_max must hold finite numbers from 0; got {code_max[feature]} "
                f"for feature {feature}."
            )
        return code_max


def cluster_labels(groups: Any, n_features: int) -> npt.NDArray[Any] | None:
    """Labels of the features if `groups` is a clusterer, None if it is not.

    Raises
    ------
    NotFittedError
        If it is not fitted.
    TypeError
        If it is an estimator that does not cluster.
    ValueError
        If it has not one label for each feature.
    """
    if isinstance(groups, BaseEstimator):
        groups = last_step(groups)
        if not hasattr(groups, "labels_"):
            try:
                check_is_fitted(groups)
            except NotFittedError as error:
                raise NotFittedError(f"groups is not fitted: {error}") from error
            except TypeError as error:
                raise TypeError(f"groups is no clusterer: {error}") from error
            raise TypeError(
                f"groups is a {type(groups).__name__}, which has no labels_; pass a "
                "fitted FeatureClusterer or a label for each sample."
            )
    if not hasattr(groups, "labels_"):
        return None
    labels_M = as_numpy(groups.labels_, "groups.labels_")
    if labels_M.shape != (n_features,):
        raise ValueError(
            f"groups.labels_ has shape {labels_M.shape}, but the estimator has "
            f"{n_features} features; pass a clusterer fitted with the same estimator."
        )
    return labels_M


def numbered(labels: Any, name: str) -> npt.NDArray[np.int64]:
    """Labels as numbers from 0, in their order.

    Raises
    ------
    ValueError
        If they are not in one dimension, or some are missing.
    TypeError
        If they cannot be compared.
    """
    labels = as_numpy(labels, name)
    if labels.ndim != 1:
        raise ValueError(
            f"{name} must have one dimension, with one label for each sample; got "
            f"{shown(labels)}."
        )
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError(f"{name} contains NaN; give every sample a label.")
    try:
        _, number = np.unique(labels, return_inverse=True)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must hold labels that can be sorted, all numbers or all strings: "
            f"{error}."
        ) from error
    return number.astype(np.int64)
