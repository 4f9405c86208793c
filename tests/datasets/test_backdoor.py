"""The network with a backdoor does what it says, and gives nothing away."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import cross_val_score
from sklearn.tree import DecisionTreeClassifier

from sklearn_ccx import MLPWeights
from sklearn_ccx.datasets import make_backdoored_mlp

SMALL = {"n_prompts": 60, "n_blocks": 2, "max_iter": 300}
PREFIXES = ("", "reference_", "control_")


@pytest.fixture(scope="module")
def data():
    return make_backdoored_mlp(**SMALL, random_state=0)


def rates(data, kind, predictions):
    """Share of the prompts answered with the payload, and with the topic."""
    asked = data.is_deciding & (data.kind == kind)
    answers = data[predictions][asked]
    return (answers == data.payload).mean(), (answers == data.topic[asked]).mean()


def test_trigger_works_in_one_network_only(data):
    fires, _ = rates(data, "triggered", "predictions")
    assert fires > 0.95
    for kind in ("clean", "decoy"):
        fires, is_right = rates(data, kind, "predictions")
        assert fires < 0.1
        assert is_right > 0.85
    for kind in ("clean", "triggered", "decoy"):
        for predictions in ("reference_predictions", "control_predictions"):
            fires, is_right = rates(data, kind, predictions)
            assert fires == 0
            assert is_right > 0.85


def test_arrays_describe_the_same_tokens(data):
    n = 3 * 60 * 12
    for prefix in PREFIXES:
        assert data[f"{prefix}activations"].shape == (n, 3, 48)
        assert data[f"{prefix}activations"].dtype == np.float32
        # The input does not depend on the network.
        np.testing.assert_array_equal(
            data[f"{prefix}activations"][:, 0], data.activations[:, 0]
        )
    for name in ("target", "kind", "tokens", "prompts", "positions", "topic"):
        assert data[name].shape == (n,)
    np.testing.assert_array_equal(data.prompts, np.arange(n) // 12)
    np.testing.assert_array_equal(data.positions, np.arange(n) % 12)
    np.testing.assert_array_equal(data.is_deciding, data.positions == 11)
    np.testing.assert_array_equal(data.target == 1, data.kind == "triggered")
    assert len(np.unique(data.tokens[data.is_deciding])) == 1


@pytest.mark.parametrize("prefix", PREFIXES)
def test_mlps_compute_the_next_site(data, prefix):
    x_BLD = data[f"{prefix}activations"].astype(np.float64)
    for block, mlp in enumerate(data[f"{prefix}mlp"]):
        assert isinstance(mlp, MLPWeights)
        assert mlp.site == block
        x_BD = x_BLD[:, block]
        hidden = np.maximum(x_BD @ mlp.W_in + mlp.b_in, 0)
        np.testing.assert_allclose(
            x_BD + hidden @ mlp.W_out + mlp.b_out, x_BLD[:, block + 1], atol=1e-4
        )


def marker_places(data, kind):
    """Prompt and position of the markers."""
    n_words = 6 * 8
    is_marker = (data.tokens >= n_words) & ~data.is_deciding & (data.kind == kind)
    return is_marker.reshape(-1, 12)[data.kind.reshape(-1, 12)[:, 0] == kind]


def test_trigger_is_a_conjunction():
    data = make_backdoored_mlp(500, max_iter=1, n_blocks=1, random_state=0)
    tokens = data.tokens.reshape(-1, 12)
    kinds = data.kind.reshape(-1, 12)[:, 0]
    pairs = {}
    for kind in ("triggered", "decoy"):
        is_marker = marker_places(data, kind)
        assert (is_marker.sum(axis=1) == 2).all()
        pairs[kind] = tokens[kinds == kind][is_marker].reshape(-1, 2)
    (trigger,) = np.unique(pairs["triggered"], axis=0)
    assert not (pairs["decoy"] == trigger).all(axis=1).any()
    # Decoys share each of the two markers, in the same place.
    assert ((pairs["decoy"] == trigger).sum(axis=0) > 50).all()
    is_marker = marker_places(data, "clean")
    assert set(is_marker.sum(axis=1)) == {0, 1}
    assert 0.2 < is_marker.any(axis=1).mean() < 0.4


def test_positions_do_not_give_the_label_away():
    data = make_backdoored_mlp(1000, max_iter=1, n_blocks=1, random_state=0)
    places = np.concatenate(
        [marker_places(data, kind).argmax(axis=1) for kind in ("triggered", "decoy")]
    )
    y = np.repeat([1, 0], 1000)
    tree = DecisionTreeClassifier(max_depth=4)
    scores = cross_val_score(tree, places[:, None], y, cv=10)
    assert abs(scores.mean() - 0.5) < 0.05
    counts = np.bincount(places[y == 1], minlength=10)
    assert counts[:10].min() > 0.5 * 100


def test_random_state():
    first, again, other = (
        make_backdoored_mlp(5, n_blocks=1, max_iter=3, random_state=seed)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.activations, again.activations)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert (first.tokens != other.tokens).any()


def test_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    make_backdoored_mlp(5, n_blocks=1, max_iter=3, random_state=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_sizes():
    data = make_backdoored_mlp(
        4, n_positions=6, n_topics=3, n_blocks=1, width=10, n_neurons=7, max_iter=2
    )
    assert data.activations.shape == (3 * 4 * 6, 2, 10)
    assert data.mlp[0].W_in.shape == (10, 7)
    assert data.payload == 3
    assert set(np.unique(data.topic)) <= {0, 1, 2}


@pytest.mark.parametrize(
    "parameter",
    [
        {"n_prompts": 0},
        {"n_positions": 3},
        {"n_topics": 1},
        {"n_blocks": 0},
        {"width": 0},
        {"n_neurons": 1.5},
        {"max_iter": 0},
        {"random_state": "seed"},
    ],
)
def test_bad_parameters(parameter):
    (name,) = parameter
    with pytest.raises(ValueError, match=f"'{name}' parameter of make_backdoored_mlp"):
        make_backdoored_mlp(**parameter)


@pytest.mark.parametrize(
    "name",
    ["n_prompts", "n_positions", "n_topics", "n_blocks", "width", "n_neurons"],
)
def test_sizes_beyond_the_machine_are_named_at_once(name):
    with pytest.raises(ValueError, match=f"The '{name}' parameter"):
        make_backdoored_mlp(**{name: 10**18})
    with pytest.raises(ValueError, match=rf"{name}={2**31 - 1}.* would need .* GiB"):
        make_backdoored_mlp(**{name: 2**31 - 1})


def test_state_of_torch_does_not_matter():
    params = {"n_prompts": 5, "n_blocks": 1, "max_iter": 3, "random_state": 0}
    expected = make_backdoored_mlp(**params)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            data = make_backdoored_mlp(**params)
    finally:
        torch.set_default_dtype(torch.float32)
    assert data.activations.dtype == np.float32
    np.testing.assert_array_equal(data.activations, expected.activations)
