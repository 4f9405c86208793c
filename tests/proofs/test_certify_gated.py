"""Bounds on gated MLPs: soundness, order, and the terms they are made of."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_ccx import (
    InteractionCrosscoder,
    MLPWeights,
    ablated_output,
    certify,
    interaction_scores,
)
from tests.conftest import make_mlp
from tests.proofs.cases import fitted
from tests.proofs.gated_cases import GatedCase, gated_cases
from tests.proofs.test_certify import LEVELS, certificates, check_case


def make_gated(activation="silu", *, width=6, n_neurons=9, d_out=6, seed=0, site=0):
    rng = np.random.default_rng(seed)
    return MLPWeights(
        rng.normal(size=(width, n_neurons)),
        rng.normal(size=(n_neurons, d_out)),
        b_in=rng.normal(size=n_neurons),
        b_out=rng.normal(size=d_out),
        W_gate=rng.normal(size=(width, n_neurons)),
        b_gate=rng.normal(size=n_neurons),
        activation=activation,
        site=site,
    )


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(120, 10)) * (rng.random((120, 10)) < 0.3)
    return codes @ rng.normal(size=(10, 6)) + 0.1 * rng.normal(size=(120, 6))


def fitted_case(X, activation="silu", n_dominant=1):
    mlp = make_gated(activation)
    ccx = InteractionCrosscoder(24, k=3, mlp=mlp, max_iter=60, random_state=0).fit(X)
    groups = np.arange(len(X)) % 5
    return GatedCase(ccx, X, mlp, n_dominant, groups)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(gated_cases())
def test_no_bound_is_below_the_error(case):
    check_case(case)


@pytest.mark.slow
@settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(gated_cases())
def test_no_bound_is_below_the_error_in_40_000_samples(case):
    check_case(case)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(gated_cases())
def test_never_looser_than_the_lipschitz_form_by_the_formula(case):
    interaction, reconstruction = case.lipschitz_bounds()
    for bound in ("interval", "lipschitz"):
        certificate = certificates(case, bound)[0]
        rounding = certificate.rounding[:, 0]
        for name, expected in [
            ("interaction", interaction),
            ("reconstruction", reconstruction),
            ("error", interaction + reconstruction + rounding),
        ]:
            actual = getattr(certificate, f"{name}_bound")[:, 0]
            assert (actual <= expected + rounding).all()
            if bound == "lipschitz":
                assert (actual >= expected - rounding).all()


@pytest.mark.parametrize("bound", ["interval", "lipschitz"])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(gated_cases())
def test_sets_cover_codes_that_are_not_in_the_data(bound, case):
    """Any code in the box, with a shrunken residual of a member, is covered."""
    rng = np.random.default_rng(0)
    codes = case.codes
    for certificate in certificates(case, bound)[1:]:
        for group in np.unique(certificate.groups):
            members = np.flatnonzero(certificate.groups == group)
            lower, upper = codes[members].min(axis=0), codes[members].max(axis=0)
            if certificate.level == "domain":
                lower = np.zeros_like(lower)
            n_active = (codes[members] > 0).sum(axis=1).max()
            new = lower + (upper - lower) * rng.choice(
                [0, 0.3, 1], size=(100, len(lower))
            )
            new = new[(new > 0).sum(axis=1) <= n_active]
            recon = case.estimator.inverse_transform(codes)
            source = rng.choice(members, size=len(new))
            shrink = rng.choice([-1, 0, 0.5, 1], size=(len(new), 1))
            residual = shrink * (case.X - recon)[source]
            x = case.estimator.inverse_transform(new) + residual
            kept = case.output(case.kept_input(new))
            error = np.linalg.norm(case.output(case.input(x)) - kept, axis=1)
            assert (error <= certificate.error_bound[members[0], 0]).all()


@pytest.mark.parametrize("n_dominant", [1, 2])
@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
def test_lipschitz_interaction_is_interaction_scores(X, activation, n_dominant):
    ccx = fitted_case(X, activation).estimator
    certificate = certify(ccx, X, bound="lipschitz", n_dominant=n_dominant)
    scores = interaction_scores(ccx, X, n_dominant=n_dominant, per_mlp=True)
    assert_allclose(
        certificate.interaction_bound, scores, rtol=1e-10, atol=1e-11 * scores.max()
    )
    assert scores.max() > 1


@pytest.mark.parametrize("n_dominant", [1, 2, 6])
def test_the_explanation_is_that_of_the_ablation(X, n_dominant):
    case = fitted_case(X, n_dominant=n_dominant)
    case.estimator.n_dominant_ = n_dominant
    kept = ablated_output(case.estimator, X, scheme=f"keep_top_{n_dominant}")
    certificate = certify(case.estimator, X)
    true = case.output(case.input())
    error = np.linalg.norm(true - kept, axis=1)
    assert_allclose(certificate.error[:, 0], error, rtol=1e-9)


@pytest.mark.parametrize("n_dominant", [1, 2])
def test_against_loops(X, n_dominant):
    """The interval bound of one neuron and sample after another."""
    case = fitted_case(X, n_dominant=n_dominant)
    mlp, codes = case.mlp, case.codes
    kept_BN, sizes_BMN = case.kept_input(), case.sizes(n_largest=n_dominant)
    chosen_BMN = case.sizes()
    certificate = certify(case.estimator, X, n_dominant=n_dominant)
    residual = np.abs((X - case.estimator.inverse_transform(codes)) @ np.hstack(
        [mlp.W_gate, mlp.W_in]))  # fmt: skip
    recon = case.input(case.estimator.inverse_transform(codes))
    q, p = case.contributions()
    phi = case.nonlinearity
    for b in range(5):
        ends = np.zeros((2, 9))
        for n in range(9):
            order = sorted(range(24), key=lambda h: -chosen_BMN[b, h, n])
            others = order[n_dominant:]
            gate_radius = sum(abs(q[b, h, n]) for h in others) + residual[b, n]
            linear_radius = sum(abs(p[b, h, n]) for h in others) + residual[b, n + 9]
            gate, linear = kept_BN[b, n], kept_BN[b, n + 9]
            bottom, top = gate - gate_radius, gate + gate_radius
            grid = phi(np.linspace(bottom, top, 20_001))
            products = [
                factor * end
                for factor in (grid.min(), grid.max())
                for end in (linear - linear_radius, linear + linear_radius)
            ]
            moved = mlp.lipschitz * residual[b, n]
            most = sum(sizes_BMN[b, h, n] for h in others)
            most += abs(recon[b, n + 9]) * moved
            most += (abs(phi(recon[b, n])) + moved) * residual[b, n + 9]
            at_first = phi(gate) * linear
            ends[0, n] = max(min(products) - at_first, -most)
            ends[1, n] = min(max(products) - at_first, most)
        norms = np.linalg.norm(mlp.W_out, axis=1)
        triangle = np.abs(ends).max(axis=0) @ norms
        box = 0.0
        for w in mlp.W_out.T:
            sorted_ends = np.sort(ends * w, axis=0).sum(axis=1)
            box += np.abs(sorted_ends).max() ** 2
        joint = min(triangle, np.sqrt(box))
        separate = certificate.interaction_bound[b, 0]
        separate += certificate.reconstruction_bound[b, 0]
        expected = min(joint, separate)
        assert_allclose(certificate.error_bound[b, 0], expected, rtol=1e-6)


def test_intervals_are_of_use(X):
    case = fitted_case(X)
    interval, lipschitz = (
        certify(case.estimator, X, bound=bound).error_bound
        for bound in ("interval", "lipschitz")
    )
    assert interval.mean() < 0.8 * lipschitz.mean()


@pytest.mark.parametrize("n_dominant", [1, 2])
def test_one_sample_per_group_is_as_good_as_samples(X, n_dominant):
    case = fitted_case(X)
    options = {"n_dominant": n_dominant}
    groups = np.arange(len(X))[::-1]
    for bound in ("interval", "lipschitz"):
        options["bound"] = bound
        sample = certify(case.estimator, X, **options)
        group = certify(case.estimator, X, level="group", groups=groups, **options)
        assert_allclose(group.error_bound, sample.error_bound, rtol=1e-9)


@pytest.mark.parametrize("n_dominant", [1, 2])
def test_groups_of_equal_dominant_features(X, n_dominant):
    case = fitted_case(X, n_dominant=n_dominant)
    X = np.concatenate([X, X])
    certificate = certify(case.estimator, X, level="group", n_dominant=n_dominant)
    assert_array_equal(*np.split(certificate.groups, 2))
    order = np.argsort(-case.sizes(), axis=1, kind="stable")[:, :n_dominant]
    patterns = {pattern.tobytes() for pattern in order}
    assert 10 < len(patterns) <= certificate.groups.max() + 1


@pytest.mark.parametrize("residual", [False, True])
def test_transition(X, residual):
    gated = make_gated()
    mlp = MLPWeights(gated.W_in, gated.W_out / 50, b_in=gated.b_in, b_gate=gated.b_gate,
                     W_gate=gated.W_gate, activation="gelu")  # fmt: skip
    X = X / (1 + np.linalg.norm(X, axis=1, keepdims=True))
    written = GatedCase(None, X, mlp, 1, None)
    written = written.output(written.input())
    sites = np.stack([X, residual * X + written], axis=1)
    ccx = InteractionCrosscoder(24, k=3, mlp=mlp, max_iter=60, random_state=0)
    codes = ccx.fit(sites).transform(sites)
    recon = ccx.inverse_transform(codes)
    difference = ablated_output(ccx, sites) - recon[:, 1] + residual * recon[:, 0]
    for level in LEVELS:
        certificate = certify(ccx, sites, level=level, output_site=1, residual=residual)
        assert (certificate.transition_error <= certificate.transition_bound).all()
        assert_allclose(
            certificate.transition_error[:, 0], np.linalg.norm(difference, axis=1)
        )
        if level == "sample":
            assert_allclose(
                certificate.transition_bound, certificate.transition_error, rtol=1e-6
            )


def test_plain_and_gated_together(X):
    case = fitted_case(X)
    plain = make_mlp(6, 8)
    for level in LEVELS:
        together = certify(case.estimator, X, mlp=[plain, case.mlp], level=level)
        for index, mlp in enumerate([plain, case.mlp]):
            alone = certify(case.estimator, X, mlp=mlp, level=level)
            if level != "group":  # of which the patterns are those of both
                assert_allclose(
                    together.error_bound[:, index], alone.error_bound[:, 0], rtol=1e-9
                )


def test_an_open_gate_makes_a_plain_mlp(X):
    """With a gate that is 1, the neurons are linear and the bound is that of these."""
    rng = np.random.default_rng(0)
    W_in, W_out = rng.normal(size=(6, 8)), rng.normal(size=(8, 4))
    gated = MLPWeights(
        W_in, W_out, W_gate=np.zeros((6, 8)), b_gate=np.ones(8), activation="relu"
    )
    plain = MLPWeights(W_in, W_out, activation="identity")
    ccx = fitted_case(X).estimator
    for level in LEVELS:
        for bound in ("interval", "lipschitz"):
            options = {"level": level, "bound": bound, "n_dominant": 2}
            if level == "group":
                options["groups"] = np.arange(len(X)) % 7
            one, other = (
                certify(ccx, X, mlp=mlp, **options).error_bound
                for mlp in (gated, plain)
            )
            assert_allclose(one, other, rtol=1e-9)


def test_all_features_are_dominant(X):
    case = fitted_case(X)
    everything = certify(case.estimator, X, n_dominant=24)
    for level in LEVELS:
        certificate = certify(case.estimator, X, level=level, n_dominant=10**7)
        assert not certificate.interaction_bound.any()
        assert_allclose(certificate.error, everything.error, rtol=1e-9)


def test_float32_data(X):
    X = X.astype(np.float32)
    rng = np.random.default_rng(0)
    W = rng.normal(size=(2, 6, 9)).astype(np.float32)
    mlp = MLPWeights(W[0], W[0].T, W_gate=W[1], activation="silu")
    ccx = InteractionCrosscoder(24, k=3, mlp=mlp, max_iter=60, random_state=0)
    certificate = certify(ccx.fit(X), X)
    assert ccx.components_.dtype == mlp.W_gate.dtype == np.float32
    assert certificate.error_bound.dtype == np.float64
    assert (certificate.error <= certificate.error_bound).all()
    double = certify(ccx, X, mlp=MLPWeights(*(
        np.float64(part) for part in (W[0], W[0].T)
    ), W_gate=np.float64(W[1]), activation="silu"))  # fmt: skip
    assert_allclose(certificate.error_bound, double.error_bound, rtol=1e-12)


@pytest.mark.parametrize("n_dominant", [1, 2])
def test_does_not_depend_on_the_batch(X, n_dominant):
    case = fitted_case(X)
    for level in LEVELS:
        one, other = (
            certify(
                case.estimator, X, level=level, n_dominant=n_dominant, batch_size=size
            )
            for size in (7, 1000)
        )
        assert_array_equal(one.groups, other.groups)
        assert_allclose(one.error_bound, other.error_bound, rtol=1e-9)


def test_a_single_active_feature_does_not_interact(X):
    """With one active feature a neuron keeps all that it receives."""
    sae = InteractionCrosscoder(12, k=1, activation="topk", max_iter=20, random_state=0)
    certificate = certify(sae.fit(X), X, mlp=make_gated())
    assert not certificate.interaction_bound.any()
    assert (certificate.interaction_error <= certificate.rounding).all()
    assert (certificate.error <= certificate.error_bound).all()


def test_proof_of_a_domain_does_not_grow_with_the_data(X):
    ccx = fitted_case(X).estimator
    few = certify(ccx, X[:60], level="domain")
    many = certify(ccx, np.concatenate([X[:60]] * 5), level="domain")
    assert_array_equal(few.error_bound[0], many.error_bound[0])
    assert few.proof_flops == many.proof_flops < many.brute_force_flops
    assert 4 < many.membership_flops / few.membership_flops <= 5


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bound", ["interval", "lipschitz"])
def test_a_gate_makes_the_proof_longer(X, level, bound):
    """More than for a plain MLP, less than for one with twice as many neurons twice."""
    ccx, gated = fitted_case(X).estimator, make_gated()
    options = {"level": level, "bound": bound}
    if level == "group":
        options["groups"] = np.arange(len(X)) % 5
    plain = MLPWeights(gated.W_in, gated.W_out)
    one = certify(ccx, X, mlp=plain, **options)
    other = certify(ccx, X, mlp=gated, **options)
    for name in ("proof_flops", "brute_force_flops"):
        assert 1.3 < getattr(other, name) / getattr(one, name) < 4
    if level != "sample":
        assert 1 < other.membership_flops / one.membership_flops < 2


def test_length_of_a_proof_of_samples():
    """Counted by hand for one sample, feature and neuron of width one."""
    sae = fitted(np.ones((1, 1)), np.zeros(1), np.ones((1, 1)), np.zeros(1))
    mlp = MLPWeights([[1.0]], [[1.0]], W_gate=[[1.0]])
    certificate = certify(sae, np.ones((1, 1)), mlp=mlp, bound="lipschitz")
    # What the feature and the decoder's bias write to both inputs, the norm of the
    # output weights, the feature's contributions, the residual, and the bound.
    assert certificate.proof_flops == (4 + 4) + 2 + (11 + 2) + (4 + 16)
    # The same weights; network and explanation: both inputs with their biases, the
    # nonlinearity, the product and the output; which feature dominates; the distance.
    assert certificate.brute_force_flops == 8 + (4 + 2 + 3) + (2 + 3) + 9 + 3
