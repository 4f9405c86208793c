"""Bounds on the output error: soundness, order, and the terms they are made of."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from sklearn.exceptions import NotFittedError

from sklearn_ccx import (
    InteractionCrosscoder,
    InteractionSAE,
    certify,
    interaction_scores,
)
from tests.conftest import make_mlp
from tests.proofs.cases import Case, cases

LEVELS = ("sample", "group", "domain")


@pytest.fixture
def sae(acts, mlps):
    return InteractionCrosscoder(24, k=3, mlp=mlps, max_iter=60, random_state=0).fit(
        acts
    )


@pytest.fixture
def blocks(acts):
    return [make_mlp(6, 9, "gelu", seed=site, site=site, d_out=6) for site in (0, 1)]


def certificates(case: Case, bound):
    groups = {"group": case.groups}
    return [
        certify(
            case.estimator,
            case.X,
            mlp=case.mlp,
            level=level,
            bound=bound,
            groups=groups.get(level),
            n_dominant=case.n_dominant,
        )
        for level in LEVELS
    ]


def check_case(case):
    recon = case.estimator.inverse_transform(case.codes)
    kept, true = case.output(case.kept_input(), 1), case.output(case.input(), 1)
    reconstructed = case.output(case.input(recon), 1)
    actual = np.linalg.norm(true - kept, axis=1)
    by_bound = {}
    for bound in ("interval", "lipschitz"):
        by_bound[bound] = certificates(case, bound)
        for certificate in by_bound[bound]:
            assert (actual <= certificate.error_bound[:, 0]).all()
            assert (certificate.error <= certificate.error_bound).all()
            rounding = certificate.rounding[:, 0]
            for name, one, other in [
                ("reconstruction", true, reconstructed),
                ("interaction", reconstructed, kept),
            ]:
                error = np.linalg.norm(one - other, axis=1)
                bounds = getattr(certificate, f"{name}_bound")[:, 0]
                assert (error <= bounds + rounding).all()
        sample, group, domain = by_bound[bound]
        assert (sample.error_bound <= group.error_bound).all()
        assert (group.error_bound <= domain.error_bound).all()
    for interval, lipschitz in zip(*by_bound.values(), strict=True):
        assert (interval.error_bound <= lipschitz.error_bound).all()
        assert (interval.interaction_bound <= lipschitz.interaction_bound).all()
        assert (interval.reconstruction_bound <= lipschitz.reconstruction_bound).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(cases())
def test_no_bound_is_below_the_error(case):
    check_case(case)


@pytest.mark.slow
@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(cases())
def test_no_bound_is_below_the_error_in_10_000_samples(case):
    check_case(case)


@pytest.mark.parametrize("bound", ["interval", "lipschitz"])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(cases())
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
                [0, 0.3, 1], size=(50, len(lower))
            )
            new = new[(new > 0).sum(axis=1) <= n_active]
            recon = case.estimator.inverse_transform(codes)
            source = rng.choice(members, size=len(new))
            shrink = rng.choice([-1, 0, 0.5, 1], size=(len(new), 1))
            residual = shrink * (case.X - recon)[source]
            x = case.estimator.inverse_transform(new) + residual
            kept = case.output(case.kept_input(new), 1)
            error = np.linalg.norm(case.output(case.input(x), 1) - kept, axis=1)
            limit = certificate.error_bound[members[0], 0]
            assert (error <= limit).all()


@pytest.mark.parametrize("n_dominant", [1, 2])
def test_lipschitz_interaction_is_interaction_scores(sae, acts, n_dominant):
    certificate = certify(sae, acts, bound="lipschitz", n_dominant=n_dominant)
    scores = interaction_scores(sae, acts, n_dominant=n_dominant, per_mlp=True)
    np.testing.assert_allclose(
        certificate.interaction_bound, scores, rtol=1e-10, atol=1e-11 * scores.max()
    )
    assert scores.max() > 1


def test_lipschitz_terms_add_up(sae, acts):
    certificate = certify(sae, acts, bound="lipschitz")
    np.testing.assert_allclose(
        certificate.error_bound,
        certificate.interaction_bound
        + certificate.reconstruction_bound
        + certificate.rounding,
    )
    assert certificate.rounding.max() < 1e-9 * certificate.error_bound.mean()


def test_against_loops(sae, acts, mlps):
    """The interval bound of one neuron and sample after another."""
    flat, mlp = acts.reshape(len(acts), -1), mlps[0]
    codes, columns = sae.transform(acts), slice(12, 18)
    certificate = certify(sae, acts)
    for b in range(5):
        lowest, highest = np.zeros(9), np.zeros(9)
        for n in range(9):
            p = [codes[b, h] * (sae.components_[h, columns] @ mlp.W_in[:, n])
                 for h in range(24)]  # fmt: skip
            largest = max(p, key=abs)
            recon = codes[b] @ sae.components_ + sae.intercept_
            residual = (flat[b, columns] - recon[columns]) @ mlp.W_in[:, n]
            radius = sum(map(abs, p)) - abs(largest) + abs(residual)
            centre = largest + mlp.b_in[n] + sae.intercept_[columns] @ mlp.W_in[:, n]
            lowest[n] = max(centre - radius, 0) - max(centre, 0)
            highest[n] = max(centre + radius, 0) - max(centre, 0)
        triangle = sum(
            max(-lowest[n], highest[n]) * np.linalg.norm(mlp.W_out[n]) for n in range(9)
        )
        box = 0.0
        for w in mlp.W_out.T:
            ends = [sorted((lowest[n] * w[n], highest[n] * w[n])) for n in range(9)]
            bottom, top = (sum(end) for end in zip(*ends, strict=True))
            box += max(top, -bottom) ** 2
        joint = min(triangle, np.sqrt(box))
        separate = certificate.interaction_bound[b, 0]
        separate += certificate.reconstruction_bound[b, 0]
        np.testing.assert_allclose(certificate.error_bound[b, 0], min(joint, separate))


def test_one_sample_per_group_is_as_good_as_samples(sae, acts):
    sample = certify(sae, acts)
    group = certify(sae, acts, level="group", groups=np.arange(len(acts))[::-1])
    np.testing.assert_allclose(group.error_bound, sample.error_bound, rtol=1e-9)


def test_groups_of_equal_dominant_features(sae, acts):
    acts = np.concatenate([acts, acts])
    certificate = certify(sae, acts, level="group")
    first, second = np.split(certificate.groups, 2)
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) > len(first) / 2


def test_clusters_of_features_make_groups(sae, acts):
    class Clusterer:
        labels_ = np.repeat([0, 1, 2], 8)

    certificate = certify(sae, acts, level="group", groups=Clusterer())
    pooled = sae.transform(acts).reshape(len(acts), 3, 8).sum(axis=2)
    same = certificate.groups[:, None] == certificate.groups
    strongest = np.where(pooled.any(axis=1), pooled.argmax(axis=1), -1)
    np.testing.assert_array_equal(same, strongest[:, None] == strongest)


def test_a_wider_domain_is_not_tighter(sae, acts):
    code_max = sae.transform(acts).max(axis=0)
    n_active = np.count_nonzero(sae.transform(acts), axis=1).max()
    seen = certify(sae, acts, level="domain")
    same = certify(
        sae, acts, level="domain", code_max=code_max, max_active=int(n_active)
    )
    np.testing.assert_array_equal(seen.error_bound, same.error_bound)
    larger = certify(sae, acts, level="domain", code_max=2 * code_max)
    assert (larger.error_bound > seen.error_bound).all()
    fuller = certify(sae, acts, level="domain", max_active=int(n_active) + 1)
    assert (fuller.error_bound > seen.error_bound).all()


def test_proof_of_a_domain_does_not_grow_with_the_data(sae, acts):
    few = certify(sae, acts[:60], level="domain")
    many = certify(sae, np.concatenate([acts[:60]] * 5), level="domain")
    np.testing.assert_array_equal(few.error_bound[0], many.error_bound[0])
    assert few.proof_flops == many.proof_flops
    assert 4 < many.membership_flops / few.membership_flops <= 5
    assert 3 < many.brute_force_flops / few.brute_force_flops < 5
    assert many.proof_flops < many.brute_force_flops


@pytest.mark.parametrize("residual", [False, True])
def test_transition(acts, blocks, residual):
    ccx = InteractionCrosscoder(24, k=3, mlp=blocks, max_iter=60, random_state=0)
    ccx.fit(acts)
    codes = ccx.transform(acts)
    recon = ccx.inverse_transform(codes)
    for level in LEVELS:
        certificate = certify(
            ccx, acts, level=level, output_site=[1, 2], residual=residual
        )
        assert (certificate.transition_error <= certificate.transition_bound).all()
        for index, mlp in enumerate(blocks):
            case = Case(ccx, None, [mlp.W_in, mlp.W_out], [mlp.b_in, mlp.b_out],
                        "gelu", 1, None)  # fmt: skip
            columns = slice(6 * index, 6 * index + 6)
            M = ccx.components_[:, columns] @ mlp.W_in
            p = codes[:, :, None] * M
            largest = np.abs(p).argmax(axis=1)
            kept = np.take_along_axis(p, largest[:, None], axis=1)[:, 0]
            kept += mlp.b_in + ccx.intercept_[columns] @ mlp.W_in
            difference = case.output(kept) - recon[:, index + 1]
            difference += residual * recon[:, index]
            np.testing.assert_allclose(
                certificate.transition_error[:, index],
                np.linalg.norm(difference, axis=1),
            )
        if level == "sample":
            np.testing.assert_allclose(
                certificate.transition_bound, certificate.transition_error
            )


def test_identity_neurons(acts):
    ccx = InteractionCrosscoder(24, k=3, max_iter=60, random_state=0).fit(acts)
    certificate = certify(ccx, acts)
    assert certificate.error_bound.shape == (len(acts), 3)
    assert (certificate.error <= certificate.error_bound).all()
    assert certificate.transition_bound is None
    np.testing.assert_allclose(
        certificate.reconstruction_error,
        np.linalg.norm(acts - ccx.inverse_transform(ccx.transform(acts)), axis=2),
    )


def test_float32_data(acts, mlps):
    acts = acts.astype(np.float32)
    ccx = InteractionCrosscoder(24, k=3, mlp=mlps, max_iter=60, random_state=0)
    certificate = certify(ccx.fit(acts), acts)
    assert certificate.error_bound.dtype == np.float64
    assert (certificate.error <= certificate.error_bound).all()


def test_does_not_depend_on_the_batch(sae, acts):
    for level in LEVELS:
        one, other = (
            certify(sae, acts, level=level, batch_size=batch_size)
            for batch_size in (7, 1000)
        )
        np.testing.assert_array_equal(one.groups, other.groups)
        np.testing.assert_allclose(one.error_bound, other.error_bound, rtol=1e-9)


def test_tightness(sae, acts):
    certificate = certify(sae, acts)
    assert certificate.tightness.shape == (len(acts), 2)
    assert (certificate.tightness <= 1).all()
    assert certificate.tightness.mean() > 0.05


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"level": "batch"}, r"level must be one of .*; got 'batch'"),
        ({"bound": "tight"}, r"bound must be one of .*; got 'tight'"),
        ({"groups": [0] * 120}, r'groups needs level="group"'),
        ({"code_max": np.ones(24)}, r'code_max needs level="domain"'),
        ({"max_active": 3, "level": "group"}, r'max_active needs level="domain"'),
        ({"level": "group", "groups": [0, 1]}, "groups has 2 entries"),
        ({"level": "domain", "code_max": np.zeros(24)}, "must lie in the domain"),
        ({"level": "domain", "code_max": np.ones(3)}, r"code_max has shape \(3,\)"),
        ({"level": "domain", "max_active": 0}, "must lie in the domain"),
        ({"residual": True}, "residual=True needs output_site"),
        ({"output_site": 1}, r"1 entries for 2 MLP\(s\)"),
        ({"output_site": [1, 2]}, r"output of mlp\[0\] has width 4"),
        ({"output_site": [1, 7]}, "output_site=7"),
        ({"n_dominant": 0}, "n_dominant"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_errors(sae, acts, blocks, kwargs, message):
    if kwargs.get("output_site") == [1, 7]:
        kwargs = {**kwargs, "mlp": blocks}
    with pytest.raises(ValueError, match=message):
        certify(sae, acts, **kwargs)


def test_clusters_of_other_features(sae, acts):
    class Clusterer:
        labels_ = np.zeros(5, dtype=int)

    with pytest.raises(ValueError, match=r"groups.labels_ has shape \(5,\)"):
        certify(sae, acts, level="group", groups=Clusterer())


def test_not_fitted(acts):
    with pytest.raises(NotFittedError):
        certify(InteractionCrosscoder(), acts)


def test_wrong_width(sae, acts):
    with pytest.raises(ValueError, match="fitted with 3 site"):
        certify(sae, acts[:, :2])


def test_single_site(acts):
    X = acts[:, 0]
    sae = InteractionSAE(12, k=2, mlp=make_mlp(6, 5), max_iter=30, random_state=0)
    assert certify(sae.fit(X), X).error_bound.shape == (len(X), 1)
