"""Rows, sites and columns of shards are chosen as numpy does, and read late."""

import pickle
import tracemalloc
from pathlib import Path

import hypothesis.extra.numpy as hnp
import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from sklearn_ccx.activations import (
    ShardedActivations,
    _sharded,
    _stored_rows,
    concatenate_sites,
    load_harvest,
)
from tests.activations.directories import write_directory

LENGTHS = (4, 0, 7, 1, 11)
SHAPE = (sum(LENGTHS), 3, 4)


@pytest.fixture(scope="module", params=["float32", "float16", "bfloat16"])
def both(request, tmp_path_factory):
    """The same activations in files and in memory."""
    path = tmp_path_factory.mktemp("acts") / request.param
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    stored = write_directory(path, array, LENGTHS, request.param)
    return load_harvest(path).activations, stored


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """Two directories side by side, cut into shards in two ways."""
    path = tmp_path_factory.mktemp("joined")
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=SHAPE).astype(np.float32) for _ in range(2)]
    stored = [
        write_directory(path / "a", arrays[0], LENGTHS, "float16"),
        write_directory(path / "b", arrays[1], (10, 13), "float32")[:, :2],
    ]
    lazy = [load_harvest(path / name).activations for name in "ab"]
    return concatenate_sites([lazy[0], lazy[1][:, :2]]), np.concatenate(stored, axis=1)


@pytest.fixture
def nothing_is_read(monkeypatch):
    def refuse(*args):
        raise AssertionError("rows were read")

    monkeypatch.setattr(_stored_rows.StoredRows, "read", refuse)


def row_keys(n_rows):
    integers = st.integers(-n_rows, n_rows - 1) if n_rows else st.nothing()
    lists = st.lists(integers, max_size=2 * n_rows)
    return st.one_of(
        st.slices(n_rows),
        lists,
        lists.map(lambda rows: np.array(rows, dtype=np.int32)),
        hnp.arrays(bool, n_rows),
        st.just(...),
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data(), is_joined=st.booleans())
def test_any_chain_of_keys_is_that_of_an_array(both, joined, data, is_joined):
    lazy, array = joined if is_joined else both
    for _ in range(data.draw(st.integers(1, 4))):
        if data.draw(st.booleans()) or array.ndim == 1:
            key = data.draw(row_keys(len(array)))
        else:
            rows = data.draw(st.slices(len(array)))
            key = (rows, *_column_key(data, array.shape[1:]))
        lazy, array = lazy[key], array[key]
        assert isinstance(lazy, ShardedActivations)
        assert lazy.shape == array.shape
        assert len(lazy) == len(array)
        if data.draw(st.booleans()):
            lazy = pickle.loads(pickle.dumps(lazy))
    assert_array_equal(np.asarray(lazy), array, strict=True)


def _column_key(data, shape):
    """A key for what follows the rows, of which at most one item is a list."""
    n_sites = shape[0]
    integers = st.integers(-n_sites, n_sites - 1) if n_sites else st.nothing()
    sites = data.draw(
        st.one_of(
            st.slices(n_sites),
            integers,
            st.lists(integers, min_size=1, max_size=6),
            hnp.arrays(bool, n_sites),
        )
    )
    if len(shape) == 1 or data.draw(st.booleans()):
        return (sites,)
    return sites, data.draw(st.slices(shape[1]))


def test_choosing_reads_nothing(both, joined, nothing_is_read):
    for lazy, array in (both, joined):
        mask = np.arange(len(array)) % 3 > 0
        for chosen in (
            lazy[mask],
            lazy[5:20:2],
            lazy[[3, 1, 1]],
            lazy[mask, ...],
            lazy[:, 1],
            lazy[:, [2, 0]][::-1],
            lazy[mask, 1, :2],
            lazy[..., 3],
            lazy.reshape(-1, array[0].size)[mask],
        ):
            assert isinstance(chosen, ShardedActivations)
            pickle.loads(pickle.dumps(chosen))
            repr(chosen)
        with pytest.raises(AssertionError, match="rows were read"):
            lazy[3]


def test_keys_of_arrays(both):
    """Those that a chain of random keys does not draw."""
    lazy, array = both
    for key in (
        (..., 1),
        (..., 1, slice(2)),
        (..., 5, 0, 0),
        (slice(None), ..., 2),
        (slice(3), None),
        ([1, 2], None, 0),
        (4, ..., 1),
        (3, [0, 2]),
        np.array(3),
        np.uint8(3),
        (),
        (slice(None), array[0] > 0),
    ):
        assert_array_equal(lazy[key], array[key], strict=True)
    assert [row.tolist() for row in lazy] == array.tolist()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (([0, 1], [0, 1]), r"activations\[rows\]\[:, sites\]"),
        ((slice(3), 9), "cannot be chosen from rows of shape"),
        ((slice(3), 0, 0, 0), "too many indices"),
        (True, "Rows are chosen by"),
        (None, "Rows are chosen by"),
        ("a", "Rows are chosen by"),
        (np.zeros((2, 2), dtype=int), "Rows are chosen by"),
    ],
)
def test_other_keys_are_refused(both, key, message):
    with pytest.raises(IndexError, match=message):
        both[0][key]


