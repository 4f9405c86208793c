"""Files that are replaced as a whole."""

import errno
import os
import stat
import sys
import threading

import pytest

from sklearn_ccx._storage import _replacing, replacing


def write(path, data):
    with replacing(path) as file:
        file.write(data)


def test_a_file_is_made_and_replaced(tmp_path):
    path = tmp_path / "file"
    for data in (b"one", b"second"):
        write(path, data)
        assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "file"
    write(path, b"old")

    def write_half():
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "file"
    write(path, b"old")
    with (
        pytest.raises(OSError, match=r"No space left.*is unchanged.*file") as caught,
        replacing(path),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_directories(tmp_path):
    with pytest.raises(ValueError, match=r"path=.* is a directory; name a file"):
        write(tmp_path, b"")
    with pytest.raises(FileNotFoundError, match=r"unchanged.*missing"):
        write(tmp_path / "missing" / "file", b"")


@pytest.mark.skipif(sys.platform == "win32", reason="has no such files")
def test_devices_stay_what_they_are(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"path=.*pipe.* is no file but a device"):
        write(tmp_path / "pipe", b"")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(sys.platform == "win32", reason="has no directories to flush")
@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_cannot_flush_directories(tmp_path, monkeypatch, code):
    real_sync = os.fsync

    def sync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        real_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    if code == errno.EINVAL:
        write(tmp_path / "file", b"new")
    else:
        with pytest.raises(OSError, match="Input/output error"):
            write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.skipif(sys.platform == "win32", reason="has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_modes_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_the_disk_has_the_bytes_before_the_name_and_the_name_before_the_end(
    tmp_path, monkeypatch
):
    path, calls = tmp_path / "file", []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor):
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        size = os.fstat(descriptor).st_size if is_file else None
        calls.append(("sync", size))
        real_sync(descriptor)

    def replace(source, target):
        calls.append(("replace", os.path.basename(target)))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    write(path, b"12345")
    assert calls == [("sync", 5), ("replace", "file"), ("sync", None)]


@pytest.mark.skipif(sys.platform == "win32", reason="has no locks that end")
def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not(tmp_path):
    path = tmp_path / "a [1]*"
    write(path, b"old")
    with replacing(path):
        (unfinished,) = set(os.listdir(tmp_path)) - {path.name}
    # The lock of a process ends with it; the name is what stays.
    (tmp_path / unfinished).write_bytes(b"half")
    with replacing(path) as first:
        first.write(b"first")
        assert unfinished not in os.listdir(tmp_path)
        write(path, b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="has no locks that end")
def test_what_was_taken_for_abandoned_before_it_was_locked_is_begun_anew(
    tmp_path, monkeypatch
):
    real_lock, begun = _replacing._lock, []

    def lock(file, *, wait):
        if wait and not begun:
            os.unlink(file.name)
        begun.append(file.name)
        return real_lock(file, wait=wait)

    monkeypatch.setattr(_replacing, "_lock", lock)
    write(tmp_path / "file", b"data")
    assert len(set(begun)) == 2
    assert (tmp_path / "file").read_bytes() == b"data"
    assert os.listdir(tmp_path) == ["file"]


def test_two_at_once_do_not_meet(tmp_path):
    path = tmp_path / ("n" * 250)
    contents = [bytes([number]) * 10_000 for number in range(4)]
    errors = []

    def work(data):
        try:
            for _ in range(30):
                write(path, data)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert path.read_bytes() in contents
    for thread in threads:
        thread.join()
    assert not errors
    assert os.listdir(tmp_path) == [path.name]
