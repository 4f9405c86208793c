"""What lies in a directory, and what is said of one that somebody changed."""

import errno
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from safetensors import safe_open
from safetensors.torch import save_file

from sklearn_ccx.activations import _durable_files, load_harvest
from sklearn_ccx.activations._shard_directory import ShardDirectory
from tests.activations.directories import tensors_of, write_directory

ARRAY = np.arange(60, dtype=np.float32).reshape(10, 2, 3)
LENGTHS = (6, 4)
SETTINGS = {"sites": ["a", "b"], "width": 3, "dtype": "float32"}


@pytest.fixture
def path(tmp_path):
    write_directory(tmp_path / "acts", ARRAY, LENGTHS, batch_size=2)
    return tmp_path / "acts"


def edit(path, change):
    """Change the manifest as somebody with an editor might."""
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest = change(manifest) or manifest
    file.write_text(json.dumps(manifest))


def shard(path, number=0):
    return path / f"shard-{number:05d}.safetensors"


def set_item(*keys):
    """A change that sets an item, to the last of the arguments."""
    *keys, last, value = keys

    def change(manifest):
        for key in keys:
            manifest = manifest[key]
        manifest[last] = value

    return change


def drop_item(*keys):
    *keys, last = keys

    def change(manifest):
        for key in keys:
            manifest = manifest[key]
        del manifest[last]

    return change


MALFORMED = {
    "no settings": drop_item("settings"),
    "settings a list": set_item("settings", []),
    "no sites": drop_item("settings", "sites"),
    "sites a string": set_item("settings", "sites", "ab"),
    "sites empty": set_item("settings", "sites", []),
    "sites numbers": set_item("settings", "sites", [1, 2]),
    "sites twice": set_item("settings", "sites", ["a", "a"]),
    "no width": drop_item("settings", "width"),
    "width a string": set_item("settings", "width", "3"),
    "width True": set_item("settings", "width", True),
    "width 0": set_item("settings", "width", 0),
    "no dtype": drop_item("settings", "dtype"),
    "dtype unknown": set_item("settings", "dtype", "float64"),
    "dtype a list": set_item("settings", "dtype", ["float32"]),
    "no shards": drop_item("shards"),
    "shards empty": set_item("shards", []),
    "shards an object": set_item("shards", {}),
    "shard a number": set_item("shards", 1, 3),
    "shard without tokens": drop_item("shards", 1, "n_tokens"),
    "shard of -1 tokens": set_item("shards", 1, "n_tokens", -1),
    "shard of half a token": set_item("shards", 1, "n_tokens", 0.5),
    "shard without size": drop_item("shards", 0, "n_bytes"),
    "shard without checksum": drop_item("shards", 0, "sha256"),
    "checksum a number": set_item("shards", 0, "sha256", 3),
    "checksum too short": set_item("shards", 0, "sha256", "abc"),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("verify", [True, False])
def test_a_malformed_manifest_is_one_clear_error(path, name, verify):
    edit(path, MALFORMED[name])
    with pytest.raises(ValueError, match=r"manifest\.json is damaged: (settings|sh)"):
        load_harvest(path, verify=verify)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe{", "is damaged: "),
        ("Möve".encode("latin-1"), "is damaged: "),
        (b"", "is damaged: "),
        (b"[" * 100_000, "is damaged: "),
        (b'{"a": ' + b"9" * 10_000 + b"}", "is damaged: "),
        (b"[]", r"has the format \[\]"),
        (b"null", "has the format None"),
        (b'"sklearn_ccx harvest 1"', "has the format 'sklearn_ccx harvest 1'"),
        (b'{"format": ["sklearn_ccx harvest 1"]}', "has the format "),
        (
            b'{"format": "sklearn_ccx harvest 2"}',
            "has the format .*this version rea",
        ),
    ],
)
def test_a_manifest_of_anything_is_one_clear_error(path, content, message):
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"manifest\.json {message}"):
        load_harvest(path)