def test_reading_converts_what_was_chosen_and_nothing_else(tmp_path, monkeypatch):
    """A view of some rows and one site touches neither other rows nor sites."""
    array = np.ones((1000, 3, 50), dtype=np.float32)
    write_directory(tmp_path, array, (500, 500), "float16")
    chosen = load_harvest(tmp_path).activations[100:900:50, 1]
    read = []
    take = _stored_rows._take
    monkeypatch.setattr(
        _stored_rows, "_take", lambda *args: read.append(take(*args)) or read[-1]
    )
    assert np.asarray(chosen).shape == (16, 50)
    assert sum(values.size for values in read) == 16 * 50
    assert {values.dtype for values in read} == {np.dtype(np.float16)}


def test_reading_everything_takes_little_beside_the_result(tmp_path, monkeypatch):
    monkeypatch.setattr(_sharded, "_CHUNK_BYTES", 2**16)
    array = np.ones((4000, 1, 256), dtype=np.float32)
    write_directory(tmp_path, array, (4000,), "bfloat16")
    lazy = load_harvest(tmp_path).activations
    for chosen in (lazy, lazy[np.arange(4000)[::-1]]):
        tracemalloc.start()
        read = np.asarray(chosen)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < read.nbytes + 5 * 2**16
    assert read.nbytes == 2**22 / 1.024


def test_half_precision_is_read_as_it_is_stored(both):
    lazy, array = both
    half = np.asarray(lazy, dtype=np.float16)
    assert half.dtype == np.float16
    assert_array_equal(half, array.astype(np.float16))
    assert np.asarray(lazy, dtype="f8").dtype == np.float64
    assert lazy.dtype == lazy[2:].dtype == np.float32


def test_storage_dtype_of_parts(both, joined):
    assert both[0][3:].storage_dtype == both[0].storage_dtype
    assert joined[0].storage_dtype == "mixed"
    assert joined[0][:, :3].storage_dtype == "float16"
    assert joined[0][:, 3].storage_dtype == "float32"
    assert joined[0][:, :0].shape == (23, 0, 4)


def test_pickled_are_paths_and_rows(tmp_path, monkeypatch):
    array = np.ones((2000, 2, 100), dtype=np.float32)
    write_directory(tmp_path / "acts", array, (1500, 500))
    monkeypatch.chdir(tmp_path)
    lazy = load_harvest("acts").activations
    assert len(pickle.dumps(lazy)) < 2000
    assert len(pickle.dumps(lazy[100:1900:3, 1])) < 2000
    rows = np.arange(0, 2000, 7)
    twice = concatenate_sites([lazy[rows], lazy[rows]])
    assert len(pickle.dumps(twice)) < 2000 + 2 * rows.nbytes
    # Wherever it is loaded.
    joblib.dump(lazy[rows], "lazy.joblib")
    monkeypatch.chdir(Path("acts"))
    assert_array_equal(joblib.load(tmp_path / "lazy.joblib"), array[rows])


def test_one_object_of_rows_serves_all_sites_of_a_directory(both):
    """Rows that were chosen take memory once, however often sites are chosen."""
    lazy, _ = both
    twice = concatenate_sites([lazy, lazy])[np.array([5, 2, 9])]
    rows = [piece.rows for piece in twice._pieces]
    again = [piece.rows for piece in twice[:, [5, 0, 3, 1]]._pieces]
    assert len({id(row) for row in [*rows, *again]}) == 1


@pytest.mark.parametrize("shape", [(23,), (23, 5), (46, -1), (-1, 7), (23, -1, 5)])
def test_reshape_keeps_rows(both, shape):
    with pytest.raises(ValueError, match="Only rows can be reshaped"):
        both[0].reshape(shape)


def test_a_directory_that_is_gone_is_named(tmp_path):
    write_directory(tmp_path / "acts", np.ones((3, 1, 2), dtype=np.float32), (3,))
    pickled = pickle.dumps(load_harvest(tmp_path / "acts").activations)
    (tmp_path / "acts" / "shard-00000.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00000\.safetensors"):
        pickle.loads(pickled)
