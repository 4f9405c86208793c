"""Each wrong input gets one error that names the parameter and the fix."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from sklearn_ccx import InteractionCrosscoder, InteractionSAE, MLPWeights
from sklearn_ccx._engine._trainer import Trainer
from tests.conftest import make_mlp


def fit(acts, **kwargs):
    return InteractionCrosscoder(**{"max_iter": 1} | kwargs).fit(acts)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lam": -0.1}, "'lam' parameter"),
        ({"lam": np.nan}, "'lam' parameter"),
        ({"lam_fidelity": -1}, "'lam_fidelity' parameter"),
        ({"lam_margin": -1}, "'lam_margin' parameter"),
        ({"lam_interval": -1}, "'lam_interval' parameter"),
        ({"k": 0}, "'k' parameter"),
        ({"n_components": 0}, "'n_components' parameter"),
        ({"n_dominant": 0}, "'n_dominant' parameter"),
        ({"activation": "gelu"}, "'activation' parameter .* a str among"),
        ({"dtype": "bfloat16"}, "'dtype' parameter"),
        ({"mlp": np.eye(6)}, "'mlp' parameter"),
        ({"mlp": []}, "mlp is an empty list"),
        ({"mlp": make_mlp(5, 4)}, r"mlp\[0\]\.W_in has shape \(5, 4\).*\(6, n_neurons"),
        ({"mlp": make_mlp(6, 4, site=3)}, r"mlp\[0\] reads site=3.*0\.\.2"),
        ({"n_sites": 2}, "n_sites=2"),
        ({"device": "abacus"}, "device='abacus' cannot be used"),
        ({"learning_rate_init": 0}, "'learning_rate_init' parameter"),
        (
            {"early_stopping": True, "validation_fraction": 0.99},
            "validation_fraction=0.99",
        ),
    ],
)
def test_bad_parameters_raise(acts, kwargs, message):
    with pytest.raises(ValueError, match=message):
        fit(acts, **kwargs)


def test_foreign_items_in_the_list_of_mlps_raise(acts):
    with pytest.raises(
        TypeError, match=r"mlp\[1\] must be an MLPWeights; got .* \(tuple\)"
    ):
        fit(acts, mlp=[MLPWeights(np.eye(6), np.eye(6)), (1, 2)])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 3, 6), "0 sample"),
        ((1, 3, 6), "1 sample"),
        ((5, 3, 0), "0 feature"),
        ((5,), "Reshape your data"),
        ((5, 2, 3, 4), r"must have shape .* got \(5, 2, 3, 4\)"),
    ],
)
def test_bad_shapes_raise_in_fit(shape, message):
    with pytest.raises(ValueError, match=message):
        fit(np.ones(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_raise(acts, bad):
    acts = acts.copy()
    fitted = fit(acts)
    acts[3, 1, 2] = bad
    for method in (fitted.fit, fitted.transform, fitted.score, fitted.partial_fit):
        with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
            method(acts)


def test_columns_that_sites_do_not_divide_raise(acts):
    with pytest.raises(ValueError, match="18 columns, which n_sites=4"):
        fit(acts.reshape(120, 18), n_sites=4)


def test_wrong_shapes_raise_after_fit(acts):
    fitted = fit(acts)
    swapped = acts.transpose(0, 2, 1)
    for method in (fitted.transform, fitted.score, fitted.partial_fit):
        with pytest.raises(ValueError, match=r"3 site\(s\) of width 6.*\(n_samples, 3"):
            method(swapped)
        with pytest.raises(ValueError, match="expecting 18 features"):
            method(acts[:, 0])


def test_sae_takes_one_site(acts):
    with pytest.raises(ValueError, match="Use InteractionCrosscoder"):
        InteractionSAE().fit(acts)


def test_codes_of_the_wrong_width_raise(acts):
    fitted = fit(acts)
    with pytest.raises(ValueError, match=r"X has 5 columns.*\(n_samples, 24\)"):
        fitted.inverse_transform(np.ones((3, 5)))


def test_unfitted_estimators_raise(acts):
    for method in ("transform", "inverse_transform", "score"):
        with pytest.raises(NotFittedError):
            getattr(InteractionCrosscoder(), method)(acts)


def test_a_failed_fit_leaves_the_fitted_estimator_usable(acts):
    fitted = fit(acts)
    before = fitted.transform(acts)
    for bad in (np.full_like(acts, np.nan), acts[:0]):
        with pytest.raises(ValueError, match=r"NaN|0 sample"):
            fitted.fit(bad)
        np.testing.assert_array_equal(fitted.transform(acts), before)
    other, defaults = acts[:, :2, :2], fitted.get_params()
    for bad in (
        {"mlp": make_mlp(2, 4, site=3)},
        {"device": "abacus"},
        {"warm_start": True},
        {"early_stopping": True, "validation_fraction": 0.99},
    ):
        with pytest.raises(ValueError, match=r"site=3|abacus|warm_start|validation"):
            fitted.set_params(**bad).fit(other)
        fitted.set_params(**{name: defaults[name] for name in bad})
        np.testing.assert_array_equal(fitted.transform(acts), before)


def test_an_interrupted_fit_leaves_the_fitted_estimator_usable(acts, monkeypatch):
    fitted = fit(acts)
    before = fitted.transform(acts)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "run_pass", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fitted.fit(acts[:, :2, :2])
    np.testing.assert_array_equal(fitted.transform(acts), before)
