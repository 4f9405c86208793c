import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, ShuffleSplit, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from sklearn_ccx import (
    InteractionCrosscoder,
    InteractionSAE,
    ablation_fidelity,
    dominant_share,
)
from sklearn_ccx.model_selection import SCORERS, StrongestPenalty


@pytest.fixture
def ccx(mlps):
    return InteractionCrosscoder(k=4, mlp=mlps, max_iter=10, random_state=0)


def expected_scores(coder, X):
    return {
        "explained_variance": coder.score(X),
        "dominant_share": dominant_share(coder, X),
        "one_feature_fidelity": np.mean(ablation_fidelity(coder, X)["keep_largest"]),
    }


def scores(estimator, X):
    return {name: scorer(estimator, X) for name, scorer in SCORERS.items()}


def test_scorers_of_a_coder(ccx, acts):
    ccx.fit(acts)
    assert scores(ccx, acts) == expected_scores(ccx, acts)
    for scorer in SCORERS.values():
        assert scorer(ccx, acts, np.zeros(len(acts))) == scorer(ccx, acts)
        assert isinstance(scorer(ccx, acts), float)


def test_scorers_of_a_pipeline_apply_the_steps_before(ccx, acts):
    shift = FunctionTransformer(lambda X: X + 1)
    pipeline = make_pipeline(shift, make_pipeline(shift, ccx)).fit(acts)
    assert scores(pipeline, acts) == expected_scores(pipeline[-1][-1], acts + 2)
    alone = make_pipeline(ccx).fit(acts)
    assert scores(alone, acts) == expected_scores(alone[-1], acts)


def test_scorers_find_the_coder_in_meta_estimators(ccx, acts):
    search = GridSearchCV(ccx, {"lam": [0.3]}, cv=2).fit(acts)
    fitted = search.best_estimator_
    assert scores(search, acts) == expected_scores(fitted, acts)
    assert scores(FrozenEstimator(fitted), acts) == expected_scores(fitted, acts)


@pytest.mark.parametrize("name", SCORERS)
def test_scorers_name_what_they_need(name, acts, ccx):
    flat = acts.reshape(len(acts), -1)
    with pytest.raises(TypeError, match=r"Pipeline that ends in one.* got PCA"):
        SCORERS[name](PCA().fit(flat), flat)
    with pytest.raises(TypeError, match="got Pipeline"):
        SCORERS[name](make_pipeline(StandardScaler(), PCA()).fit(flat), flat)
    with pytest.raises(NotFittedError):
        SCORERS[name](ccx, acts)


def test_scorers_in_cross_validate_with_y_and_two_jobs(ccx, acts):
    y = np.arange(len(acts)) % 2
    cv = ShuffleSplit(2, random_state=0)
    one = cross_validate(ccx, acts, y, scoring=SCORERS, cv=cv, n_jobs=1)
    two = cross_validate(ccx, acts, y, scoring=SCORERS, cv=cv, n_jobs=2)
    for split, (train, test) in enumerate(cv.split(acts)):
        expected = expected_scores(clone(ccx).fit(acts[train]), acts[test])
        for name in SCORERS:
            assert one[f"test_{name}"][split] == expected[name]
            # Workers may use another number of threads.
            assert_allclose(two[f"test_{name}"][split], expected[name], rtol=1e-6)


def test_grid_search_takes_the_strongest_penalty(ccx, acts):
    grid = {"lam": [3, 0, 0.01, 0.1]}
    search = GridSearchCV(ccx, grid, scoring=SCORERS, cv=2, refit=False).fit(acts)
    score = search.cv_results_["mean_test_explained_variance"]
    # Strong penalties cost something here, else the test would show nothing.
    assert score[0] < score[3] - 0.05
    for max_loss in [0, 0.02, score.max() - score[3], 10]:
        rule = StrongestPenalty(max_loss)
        chosen = clone(search).set_params(refit=rule).fit(acts)
        lams = [
            lam
            for lam, value in zip(grid["lam"], score, strict=True)
            if value >= score.max() - max_loss - 1e-9
        ]
        assert chosen.best_params_ == {"lam": max(lams)}
        assert chosen.best_estimator_.lam == max(lams)


