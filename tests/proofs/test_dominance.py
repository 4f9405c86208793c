"""Dominant contributions of samples and of boxes, against loops over features."""

import itertools

import numpy as np
import pytest
from scipy import sparse

from sklearn_ccx._engine import neurons
from sklearn_ccx.proofs import _box_ranges, _dominance
from sklearn_ccx.proofs._box_ranges import box_ranges
from sklearn_ccx.proofs._dominance import dominant_contributions, dominant_features
from sklearn_ccx.proofs._gated_box_ranges import gated_box_ranges
from sklearn_ccx.proofs._gated_dominance import (
    gated_contributions,
    gated_dominant_features,
)
from tests.proofs.cases import NONLINEARITIES

LIPSCHITZ = {name: one.lipschitz for name, one in neurons.NONLINEARITIES.items()}


def drawn(seed, n_samples=12, n_features=9, n_neurons=5, *, ties=True):
    """Codes, some rows empty or full, and what the features write."""
    rng = np.random.default_rng(seed)
    codes = rng.exponential(size=(n_samples, n_features))
    codes *= rng.random(codes.shape) < rng.random((n_samples, 1))
    M = rng.normal(size=(n_features, n_neurons))
    if ties:
        codes, M = np.round(2 * codes) / 2, np.round(M)
    return codes, M


def naive(codes, M, n_dominant):
    """Dominant features, their sum and that of the others' magnitudes."""
    shape = len(codes), M.shape[1]
    features = np.full((len(codes), n_dominant, M.shape[1]), -1)
    kept, interaction = np.zeros((2, *shape))
    for b, n in np.ndindex(*shape):
        p = codes[b] * M[:, n]
        order = sorted(np.flatnonzero(p), key=lambda h: -abs(p[h]))
        features[b, : len(order[:n_dominant]), n] = order[:n_dominant]
        kept[b, n] = p[order[:n_dominant]].sum()
        interaction[b, n] = np.abs(p[order[n_dominant:]]).sum()
    return features, kept, interaction


@pytest.mark.parametrize("tile_size", [1, 20, 2**15])
@pytest.mark.parametrize("max_held", [0, 4])
@pytest.mark.parametrize("n_dominant", [1, 2, 3, 9, 20])
def test_samples(n_dominant, max_held, tile_size, monkeypatch):
    monkeypatch.setattr(_dominance, "_MAX_HELD", max_held)
    monkeypatch.setattr(_dominance, "_TILE_SIZE", tile_size)
    for seed in range(4):
        codes, M = drawn(seed)
        features, kept, interaction = naive(codes, M, n_dominant)
        active = sparse.csr_array(codes)
        results = dominant_contributions(active, M, n_dominant)
        np.testing.assert_allclose(results[0], kept, atol=1e-12)
        np.testing.assert_allclose(results[1], interaction, atol=1e-12)
        tiles = list(dominant_features(active, M, n_dominant))
        np.testing.assert_array_equal(np.concatenate(tiles, axis=2), features)


def test_no_code_at_all():
    codes, M = np.zeros((3, 4)), np.ones((4, 2))
    kept, interaction = dominant_contributions(sparse.csr_array(codes), M, 1)
    assert not kept.any()
    assert not interaction.any()


def naive_box(lower, upper, max_active, M_N, n_dominant):
    """One box and neuron: range of the kept sum, and the largest interaction."""
    features = np.flatnonzero(upper)
    least, most = (
        lower[features] * abs(M_N[features]),
        upper[features] * abs(M_N[features]),
    )
    interaction = np.sort(most)[::-1][n_dominant:max_active].sum()
    threshold = 0.0
    if n_dominant <= len(features):
        threshold = np.sort(least)[::-1][n_dominant - 1]
    highest, lowest = [], []
    for h, low, high in zip(features, least, most, strict=True):
        if high >= threshold:
            ends = np.array([min(max(low, threshold), high), high])
            ends = ends if M_N[h] > 0 else -ends[::-1]
            lowest.append(ends[0])
            highest.append(ends[1])
    return (
        sum(sorted(lowest)[:n_dominant]),
        sum(sorted(highest)[::-1][:n_dominant]),
        interaction,
    )


