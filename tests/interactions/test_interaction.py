"""interaction_matrix, interaction_scores and dominant_share against loops."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError

from sklearn_ccx import (
    InteractionCrosscoder,
    InteractionSAE,
    MLPWeights,
    dominant_share,
    interaction_matrix,
    interaction_scores,
)
from sklearn_ccx._engine.neurons import _pair_accumulator
from tests import naive
from tests.conftest import make_mlp

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.fixture
def fitted(acts, mlps):
    return InteractionCrosscoder(k=4, mlp=mlps, max_iter=20, random_state=0).fit(acts)


def at_neurons(estimator, acts, mlp):
    """Codes, M and Lip times output norms of one MLP."""
    width = acts.shape[2]
    columns = slice(mlp.site * width, (mlp.site + 1) * width)
    M = estimator.components_[:, columns] @ mlp.W_in
    output_norm = mlp.lipschitz * np.linalg.norm(mlp.W_out, axis=1)
    return estimator.transform(acts), M, output_norm


@pytest.mark.parametrize("batch_size", [1, 7, None])
@pytest.mark.parametrize("n_dominant", [1, 2, 3])
def test_scores_equal_the_loop(fitted, acts, mlps, batch_size, n_dominant):
    scores = interaction_scores(
        fitted, acts, per_mlp=True, n_dominant=n_dominant, batch_size=batch_size
    )
    for index, mlp in enumerate(mlps):
        expected, _, _ = naive.interaction(*at_neurons(fitted, acts, mlp), n_dominant)
        assert_allclose(scores[:, index], expected, atol=1e-9)
    total = interaction_scores(fitted, acts, n_dominant=n_dominant)
    assert_allclose(total, scores.sum(axis=1), atol=1e-9)


@pytest.mark.parametrize("k", [1, 2])
def test_scores_are_zero_where_all_active_features_are_kept(acts, k):
    sae = InteractionSAE(k=k, activation="topk", max_iter=20, random_state=0)
    X = acts[:, 0] * 1000
    assert not interaction_scores(sae.fit(X), X, n_dominant=k).any()


@pytest.mark.parametrize("batch_size", [1, 7, None])
def test_matrix_equals_the_loop(fitted, acts, mlps, batch_size):
    A = interaction_matrix(fitted, acts, batch_size=batch_size)
    expected = sum(
        naive.interaction_matrix(*at_neurons(fitted, acts, mlp)) for mlp in mlps
    )
    assert isinstance(A, sparse.csr_array)
    assert_allclose(A.toarray(), expected / len(acts), atol=1e-9)


@pytest.mark.parametrize("normalize", [None, "coactivation"])
@pytest.mark.parametrize("min_waiting", [1, 10_000])
def test_matrix_of_many_features_is_summed_up_sparse(
    fitted, acts, normalize, min_waiting, monkeypatch
):
    matrix = {"normalize": normalize, "batch_size": 7}
    expected = interaction_matrix(fitted, acts, **matrix)
    monkeypatch.setattr(_pair_accumulator, "_MAX_DENSE", 0)
    monkeypatch.setattr(_pair_accumulator, "_MIN_WAITING", min_waiting)
    monkeypatch.setattr("torch.zeros", None)  # no room for a dense matrix
    A = interaction_matrix(fitted, acts, **matrix)
    assert_allclose(A.toarray(), expected.toarray(), atol=1e-12)
    assert A.nnz == expected.nnz
    assert not A.diagonal().any()


@given(
    seed=st.integers(0, 2**32 - 1),
    n_samples=st.integers(2, 12),
    n_components=st.integers(1, 12),
    k=st.integers(1, 12),
    n_neurons=st.integers(1, 6),
    activation=st.sampled_from(["relu", "gelu"]),
)
@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_matrix_sums_to_the_mean_score(
    seed, n_samples, n_components, k, n_neurons, activation
):
    X = np.random.default_rng(seed).normal(size=(n_samples, 4))
    mlp = make_mlp(4, n_neurons, activation, seed=seed)
    sae = InteractionSAE(
        n_components, k=k, mlp=mlp, activation="topk", max_iter=2, random_state=0
    ).fit(X)
    A = interaction_matrix(sae, X)
    mean = interaction_scores(sae, X).mean()
    assert_allclose(A.sum(), mean, rtol=1e-9, atol=1e-12)
    output_norm = mlp.lipschitz * np.linalg.norm(mlp.W_out, axis=1)
    expected = naive.interaction_matrix(
        sae.transform(X), sae.components_ @ mlp.W_in, output_norm
    )
    assert_allclose(A.toarray() * n_samples, expected, atol=1e-9)


def test_coactivation_gives_the_mean_over_samples_with_both(fitted, acts):
    raw = interaction_matrix(fitted, acts).toarray() * len(acts)
    given_both = interaction_matrix(fitted, acts, normalize="coactivation").toarray()
    is_active = fitted.transform(acts) > 0
    for i, j in np.argwhere(raw):
        n_both = (is_active[:, i] & is_active[:, j]).sum()
        assert given_both[i, j] == pytest.approx(raw[i, j] / n_both)
    assert (given_both > 0).sum() == (raw > 0).sum()


@pytest.mark.parametrize("n_dominant", [1, 2])
def test_dominant_share_equals_the_loop(fitted, acts, mlps, n_dominant):
    shares = []
    for mlp in mlps:
        codes, M, _ = at_neurons(fitted, acts, mlp)
        shares += naive.dominant_share(codes, M, n_dominant)
    share = dominant_share(fitted, acts, n_dominant=n_dominant, batch_size=11)
    assert share == pytest.approx(np.mean(shares))


def test_identity_neurons_are_the_coordinates(acts):
    X = acts[:, 0]
    sae = InteractionSAE(k=3, max_iter=20, random_state=0).fit(X)
    codes, M, norm = sae.transform(X), sae.components_, np.ones(X.shape[1])
    expected, _, _ = naive.interaction(codes, M, norm)
    assert_allclose(interaction_scores(sae, X), expected, atol=1e-9)
    assert_allclose(
        interaction_matrix(sae, X).toarray() * len(X),
        naive.interaction_matrix(codes, M, norm),
        atol=1e-9,
    )


def test_estimators_n_dominant_is_the_default(acts, mlps):
    ccx = InteractionCrosscoder(
        k=4, mlp=mlps, n_dominant=2, max_iter=3, random_state=0
    ).fit(acts)
    two = interaction_scores(ccx, acts)
    assert_allclose(two, interaction_scores(ccx, acts, n_dominant=2))
    assert (two < interaction_scores(ccx, acts, n_dominant=1)).any()


def test_another_mlp_can_be_looked_at(fitted, acts, mlps):
    first = interaction_scores(fitted, acts, mlp=mlps[0])
    both = interaction_scores(fitted, acts, per_mlp=True)
    assert_allclose(first, both[:, 0])


def test_features_that_never_fire_give_empty_results(fitted, acts):
    fitted.threshold_ = np.inf
    assert interaction_matrix(fitted, acts).nnz == 0
    assert interaction_matrix(fitted, acts, normalize="coactivation").nnz == 0
    assert not interaction_scores(fitted, acts).any()
    assert math.isnan(dominant_share(fitted, acts))


@pytest.mark.parametrize(
    "function", [interaction_matrix, interaction_scores, dominant_share]
)
def test_bad_input_raises(fitted, acts, function):
    with pytest.raises(NotFittedError):
        function(InteractionSAE(), acts[:, 0])
    with pytest.raises(TypeError, match="estimator must be an InteractionCrosscoder"):
        function(PCA(2).fit(acts[:, 0]), acts[:, 0])
    with pytest.raises(ValueError, match="fitted with 3 site"):
        function(fitted, acts.transpose(0, 2, 1))
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        function(fitted, acts, batch_size=0)
    with pytest.raises(ValueError, match=r"mlp\[0\] reads site=3"):
        function(fitted, acts, mlp=make_mlp(6, 5, site=3))


def test_unknown_normalization_raises(fitted, acts):
    with pytest.raises(ValueError, match="normalize must be one of"):
        interaction_matrix(fitted, acts, normalize="cosine")
    with pytest.raises(ValueError, match="n_dominant must be at least 1; got 0"):
        interaction_scores(fitted, acts, n_dominant=0)


def test_matrix_of_plain_and_gated_mlps_sums_to_the_mean_score(acts):
    """One unit for all: the Lipschitz constant is inside every bound."""
    rng = np.random.default_rng(0)
    mlps = [
        make_mlp(6, 9, "relu", site=0),
        make_mlp(6, 7, "gelu", seed=1, site=1),
        make_mlp(6, 5, "logistic", seed=2, site=2),
        MLPWeights(
            rng.normal(size=(6, 8)),
            rng.normal(size=(8, 3)),
            W_gate=rng.normal(size=(6, 8)),
            activation="silu",
            site=1,
        ),
    ]
    ccx = InteractionCrosscoder(12, k=4, mlp=mlps, max_iter=3, random_state=0).fit(acts)
    for chosen in ([mlp] for mlp in mlps), [mlps[:2], mlps[2:], mlps]:
        for mlp in chosen:
            A = interaction_matrix(ccx, acts, mlp=mlp)
            mean = interaction_scores(ccx, acts, mlp=mlp).mean()
            assert_allclose(A.sum(), mean, rtol=1e-10)
