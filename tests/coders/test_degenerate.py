"""Numbers at the edge: every activation gives an answer, a warning or an error."""

import warnings

import numpy as np
import pytest

from sklearn_ccx import (
    InteractionCrosscoder,
    InteractionSAE,
    ablation_fidelity,
    dominant_share,
    interaction_matrix,
    interaction_scores,
)
from tests.conftest import make_mlp

ACTIVATIONS = ["batchtopk", "topk", "relu", "jumprelu"]
RNG = np.random.default_rng(0)

CASES = {
    "constant": np.ones((20, 6)),
    "zero": np.zeros((20, 6)),
    "two rows": RNG.normal(size=(2, 6)),
    "one column": RNG.normal(size=(20, 1)),
    "equal rows": np.tile(RNG.normal(size=6), (20, 1)),
    "one nonzero row": np.eye(20)[:, :6] * np.eye(20)[:, :1],
    "tiny": 1e-24 * RNG.normal(size=(20, 6)),
    "huge": 3e18 * RNG.normal(size=(20, 6)),
    "negative": -1 - RNG.random(size=(20, 6)),
    "offset": 1e6 + RNG.normal(size=(20, 6)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [{}, {"center": False, "normalize": False}])
def test_edge_cases_of_the_data(case, dtype, activation, options):
    X = CASES[case].astype(dtype)
    sae = InteractionSAE(
        12, k=3, activation=activation, max_iter=3, random_state=0, **options
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sae.fit(X)
        results = [sae.components_, sae.transform(X), sae.score(X), sae.loss_curve_]
        results += [interaction_scores(sae, X), interaction_matrix(sae, X).toarray()]
    messages = [str(warning.message) for warning in caught]
    assert all(
        warning.category in (UserWarning, RuntimeWarning) or "diverged" in message
        for warning, message in zip(caught, messages, strict=True)
    ), messages
    if not messages:
        assert all(np.isfinite(np.sum(result)) for result in results)
    assert np.isfinite(sae.components_).all()


@pytest.mark.parametrize("scale", [1e-24, 1e-12, 1.0, 1e12, 3e18])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float32_has_no_favourite_unit(acts, activation, scale):
    """Score, fidelity and share are those of the same data in other units."""

    def measures(X):
        sae = InteractionSAE(
            24, k=4, activation=activation, max_iter=30, random_state=0
        ).fit(X)
        fidelity = ablation_fidelity(sae, X, schemes=["none", "keep_largest"])
        return [sae.score(X), dominant_share(sae, X), *np.ravel([*fidelity.values()])]

    X = acts[:, 0].astype(np.float32)
    expected = measures(X)
    # A power of two changes no digit.
    factor = np.float32(2.0 ** np.round(np.log2(scale)))
    np.testing.assert_allclose(measures(X * factor), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("exponent", [153, -153])
def test_scores_of_huge_and_tiny_numbers(acts, exponent):
    X = acts[:, 0]
    sae = InteractionSAE(24, k=4, max_iter=100, random_state=0)
    expected = sae.fit(X).score(X)
    factor = 2.0 ** (exponent / np.log10(2) // 1)
    assert sae.fit(X * factor).score(X * factor) == pytest.approx(expected, abs=1e-6)


def test_score_of_a_reconstruction_that_is_far_off(acts):
    X = acts[:, 0]
    sae = InteractionSAE(24, k=4, max_iter=10, random_state=0).fit(X)
    sae.intercept_ = sae.intercept_ + 1e100
    assert sae.score(X) < -1e150


@pytest.mark.parametrize("n_dominant", [5, 10**7, 10**30])
def test_more_dominant_features_than_there_are_means_all(acts, mlps, n_dominant):
    ccx = InteractionCrosscoder(
        8, k=4, mlp=mlps, n_dominant=n_dominant, lam_fidelity=0.1, max_iter=2,
        activation="topk", random_state=0,
    ).fit(acts)  # fmt: skip
    assert not interaction_scores(ccx, acts).any()
    assert dominant_share(ccx, acts) == 1.0
    assert not ccx.history_["interaction"].round(12).any()
    scheme = f"keep_top_{n_dominant}"
    fidelity = ablation_fidelity(ccx, acts, schemes=["none", scheme])
    np.testing.assert_allclose(fidelity["none"], fidelity[scheme])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_penalties_of_huge_activations(acts, activation):
    X = (acts[:, 0] * 2.0**60).astype(np.float32)
    mlp = make_mlp(6, 5)
    sae = InteractionSAE(
        12, k=3, activation=activation, lam_fidelity=0.3, lam_interval=0.1, mlp=mlp,
        max_iter=5, random_state=0,
    ).fit(X)  # fmt: skip
    for name in ("loss", "interaction", "infidelity", "interval"):
        assert np.isfinite(sae.history_[name]).all()
        assert sae.history_[name].any()


def test_a_score_without_a_number_is_said_to_be_none(acts):
    X = acts[:, 0]
    sae = InteractionSAE(24, k=4, max_iter=10, random_state=0).fit(X)
    with pytest.warns(UserWarning, match=r"The score is -inf: .* units of the fit"):
        assert sae.score(X * 1e-300) == -np.inf


def test_codes_that_overflow_are_refused(acts):
    sae = InteractionSAE(24, k=4, max_iter=1, random_state=0).fit(acts[:, 0])
    with pytest.raises(ValueError, match="X has codes too large for float32"):
        sae.inverse_transform(np.full((2, 24), 3e38, dtype=np.float32))


def test_sizes_beyond_memory_are_refused(acts):
    for n_components in (10**12, 10**18, 10**400):
        with pytest.raises(ValueError, match=r"n_components=.* would need .* GiB"):
            InteractionSAE(n_components).fit(acts[:, 0])


@pytest.mark.parametrize("name", ["batch_size", "k", "aux_k", "n_iter_no_change"])
def test_more_than_there_is_means_all(acts, name):
    sae = InteractionSAE(24, max_iter=1, random_state=0, **{name: 10**400})
    assert np.isfinite(sae.fit(acts[:, 0]).components_).all()