def test_grid_search_over_a_step_of_a_pipeline(acts):
    flat = acts.reshape(len(acts), -1)
    sae = InteractionSAE(n_components=8, max_iter=3, random_state=0)
    search = GridSearchCV(
        Pipeline([("scale", MinMaxScaler()), ("sae", sae)]),
        {"sae__lam": [0, 0.1], "sae__k": [4, 2], "scale__clip": [False]},
        scoring=SCORERS,
        refit=StrongestPenalty(max_loss=10, order=["k", "lam"]),
        cv=2,
    ).fit(flat)
    assert search.best_params_ == {"sae__lam": 0.1, "sae__k": 2, "scale__clip": False}


def results(params, score, name="explained_variance"):
    return {"params": params, f"mean_test_{name}": np.asarray(score)}


@pytest.mark.parametrize(
    ("order", "best"),
    [
        (("lam", "lam_fidelity", "k"), 3),
        (("k", "lam"), 1),
        (("lam_fidelity", "k"), 2),
        # Ties in k alone go to the better score.
        (("k",), 1),
    ],
)
def test_order_of_parameters(order, best):
    params = [
        {"lam": 0.0, "lam_fidelity": 0.0, "k": 4},
        {"lam": 0.1, "lam_fidelity": 0.0, "k": 4},
        {"lam": 0.1, "lam_fidelity": 2.0, "k": 8},
        {"lam": 0.3, "lam_fidelity": 0.0, "k": 16},
        {"lam": 9.0, "lam_fidelity": 9.0, "k": 1},
    ]
    rule = StrongestPenalty(0.1, order=order)
    assert rule(results(params, [0.81, 0.9, 0.85, 0.8, 0.79])) == best


def test_failed_fits_are_not_chosen():
    params = [{"lam": 0}, {"lam": 1}, {"lam": 2}]
    assert StrongestPenalty()(results(params, [0.8, 0.79, np.nan])) == 1
    with pytest.raises(ValueError, match="no candidate has a finite"):
        StrongestPenalty()(results(params, [np.nan] * 3))


def test_metric_may_have_another_name():
    rule = StrongestPenalty(metric="score")
    assert rule(results([{"k": 2}, {"k": 9}], [0.8, 0.81], "score")) == 0
    with pytest.raises(ValueError, match=r"no score 'score', only \['r2'\]"):
        rule(results([{"k": 2}], [0.8], "r2"))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([{"batch_size": 2}], "varies none of .*'batch_size'"),
        ([{"lam": 1}, {"k": 2}], "'lam' is varied in some grids"),
        ([{"a__lam": 1, "b__lam": 2}], "could be any of"),
    ],
)
def test_unusable_grids_raise(params, message):
    with pytest.raises(ValueError, match=message):
        StrongestPenalty()(results(params, [0.5] * len(params)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_loss": -0.1},
        {"max_loss": np.nan},
        {"max_loss": "0.1"},
        {"order": ()},
        {"order": "lam"},
        {"order": ("lam", "alpha")},
    ],
)
def test_wrong_parameters_raise(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StrongestPenalty(**wrong)


def test_rule_is_a_value():
    rule = StrongestPenalty(0.1, order=("k",))
    assert pickle.loads(pickle.dumps(rule)) == rule != StrongestPenalty(0.2)
    assert repr(rule).startswith("StrongestPenalty(max_loss=0.1")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"order": 3}, "order must be a list; got 3"),
        ({"order": None}, "order must be a list; got None"),
        ({"order": [[]]}, "order must be a list of some of"),
        ({"metric": []}, "metric must be a string"),
        ({"metric": None}, "metric must be a string"),
        ({"max_loss": None}, "max_loss must be a finite number"),
    ],
)
def test_parameters_of_another_type_raise(wrong, message):
    with pytest.raises((TypeError, ValueError), match=message):
        StrongestPenalty(**wrong)


@pytest.mark.parametrize("cv_results", [None, 3, "a", [], {}])
def test_results_of_no_search_raise(cv_results):
    with pytest.raises(TypeError, match="cv_results must be the cv_results_"):
        StrongestPenalty()(cv_results)


def test_strengths_that_are_no_numbers_raise():
    with pytest.raises(ValueError, match="values of 'lam' must be numbers"):
        StrongestPenalty()(results([{"lam": "a"}, {"lam": None}], [0.5, 0.5]))