@pytest.mark.parametrize("block_size", [1, 30, 2**15])
@pytest.mark.parametrize("n_dominant", [1, 2, 3, 9, 20])
def test_boxes(n_dominant, block_size, monkeypatch):
    monkeypatch.setattr(_box_ranges, "_BLOCK_SIZE", block_size)
    for seed in range(4):
        upper, M = drawn(seed)
        rng = np.random.default_rng(seed)
        lower = upper * rng.choice([0, 0.5, 1], size=upper.shape)
        n_possible = np.count_nonzero(upper, axis=1)
        max_active = np.minimum(n_possible, rng.integers(1, 10, size=len(upper)))
        upper_csr = sparse.csr_array(upper)
        entries = upper_csr.nonzero()
        lower_csr = sparse.csr_array(
            (lower[entries], upper_csr.indices, upper_csr.indptr), shape=upper.shape
        )
        results = box_ranges(lower_csr, upper_csr, max_active, M, n_dominant)
        for box, neuron in np.ndindex(*results[0].shape):
            expected = naive_box(
                lower[box], upper[box], max_active[box], M[:, neuron], n_dominant
            )
            actual = [result[box, neuron] for result in results]
            np.testing.assert_allclose(actual, expected, atol=1e-12)


@pytest.mark.parametrize("n_dominant", [1, 2])
def test_no_corner_of_a_box_is_outside_its_range(n_dominant):
    rng = np.random.default_rng(0)
    upper, M = rng.exponential(size=(1, 4)), rng.normal(size=(4, 6))
    lower = upper * rng.choice([0.2, 0.9], size=upper.shape)
    kept_lower, kept_upper, interaction = box_ranges(
        sparse.csr_array(lower), sparse.csr_array(upper), np.array([4]), M, n_dominant
    )
    grid = [np.linspace(*ends, 5) for ends in zip(lower[0], upper[0], strict=True)]
    codes = np.array(list(itertools.product(*grid)))
    _, kept, others = naive(codes, M, n_dominant)
    assert (kept_lower <= kept + 1e-12).all()
    assert (kept <= kept_upper + 1e-12).all()
    assert (others <= interaction + 1e-12).all()


def naive_gated(codes, M, bias, activation, n_dominant):
    """What gated neurons keep and do not, all they receive, and the Lipschitz bound."""
    n_neurons = M.shape[1] // 2
    phi, lipschitz = NONLINEARITIES[activation], LIPSCHITZ[activation]
    recon = codes @ M + bias
    kept, interaction = np.tile(bias, (len(codes), 1)), np.zeros_like(recon)
    moved = np.zeros((len(codes), n_neurons))
    features = np.full((len(codes), n_neurons, n_dominant), -1)
    for b, n in np.ndindex(*moved.shape):
        active = np.flatnonzero(codes[b])
        q, p = (codes[b, active] * M[active, i] for i in (n, n + n_neurons))
        is_open, gamma = abs(phi(recon[b, n])), abs(bias[n + n_neurons])
        weight = lipschitz * (gamma + np.abs(p).max(initial=0))
        sizes = weight * np.abs(q) + is_open * np.abs(p)
        order = np.argsort(-sizes, kind="stable")
        first, others = order[:n_dominant], order[n_dominant:]
        features[b, n, : len(first)] = active[first]
        for column, value in ((n, q), (n + n_neurons, p)):
            kept[b, column] += value[first].sum()
            interaction[b, column] = np.abs(value[others]).sum()
        weight = lipschitz * (gamma + np.sort(np.abs(p))[::-1][:n_dominant].sum())
        moved[b, n] = weight * interaction[b, n]
        moved[b, n] += is_open * interaction[b, n + n_neurons]
    return features, kept, recon, interaction, moved


