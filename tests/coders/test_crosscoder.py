"""The scikit-learn surface of the estimators."""

import operator
import pickle

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline

from sklearn_ccx import InteractionCrosscoder, InteractionSAE, dominant_share
from sklearn_ccx._engine._trainer import Trainer
from tests.conftest import make_mlp

ACTIVATIONS = ["batchtopk", "topk", "relu", "jumprelu"]


def crosscoder(**kwargs):
    return InteractionCrosscoder(**{"k": 4, "max_iter": 5, "random_state": 0} | kwargs)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_code_of_a_row_does_not_depend_on_the_rows_beside_it(acts, activation):
    ccx = crosscoder(n_components=64, k=3, activation=activation, max_iter=20)
    codes = ccx.fit(acts).transform(acts)
    one_by_one = np.vstack([ccx.transform(row[np.newaxis]) for row in acts])
    assert_array_equal(codes > 0, one_by_one > 0)
    assert_allclose(codes, one_by_one, atol=1e-10)
    assert_array_equal(codes[::-1] > 0, ccx.transform(acts[::-1]) > 0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_codes_are_sparse_and_never_negative(acts, activation):
    ccx = crosscoder(activation=activation, max_iter=60).fit(acts)
    codes = ccx.transform(acts)
    n_active = (codes > 0).sum(axis=1)
    assert codes.min() == 0
    if activation == "topk":
        assert n_active.max() <= 4
    elif activation != "relu":
        assert 2 < n_active.mean() < 6
    assert_allclose(ccx.activation_frequency_, (codes > 0).mean(axis=0))


def test_inverse_transform_is_affine_in_the_units_of_x(acts, mlps):
    ccx = crosscoder(mlp=mlps, max_iter=300, lam=0).fit(1e3 * acts)
    codes = ccx.transform(1e3 * acts)
    recon = ccx.inverse_transform(codes)
    expected = codes @ ccx.components_ + ccx.intercept_
    assert recon.shape == acts.shape
    assert_allclose(recon.reshape(len(acts), -1), expected)
    pre = 1e3 * acts.reshape(len(acts), -1) @ ccx.encoder_components_.T
    pre += ccx.encoder_intercept_
    assert_allclose(codes, np.where(pre > ccx.threshold_, pre, 0), atol=1e-8)
    assert ccx.score(1e3 * acts) > 0.9


def test_fitted_attributes_describe_the_reconstruction(acts):
    ccx = crosscoder(max_iter=60).fit(acts)
    recon = ccx.inverse_transform(ccx.transform(acts))
    for site in range(3):
        true, estimate = acts[:, site], recon[:, site]
        r2 = r2_score(true, estimate, multioutput="variance_weighted")
        assert_allclose(ccx.site_fvu_[site], 1 - r2)
        intercept = ccx.intercept_.reshape(3, 6)[site]
        norms = [np.linalg.norm(rows - intercept, axis=1) for rows in (estimate, true)]
        ratio = norms[0].mean() / norms[1].mean()
        assert_allclose(ccx.site_norm_ratio_[site], ratio)
    assert_allclose(ccx.score(acts), 1 - ccx.site_fvu_.mean())
    assert_allclose(np.square(ccx.decoder_norms_).sum(axis=1), 1.0)
    assert_allclose(ccx.intercept_, acts.mean(axis=0).ravel())
    assert ccx.decoder_norms_.shape == (24, 3)
    assert ccx.k_ == 4
    assert ccx.n_features_in_ == 18
    assert ccx.n_sites_ == 3


def test_no_fitted_attribute_is_a_tensor(acts, mlps):
    ccx = crosscoder(mlp=mlps, activation="jumprelu").partial_fit(acts)

    def leaves(value):
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list | tuple):
            return [leaf for item in value for leaf in leaves(item)]
        return [value]

    for name, value in vars(ccx).items():
        for leaf in leaves(value):
            assert not isinstance(leaf, torch.Tensor), name


def test_predicting_the_mean_scores_zero(acts):
    ccx = crosscoder().fit(acts)
    ccx.components_ = np.zeros_like(ccx.components_)
    assert ccx.score(acts) == pytest.approx(0.0, abs=1e-12)


