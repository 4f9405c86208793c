"""Bounds along residual blocks."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sklearn_ccx import (
    InteractionCrosscoder,
    MLPWeights,
    certify,
    certify_stack,
    interaction_scores,
)
from tests.conftest import make_mlp
from tests.proofs.cases import NONLINEARITIES, fitted

N_SAMPLES = 40


def run(mlps, x):
    """Activations at each site."""
    sites = [x]
    for mlp in mlps:
        phi, linear = NONLINEARITIES[mlp.activation], x @ mlp.W_in + mlp.b_in
        gated = mlp.W_gate is not None
        hidden = phi(x @ mlp.W_gate + mlp.b_gate) * linear if gated else phi(linear)
        x = x + (hidden @ mlp.W_out + mlp.b_out)
        sites.append(x)
    return np.stack(sites, axis=1)


@st.composite
def stacks(draw, is_gated=False):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    activation = draw(st.sampled_from(sorted(NONLINEARITIES)))
    # A gated block squares its input: large ones leave float64 after a few blocks.
    n_blocks = draw(st.integers(1, 3 if is_gated else 4))
    sizes = [-30.0, -8.0, -1.0, 0.0, 1.0, *([] if is_gated else [4.0])]
    exponents = draw(st.just((0.0,) * 5) | st.tuples(*[st.sampled_from(sizes)] * 5))
    x_scale, in_scale, out_scale, bias_scale, decoder_scale = 10.0 ** np.array(
        exponents
    )
    width, n_features, n_neurons = rng.integers(1, 6, size=3)

    def gate():
        if not is_gated or rng.random() < 0.2:  # some stacks are of both kinds
            return {}
        return {
            "W_gate": rng.normal(size=(width, n_neurons)) * in_scale,
            "b_gate": rng.normal(size=n_neurons) * bias_scale,
        }

    mlps = [
        MLPWeights(
            rng.normal(size=(width, n_neurons)) * in_scale,
            rng.normal(size=(n_neurons, width)) * out_scale,
            b_in=rng.normal(size=n_neurons) * bias_scale,
            b_out=rng.normal(size=width) * bias_scale,
            activation=activation,
            site=site,
            **gate(),
        )
        for site in range(n_blocks)
    ]
    n_sites = n_blocks + 1
    shape = n_features, n_sites * width
    ccx = fitted(
        rng.normal(size=shape) * decoder_scale,
        rng.normal(size=n_sites * width) * x_scale,
        rng.normal(size=shape),
        rng.normal(size=n_features) * x_scale,
        n_sites,
    )
    X = run(mlps, rng.normal(size=(N_SAMPLES, width)) * x_scale)
    return ccx, mlps, X, int(rng.integers(1, 3))


def check_stack(ccx, mlps, X, n_dominant):
    recon = ccx.inverse_transform(ccx.transform(X))
    actual = np.linalg.norm(run(mlps, X[:, 0]) - recon, axis=2)
    interval, lipschitz = (
        certify_stack(ccx, X, mlp=mlps, bound=bound, n_dominant=n_dominant)
        for bound in ("interval", "lipschitz")
    )
    for certificate in (interval, lipschitz):
        assert (actual <= certificate.site_bound).all()
        assert (certificate.site_error <= certificate.site_bound).all()
    assert (interval.site_bound <= lipschitz.site_bound).all()
    total = lipschitz.contributions.sum(axis=1)
    assert (total <= lipschitz.site_bound[:, -1] * (1 + 1e-9)).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(stacks())
def test_no_bound_is_below_the_error(stack):
    check_stack(*stack)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(stacks(is_gated=True))
def test_no_bound_of_gated_blocks_is_below_the_error(stack):
    check_stack(*stack)


@pytest.mark.slow
@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(stacks())
def test_no_bound_is_below_the_error_in_10_000_samples(stack):
    check_stack(*stack)


@pytest.mark.slow
@settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(stacks(is_gated=True))
def test_no_bound_of_gated_blocks_is_below_the_error_in_40_000_samples(stack):
    check_stack(*stack)


@pytest.fixture(scope="module")
def stack():
    """Two blocks that do little, and a crosscoder that explains them well."""
    rng = np.random.default_rng(0)
    mlps = [
        MLPWeights(
            rng.normal(size=(6, 9)) / 3,
            rng.normal(size=(9, 6)) / 9,
            b_in=rng.normal(size=9) / 3,
            activation="gelu",
            site=site,
        )
        for site in range(2)
    ]
    codes = rng.exponential(size=(300, 10)) * (rng.random((300, 10)) < 0.3)
    X = run(mlps, codes @ rng.normal(size=(10, 6)))
    ccx = InteractionCrosscoder(24, k=3, mlp=mlps, max_iter=150, random_state=0).fit(X)
    return ccx, mlps, X


def test_terms(stack):
    ccx, mlps, X = stack
    certificate = certify_stack(ccx, X, bound="lipschitz")
    one_by_one = certify(ccx, X, bound="lipschitz", output_site=[1, 2], residual=True)
    np.testing.assert_allclose(
        certificate.interaction_bound,
        interaction_scores(ccx, X, per_mlp=True),
        atol=1e-10,
    )
    np.testing.assert_allclose(
        certificate.transition_error, one_by_one.transition_error
    )
    first, second = certificate.block_lipschitz
    terms = certificate.interaction_bound + certificate.transition_error
    expected = np.stack(
        [
            first * second * certificate.site_error[:, 0],
            second * terms[:, 0],
            terms[:, 1],
        ],
        axis=1,
    )
    np.testing.assert_allclose(certificate.contributions, expected, rtol=1e-9)
    np.testing.assert_allclose(
        certificate.site_bound[:, -1], expected.sum(axis=1), rtol=1e-9
    )
    np.testing.assert_allclose(
        first,
        1
        + mlps[0].lipschitz
        * np.linalg.norm(mlps[0].W_in, 2)
        * np.linalg.norm(mlps[0].W_out, 2),
    )


@pytest.fixture(scope="module")
def gated_stack():
    rng = np.random.default_rng(0)
    mlps = [
        MLPWeights(
            rng.normal(size=(6, 9)) / 3,
            rng.normal(size=(9, 6)) / 18,
            b_in=rng.normal(size=9) / 3,
            W_gate=rng.normal(size=(6, 9)) / 3,
            activation="silu",
            site=site,
        )
        for site in range(2)
    ]
    codes = rng.exponential(size=(300, 10)) * (rng.random((300, 10)) < 0.3)
    X = run(mlps, codes @ rng.normal(size=(10, 6)) / 2)
    ccx = InteractionCrosscoder(24, k=3, mlp=mlps, max_iter=150, random_state=0).fit(X)
    return ccx, mlps, X


def test_terms_of_gated_blocks(gated_stack):
    """With the Lipschitz constants between each reconstruction and what is near."""
    ccx, mlps, X = gated_stack
    certificate = certify_stack(ccx, X, bound="lipschitz")
    interaction = interaction_scores(ccx, X, per_mlp=True)
    np.testing.assert_allclose(certificate.interaction_bound, interaction, rtol=1e-9)
    recon = ccx.inverse_transform(ccx.transform(X))
    distance = certificate.site_error[:, 0]
    largest = []
    for index, mlp in enumerate(mlps):
        gate = NONLINEARITIES["silu"](recon[:, index] @ mlp.W_gate)
        linear = recon[:, index] @ mlp.W_in + mlp.b_in
        gate_norms = np.linalg.norm(mlp.W_gate, axis=0)
        moved = mlp.lipschitz * distance[:, np.newaxis] * gate_norms
        constant = mlp.lipschitz * np.linalg.norm(mlp.W_gate, 2) * np.abs(linear).max(1)
        constant += (np.abs(gate) + moved).max(1) * np.linalg.norm(mlp.W_in, 2)
        constant = 1 + constant * np.linalg.norm(mlp.W_out, 2)
        largest.append(constant.max())
        distance = constant * distance
        distance += interaction[:, index] + certificate.transition_error[:, index]
        np.testing.assert_allclose(
            certificate.site_bound[:, index + 1], distance, rtol=1e-9
        )
    np.testing.assert_allclose(certificate.block_lipschitz, largest, rtol=1e-9)
    np.testing.assert_allclose(
        certificate.contributions.sum(axis=1), distance, rtol=1e-9
    )


def test_constants_of_gated_blocks_are_local(gated_stack):
    """Pairs of a reconstruction and what is as near as its activation."""
    ccx, mlps, X = gated_stack
    rng = np.random.default_rng(0)
    constant = certify_stack(ccx, X).block_lipschitz[0]
    recon = ccx.inverse_transform(ccx.transform(X))[:, 0]
    distance = np.linalg.norm(X[:, 0] - recon, axis=1, keepdims=True)
    for _ in range(200):
        step = rng.normal(size=recon.shape)
        step *= distance / np.linalg.norm(step, axis=1, keepdims=True)
        moved = run(mlps[:1], recon + step)[:, 1] - run(mlps[:1], recon)[:, 1]
        assert (np.linalg.norm(moved, axis=1) <= constant * distance[:, 0]).all()


def test_interval_of_gated_blocks_is_of_use(gated_stack):
    ccx, _, X = gated_stack
    interval = certify_stack(ccx, X).site_bound[:, -1]
    lipschitz = certify_stack(ccx, X, bound="lipschitz").site_bound[:, -1]
    assert interval.mean() < 0.7 * lipschitz.mean()


def test_interval_is_of_use(stack):
    ccx, _, X = stack
    interval = certify_stack(ccx, X).site_bound[:, -1]
    lipschitz = certify_stack(ccx, X, bound="lipschitz").site_bound[:, -1]
    assert interval.mean() < 0.7 * lipschitz.mean()


def test_only_the_first_site_enters_beside_the_code(stack):
    """The bound is about running the blocks, whatever was recorded after them."""
    ccx, _, X = stack
    one = certify_stack(ccx, X)
    np.testing.assert_allclose(
        one.site_error,
        np.linalg.norm(X - ccx.inverse_transform(ccx.transform(X)), axis=2),
        atol=1e-9,
    )


def test_order_of_the_sites(stack):
    """The sites of the blocks need not be in the order of the activations."""
    ccx, mlps, X = stack
    backwards = [
        MLPWeights(m.W_in, m.W_out, b_in=m.b_in, activation="gelu", site=2 - m.site)
        for m in mlps
    ]
    turned = fitted(
        ccx.components_.reshape(24, 3, 6)[:, ::-1].reshape(24, 18),
        ccx.intercept_.reshape(3, 6)[::-1].ravel(),
        ccx.encoder_components_.reshape(24, 3, 6)[:, ::-1].reshape(24, 18),
        ccx.encoder_intercept_ - ccx.threshold_,
        3,
    )
    straight = fitted(
        ccx.components_,
        ccx.intercept_,
        ccx.encoder_components_,
        ccx.encoder_intercept_ - ccx.threshold_,
        3,
    )
    np.testing.assert_allclose(
        certify_stack(turned, X[:, ::-1], mlp=backwards, output_site=0).site_bound,
        certify_stack(straight, X, mlp=mlps).site_bound,
        rtol=1e-9,
    )


def test_errors(stack):
    ccx, mlps, X = stack
    with pytest.raises(ValueError, match="bound must be one of"):
        certify_stack(ccx, X, bound="tight")
    with pytest.raises(ValueError, match=r"sites \[0, 1, 1\]"):
        certify_stack(ccx, X, output_site=1)
    with pytest.raises(ValueError, match="writes to site 3"):
        certify_stack(ccx, X, output_site=3)
    with pytest.raises(ValueError, match=r"output of mlp\[0\] has width 4"):
        certify_stack(ccx, X, mlp=[make_mlp(6, 9)])
    with pytest.raises(ValueError, match="each needs its own"):
        certify_stack(ccx, X, mlp=[mlps[0], mlps[0]])
