"""Scorers and a refit rule for searches over the strength of the penalties.

For :class:`~sklearn.model_selection.GridSearchCV`,
:func:`~sklearn.model_selection.cross_validate` and the like.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator

from ._validation import as_float, check_list, shown
from .coders import find_coder
from .interactions import ablation_fidelity, dominant_share

__all__ = [
    "SCORERS",
    "StrongestPenalty",
    "dominant_share_scorer",
    "explained_variance_scorer",
    "one_feature_fidelity_scorer",
]

# Whether a larger or a smaller value is the stronger penalty.
_SIGNS = {"lam": 1.0, "lam_fidelity": 1.0, "k": -1.0}


def explained_variance_scorer(
    estimator: BaseEstimator, X: npt.ArrayLike, y: object = None
) -> float:
    """Explained variance of the reconstruction, averaged over the sites.

    Parameters
    ----------
    estimator : estimator
        A fitted :class:`~sklearn_ccx.InteractionCrosscoder` or
        :class:`~sklearn_ccx.InteractionSAE`, or a pipeline that ends in one. Of a
        fitted meta-estimator, the coder that it was fitted with is scored.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        What `estimator` takes: activations, for a coder. The steps of a pipeline
        before the coder are applied to it, and the variance explained is that of
        their output.

    y : Ignored
        Present for the scikit-learn API.

    Returns
    -------
    float
        At most 1. Higher is better.

    Raises
    ------
    TypeError
        If there is no coder in `estimator`.
    NotFittedError
        If the estimator is not fitted.

    See Also
    --------
    SCORERS : This and the other scorers by name.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionSAE
    >>> from sklearn_ccx.model_selection import explained_variance_scorer
    >>> X = np.random.default_rng(0).normal(size=(100, 6))
    >>> sae = InteractionSAE(k=2, max_iter=5, random_state=0).fit(X)
    >>> explained_variance_scorer(sae, X) == sae.score(X)
    True
    """
    coder, X = find_coder(estimator, X)
    return coder.score(X)


def dominant_share_scorer(
    estimator: BaseEstimator, X: npt.ArrayLike, y: object = None
) -> float:
    """Share of what a neuron receives that comes from its dominant feature.

    :func:`~sklearn_ccx.dominant_share` at the MLPs of the estimator, as a scorer.

    Parameters
    ----------
    estimator : estimator
        A fitted :class:`~sklearn_ccx.InteractionCrosscoder` or
        :class:`~sklearn_ccx.InteractionSAE`, or a pipeline that ends in one. Of a
        fitted meta-estimator, the coder that it was fitted with is scored.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        What `estimator` takes: activations, for a coder.

    y : Ignored
        Present for the scikit-learn API.

    Returns
    -------
    float
        From 0 to 1; higher is better. NaN if no neuron receives anything.

    Raises
    ------
    TypeError
        If there is no coder in `estimator`.
    NotFittedError
        If the estimator is not fitted.

    See Also
    --------
    SCORERS : This and the other scorers by name.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionSAE
    >>> from sklearn_ccx.model_selection import dominant_share_scorer
    >>> X = np.random.default_rng(0).normal(size=(100, 6))
    >>> sae = InteractionSAE(k=2, max_iter=5, random_state=0).fit(X)
    >>> 0 < dominant_share_scorer(sae, X) <= 1
    True
    """
    return dominant_share(*find_coder(estimator, X))


def one_feature_fidelity_scorer(
    estimator: BaseEstimator, X: npt.ArrayLike, y: object = None
) -> float:
    r""":math:`R^2` of the MLP outputs if each neuron keeps its largest feature alone.

    The scheme "keep_largest" of :func:`~sklearn_ccx.ablation_fidelity`, averaged over
    the MLPs of the estimator.

    Parameters
    ----------
    estimator : estimator
        A fitted :class:`~sklearn_ccx.InteractionCrosscoder` or
        :class:`~sklearn_ccx.InteractionSAE`, or a pipeline that ends in one. Of a
        fitted meta-estimator, the coder that it was fitted with is scored.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        What `estimator` takes: activations, for a coder.

    y : Ignored
        Present for the scikit-learn API.

    Returns
    -------
    float
        At most 1, negative if worse than the mean output. Higher is better. NaN if
        the output of an MLP does not vary over X.

    Raises
    ------
    TypeError
        If there is no coder in `estimator`.
    NotFittedError
        If the estimator is not fitted.

    See Also
    --------
    SCORERS : This and the other scorers by name.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionSAE
    >>> from sklearn_ccx.model_selection import one_feature_fidelity_scorer
    >>> X = np.random.default_rng(0).normal(size=(100, 6))
    >>> sae = InteractionSAE(k=2, max_iter=5, random_state=0).fit(X)
    >>> one_feature_fidelity_scorer(sae, X) <= 1
    True
    """
    coder, X = find_coder(estimator, X)
    fidelity = ablation_fidelity(coder, X, schemes="keep_largest")
    return float(fidelity["keep_largest"].mean())


SCORERS: dict[str, Callable[..., float]] = {
    "explained_variance": explained_variance_scorer,
    "dominant_share": dominant_share_scorer,
    "one_feature_fidelity": one_feature_fidelity_scorer,
}
"""All scorers by name: the ``scoring`` of a search that reports each of them."""


@dataclass(frozen=True)
class StrongestPenalty:
    """Refit rule: the strongest penalty at a bounded loss of explained variance.

    The score of a coder is best without any penalty, so a search decided by it would
    always choose none. This rule takes the candidates whose mean test score is within
    `max_loss` of the best candidate's, and among them the strongest penalty. Pass it
    as ``refit`` to :class:`~sklearn.model_selection.GridSearchCV`.

    Parameters
    ----------
    max_loss : float, default=0.05
        How much explained variance may be given up, as a difference: with 0.05 and
        0.80 for the best candidate, all from 0.75 on are eligible. 0 admits the best
        alone.

    metric : str, default="explained_variance"
        The score that `max_loss` is about, by its name in ``scoring``. Higher is
        better. "score" if ``scoring`` is a single scorer or None.

    order : sequence of {"lam", "lam_fidelity", "k"}, \
            default=("lam", "lam_fidelity", "k")
        What counts as stronger: a larger `lam` or `lam_fidelity`, a smaller `k`. Where
        the search varies several of them, the first one decides, the next ones break
        ties. Parameters that the search does not vary do not matter; what remains
        equal is decided by the score.

    Raises
    ------
    ValueError
        If a parameter is out of range. When called: if the search reports no such
        score, varies none of the parameters or only in some of its grids, or if no
        candidate has a finite score.

    See Also
    --------
    SCORERS : Scorers by name, to pass as ``scoring``.

    Notes
    -----
    Parameters of a step or of a wrapped estimator are found by the end of their names,
    ``interactionsae__lam`` as `lam`. As with any callable ``refit``, the search has
    `best_index_`, `best_params_` and `best_estimator_`, but no `best_score_`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn_ccx import InteractionSAE
    >>> from sklearn_ccx.model_selection import SCORERS, StrongestPenalty
    >>> X = np.random.default_rng(0).normal(size=(300, 6))
    >>> search = GridSearchCV(
    ...     InteractionSAE(k=3, max_iter=20, random_state=0),
    ...     {"lam": [0, 0.01, 10]},
    ...     scoring=SCORERS,
    ...     refit=StrongestPenalty(max_loss=0.05),
    ...     cv=2,
    ... ).fit(X)
    >>> search.best_params_
    {'lam': 0.01}
    """

    max_loss: float = 0.05
    metric: str = "explained_variance"
    order: Sequence[str] = ("lam", "lam_fidelity", "k")

    def __post_init__(self) -> None:
        """Validate the parameters."""
        if not isinstance(self.max_loss, Real) or not 0 <= self.max_loss < math.inf:
            raise ValueError(
                f"max_loss must be a finite number from 0; got {shown(self.max_loss)}."
            )
        as_float(self.max_loss, "max_loss")
        if not isinstance(self.metric, str):
            raise TypeError(f"metric must be a string; got {shown(self.metric)}.")
        is_name = isinstance(self.order, str)  # which is a sequence, of characters
        names = [] if is_name else check_list(self.order, "order")
        if not names or not all(
            isinstance(name, str) and name in _SIGNS for name in names
        ):
            raise ValueError(
                f"order must be a list of some of {list(_SIGNS)}; got "
                f"{shown(self.order)}."
            )

    def __call__(self, cv_results: Mapping[str, Any]) -> int:
        """Choose a candidate.

        Parameters
        ----------
        cv_results : dict
            The ``cv_results_`` of a search.

        Returns
        -------
        int
            Index of the candidate.
        """
        given: Any = cv_results
        if not isinstance(given, Mapping) or "params" not in given:
            raise TypeError(
                "cv_results must be the cv_results_ of a search; got "
                f"{shown(cv_results)}."
            )
        key = f"mean_test_{self.metric}"
        if key not in cv_results:
            reported = sorted(
                name.removeprefix("mean_test_")
                for name in cv_results
                if name.startswith("mean_test_")
            )
            raise ValueError(
                f"the search reports no score {self.metric!r}, only {reported}; pass "
                "scoring=SCORERS to the search, or the name of one of these as metric."
            )
        score = np.asarray(cv_results[key], dtype=np.float64)
        if not np.isfinite(score).any():
            raise ValueError(f"no candidate has a finite {self.metric!r}.")
        best = score[np.isfinite(score)].max()
        # Scores equal to the limit up to rounding are within it.
        is_eligible = score >= best - self.max_loss - 1e-12
        (eligible,) = np.nonzero(is_eligible)
        strength = self._strength(cv_results["params"])
        return int(max(eligible, key=lambda i: (*strength[i], score[i])))

    def _strength(
        self, candidates: Sequence[Mapping[str, Any]]
    ) -> list[tuple[float, ...]]:
        """Values to compare candidates by, larger for stronger penalties."""
        columns = [
            [_SIGNS[name] * _number(candidate[key], key) for candidate in candidates]
            for name in self.order
            if (key := _parameter_key(name, candidates)) is not None
        ]
        if not columns:
            raise ValueError(
                f"the search varies none of {list(self.order)}; its parameters are "
                f"{sorted(set().union(*candidates))}."
            )
        return list(zip(*columns, strict=True))


def _number(value: Any, key: str) -> float:
    if not isinstance(value, Real):
        raise ValueError(
            f"the values of {key!r} must be numbers to be compared; got {shown(value)}."
        )
    return float(value)


def _parameter_key(name: str, candidates: Sequence[Mapping[str, Any]]) -> str | None:
    """Under which key all candidates have a parameter; None if none has it."""
    keys = {
        key
        for candidate in candidates
        for key in candidate
        if key.rpartition("__")[2] == name
    }
    if not keys:
        return None
    if len(keys) > 1:
        raise ValueError(
            f"{name!r} could be any of {sorted(keys)}; search over one of them."
        )
    (key,) = keys
    if not all(key in candidate for candidate in candidates):
        raise ValueError(
            f"{key!r} is varied in some grids of the search only; add it to the "
            "others with the value they use, such as [0]."
        )
    return key
