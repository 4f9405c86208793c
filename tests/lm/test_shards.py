import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file
from sklearn.base import clone

from sklearn_ccx import (
    InteractionCrosscoder,
    InteractionSAE,
    ablation_fidelity,
    dominant_share,
    interaction_scores,
)
from sklearn_ccx.lm import ShardedActivations, harvest, load_harvest, mlp_weights
from sklearn_ccx.lm import _harvest as harvest_module

from .tiny_models import D, make_model, random_ids

LENGTHS = (9, 12, 5, 16, 7, 11, 3, 8, 2)
SETTINGS = {"sites": ["resid_pre", "mlp_in"], "batch_size": 2, "shard_size": 20}


@pytest.fixture(scope="module")
def model():
    return make_model("gpt2")


@pytest.fixture(scope="module")
def ids():
    return random_ids(*LENGTHS)


@pytest.fixture(scope="module")
def in_memory(model, ids):
    return harvest(model, ids, **{**SETTINGS, "shard_size": None})


@pytest.fixture
def written(model, ids, tmp_path):
    return harvest(model, ids, out=tmp_path / "acts", **SETTINGS)


def digests(directory):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
    }


def test_directory_holds_what_memory_holds(written, in_memory, tmp_path):
    assert isinstance(written.activations, ShardedActivations)
    assert_array_equal(written.activations, in_memory.activations)
    for loaded in (written, load_harvest(tmp_path / "acts")):
        assert_array_equal(loaded.activations[:], in_memory.activations)
        assert_array_equal(loaded.token_ids, in_memory.token_ids)
        assert_array_equal(loaded.positions, in_memory.positions)
        assert_array_equal(loaded.sequence_ids, in_memory.sequence_ids)
        assert loaded.sites == in_memory.sites
    names = [path.name for path in sorted((tmp_path / "acts").iterdir())]
    assert names == ["manifest.json", *(f"shard-0000{i}.safetensors" for i in range(4))]


def test_shards_are_plain_safetensors(written, in_memory, tmp_path):
    first = load_file(tmp_path / "acts" / "shard-00000.safetensors")
    n_tokens = len(first["token_ids"])
    assert n_tokens == 21  # two sequences, the first batch that reaches shard_size
    assert_array_equal(first["activations"], in_memory.activations[:n_tokens])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(model, ids, in_memory, tmp_path, dtype):
    result = harvest(model, ids, out=tmp_path, dtype=dtype, **SETTINGS).activations
    assert result.dtype == np.float32
    assert result.storage_dtype == dtype
    rounded = torch.from_numpy(in_memory.activations).to(getattr(torch, dtype))
    assert_array_equal(result[:], rounded.float())
    n_bytes = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert n_bytes < 0.7 * in_memory.activations.nbytes + 24 * len(result) + 4096


@pytest.mark.parametrize("n_batches", range(5))
def test_interrupted_harvest_goes_on_to_the_same_files(
    model, ids, written, tmp_path, monkeypatch, n_batches
):
    """Interrupt after some batches, in Python."""
    record, n_left = harvest_module.record_sites, n_batches

    def interrupted(*args):
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise KeyboardInterrupt
        return record(*args)

    out = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(harvest_module, "record_sites", interrupted)
        with pytest.raises(KeyboardInterrupt):
            harvest(model, ids, out=out, **SETTINGS)
    with pytest.raises(ValueError, match="not complete"):
        load_harvest(out)
    n_written = len(list(out.glob("*.safetensors")))
    assert n_written == {0: 0, 1: 1, 2: 2, 3: 2, 4: 3}[n_batches]
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    harvest(model, ids, out=out, **SETTINGS)
    assert digests(out) == digests(tmp_path / "acts")
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


@pytest.mark.parametrize("n_renamed", range(5))
def test_harvest_interrupted_while_writing(
    model, ids, written, tmp_path, monkeypatch, n_renamed
):
    """Interrupt with an unfinished manifest or shard on disk."""
    replace, n_left = os.replace, n_renamed

    def interrupted(*args):
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise KeyboardInterrupt
        replace(*args)

    out = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            harvest(model, ids, out=out, **SETTINGS)
    assert list(out.glob("*.unfinished"))
    harvest(model, ids, out=out, **SETTINGS)
    assert digests(out) == digests(tmp_path / "acts")


