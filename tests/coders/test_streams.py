"""Fits on streams against fits on the stored array, bit by bit."""

import gc
import weakref

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sklearn_ccx import InteractionCrosscoder, InteractionSAE
from sklearn_ccx.activations import ActivationStream
from tests.conftest import make_mlp

N_SAMPLES = 300
FITTED = ("components_", "encoder_components_", "encoder_intercept_", "intercept_")


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(N_SAMPLES, 12)) * (rng.random((N_SAMPLES, 12)) < 0.3)
    return codes @ rng.normal(size=(12, 8)) + 1


class Reader:
    """Reads an array, and remembers what it was asked for."""

    def __init__(self, X):
        self.X, self.asked = X, []

    def __call__(self, start, stop):
        self.asked.append((start, stop))
        return self.X[start:stop]


def make(**params):
    defaults = {"k": 3, "max_iter": 3, "batch_size": 64, "random_state": 0}
    return InteractionSAE(16, **(defaults | params))


def assert_same_fit(one, other):
    for name in FITTED:
        assert_array_equal(getattr(one, name), getattr(other, name))
    assert_array_equal(one.threshold_, other.threshold_)
    assert one.loss_curve_ == other.loss_curve_
    assert_array_equal(one.activation_frequency_, other.activation_frequency_)


@pytest.mark.parametrize("activation", ["batchtopk", "topk", "relu", "jumprelu"])
def test_one_buffer_is_the_stored_array(X, activation):
    read = Reader(X)
    stream = ActivationStream(read, N_SAMPLES, buffer_size=1000)
    mlp = make_mlp(8, 9)
    on_stream = make(activation=activation, mlp=mlp).fit(stream)
    assert_same_fit(on_stream, make(activation=activation, mlp=mlp).fit(X))
    assert read.asked == [(0, N_SAMPLES)]  # and is not read again for each pass


def test_several_buffers_are_partial_fits(X):
    stream = ActivationStream(Reader(X), N_SAMPLES, buffer_size=128)
    assert stream.n_buffers == 3
    on_stream = make(max_iter=2).fit(stream)
    by_parts = make(max_iter=6)
    for _ in range(2):
        for start in range(0, N_SAMPLES, 128):
            by_parts.partial_fit(X[start : start + 128])
    assert_same_fit(on_stream, by_parts)
    assert len(on_stream.history_["loss"]) == on_stream.n_iter_ == 6


def test_partial_fit_goes_over_the_stream_once(X):
    read = Reader(X)
    stream = ActivationStream(read, N_SAMPLES, buffer_size=128)
    twice = make(max_iter=2).partial_fit(stream)
    assert read.asked == [(0, 128), (128, 256), (256, 300)]
    assert_same_fit(twice.partial_fit(stream), make(max_iter=2).fit(stream))


def test_sites(X):
    acts = X.reshape(N_SAMPLES, 2, 4)
    stream = ActivationStream(Reader(acts), N_SAMPLES, buffer_size=N_SAMPLES)
    one = InteractionCrosscoder(16, k=3, max_iter=2, random_state=0).fit(stream)
    other = InteractionCrosscoder(16, k=3, max_iter=2, random_state=0).fit(acts)
    assert_same_fit(one, other)
    assert one.transform(acts).shape == (N_SAMPLES, 16)


def test_default_number_of_passes_is_by_all_samples(X):
    stream = ActivationStream(Reader(X), N_SAMPLES, buffer_size=100)
    n_steps = -(-N_SAMPLES // 64)
    sae = make(max_iter=None, n_iter_no_change=1).fit(stream)
    assert sae.n_iter_ == 3 * -(-1000 // n_steps)


def test_two_buffers_are_held_at_most(X):
    """The first one, and one that is dropped before the next is read."""
    alive, counts = [], []

    def read(start, stop):
        gc.collect()
        counts.append(sum(rows() is not None for rows in alive))
        rows = X[start:stop].copy()
        alive.append(weakref.ref(rows))
        return rows

    make(max_iter=1).fit(ActivationStream(read, N_SAMPLES, buffer_size=50))
    assert counts == [0, 1, 1, 1, 1, 1]


def test_outliers_of_each_buffer_are_left_out(X):
    spoiled = X.copy()
    spoiled[[20, 250]] *= 1e4
    stream = ActivationStream(Reader(spoiled), N_SAMPLES, buffer_size=128)
    sae = make(outlier_threshold=20.0).fit(stream)
    assert np.abs(sae.components_).max() < 100


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda X, a, b: X[a : b - 1], r"read\(0, 128\) must return an array of 128"),
        (lambda X, a, b: X[a:b, 0], "shape"),
        (lambda X, a, b: X[a:b] if a == 0 else X[a:b, :4], "columns after one with 8"),
        (lambda X, a, b: X[a:b] if a == 0 else X[a:b] * np.nan, "NaN or infinity"),
    ],
)
def test_what_read_returns(X, rows, message):
    stream = ActivationStream(lambda a, b: rows(X, a, b), N_SAMPLES, buffer_size=128)
    sae = make()
    with pytest.raises(ValueError, match=message):
        sae.fit(stream)
    assert not hasattr(sae, "components_")


def test_early_stopping_is_refused(X):
    stream = ActivationStream(Reader(X), N_SAMPLES)
    with pytest.raises(ValueError, match="early_stopping=True holds out rows"):
        make(early_stopping=True).fit(stream)


def test_parameters():
    with pytest.raises(TypeError, match="read must be callable"):
        ActivationStream(np.ones((3, 2)), 3)
    with pytest.raises(ValueError, match="n_samples"):
        ActivationStream(print, 0)
    with pytest.raises(ValueError, match="buffer_size"):
        ActivationStream(print, 3, buffer_size=0)
    with pytest.raises(ValueError, match="index"):
        ActivationStream(Reader(np.ones((3, 2))), 3).buffer(1)


def test_only_training_takes_a_stream(X):
    stream = ActivationStream(Reader(X), N_SAMPLES)
    sae = make().fit(stream)
    for method in (sae.transform, sae.score):
        with pytest.raises(TypeError, match="ActivationStream, which only"):
            method(stream)
