"""Rows of another size: named, and left out where that is asked for."""

import numpy as np
import pytest
from sklearn.base import clone

from sklearn_ccx import InteractionCrosscoder, InteractionSAE

ACTIVATIONS = ["batchtopk", "topk", "relu", "jumprelu"]


def sparse_sums(n_samples, seed=0):
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(24, 8))
    rng = np.random.default_rng(seed)
    codes = rng.exponential(size=(n_samples, 24)) * (rng.random((n_samples, 24)) < 0.1)
    return codes @ directions + 0.05 * rng.normal(size=(n_samples, 8))


@pytest.fixture
def X():
    return sparse_sums(600)


@pytest.fixture
def sae():
    return InteractionSAE(32, k=3, lam=0, random_state=0, max_iter=60)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_outlier_is_named_and_can_be_left_out(X, sae, activation):
    test = sparse_sums(200, seed=1)
    sae.set_params(activation=activation)
    clean = clone(sae).fit(X).score(test)
    X[123] *= 1e4
    with pytest.warns(
        UserWarning, match=r"1 row\(s\) of X .* norm .*: 123\. .*set outl"
    ):
        ruined = clone(sae).fit(X).score(test)
    robust = clone(sae).set_params(outlier_threshold=10).fit(X).score(test)
    assert ruined < clean - 0.2
    assert robust == pytest.approx(clean, abs=0.05)


def test_many_outliers_are_counted(X, sae):
    X[::32] *= 100 / np.linalg.norm(X[::32], axis=1, keepdims=True)
    with pytest.warns(UserWarning, match=r"19 row\(s\) .*: 0, 32, 64, 96, 128, \.\.\."):
        clone(sae).fit(X)
    sae.set_params(outlier_threshold=10).fit(X)
    others = np.delete(X, np.arange(0, 600, 32), axis=0)
    assert sae.score(others) == pytest.approx(clone(sae).fit(others).score(others))


def test_outliers_at_any_site_count(acts):
    acts[7, 2] *= 1e3
    with pytest.warns(UserWarning, match=r": 7\."):
        InteractionCrosscoder(8, k=2, max_iter=1, random_state=0).fit(acts)


def test_ordinary_data_do_not_warn(X, sae):
    sae.set_params(max_iter=1).fit(X)
    sae.fit(np.random.default_rng(0).standard_t(5, size=(500, 8)))


def test_partial_fit_compares_with_the_first_call(X, sae):
    sae.partial_fit(X)
    with pytest.warns(UserWarning, match=r"10 row\(s\).*: 0, 1, 2, 3, 4, \.\.\."):
        sae.partial_fit(1000 * X[:10])


def test_early_stopping_does_not_hold_out_outliers(X, sae):
    X[::32] *= 100
    sae.set_params(outlier_threshold=10, early_stopping=True, max_iter=5).fit(X)
    assert max(sae.validation_loss_curve_) < 5


def test_a_threshold_that_leaves_nothing_raises(sae):
    sae.set_params(outlier_threshold=1.5, center=False)
    with pytest.raises(ValueError, match=r"outlier_threshold=1\.5 leaves 1 of 2"):
        sae.fit([[1.0, 0.0], [100.0, 0.0]])


def test_threshold_must_exceed_one(X, sae):
    with pytest.raises(ValueError, match="'outlier_threshold' parameter"):
        sae.set_params(outlier_threshold=0.5).fit(X)