_KILLED = """
import os, sys
from sklearn_ccx.lm import harvest
from tests.lm.test_shards import SETTINGS, LENGTHS
from tests.lm.tiny_models import make_model, random_ids

replace, n_left = os.replace, 4

def kill_before_renaming(*args):
    global n_left
    n_left -= 1
    if n_left < 0:
        os.kill(os.getpid(), 9)
    replace(*args)

os.replace = kill_before_renaming
harvest(make_model("gpt2"), random_ids(*LENGTHS), out=sys.argv[1], **SETTINGS)
"""


@pytest.mark.slow
def test_killed_harvest_goes_on_to_the_same_files(model, ids, written, tmp_path):
    out = tmp_path / "again"
    tests = str(Path(__file__).parents[2])
    program = f"import sys; sys.path.insert(0, {tests!r}){_KILLED}"
    killed = subprocess.run([sys.executable, "-c", program, str(out)], check=False)
    assert killed.returncode == -9
    harvest(model, ids, out=out, **SETTINGS)
    assert digests(out) == digests(tmp_path / "acts")


def test_finished_directory_is_not_written_again(model, ids, written, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "acts").iterdir()}
    again = harvest(model, ids, out=tmp_path / "acts", **SETTINGS)
    assert_array_equal(again.activations, written.activations)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_truncated_shard_is_named_and_can_be_written_anew(
    model, ids, written, in_memory, tmp_path
):
    expected = digests(tmp_path / "acts")
    shard = tmp_path / "acts" / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-7])
    for call in (
        lambda: load_harvest(tmp_path / "acts"),
        lambda: load_harvest(tmp_path / "acts", verify=False),
        lambda: harvest(model, ids, out=tmp_path / "acts", **SETTINGS),
    ):
        with pytest.raises(ValueError, match=r"shard-00001\.safetensors has \d+ bytes"):
            call()
    shard.unlink()
    with pytest.raises(ValueError, match="1 shards are missing, the first is shard-0"):
        load_harvest(tmp_path / "acts")
    harvest(model, ids, out=tmp_path / "acts", **SETTINGS)
    assert digests(tmp_path / "acts") == expected


def test_changed_shard_is_named(model, ids, written, tmp_path):
    shard = tmp_path / "acts" / "shard-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    for call in (
        lambda: load_harvest(tmp_path / "acts"),
        lambda: harvest(model, ids, out=tmp_path / "acts", **SETTINGS),
    ):
        with pytest.raises(ValueError, match=r"shard-00002\.safetensors does not have"):
            call()
    load_harvest(tmp_path / "acts", verify=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sites", "mlp_in"),
        ("batch_size", 3),
        ("shard_size", 21),
        ("dtype", "float16"),
        ("max_tokens", 50),
        ("max_length", 8),
        ("drop_special", False),
        ("drop_positions", 1),
    ],
)
def test_directory_of_other_settings_is_refused(
    model, ids, written, tmp_path, name, value
):
    with pytest.raises(ValueError, match=rf"other settings: .*{name} \("):
        harvest(model, ids, out=tmp_path / "acts", **{**SETTINGS, name: value})


def test_directory_of_other_inputs_or_weights_is_refused(model, ids, written, tmp_path):
    with pytest.raises(ValueError, match="inputs_sha256"):
        harvest(model, ids[:-1], out=tmp_path / "acts", **SETTINGS)
    other = make_model("gpt2")
    with torch.no_grad():
        other.transformer.h[0].ln_1.bias[3] += 1e-3
    with pytest.raises(ValueError, match="model_sha256"):
        harvest(other, ids, out=tmp_path / "acts", **SETTINGS)
    windowed = make_model("gpt2", activation_function="relu")
    with pytest.raises(ValueError, match="model_sha256"):
        harvest(windowed, ids, out=tmp_path / "acts", **SETTINGS)


def test_integers_of_numpy_are_settings(model, ids, tmp_path):
    settings = {"max_tokens": np.int64(20), "batch_size": np.int32(2)}
    first = harvest(model, ids, out=tmp_path, **settings)
    again = harvest(model, ids, out=tmp_path, max_tokens=20, batch_size=2)
    assert len(first.activations) == len(again.activations) == 20