def test_a_manifest_that_is_a_folder(path):
    (path / "manifest.json").unlink()
    (path / "manifest.json").mkdir()
    with pytest.raises(ValueError, match=r"manifest\.json cannot be read: "):
        load_harvest(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["sites", "width", "dtype", "n_tokens", "sha256"]), inner
        )
    ),
    max_leaves=6,
)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_edit_gives_wrong_rows_or_an_unclear_error(path, data):
    """Any value of the manifest is replaced by any other."""
    original = (path / "manifest.json").read_text()
    manifest = json.loads(original)
    places = [
        (manifest, "settings"),
        (manifest, "shards"),
        *[(manifest["settings"], key) for key in manifest["settings"]],
        *[(item, key) for item in manifest["shards"] for key in item],
        *[(manifest["shards"], number) for number in range(len(LENGTHS))],
    ]
    place, key = data.draw(st.sampled_from(places))
    place[key] = data.draw(json_values)
    (path / "manifest.json").write_text(json.dumps(manifest))
    try:
        message, activations = "", load_harvest(path).activations
    except ValueError as error:
        message, activations = str(error), ARRAY
    finally:
        (path / "manifest.json").write_text(original)
    assert not message or re.search(r"manifest|shard", message)
    assert_array_equal(activations, ARRAY)


EDITED = {
    "dtype": (set_item("settings", "dtype", "bfloat16"), "activations of dtype 'F32'"),
    "width": (set_item("settings", "width", 6), r"shape \[6, 2, 3\].*\[6, 2, 6\]"),
    "site dropped": (drop_item("settings", "sites", 0), r"manifest says .*\[6, 1, 3\]"),
    "sites in another order": (
        set_item("settings", "sites", ["b", "a"]),
        r"written with sites=\['a', 'b'\]",
    ),
    "site renamed": (set_item("settings", "sites", ["a", "c"]), "written with sites="),
    "as many numbers": (
        lambda m: m["settings"].update(width=2, sites=["a", "b", "c"]),
        r"shape \[6, 2, 3\]",
    ),
    "other tokens": (set_item("shards", 0, "n_tokens", 5), "has token_ids of dtype"),
    "shards swapped": (
        lambda m: m["shards"].reverse(),
        r"has \d+ bytes instead",
    ),
    "shard dropped": (drop_item("shards", 1), r"shard-00001\.safetensors is not in"),
    "shard added": (
        lambda m: m["shards"].append(m["shards"][0]),
        "written as shard 0 .* of 2 .* but the manifest has it as shard 0 of 3",
    ),
    "another setting": (
        set_item("settings", "batch_size", 3),
        r"written with batch_size=2 .*says 3",
    ),
}


@pytest.mark.parametrize("name", EDITED)
@pytest.mark.parametrize("verify", [True, False])
def test_an_edited_manifest_does_not_agree_with_the_shards(path, name, verify):
    change, message = EDITED[name]
    edit(path, change)
    with pytest.raises(ValueError, match=message):
        load_harvest(path, verify=verify)
    # Going on with it is no way around.
    with pytest.raises(
        ValueError, match=f"other settings|other numbers of tok|{message}"
    ):
        ShardDirectory.create(path, SETTINGS | {"batch_size": 2}, [6, 4]).verify()


def test_shards_in_each_others_place(path):
    """Also where nobody compares checksums, and they are as large."""
    write_directory(path.parent / "even", ARRAY, (5, 5))
    even = path.parent / "even"
    shard(even, 0).rename(even / "x")
    shard(even, 1).rename(shard(even, 0))
    (even / "x").rename(shard(even, 1))
    with pytest.raises(ValueError, match="does not have the checksum"):
        load_harvest(even)
    with pytest.raises(ValueError, match=r"was written as shard 1 .* shard 0 of 2"):
        load_harvest(even, verify=False)


def test_a_shard_of_another_harvest(path):
    """With the manifest's size and checksum made to fit."""
    write_directory(path.parent / "other", ARRAY + 1, LENGTHS, batch_size=3)
    shard(path.parent / "other").replace(shard(path))
    other = json.loads((path.parent / "other" / "manifest.json").read_text())
    edit(path, set_item("shards", 0, other["shards"][0]))
    with pytest.raises(ValueError, match=r"shard-00000\.\w+ was written with batch_si"):
        load_harvest(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not in the safetensors format"),
        (b"\xff" * 30, "is not in the safetensors format"),
        ((4).to_bytes(8, "little") + b"nope", "is not in the safetensors format"),
        ((2).to_bytes(8, "little") + b"[]", "is not in the safetensors format"),
        ((2).to_bytes(8, "little") + b"{}", "has token_ids of dtype None"),
    ],
)
def test_a_shard_that_is_none(path, content, message):
    shard(path).write_bytes(content)
    edit(path, set_item("shards", 0, "n_bytes", len(content)))
    with pytest.raises(ValueError, match=rf"shard-00000\.safetensors {message}"):
        load_harvest(path, verify=False)


