"""Streams of a language model against what `harvest` records."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sklearn_ccx import InteractionCrosscoder
from sklearn_ccx.callbacks import Checkpoint
from sklearn_ccx.lm import _harvest_stream, harvest, harvest_stream
from tests.lm.tiny_models import make_model, random_ids

IDS = random_ids(9, 4, 12, 1, 7, 9, 3, 15, 2, 6)


@pytest.fixture(scope="module")
def model():
    return make_model("gpt2")


@pytest.mark.parametrize("buffer_size", [1, 7, 16, 50, 1000])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sites": ["resid_pre", "blocks.1.mlp_in"], "drop_positions": 2},
        {"max_tokens": 31, "max_length": 8, "dtype": "float16", "batch_size": 3},
    ],
)
def test_rows_are_those_of_harvest(model, buffer_size, settings):
    settings = {"batch_size": 4} | settings
    stored = harvest(model, IDS, **settings).activations
    stream = harvest_stream(model, IDS, buffer_size=buffer_size, **settings)
    assert stream.n_samples == len(stored)
    parts = [stream.buffer(index) for index in range(stream.n_buffers)]
    assert all(len(part) == buffer_size for part in parts[:-1])
    assert_array_equal(np.concatenate(parts), stored)
    assert parts[0].dtype == stored.dtype
    assert_array_equal(stream.buffer(0), parts[0])  # at any time, in any order


def test_fit_on_a_stream_is_one_on_the_stored_array(model):
    def fit(X):
        return InteractionCrosscoder(16, k=2, max_iter=3, random_state=0).fit(X)

    stored = fit(harvest(model, IDS, batch_size=4).activations)
    streamed = fit(harvest_stream(model, IDS, batch_size=4))
    assert_array_equal(stored.components_, streamed.components_)
    assert stored.loss_curve_ == streamed.loss_curve_


def test_the_model_is_run_once_for_each_batch_of_a_pass(model, monkeypatch):
    run = []
    record = _harvest_stream.record_batch

    def recording(*args):
        run.append(args[-1].tolist())
        return record(*args)

    monkeypatch.setattr(_harvest_stream, "record_batch", recording)
    stream = harvest_stream(model, IDS, batch_size=3, buffer_size=5)
    for index in range(stream.n_buffers):
        stream.buffer(index)
    assert run == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_checkpoints(model, tmp_path):
    pytest.importorskip("sklearn.callback")
    stream = harvest_stream(model, IDS, batch_size=4, buffer_size=20)

    def make():
        return InteractionCrosscoder(
            16, k=2, max_iter=2, batch_size=8, random_state=0
        ).set_callbacks(Checkpoint(tmp_path, every=3))

    first = make().fit(stream)
    assert_array_equal(first.components_, make().fit(stream).components_)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"buffer_size": 0}, ValueError, "buffer_size"),
        ({"dtype": "bfloat16"}, ValueError, "dtype must be one of"),
        ({"sites": "nowhere"}, ValueError, "nowhere"),
        ({"drop_positions": 50}, ValueError, "drop_positions"),
        ({"batch_size": 1.5}, TypeError, "batch_size"),
    ],
)
def test_errors(model, settings, error, match):
    with pytest.raises(error, match=match):
        harvest_stream(model, IDS, **settings)


def test_model_is_one():
    with pytest.raises(TypeError, match="model must be a transformers"):
        harvest_stream(3, IDS)