def test_directory_of_something_else_is_refused(model, ids, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        harvest(model, ids, out=tmp_path)
    with pytest.raises(ValueError, match=r"has no manifest\.json"):
        load_harvest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_harvest(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(ValueError, match="format 'other'"):
        load_harvest(tmp_path)


def test_indexing_as_an_array(written, in_memory):
    lazy, array = written.activations, in_memory.activations
    assert lazy.shape == array.shape
    assert lazy.ndim == 3
    assert len(lazy) == len(array)
    rng = np.random.default_rng(0)
    keys = [
        0,
        -1,
        np.int64(30),
        slice(None),
        slice(15, 50),
        slice(50, 15, -3),
        slice(0, 0),
        [],
        [3, 3, -1, 40],
        rng.permutation(len(array)),
        rng.random(len(array)) < 0.3,
        ...,
        (slice(5, 30), 1),
        ([2, 60], slice(1, 3), 0),
        (4, 2, slice(3)),
        (slice(None), [0, 2]),
    ]
    for key in keys:
        result = lazy[key]
        assert_array_equal(result, array[key], strict=True)


@pytest.mark.parametrize("key", [73, [0, 73], [-74], np.ones(3, bool), 1.5, [[0, 1]]])
def test_bad_rows(written, key):
    assert len(written.activations) == 73
    with pytest.raises(IndexError):
        written.activations[key]


def test_reshape_and_pickle_do_not_read(written, in_memory):
    flat = written.activations.reshape(len(in_memory.activations), -1)
    assert flat.shape == (73, 4 * D)
    assert_array_equal(flat[10:40], in_memory.activations.reshape(73, -1)[10:40])
    pickled = pickle.dumps(flat)
    assert len(pickled) < 2000
    assert_array_equal(pickle.loads(pickled)[:], flat[:])
    with pytest.raises(ValueError, match="Only rows"):
        flat.reshape(73 * 2, -1)
    with pytest.raises(ValueError, match="cannot be had uncopied"):
        np.asarray(flat, copy=False)


@pytest.fixture
def few_rows_at_once(monkeypatch):
    """Refuse to read more rows than fit small bounds on memory."""
    read = ShardedActivations.__array__

    def read_few(self, *args, **kwargs):
        assert len(self) <= 64
        return read(self, *args, **kwargs)

    monkeypatch.setattr(ShardedActivations, "__array__", read_few)
    monkeypatch.setattr("sklearn_ccx._engine._measure_sites._CHUNK_BYTES", 2**14)
    monkeypatch.setattr("sklearn_ccx._engine._measure_sites._MAX_TYPICAL_ROWS", 50)
    monkeypatch.setattr("sklearn_ccx.coders._rows._INFERENCE_BYTES", 2**15)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_estimators_read_shards_like_arrays(
    model, written, in_memory, few_rows_at_once, early_stopping
):
    mlps = mlp_weights(model, sites=in_memory.sites)
    ccx = InteractionCrosscoder(
        24,
        k=4,
        mlp=mlps,
        batch_size=16,
        max_iter=3,
        early_stopping=early_stopping,
        random_state=0,
    )
    lazy, array = written.activations, in_memory.activations
    fitted = clone(ccx).fit(lazy)
    expected = clone(ccx).fit(array)
    assert_array_equal(fitted.components_, expected.components_)
    assert fitted.n_features_in_ == expected.n_features_in_
    for name in ("transform", "score"):
        result = getattr(fitted, name)(lazy)
        assert_array_equal(result, getattr(expected, name)(array))
    assert fitted.inverse_transform(fitted.transform(lazy)).shape == array.shape
    for function in (interaction_scores, dominant_share, ablation_fidelity):
        options = {"batch_size": 32}
        if function is ablation_fidelity:
            options["random_state"] = 0
        result, reference = (function(fitted, X, **options) for X in (lazy, array))
        assert str(result) == str(reference)


def test_partial_fit_and_bad_shapes(written, in_memory, few_rows_at_once):
    ccx = InteractionCrosscoder(24, k=4, batch_size=16, random_state=0)
    lazy, array = written.activations, in_memory.activations
    fitted = clone(ccx).partial_fit(lazy).partial_fit(lazy)
    expected = clone(ccx).partial_fit(array).partial_fit(array)
    assert_array_equal(fitted.components_, expected.components_)
    with pytest.raises(ValueError, match="fitted with 3 site"):
        InteractionCrosscoder(24, max_iter=1).fit(array[:, :3]).transform(lazy)
    with pytest.raises(ValueError, match="Use InteractionCrosscoder"):
        InteractionSAE(24).fit(lazy)


def test_one_row_is_too_few(model, tmp_path):
    lazy = harvest(model, [[7]], out=tmp_path / "one").activations
    with pytest.raises(ValueError, match="1 sample"):
        InteractionCrosscoder(8).fit(lazy)