@pytest.mark.parametrize(
    "offsets",
    [None, [0], [0, 3], [-4, 140], [10**6, 10**6 + 144], ["0", "144"], [0, 1.5]],
)
def test_a_header_that_points_elsewhere(path, offsets):
    content = shard(path).read_bytes()
    n_header = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + n_header])
    header["activations"]["data_offsets"] = offsets
    changed = json.dumps(header).encode()
    content = len(changed).to_bytes(8, "little") + changed + content[8 + n_header :]
    shard(path).write_bytes(content)
    edit(path, set_item("shards", 0, "n_bytes", len(content)))
    with pytest.raises(ValueError, match=r"has activations at .* which is not where"):
        load_harvest(path, verify=False)


def test_shards_of_earlier_versions_have_no_metadata(path):
    for number, start in ((0, 0), (1, LENGTHS[0])):
        rows = torch.from_numpy(ARRAY[start : start + LENGTHS[number]])
        save_file(tensors_of(rows, start), shard(path, number))
        directory = ShardDirectory.open(path)
        manifest = directory._manifest
        manifest["shards"][number]["n_bytes"] = shard(path, number).stat().st_size
        directory._write_manifest(manifest)
    assert_array_equal(load_harvest(path, verify=False).activations, ARRAY)


def test_shards_say_what_they_were_made_from(path):
    with safe_open(shard(path), framework="numpy") as file:
        written = json.loads(file.metadata()["sklearn_ccx"])
    assert written["settings"] == SETTINGS | {"batch_size": 2}
    assert (written["shard"], written["n_shards"]) == (0, 2)


def test_a_shard_without_rows(tmp_path):
    write_directory(tmp_path / "acts", ARRAY, (6, 0, 4, 0))
    assert_array_equal(load_harvest(tmp_path / "acts").activations, ARRAY)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
@pytest.mark.skipif(sys.platform == "win32", reason="no modes")
def test_modes_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_directory(tmp_path / "acts", ARRAY, LENGTHS)
    finally:
        os.umask(before)
    for file in (tmp_path / "acts").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "acts").stat().st_mode) == 0o777 & ~umask


def test_contents_are_on_disk_before_their_names(tmp_path, monkeypatch):
    events = []

    def spy(name, of):
        original = getattr(os, name)

        def called(*args):
            events.append((name, of(*args)))
            return original(*args)

        monkeypatch.setattr(os, name, called)

    def opened(descriptor):
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name

    spy("fsync", opened)
    spy("replace", lambda old, new: Path(new).name)
    write_directory(tmp_path / "acts", ARRAY[:6], LENGTHS[:1])
    assert [event for event in events if event[1] != tmp_path.name] == [
        ("fsync", "manifest.json"),
        ("replace", "manifest.json"),
        ("fsync", "acts"),
        ("fsync", "shard-00000.safetensors"),
        ("replace", "shard-00000.safetensors"),
        ("fsync", "acts"),
        ("fsync", "manifest.json"),
        ("replace", "manifest.json"),
        ("fsync", "acts"),
    ]
    assert events[0] == ("fsync", tmp_path.name)  # the new folder's own name


@pytest.mark.parametrize("full_at", ["shard", "manifest"])
def test_a_full_disk_says_what_is_kept(tmp_path, monkeypatch, full_at):
    path = tmp_path / "acts"
    directory = ShardDirectory.create(path, SETTINGS, list(LENGTHS))
    rows = torch.from_numpy(ARRAY)
    directory.write(0, tensors_of(rows[:6], 0))
    sync = _durable_files._sync_file

    def full(file):
        if file.name.startswith(full_at):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    with monkeypatch.context() as patch:
        patch.setattr(_durable_files, "_sync_file", full)
        with pytest.raises(OSError, match="1 of 2 shards are finished and are k") as e:
            directory.write(1, tensors_of(rows[6:], 6))
    assert e.value.errno == errno.ENOSPC
    assert "shard-00001.safetensors could not be written to" in str(e.value)
    assert not list(path.glob("*.unfinished"))  # its room is given back
    again = ShardDirectory.create(path, SETTINGS, list(LENGTHS))
    assert again.missing() == [1]
    again.write(1, tensors_of(rows[6:], 6))
    assert_array_equal(load_harvest(path).activations, ARRAY)