def test_score_is_explained_variance_whatever_the_penalty(acts, mlps):
    sae = InteractionSAE(k=4, lam=3.0, mlp=make_mlp(6, 5), max_iter=5, random_state=0)
    X = acts[:, 0]
    recon = sae.fit(X).inverse_transform(sae.transform(X))
    assert sae.score(X) == pytest.approx(
        r2_score(X, recon, multioutput="variance_weighted")
    )


def test_three_dimensional_input_is_a_view_of_two(acts):
    flat = acts.reshape(len(acts), -1)
    three_d, two_d = crosscoder().fit(acts), crosscoder(n_sites=3).fit(flat)
    assert_array_equal(three_d.components_, two_d.components_)
    assert_array_equal(three_d.transform(flat), two_d.transform(acts))
    assert three_d.inverse_transform(two_d.transform(acts)).shape == acts.shape
    assert two_d.inverse_transform(two_d.transform(acts)).shape == flat.shape


def test_works_with_model_selection_on_three_dimensional_input(acts, mlps):
    train, test = train_test_split(acts, random_state=0)
    ccx = crosscoder(mlp=mlps)
    search = GridSearchCV(ccx, {"lam": [0.0, 0.5], "k": [2, 4]}, cv=2, n_jobs=2)
    search.fit(train)
    assert all(map(operator.is_, search.best_estimator_.mlp, mlps))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.score(test) == search.best_estimator_.score(test)
    assert len(cross_val_score(ccx, train, cv=3)) == 3


def test_works_in_a_pipeline(acts):
    pipeline = make_pipeline(crosscoder(), PCA(2)).fit(acts)
    assert pipeline.transform(acts).shape == (120, 2)
    pipeline.set_params(interactioncrosscoder__lam=0.3).fit(acts)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames_in_and_out(acts, library):
    names = [f"unit{i}" for i in range(6)]
    frame = {"pandas": pd.DataFrame, "polars": pl.DataFrame}[library](
        dict(zip(names, acts[:, 0].T, strict=True))
    )
    sae = InteractionSAE(n_components=5, max_iter=2, random_state=0)
    out = sae.set_output(transform=library).fit_transform(frame)
    assert list(out.columns) == [f"interactionsae{i}" for i in range(5)]
    assert list(sae.get_feature_names_out()) == list(out.columns)
    assert_array_equal(sae.feature_names_in_, names)
    sae.set_output(transform="default")
    assert_array_equal(out.to_numpy(), sae.transform(frame))


def test_sparse_output_has_the_same_codes(acts, monkeypatch):
    ccx = crosscoder(max_iter=20).fit(acts)
    dense = ccx.transform(acts)
    monkeypatch.setattr(
        "sklearn_ccx.coders._rows._INFERENCE_BYTES", 8 * 42 * 7
    )  # 7 rows
    codes = ccx.set_params(sparse_output=True).transform(acts)
    assert isinstance(codes, sparse.csr_array)
    assert_allclose(codes.toarray(), dense, atol=1e-12)
    assert codes.nnz == (dense > 0).sum()
    assert_allclose(ccx.inverse_transform(codes), ccx.inverse_transform(dense))
    assert make_pipeline(ccx, TruncatedSVD(2)).fit_transform(acts).shape == (120, 2)


def test_set_output_with_three_dimensional_input(acts):
    out = crosscoder().set_output(transform="pandas").fit_transform(acts)
    assert out.shape == (120, 24)
    assert out.columns[0] == "interactioncrosscoder0"


def test_copies_transform_alike(acts, mlps, tmp_path):
    ccx = crosscoder(mlp=mlps).fit(acts)
    joblib.dump(ccx, tmp_path / "ccx.joblib")
    copies = [
        pickle.loads(pickle.dumps(ccx)),
        joblib.load(tmp_path / "ccx.joblib"),
        joblib.load(tmp_path / "ccx.joblib", mmap_mode="r"),
    ]
    for copy in copies:
        assert_array_equal(copy.transform(acts), ccx.transform(acts))
    assert_array_equal(clone(ccx).fit(acts).components_, ccx.components_)


