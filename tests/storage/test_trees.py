"""Trees in files: they come back as they were, whatever is in them."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal
from safetensors import safe_open
from safetensors.numpy import load_file

from sklearn_ccx._storage import (
    Codec,
    RefusedError,
    Registry,
    _arrays,
    read_tree,
    write_tree,
)
from tests.storage.equality import assert_same, assert_same_array

DTYPES = (
    "? i1 <i2 <i4 <i8 u1 <u2 <u4 <u8 <f2 <f4 <f8 >i4 >f8 >u2 <U3 >U2 S4 <M8[s] <m8[ns]"
)

keys = st.text(max_size=4) | st.integers(-5, 2**70)
arrays = st.sampled_from(DTYPES.split()).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0))
)
layouts = st.sampled_from(
    [
        lambda a: a,
        np.asfortranarray,
        lambda a: a.T,
        lambda a: a[..., ::2] if a.ndim else a,
        lambda a: a[::-1] if a.ndim else a,
    ]
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(alphabet=st.characters(codec=None), max_size=5)
    | st.builds(lambda layout, array: layout(array), layouts, arrays)
    | arrays.map(lambda a: a.reshape(-1)[0] if a.size else None)
    | st.lists(st.text(max_size=3)).map(lambda texts: np.array(texts, dtype=object))
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


def round_trip(tree, path, **kwargs):
    write_tree(path, tree, "tree")
    return read_tree(path, "tree", **kwargs)


@settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(tree=trees, map_arrays=st.booleans(), verify=st.booleans())
def test_trees_come_back_bit_by_bit(tmp_path, tree, map_arrays, verify):
    path = tmp_path / "tree.safetensors"
    found = round_trip(tree, path, map_arrays=map_arrays, verify=verify)
    assert_same(found, tree)
    load_file(path)  # it is a file of the format, for other readers too


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES.split())
def test_arrays_that_are_written_piece_by_piece(monkeypatch, tmp_path, dtype, order):
    monkeypatch.setattr(_arrays, "_PIECE", 64)
    array = np.arange(7 * 5 * 3).reshape(7, 5, 3).astype(dtype, order=order)
    for given_array in (array, array[::-1, ::2], array[3], array[2, 1, 0]):
        for map_arrays in (False, True):
            path = tmp_path / "tree.safetensors"
            found = round_trip([given_array], path, map_arrays=map_arrays)
            assert_same(found, [given_array])


def test_other_readers_see_the_arrays_under_the_names_of_the_tree(tmp_path):
    path = tmp_path / "tree.safetensors"
    array = np.arange(6.0).reshape(2, 3).T
    text = np.array(["ab", "c"])
    write_tree(path, {"a": {"b": [array, 3]}, 7: (text,)}, "checkpoint")
    tensors = load_file(path)
    assert sorted(tensors) == ["7.0", "a.b.0"]
    assert_array_equal(tensors["a.b.0"], array)
    assert_array_equal(tensors["7.0"], [[97, 98], [99, 0]])
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    assert metadata["format"] == "sklearn_ccx checkpoint"
    assert metadata["format_version"] == "1"


def test_names_are_told_apart(tmp_path):
    one, two = np.zeros(1), np.ones(1)
    tree = {"a": {"b": one}, "a.b": two, "__metadata__": one.copy(), "": {"": two}}
    found = round_trip(tree, tmp_path / "tree")
    assert_same(found, tree)


def test_arrays_begin_at_multiples_of_their_width(tmp_path):
    tree = [np.zeros(3, "u1"), np.zeros(3, "f2"), np.ones(5), np.zeros(1, "f4")]
    found = round_trip(tree, tmp_path / "tree", map_arrays=True)
    assert all(array.flags.aligned for array in found)


def test_one_object_stays_one(tmp_path):
    array, path = np.arange(1000.0), tmp_path / "tree"
    found = round_trip({"a": array, "b": [array], "c": array.copy()}, path)
    assert found["a"] is found["b"][0]
    assert found["a"] is not found["c"]
    assert path.stat().st_size < 2.5 * array.nbytes


def test_loaded_arrays_can_be_written_to_without_reaching_the_file(tmp_path):
    path = tmp_path / "tree"
    for map_arrays in (False, True):
        found = round_trip([np.zeros(3)], path, map_arrays=map_arrays)[0]
        found[0] = 1
        assert found.tolist() == [1, 0, 0]
        assert read_tree(path, "tree")[0].tolist() == [0, 0, 0]


def test_memory_maps_are_kept_as_arrays(tmp_path):
    mapped = np.memmap(tmp_path / "map", dtype=float, shape=(3,), mode="w+")
    mapped[:] = [1, 2, 3]
    assert_same_array(
        round_trip([mapped], tmp_path / "tree")[0], np.arange(1.0, 4.0), "array"
    )


def test_a_mapped_file_can_be_replaced(tmp_path):
    path = tmp_path / "tree"
    old = round_trip([np.full(10**5, 1.0)], path, map_arrays=True)[0]
    write_tree(path, [np.full(10**5, 2.0)], "tree")
    assert (old == 1).all()


class Thing:
    def __init__(self, held):
        self.held = held


def thing_to_parts(thing):
    if thing.held == "secret":
        raise RefusedError("it is secret")
    return {"": {"held": thing.held}}


THINGS = Registry(
    [Codec("test.Thing", Thing, thing_to_parts, lambda parts: Thing(**parts[""]))],
    lambda value: "no way",
)


def test_registered_types_come_back(tmp_path):
    thing = Thing([Thing(None), np.ones(2)])
    write_tree(tmp_path / "tree", [thing, thing], "tree", registry=THINGS)
    found = read_tree(tmp_path / "tree", "tree", registry=THINGS)
    assert found[0] is found[1]
    assert type(found[0]) is Thing
    assert type(found[0].held[0]) is Thing
    assert found[0].held[1].tolist() == [1, 1]


def test_types_that_the_reader_does_not_know_are_no_values(tmp_path):
    write_tree(tmp_path / "tree", [Thing(1)], "tree", registry=THINGS)
    with pytest.raises(ValueError, match=r"at 0, 'test\.Thing' is no known type"):
        read_tree(tmp_path / "tree", "tree")


class Subclassed(dict):
    pass


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), r"root\.a\.1 cannot be saved: <object .*: no way"),
        (print, "root.a.1 cannot be saved"),
        (b"bytes", "root.a.1 cannot be saved"),
        ({1, 2}, "root.a.1 cannot be saved"),
        (1j, "root.a.1 cannot be saved"),
        (Subclassed(), "root.a.1 cannot be saved"),
        (np.zeros(2, complex), "root.a.1 cannot be saved: arrays of dtype complex128"),
        (np.complex64(1), "root.a.1 cannot be saved: arrays of dtype complex64"),
        (np.zeros(2, [("x", int)]), "root.a.1 cannot be saved: arrays of dtype"),
        (np.array([1, "a"], dtype=object), "objects may hold strings only, not 1"),
        (np.ma.masked_array([1, 2]), "root.a.1 cannot be saved"),
        ({("a", 1): 2}, r"root\.a\.1 cannot be saved: its key \('a', 1\)"),
        ({True: 2}, r"its key True \(bool\) is neither"),
        (Thing("secret"), "root.a.1 cannot be saved: it is secret"),
        (Thing({"x": {3}}), "root.a.1.held.x cannot be saved"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_place(tmp_path, value, message):
    path = tmp_path / "tree"
    path.write_bytes(b"before")
    with pytest.raises(TypeError, match=message):
        write_tree(path, {"a": [0, value]}, "tree", registry=THINGS, root="root")
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["tree"]


def test_what_holds_itself_is_refused(tmp_path):
    circle = []
    circle.append(circle)
    thing = Thing(None)
    thing.held = [thing]
    for tree in (circle, thing):
        with pytest.raises(ValueError, match="or holds itself"):
            write_tree(tmp_path / "tree", tree, "tree", registry=THINGS)


def test_a_header_that_is_too_long_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("sklearn_ccx._storage._safetensors._MAX_HEADER", 1000)
    with pytest.raises(ValueError, match="bytes of JSON"):
        write_tree(tmp_path / "tree", ["a" * 1000], "tree")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_not_copied_as_a_whole(tmp_path, order):
    array = np.ones((2**13, 2**10), order=order)  # 64 MiB, the bound is 40
    path: Path = tmp_path / "tree"
    tracemalloc.start()
    try:
        write_tree(path, [array], "tree")
        _, while_writing = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        read_tree(path, "tree", map_arrays=True, verify=order == "C")
        _, while_mapping = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        read_tree(path, "tree")
        _, while_reading = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    piece = 0 if order == "C" else 40 * 2**20
    assert while_writing < piece + 2**20
    assert while_reading < array.nbytes + piece + 2**20
    if order == "C":
        assert while_mapping < 2**20
