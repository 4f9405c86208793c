"""Rows as another process finds them: the place in a file, or the rows alone."""

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from sklearn_ccx.activations import ShardedActivations
from sklearn_ccx.activations._row_range import FileRegion, RowRange
from sklearn_ccx.activations._stored_rows import ShardFile

N_ROWS, N_COLUMNS = 40, 6


@pytest.fixture
def array():
    return np.random.default_rng(0).normal(size=(N_ROWS, N_COLUMNS))


@pytest.fixture
def mapped(array, tmp_path):
    np.save(tmp_path / "X.npy", array)
    return np.load(tmp_path / "X.npy", mmap_mode="r")


def sliced(length):
    edges = st.one_of(st.none(), st.integers(-length - 2, length + 2))
    steps = st.sampled_from([None, 1, 2, 3, -1, -2])
    return st.builds(slice, edges, edges, steps)


@given(
    rows=sliced(N_ROWS),
    columns=sliced(N_COLUMNS),
    is_transposed=st.booleans(),
    is_flat=st.booleans(),
)
@settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_view_of_a_map_is_found_in_the_file(
    mapped, rows, columns, is_transposed, is_flat
):
    view = mapped[rows, columns]
    view = view.T if is_transposed else view
    view = np.asarray(view)[:, np.newaxis] if is_flat else view
    region = FileRegion.of(view)
    if not view.size:
        assert region is None
        return
    opened = pickle.loads(pickle.dumps(region)).open()
    assert_array_equal(opened, view)
    assert opened.dtype == view.dtype
    assert not opened.flags.writeable
    assert FileRegion.of(opened) == region


def test_the_offset_of_a_map_counts(array, tmp_path):
    (tmp_path / "raw").write_bytes(b"x" * 13 + array.tobytes())
    mapped = np.memmap(tmp_path / "raw", array.dtype, "r+", 13, array.shape)
    mapped[3, 2] = 7.0  # not flushed
    region = FileRegion.of(mapped[2:9, 1:])
    assert_array_equal(region.open(), mapped[2:9, 1:])


def test_what_is_in_memory_is_in_no_file(array, mapped, tmp_path):
    copied_on_write = np.load(tmp_path / "X.npy", mmap_mode="c")
    copied_on_write[0] = 0.0
    for rows in (array, mapped + 1, np.array(mapped), mapped[[1, 2]], copied_on_write):
        assert FileRegion.of(rows) is None


@pytest.mark.parametrize("cut", [0, 500, None])
def test_a_file_that_is_not_there_or_too_short(mapped, tmp_path, cut):
    region = FileRegion.of(mapped)
    path = tmp_path / "X.npy"
    content = path.read_bytes()
    path.unlink()
    if cut is not None:
        path.write_bytes(content[:cut])
    with pytest.raises(ValueError, match=r"X is a memory map of '.*X\.npy'.*in memory"):
        region.open()


@pytest.fixture
def shards(array, tmp_path):
    (tmp_path / "a").write_bytes(array[:25].astype("<f4").tobytes())
    (tmp_path / "b").write_bytes(array[25:].astype("<f4").tobytes())
    files = [ShardFile(tmp_path / "a", 0, 25), ShardFile(tmp_path / "b", 0, 15)]
    return ShardedActivations(files, (N_COLUMNS,), "float32")


@pytest.mark.parametrize("kind", ["array", "mapped", "shards"])
def test_a_range_reads_its_rows_before_and_after_pickling(request, kind, array):
    X = request.getfixturevalue(kind)
    rows = RowRange(X, 10, 34)
    assert (len(rows), rows.shape, rows.first) == (24, (24, N_COLUMNS), 10)
    assert rows.dtype == X.dtype
    sent = pickle.loads(pickle.dumps(rows))
    twice = pickle.loads(pickle.dumps(sent))
    for found in (rows, sent, twice):
        assert (len(found), found.shape, found.first) == (24, (24, N_COLUMNS), 10)
        assert found.dtype == X.dtype
        for part in (slice(None), slice(3, 9), slice(20, 100), slice(0, 0)):
            expected = array[10:34][part].astype(X.dtype)
            assert_array_equal(np.asarray(found[part]), expected)


def test_pickled_ranges_hold_no_other_rows(array, mapped, shards):
    assert len(pickle.dumps(RowRange(array, 10, 20))) < array.nbytes / 2
    for X in (mapped, shards):
        whole = np.repeat(array, 100, axis=0)
        sizes = [len(pickle.dumps(RowRange(X, 0, n_rows))) for n_rows in (1, N_ROWS)]
        assert sizes[1] < sizes[0] + 20 < whole.nbytes


def test_a_missing_file_does_not_fail_before_it_is_read(mapped, tmp_path):
    pickled = pickle.dumps(RowRange(mapped, 0, 5))
    (tmp_path / "X.npy").unlink()
    rows = pickle.loads(pickled)
    assert rows.shape == (5, N_COLUMNS)
    with pytest.raises(ValueError, match="which this process cannot read"):
        rows[:2]