def test_reads_memory_maps_and_tensors(acts, tmp_path):
    np.save(tmp_path / "acts.npy", acts)
    mapped = np.load(tmp_path / "acts.npy", mmap_mode="r")
    expected = crosscoder().fit(acts)
    for X in (mapped, torch.from_numpy(acts), acts.tolist()):
        ccx = crosscoder().fit(X)
        assert_array_equal(ccx.components_, expected.components_)
        assert_array_equal(ccx.transform(X), expected.transform(acts))
    half = torch.from_numpy(acts).to(torch.bfloat16)
    assert crosscoder().fit(half).components_.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_follows_the_data_or_the_parameter(acts, dtype):
    X = acts.astype(dtype)
    ccx = crosscoder().fit(X)
    assert ccx.components_.dtype == ccx.transform(X).dtype == dtype
    assert ccx.inverse_transform(ccx.transform(X)).dtype == dtype
    single = crosscoder(dtype="float32").fit(X)
    assert single.components_.dtype == single.transform(X).dtype == np.float32


def test_default_size_is_four_times_the_width_of_a_site(acts):
    assert crosscoder(n_components=None).fit(acts).components_.shape == (24, 18)


def test_without_center_the_decoder_has_no_bias(acts):
    ccx = crosscoder(center=False, max_iter=100).fit(acts)
    assert not ccx.intercept_.any()
    assert ccx.score(acts) > 0.3


@pytest.mark.parametrize("normalize", [True, False])
def test_strengths_have_no_unit(acts, mlps, normalize):
    """The same network in other units: the same codes up to their own unit."""
    scaled_mlps = [
        type(mlp)(
            mlp.W_in / 8,
            mlp.W_out,
            b_in=mlp.b_in,
            activation=mlp.activation,
            site=mlp.site,
        )
        for mlp in mlps
    ]
    kwargs = {"lam": 0.5, "lam_fidelity": 0.5, "max_iter": 30}
    ccx = crosscoder(mlp=mlps, **kwargs).fit(acts)
    scaled = crosscoder(mlp=scaled_mlps, **kwargs).fit(8 * acts)
    assert_allclose(scaled.transform(8 * acts), ccx.transform(acts), atol=1e-6)
    assert_allclose(scaled.components_, 8 * ccx.components_, atol=1e-6)


@pytest.mark.parametrize("n_mlps", [1, 4, 6, 12])
def test_lam_raises_the_dominant_share_for_any_number_of_mlps(n_mlps):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, n_mlps, 5)).astype(np.float32)
    X += rng.exponential(size=(400, 1, 5)).astype(np.float32)
    mlps = [make_mlp(5, 8, seed=site, site=site) for site in range(n_mlps)]
    share = {
        lam: dominant_share(crosscoder(mlp=mlps, lam=lam, max_iter=60).fit(X), X)
        for lam in (0.0, 0.5)
    }
    assert share[0.5] > share[0.0] + 0.05


def test_lam_works_on_identity_neurons(acts):
    share = {
        lam: dominant_share(crosscoder(lam=lam, max_iter=200).fit(acts), acts)
        for lam in (0.0, 0.5)
    }
    assert share[0.5] > share[0.0] + 0.05


@pytest.mark.gpu
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_cuda_agrees_with_the_cpu(acts, mlps, activation):
    kwargs = {"activation": activation, "mlp": mlps, "lam": 0.2, "lam_fidelity": 0.2}
    on_cpu = crosscoder(device="cpu", **kwargs).fit(acts)
    on_gpu = crosscoder(device="cuda", **kwargs).fit(acts)
    assert_allclose(on_gpu.components_, on_cpu.components_, atol=1e-6)
    assert_allclose(on_gpu.transform(acts), on_cpu.transform(acts), atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("activation", ["batchtopk", "topk"])
def test_cuda_steps_do_not_wait_for_the_device(acts, mlps, activation, monkeypatch):
    monkeypatch.setattr("sklearn_ccx._engine._model._MIN_SPARSE_PRODUCT", 0)
    step = Trainer._step

    def strict_step(*args):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Trainer, "_step", strict_step)
    crosscoder(
        device="cuda", activation=activation, mlp=mlps, lam=0.2, lam_fidelity=0.2
    ).fit(acts)


@pytest.mark.gpu
@pytest.mark.parametrize("mixed_precision", [False, True])
def test_cuda_is_deterministic_on_request(acts, mlps, mixed_precision, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    acts = acts.astype(np.float32)
    ccx = crosscoder(
        device="cuda",
        mlp=mlps,
        lam=0.2,
        lam_fidelity=0.2,
        mixed_precision=mixed_precision,
    )
    torch.use_deterministic_algorithms(True)
    try:
        first, second = clone(ccx).fit(acts), clone(ccx).fit(acts)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_array_equal(first.components_, second.components_)
