"""make_interacting_features: what its parameters say is in the data."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score

from sklearn_ccx import MLPWeights, interaction_scores
from sklearn_ccx.datasets import make_interacting_features


def writes(data):
    return np.abs(data.components @ data.mlp.W_in)


def same(groups):
    return groups[:, np.newaxis] == groups


def coactivation_counts(data):
    active = (data.codes > 0).astype(float)
    counts = active.T @ active
    np.fill_diagonal(counts, np.nan)
    return counts


def test_activations_are_the_codes_times_orthonormal_components():
    data = make_interacting_features(300, 20, n_neurons=40, random_state=0)
    assert_allclose(data.components @ data.components.T, np.eye(20), atol=1e-12)
    assert_allclose(data.activations, data.codes @ data.components)
    assert isinstance(data.mlp, MLPWeights)
    assert_array_equal((data.codes > 0).sum(axis=1), 8)
    assert np.log(data.codes[data.codes > 0]).std() == pytest.approx(0.5, abs=0.03)


def test_features_write_to_the_neurons_of_their_group():
    data = make_interacting_features(
        10, 40, n_neurons=80, n_groups=4, background=0.1, random_state=0
    )
    neuron_group = np.arange(80) % 4
    own = data.neuron_groups[:, np.newaxis] == neuron_group
    assert own.sum() == 40 * 20
    assert writes(data)[own].min() >= 0.5
    assert writes(data)[own].max() <= 1.5
    elsewhere = (data.components @ data.mlp.W_in)[~own]
    assert elsewhere.std() == pytest.approx(0.1, abs=0.01)


def test_without_background_and_overlap_groups_do_not_meet():
    data = make_interacting_features(10, 40, background=0, random_state=0)
    meet = (writes(data) > 1e-9) @ (writes(data) > 1e-9).T.astype(int) > 0
    assert_array_equal(meet, same(data.neuron_groups))


def test_overlap_is_the_share_of_neurons_written_by_the_next_group():
    data = make_interacting_features(
        10, 30, n_neurons=3000, n_groups=3, background=0, overlap=0.4, random_state=0
    )
    n_writers = (writes(data) > 1e-9).mean(axis=0)
    assert (n_writers > 0.5).mean() == pytest.approx(0.4, abs=0.05)
    per_feature = (writes(data) > 1e-9).sum(axis=1)
    assert_allclose(per_feature, 1400, rtol=0.1)


@pytest.mark.parametrize("boost", [1.0, 12.0])
def test_boost_is_how_much_likelier_features_of_the_topic_are(boost):
    # One active feature in a sample: its topic is the sample's with probability
    # boost / (boost + n_topics - 1).
    data = make_interacting_features(
        20000, 20, n_topics=2, n_active=2, boost=boost, random_state=0
    )
    counts = coactivation_counts(data)
    within = np.nanmean(counts[same(data.topic_groups)])
    across = np.nanmean(counts[~same(data.topic_groups)])
    if boost == 1:
        assert within / across == pytest.approx(1.0, abs=0.05)
    else:
        assert within / across > 3


def test_neuron_groups_and_topics_are_independent_and_balanced():
    agreement = []
    for seed in range(10):
        data = make_interacting_features(10, 96, random_state=seed)
        assert_array_equal(np.bincount(data.neuron_groups), 12)
        assert_array_equal(np.bincount(data.topic_groups), 12)
        agreement.append(adjusted_rand_score(data.neuron_groups, data.topic_groups))
    assert np.mean(agreement) == pytest.approx(0.0, abs=0.03)


def test_frequency_skew_is_zipfs_exponent():
    data = make_interacting_features(
        100_000, 10, n_active=1, boost=1, frequency_skew=1.5, random_state=0
    )
    frequency = np.sort((data.codes > 0).mean(axis=0))[::-1]
    expected = np.arange(1, 11) ** -1.5
    assert_allclose(frequency, expected / expected.sum(), rtol=0.1)


def test_the_autoencoder_has_the_true_features():
    data = make_interacting_features(300, 24, n_neurons=64, random_state=0)
    assert_allclose(data.sae.transform(data.activations), data.codes)
    recon = data.sae.inverse_transform(data.codes)
    assert_allclose(recon, data.activations)
    assert data.sae.score(data.activations) == pytest.approx(1.0)
    assert interaction_scores(data.sae, data.activations).mean() > 0


def test_noise_is_on_the_activations_and_the_autoencoder_sees_through_it():
    data = make_interacting_features(2000, 30, noise=0.1, random_state=0)
    noise = data.activations - data.codes @ data.components
    assert noise.std() == pytest.approx(0.1, rel=0.05)
    codes = data.sae.transform(data.activations)
    assert ((codes > 0) == (data.codes > 0)).mean() > 0.98


def test_same_seed_same_data():
    first, second, other = (
        make_interacting_features(50, 16, random_state=seed) for seed in (0, 0, 1)
    )
    assert_array_equal(first.activations, second.activations)
    assert first.mlp == second.mlp
    assert_array_equal(first.neuron_groups, second.neuron_groups)
    assert not np.array_equal(first.activations, other.activations)


def test_smallest_sizes():
    data = make_interacting_features(1, 1, n_neurons=1, random_state=0)
    assert data.codes.shape == data.activations.shape == (1, 1)
    assert data.codes[0, 0] > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_samples", 0),
        ("n_features", 0),
        ("boost", 0.0),
        ("background", -0.1),
        ("overlap", 1.5),
        ("frequency_skew", -1.0),
        ("noise", -1.0),
        ("n_active", 0),
    ],
)
def test_invalid_parameters_are_named(name, value):
    with pytest.raises(ValueError, match=f"The '{name}' parameter"):
        make_interacting_features(**{name: value})


@pytest.mark.parametrize(
    "name", ["n_samples", "n_features", "n_neurons", "n_groups", "n_topics", "n_active"]
)
def test_sizes_beyond_any_machine_are_named_at_once(name):
    for size in (10**18, 10**30):
        with pytest.raises(ValueError, match=f"The '{name}' parameter"):
            make_interacting_features(**{name: size})


@pytest.mark.parametrize("name", ["n_samples", "n_features", "n_neurons"])
def test_what_does_not_fit_into_memory_is_not_tried(name):
    with pytest.raises(ValueError, match=rf"{name}={2**31 - 1}.* would need .* GiB"):
        make_interacting_features(**{name: 2**31 - 1})


def test_more_groups_than_features():
    data = make_interacting_features(
        20, 8, n_neurons=6, n_groups=2**31 - 1, n_topics=2**31 - 1, random_state=0
    )
    assert sorted(data.neuron_groups) == list(range(8))
    assert data.codes.any(axis=1).all()


@pytest.mark.parametrize(
    "params", [{"frequency_skew": 1e4}, {"boost": 1e300}, {"boost": 10**30}]
)
def test_steep_laws_stay_finite(params):
    data = make_interacting_features(200, 16, n_active=3, random_state=0, **params)
    assert np.isfinite(data.activations).all()
    assert ((data.codes > 0).sum(axis=1) == 3).all()


def test_the_autoencoder_has_what_a_fit_leaves():
    data = make_interacting_features(50, 16, random_state=0)
    fitted = clone(data.sae).set_params(max_iter=1).fit(data.activations)
    assert data.sae.activation_ == fitted.activation_
    assert data.sae.mlp_ == fitted.mlp_
    assert data.sae.n_dominant_ == fitted.n_dominant_
    assert data.sae.k_ == fitted.k_
