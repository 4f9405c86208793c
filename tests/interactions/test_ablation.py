import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import log_loss, r2_score

from sklearn_ccx import (
    InteractionCrosscoder,
    InteractionSAE,
    ablated_output,
    ablation_fidelity,
)
from tests import naive
from tests.conftest import make_mlp

SCHEMES = ["none", "drop_random", "drop_second", "drop_largest", "keep_largest"]


def true_output(mlp, x):
    return np.maximum(x @ mlp.W_in + mlp.b_in, 0) @ mlp.W_out + mlp.b_out


@pytest.fixture
def fitted(acts):
    mlps = [make_mlp(6, 9, seed=1, site=2), make_mlp(6, 7, seed=2, site=0)]
    ccx = InteractionCrosscoder(k=4, mlp=mlps, max_iter=60, random_state=0)
    return ccx.fit(acts)


def kept_by(scheme, p_h):
    order = naive.largest(p_h, len(p_h))
    return {
        "none": order,
        "drop_second": order[:1] + order[2:],
        "drop_largest": order[1:],
        "keep_largest": order[:1],
        "keep_top_2": order[:2],
        "keep_top_3": order[:3],
    }[scheme]


@pytest.mark.parametrize("batch_size", [9, None])
@pytest.mark.parametrize(
    "scheme",
    ["none", "drop_second", "drop_largest", "keep_largest", "keep_top_2", "keep_top_3"],
)
def test_schemes_keep_what_they_say(fitted, acts, scheme, batch_size):
    for index, mlp in enumerate(fitted.mlp):
        columns = slice(6 * mlp.site, 6 * mlp.site + 6)
        M = fitted.components_[:, columns] @ mlp.W_in
        p = naive.contributions(fitted.transform(acts), M)
        kept = np.array(
            [[sum(p_h[kept_by(scheme, p_h)]) for p_h in p_nh] for p_nh in p]
        )
        bias = mlp.b_in + fitted.intercept_[columns] @ mlp.W_in
        expected = np.maximum(kept + bias, 0) @ mlp.W_out + mlp.b_out
        output = ablated_output(
            fitted, acts, scheme, mlp_index=index, batch_size=batch_size
        )
        assert_allclose(output, expected, atol=1e-9)
        fidelity = ablation_fidelity(
            fitted, acts, schemes=scheme, batch_size=batch_size
        )
        r2 = r2_score(
            true_output(mlp, acts[:, mlp.site]),
            expected,
            multioutput="variance_weighted",
        )
        assert fidelity[scheme][index] == pytest.approx(r2)


def test_drop_random_drops_one_active_feature(fitted, acts):
    (mlp, _), columns = fitted.mlp, slice(12, 18)
    codes, M = fitted.transform(acts), fitted.components_[:, 12:18] @ fitted.mlp[0].W_in
    bias = mlp.b_in + fitted.intercept_[columns] @ mlp.W_in
    # Neurons that are read out one by one, before any nonlinearity.
    probe = type(mlp)(mlp.W_in, np.eye(9), b_in=mlp.b_in, activation="identity", site=2)
    dropped = (
        codes @ M
        + bias
        - ablated_output(fitted, acts, "drop_random", mlp=probe, random_state=0)
    )
    p = naive.contributions(codes, M)
    chosen = []
    for b, n in np.ndindex(dropped.shape):
        active = np.flatnonzero(codes[b])
        if len(active) == 0:
            assert dropped[b, n] == pytest.approx(0)
            continue
        distance = np.abs(p[b, n, active] - dropped[b, n])
        assert distance.min() < 1e-9
        chosen.append(distance.argmin() / len(active))
    assert 0.3 < np.mean(chosen) < 0.6  # none is preferred


def test_drop_random_is_reproducible_whatever_the_batches(fitted, acts):
    kwargs = {"schemes": "drop_random", "random_state": 0}
    one = ablation_fidelity(fitted, acts, batch_size=7, **kwargs)
    other = ablation_fidelity(fitted, acts, batch_size=50, **kwargs)
    assert_allclose(one["drop_random"], other["drop_random"])
    again = ablation_fidelity(fitted, acts, schemes="drop_random", random_state=1)
    assert (again["drop_random"] != other["drop_random"]).all()