@pytest.mark.parametrize("block_size", [1, 30, 2**15])
@pytest.mark.parametrize("activation", ["silu", "relu", "tanh"])
@pytest.mark.parametrize("n_dominant", [1, 2, 3, 9, 20])
def test_samples_of_gated_neurons(n_dominant, activation, block_size, monkeypatch):
    monkeypatch.setattr(_box_ranges, "_BLOCK_SIZE", block_size)
    for seed in range(3):
        codes, M = drawn(seed, n_neurons=8, ties=activation == "relu")
        bias = np.round(np.random.default_rng(seed).normal(size=8))
        features, *expected = naive_gated(codes, M, bias, activation, n_dominant)
        active = sparse.csr_array(codes)
        inputs = gated_contributions(active, M, bias, activation, n_dominant)
        results = (
            inputs.kept_BN,
            inputs.recon_BN,
            inputs.interaction_BN,
            inputs.moved_BN,
        )
        for result, value in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, value, atol=1e-12)
        found = [[] for _ in codes]
        for rows, feature_KTR in gated_dominant_features(
            active, M, bias, activation, n_dominant
        ):
            for row, feature in zip(rows, feature_KTR, strict=True):
                found[row] += (
                    feature[:, : np.count_nonzero(codes[row])].ravel().tolist()
                )
        for row, feature in enumerate(features):
            assert found[row] == feature[feature >= 0].tolist()


def test_biases_of_each_sample():
    """A bias for each sample is as if each were alone with its bias."""
    codes, M = drawn(0, n_neurons=8)
    bias = np.random.default_rng(0).normal(size=(len(codes), 8))
    active = sparse.csr_array(codes)
    together = gated_contributions(active, M, bias, "silu", 2)
    for row in range(len(codes)):
        alone = gated_contributions(active[[row]], M, bias[row], "silu", 2)
        for name in ("kept_BN", "recon_BN", "interaction_BN", "moved_BN"):
            np.testing.assert_allclose(
                getattr(together, name)[row], getattr(alone, name)[0]
            )


@pytest.mark.parametrize("activation", ["silu", "relu", "logistic"])
@pytest.mark.parametrize("n_dominant", [1, 2, 3])
def test_no_code_of_a_box_is_outside_the_ranges_of_gated_neurons(
    n_dominant, activation, monkeypatch
):
    """Boxes narrow and wide, some with fewer active features than there are."""
    monkeypatch.setattr(_box_ranges, "_BLOCK_SIZE", 200)
    for seed in range(15):
        rng = np.random.default_rng(seed)
        upper = rng.exponential(size=(1, 5)) * (rng.random((1, 5)) < 0.9)
        certain = rng.random((1, 5)) < 0.6
        lower = upper * certain * rng.choice([0.3, 0.8, 0.99])
        M, bias = rng.normal(size=(5, 20)), rng.normal(size=20)
        max_active = rng.integers(max(np.count_nonzero(lower), 1), 6)
        entries = (upper > 0).nonzero()
        upper_csr = sparse.csr_array(upper)
        lower_csr = sparse.csr_array(
            (lower[entries], upper_csr.indices, upper_csr.indptr), shape=upper.shape
        )
        ranges = gated_box_ranges(
            lower_csr, upper_csr, np.array([max_active]), M, bias,
            np.full((1, 20), 1e-13), activation, n_dominant,
        )  # fmt: skip
        codes = lower + (upper - lower) * rng.choice(
            [0, 0.5, 1, rng.random()], p=[0.4, 0.2, 0.2, 0.2], size=(200, 5)
        )
        codes = codes[np.count_nonzero(codes, axis=1) <= max_active]
        assert len(codes)
        _, kept, recon, interaction, moved = naive_gated(
            codes, M, bias, activation, n_dominant
        )
        for bottom, value, top in [
            (ranges.kept_lower_GN, kept, ranges.kept_upper_GN),
            (ranges.recon_lower_GN, recon, ranges.recon_upper_GN),
            (-np.inf, interaction, ranges.interaction_GN),
            (-np.inf, moved, ranges.moved_GN),
        ]:
            assert (bottom - 1e-12 <= value).all()
            assert (value <= top + 1e-12).all()
        # The corners give all of the reconstruction.
        corners = np.array(list(itertools.product(*np.concatenate([lower, upper]).T)))
        corners = corners[np.count_nonzero(corners, axis=1) <= max_active]
        reached = corners @ M + bias
        np.testing.assert_allclose(ranges.recon_lower_GN[0], reached.min(axis=0))
        np.testing.assert_allclose(ranges.recon_upper_GN[0], reached.max(axis=0))
