"""Files that are not what was written: one error, which says what is wrong."""

import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from sklearn_ccx._storage import read_tree, write_tree
from tests.storage.editing import edit, read_parts, write_parts
from tests.storage.equality import assert_same

TREE = {"a": np.arange(6.0).reshape(2, 3), "b": [1, "x", None], "c": np.array(["ab"])}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tree.safetensors"
    write_tree(path, TREE, "tree")
    return path


def assert_refused(path, match, **kwargs):
    with pytest.raises(ValueError, match=match) as caught:
        read_tree(path, "tree", **kwargs)
    assert type(caught.value) is ValueError
    assert repr(str(path)) in str(caught.value)
    assert "cannot be loaded" in str(caught.value)


def test_every_byte_counts(path):
    data = path.read_bytes()
    # White space at the end of the header can be replaced by white space.
    n_same, messages = 0, set()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        try:
            found = read_tree(path, "tree")
        except ValueError as error:
            messages.add(str(error).split(":")[0])
            continue
        n_same += 1
        assert_same(found, TREE)
    assert n_same < 20
    assert messages == {f"path={str(path)!r} cannot be loaded"}


def test_every_length_counts(path):
    data = path.read_bytes()
    for length in [*range(0, len(data), 3), len(data) - 1]:
        path.write_bytes(data[:length])
        assert_refused(path, "no safetensors file|bytes instead of")
    path.write_bytes(data + b"\0")
    assert_refused(path, "bytes instead of")


def test_a_damaged_array_is_named(path):
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    assert_refused(path, r"a does not have the checksum")
    assert_refused(path, r"a does not have the checksum", map_arrays=True)
    found = read_tree(path, "tree", verify=False)
    assert (found["a"] != TREE["a"]).sum() == 1


def test_an_edited_tree_is_seen(path):
    data = path.read_bytes()
    assert data.count(b'\\"x\\"') == 1
    path.write_bytes(data.replace(b'\\"x\\"', b'\\"y\\"'))
    assert_refused(path, "damaged or was edited")


def test_a_newer_format_names_the_versions(path):
    header, body = read_parts(path)
    header["__metadata__"] |= {"format_version": "2", "package_version": "7.5"}
    write_parts(path, header, body)
    message = r"format 2, written by sklearn_ccx 7\.5; this is sklearn_ccx 0\..*up to 1"
    assert_refused(path, message)


def test_a_file_of_another_kind_is_named(path):
    with pytest.raises(ValueError, match="of the kind 'tree', not 'checkpoint'"):
        read_tree(path, "checkpoint")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no safetensors file or was cut off"),
        (b"hello, this is some text", "no safetensors file"),
        (pickle.dumps({"a": 1}), "perhaps a pickle"),
        (b"PK\x03\x04\xff\xff\xff\x7f....", "zip archive"),
        (b"\x02" + b"\0" * 7 + b"[]", "not a JSON object"),
        (b"\x02" + b"\0" * 7 + b"{]", "not JSON"),
        (b"\x02" + b"\0" * 7 + b"\xff\xff", "not JSON"),
        ((10**5).to_bytes(8, "little") + b"[" * 10**5, "not JSON"),
    ],
)
def test_foreign_files(tmp_path, data, message):
    path = tmp_path / "file"
    path.write_bytes(data)
    assert_refused(path, message)


def test_safetensors_files_of_others(tmp_path):
    path = tmp_path / "file"
    for metadata in (None, {"format": "pt"}):
        save_file({"a": np.ones(3)}, path, metadata)
        assert_refused(path, "not one that sklearn_ccx wrote")


def test_missing_files_and_directories(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        read_tree(tmp_path / "missing", "tree")
    with pytest.raises(OSError, match=str(tmp_path)):
        read_tree(tmp_path, "tree")


@pytest.mark.parametrize("version", ["x", "", "-1", None])
def test_a_version_that_is_no_number(path, version):
    header, body = read_parts(path)
    header["__metadata__"]["format_version"] = version
    write_parts(path, header, body)
    assert_refused(path, "damaged: its format_version is")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F64", "shape": [2, 3], "data_offsets": [8, 56]}, "begin where"),
        ({"dtype": "F64", "shape": [2, 4], "data_offsets": [0, 48]}, "another size"),
        ({"dtype": "F64", "shape": [-2, -3], "data_offsets": [0, 48]}, "not say what"),
        ({"dtype": "F64", "shape": [6.0], "data_offsets": [0, 48]}, "not say what"),
        ({"dtype": "F65", "shape": [2, 3], "data_offsets": [0, 48]}, "not say what"),
        ({"dtype": [], "shape": [2, 3], "data_offsets": [0, 48]}, "not say what"),
        ({"dtype": "F64", "shape": [2, 3], "data_offsets": [0]}, "not say what"),
        ({"dtype": "F64", "data_offsets": [0, 48]}, "not say what"),
        (3, "not say what"),
        ({"dtype": "I64", "shape": [2, 3], "data_offsets": [0, 48]}, "other arrays"),
        ({"dtype": "F64", "shape": [3, 2], "data_offsets": [0, 48]}, "other arrays"),
    ],
)
def test_headers_that_do_not_fit_the_tensors(path, entry, message):
    header, body = read_parts(path)
    header["a"] = entry
    write_parts(path, header, body)
    assert_refused(path, message)


ITEMS = ("tree", "items")


def deep(document):
    node = None
    for _ in range(900):
        node = [node]
    document["tree"] = node


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.clear(), "its tree is not one"),
        (lambda d: d.update(arrays=[]), "its tree is not one"),
        (lambda d: d["arrays"]["a"].pop("sha256"), "its tree is not one"),
        (lambda d: d["arrays"].pop("a"), "other arrays"),
        (lambda d: d.update(tree={}), "KeyError"),
        (lambda d: d.update(tree={"type": "os.system"}), "no known type"),
        (lambda d: d.update(tree={"type": ["dict"]}), "unhashable"),
        (lambda d: d.update(tree={"type": "shared", "name": "z"}), "KeyError"),
        (lambda d: d.update(tree={"type": "int", "value": "1_0z"}), "invalid literal"),
        (lambda d: d.update(tree={"type": "dict", "items": 3}), "int"),
        (lambda d: d["tree"]["items"]["a"].update(dtype="O"), "dtype object"),
        (lambda d: d["tree"]["items"]["a"].update(dtype="<f8,<f8"), "dtype"),
        (lambda d: d["tree"]["items"]["a"].update(dtype="<i8"), "not of dtype int64"),
        (lambda d: d["tree"]["items"]["a"].update(dtype="<f4"), "not of dtype float32"),
        (lambda d: d["tree"]["items"]["a"].update(name="b"), "KeyError"),
        (lambda d: d["tree"]["items"]["c"].update(dtype="<U3"), "not of dtype <U3"),
        (
            lambda d: d["tree"]["items"]["c"].update(dtype="<U999999999"),
            "understood|not of dtype",
        ),
        (
            lambda d: d.update(
                tree={"type": "strings", "name": "", "shape": [10**12], "values": ["a"]}
            ),
            "array of strings",
        ),
        (deep, "deep|not one"),
    ],
)
def test_trees_that_were_edited_and_signed(path, change, message):
    edit(path, change)
    assert_refused(path, message)