def test_all_five_schemes_for_each_mlp_by_default(fitted, acts):
    fidelity = ablation_fidelity(fitted, acts, random_state=0)
    assert list(fidelity) == SCHEMES
    assert all(values.shape == (2,) for values in fidelity.values())
    assert (fidelity["none"] > fidelity["keep_largest"]).all()
    assert (fidelity["drop_second"] > fidelity["drop_largest"]).all()


@pytest.mark.parametrize("loss", [None, lambda output, index: float(output.var())])
def test_a_single_feature_is_never_second(acts, loss):
    sae = InteractionSAE(1, k=1, max_iter=20, random_state=0).fit(acts[:, 0])
    fidelity = ablation_fidelity(sae, acts[:, 0], loss=loss, random_state=0)
    assert_allclose(fidelity["drop_second"], fidelity["none"])
    assert_allclose(fidelity["keep_largest"], fidelity["none"])


def test_perfect_codes_have_fidelity_one():
    rng = np.random.default_rng(0)
    X = np.eye(4)[rng.integers(4, size=60)] * rng.uniform(1, 2, size=(60, 1))
    mlp = make_mlp(4, 5)
    sae = InteractionSAE(4, k=1, mlp=mlp, center=False, activation="topk", max_iter=1)
    sae.fit(X)
    sae.encoder_components_ = sae.components_ = np.eye(4)
    sae.encoder_intercept_ = np.zeros(4)
    fidelity = ablation_fidelity(sae, X, random_state=0)
    assert_allclose(fidelity["none"], 1.0)
    assert_allclose(fidelity["keep_largest"], 1.0)
    assert fidelity["drop_largest"] < 0.5


def test_loss_sees_the_patched_output_and_gives_the_recovered_share(digits):
    mlp, X, y = digits["mlp"], digits["X_test"], digits["y_test"]
    sae = InteractionSAE(64, k=8, mlp=mlp, max_iter=20, random_state=0)
    sae.fit(digits["X_train"])
    seen = []

    def loss(logits, mlp_index):
        assert logits.shape == (len(X), 10)
        seen.append(mlp_index)
        probability = np.exp(logits - logits.max(axis=1, keepdims=True))
        return log_loss(y, probability / probability.sum(axis=1, keepdims=True))

    fidelity = ablation_fidelity(sae, X, loss=loss, random_state=0)
    assert seen == [0] * 7  # the model, no feature, five schemes
    model = loss(true_output(mlp, X), 0)
    zero = loss(np.tile(true_output(mlp, sae.intercept_[np.newaxis]), (len(X), 1)), 0)
    kept = loss(ablated_output(sae, X, "keep_largest"), 0)
    expected = 1 - (kept - model) / (zero - model)
    assert fidelity["keep_largest"][0] == pytest.approx(expected, abs=1e-4)


def test_nothing_to_explain_is_nan(fitted, acts):
    silent = type(fitted.mlp[0])(np.ones((6, 2)), np.zeros((2, 3)))
    assert np.isnan(ablation_fidelity(fitted, acts, mlp=silent)["none"]).all()
    constant = ablation_fidelity(fitted, acts, loss=lambda output, index: 1.0)
    assert np.isnan(constant["none"]).all()


def test_identity_neurons_are_reconstructed(acts):
    sae = InteractionSAE(k=4, max_iter=60, random_state=0).fit(acts[:, 1])
    recon = sae.inverse_transform(sae.transform(acts[:, 1]))
    assert_allclose(ablated_output(sae, acts[:, 1], "none"), recon)
    fidelity = ablation_fidelity(sae, acts[:, 1], schemes="none")
    assert fidelity["none"][0] == pytest.approx(sae.score(acts[:, 1]))


@pytest.mark.parametrize("scheme", ["keep", "keep_top_0", "keep_top_-1", 3])
def test_unknown_scheme_raises(fitted, acts, scheme):
    with pytest.raises(ValueError, match=r"schemes must be among.*got"):
        ablation_fidelity(fitted, acts, schemes=[scheme])
    with pytest.raises(ValueError, match=r"scheme must be among.*got"):
        ablated_output(fitted, acts, scheme)


def test_unknown_mlp_index_raises(fitted, acts):
    with pytest.raises(ValueError, match=r"mlp_index must be in 0\.\.1; got 2"):
        ablated_output(fitted, acts, mlp_index=2)
