"""Certificates of MLPs behind a norm, against the network in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from sklearn_ccx import (
    InteractionCrosscoder,
    InteractionSAE,
    MLPWeights,
    ablated_output,
    certify,
    certify_stack,
    interaction_scores,
)
from tests.interactions.test_norms import (
    NORMS,
    cases,
    for_sample,
    make_normed,
    many_cases,
    network_output,
    problem,
    site_columns,
)


def check_soundness(*case, n_samples=7):
    ccx, X = problem(*case, n_samples)
    flat = X.reshape(len(X), -1)
    true, kept = network_output(ccx.mlp, flat), ablated_output(ccx, X)
    recon = ablated_output(ccx, X, "none")
    interval, lipschitz = (certify(ccx, X, bound=b) for b in ("interval", "lipschitz"))
    for certificate in (interval, lipschitz):
        for of, error in {
            "error": true - kept,
            "reconstruction": true - recon,
            "interaction": recon - kept,
        }.items():
            distance = np.linalg.norm(error, axis=1)
            measured = getattr(certificate, "error" if of == "error" else f"{of}_error")
            size = np.abs(true).max() + np.abs(kept).max() + np.abs(recon).max()
            assert_allclose(measured[:, 0], distance, rtol=1e-6, atol=1e-9 * (1 + size))
            slack = 0.0 if of == "error" else certificate.rounding[:, 0]
            assert (distance <= getattr(certificate, f"{of}_bound")[:, 0] + slack).all()
    assert (interval.error_bound <= lipschitz.error_bound).all()
    assert_allclose(lipschitz.interaction_bound[:, 0], interaction_scores(ccx, X))


@settings(deadline=None, max_examples=60)
@cases
def test_soundness(seed, norm, activation, gated, n_sites, scale):
    check_soundness(seed, norm, activation, gated, n_sites, scale)


@pytest.mark.slow
def test_soundness_for_10_000_samples():
    for case in many_cases():
        check_soundness(*case, n_samples=20)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    norm=st.sampled_from(NORMS),
    gated=st.booleans(),
    bound=st.sampled_from(["interval", "lipschitz"]),
)
def test_each_sample_is_certified_as_the_mlp_that_it_sees(seed, norm, gated, bound):
    """With its scale held fixed a sample sees an MLP without a norm."""
    ccx, X = problem(seed, norm, "silu", gated, 2, 1.0)
    certificate = certify(ccx, X, bound=bound)
    for b, row in enumerate(X.reshape(len(X), -1)):
        own = for_sample(ccx.mlp, row[site_columns(ccx.mlp)])
        alone = certify(ccx, X[b : b + 1], mlp=own, bound=bound)
        for name in ("error_bound", "reconstruction_bound", "interaction_bound"):
            of_norm, of_own = getattr(certificate, name)[b], getattr(alone, name)[0]
            assert_allclose(of_norm, of_own, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("offset", [0.0, 1e6, 1e10])
def test_rounding_covers_a_mean_that_cancels(norm, offset):
    """Perfect codes leave rounding alone, which grows with what cancels."""
    rng = np.random.default_rng(0)
    mlp = make_normed(norm, "relu", eps=1e-8)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    sae = InteractionSAE.from_weights(
        np.hstack([basis, -basis]),
        np.vstack([basis.T, -basis.T]),
        input_offset=np.full(6, offset),
        mlp=mlp,
    )
    X = rng.normal(size=(200, 6)) + offset
    certificate = certify(sae, X)
    true, recon = network_output(mlp, X), ablated_output(sae, X, "none")
    distance = np.linalg.norm(true - recon, axis=1)
    assert (
        distance <= (certificate.reconstruction_bound + certificate.rounding)[:, 0]
    ).all()
    if not offset:
        assert (certificate.rounding < 1e-8).all()


def test_transition_is_that_of_the_codes():
    rng = np.random.default_rng(0)
    mlp = make_normed(seed=1, site=0)
    mlp = MLPWeights(
        mlp.W_in, rng.normal(size=(9, 6)), norm="rmsnorm", activation="gelu"
    )
    W_dec = rng.normal(size=(8, 2, 6))
    ccx = InteractionCrosscoder.from_weights(np.moveaxis(W_dec, 0, -1), W_dec, mlp=mlp)
    X = rng.normal(size=(20, 2, 6))
    certificate = certify(ccx, X, output_site=1, residual=True)
    recon = ccx.inverse_transform(ccx.transform(X))
    expected = recon[:, 0] + ablated_output(ccx, X) - recon[:, 1]
    assert_allclose(
        certificate.transition_error[:, 0], np.linalg.norm(expected, axis=1), rtol=1e-9
    )
    assert (certificate.transition_error <= certificate.transition_bound).all()


def test_proof_length_counts_the_norm():
    ccx, X = problem(0, "layernorm", "gelu", False, 1, 1.0)
    mlp = ccx.mlp
    plain = MLPWeights(mlp.W_in, mlp.W_out, activation="gelu")
    with_norm, without = certify(ccx, X), certify(ccx, X, mlp=plain)
    assert with_norm.proof_flops > without.proof_flops
    assert with_norm.brute_force_flops > without.brute_force_flops


@pytest.mark.parametrize("level", ["group", "domain"])
def test_levels_that_know_no_sample(level):
    ccx, X = problem(0, "layernorm", "gelu", False, 1, 1.0)
    with pytest.raises(
        ValueError, match=r"mlp\[0\] is behind a norm.*level=\"sample\""
    ):
        certify(ccx, X, level=level)


def test_proofs_along_stacks_are_refused():
    rng = np.random.default_rng(0)
    mlp = MLPWeights(rng.normal(size=(6, 9)), rng.normal(size=(9, 6)), norm="rmsnorm")
    W_dec = rng.normal(size=(8, 2, 6))
    ccx = InteractionCrosscoder.from_weights(np.moveaxis(W_dec, 0, -1), W_dec, mlp=mlp)
    with pytest.raises(ValueError, match="behind a norm"):
        certify_stack(ccx, rng.normal(size=(5, 2, 6)))