_LIMITED = """
import resource, sys, torch
from tests.activations.test_shard_directory import SETTINGS, ShardDirectory, tensors_of
directory = ShardDirectory.create(sys.argv[1], SETTINGS, [6, 40_000])
directory.write(0, tensors_of(torch.zeros(6, 2, 3), 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
try:
    directory.write(1, tensors_of(torch.zeros(40_000, 2, 3), 6))
except OSError as error:
    print(error.errno, error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limits on sizes")
def test_a_limit_of_the_system_says_what_is_kept(tmp_path):
    """The safetensors library meets it, which has errors of its own."""
    program = _LIMITED.replace("sys.argv[1]", "__import__('pathlib').Path(sys.argv[1])")
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "acts")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{errno.EFBIG} ")
    assert "1 of 2 shards are finished and are kept" in done.stdout
    assert not list((tmp_path / "acts").glob("*.unfinished"))


def test_what_a_killed_writer_left_is_removed(path):
    (path / "manifest.unfinished").write_text("{")  # of an earlier version
    (path / f"shard-00001-{'0' * 16}.unfinished").mkdir()
    (path / f"shard-00001-{'0' * 16}.unfinished" / ".tmpXYZ").write_text("half")
    (path / "harvest.lock").write_text("process 1 on nowhere")
    with ShardDirectory.writing(path, SETTINGS, list(LENGTHS)) as directory:
        directory.verify()
    names = sorted(item.name for item in path.iterdir())
    assert names == ["manifest.json", shard(path, 0).name, shard(path, 1).name]


def test_a_folder_of_other_files_stays_as_it_was(tmp_path):
    for name in ("notes.txt", "mine.unfinished"):
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        with (
            pytest.raises(ValueError, match="holds other files"),
            ShardDirectory.writing(folder, SETTINGS, [3]),
        ):
            pass
        assert [item.name for item in folder.iterdir()] == [name]
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(ValueError, match=r"out='.*file' is a file"),
        ShardDirectory.writing(tmp_path / "file", SETTINGS, [3]),
    ):
        pass
    with pytest.raises(ValueError, match=r"has no manifest\.json"):
        load_harvest(tmp_path / "file")


def test_going_on_with_other_lengths_is_refused(path):
    shard(path, 1).unlink()
    edit(path, set_item("shards", 1, "n_tokens", 5))
    with pytest.raises(ValueError, match="has other numbers of tokens than the shards"):
        ShardDirectory.create(path, SETTINGS, list(LENGTHS))


@pytest.mark.parametrize("left", ["harvest.lock", f"manifest-{'0' * 16}.unfinished"])
def test_finished_is_what_no_writer_has_to_tidy_up(path, left):
    assert ShardDirectory.finished(path, SETTINGS) is not None
    (path / left).write_text("")
    assert ShardDirectory.finished(path, SETTINGS) is None
    with ShardDirectory.writing(path, SETTINGS, list(LENGTHS)) as directory:
        assert not directory.missing()
    assert ShardDirectory.finished(path, SETTINGS) is not None
    with pytest.raises(ValueError, match="other settings"):
        ShardDirectory.finished(path, SETTINGS | {"batch_size": 3})
    shard(path).unlink()
    assert ShardDirectory.finished(path, SETTINGS) is None


@pytest.mark.skipif(sys.platform == "win32", reason="folders are not synced")
@pytest.mark.parametrize(("code", "is_fatal"), [("EINVAL", False), ("EIO", True)])
def test_file_systems_that_cannot_sync_folders(tmp_path, monkeypatch, code, is_fatal):
    sync = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(getattr(errno, code), "no")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "acts").mkdir()
    if is_fatal:
        with pytest.raises(OSError, match="0 of 2 shards are finished"):
            write_directory(tmp_path / "acts", ARRAY, LENGTHS)
    else:
        write_directory(tmp_path / "acts", ARRAY, LENGTHS)
        assert_array_equal(load_harvest(tmp_path / "acts").activations, ARRAY)
