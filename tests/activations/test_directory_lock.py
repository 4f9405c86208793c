"""One holder at a time, in threads and in processes, however they end."""

import errno
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from pathlib import Path

import pytest

from sklearn_ccx.activations import _directory_lock
from sklearn_ccx.activations._directory_lock import LOCK_NAME, locked

# Without the package, which takes seconds to import.
_PROGRAM = """
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("lock", sys.argv[1])
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
folder, log = Path(sys.argv[2]), Path(sys.argv[3])

def note(word):
    with log.open("a") as file:
        file.write(word + "\\n")

for _ in range(int(sys.argv[4])):
    with lock.locked(folder, lambda: None):
        note("in")
        time.sleep(float(sys.argv[5]))
        note("out")
"""


def start(folder, log, n_times, seconds):
    arguments = [_directory_lock.__file__, folder, log, n_times, seconds]
    return subprocess.Popen([sys.executable, "-c", _PROGRAM, *map(str, arguments)])


def wait_for(path, seconds=30.0):
    end = time.monotonic() + seconds
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "acts").mkdir()
    return tmp_path / "acts"


def test_threads_hold_it_one_at_a_time(folder):
    inside, most, times = 0, 0, 0

    def hold():
        nonlocal inside, most, times
        for _ in range(20):
            with locked(folder, lambda: None):
                inside += 1
                most, times = max(most, inside), times + 1
                time.sleep(0.0005)
                inside -= 1

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, times) == (1, 80)
    assert not list(folder.iterdir())


def test_processes_hold_it_one_at_a_time(folder, tmp_path):
    processes = [start(folder, tmp_path / "log", 25, 0.001) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    words = (tmp_path / "log").read_text().split()
    assert words == ["in", "out"] * 75
    assert not list(folder.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_holder_frees_it(folder, tmp_path):
    process = start(folder, tmp_path / "log", 1, 600)
    wait_for(tmp_path / "log")
    asked = []

    def kill():
        asked.append((folder / LOCK_NAME).read_text())
        process.send_signal(signal.SIGKILL)
        process.wait()

    with locked(folder, kill):
        assert asked == [
            f"process {process.pid} on {_directory_lock.socket.gethostname()}"
        ]
    assert not list(folder.iterdir())


def test_a_file_that_was_left_locks_nothing(folder):
    (folder / LOCK_NAME).write_text("process 1 on nowhere")
    with locked(folder, lambda: pytest.fail("waited")):
        pass
    assert not list(folder.iterdir())


def test_an_error_frees_it_and_one_while_waiting_ends_the_waiting(folder):
    def stop():
        raise ValueError("other settings")

    n_open = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else None
    with locked(folder, stop):
        with pytest.raises(ValueError, match="other settings"), locked(folder, stop):
            pass
        # It is still held.
        with pytest.raises(ValueError, match="other settings"), locked(folder, stop):
            pass
    with pytest.raises(RuntimeError, match="fails"), locked(folder, stop):
        raise RuntimeError("fails")
    with locked(folder, stop):
        pass
    if n_open is not None:
        assert len(os.listdir("/proc/self/fd")) == n_open


def test_who_waits_long_is_told_for_whom(folder, monkeypatch):
    monkeypatch.setattr(_directory_lock, "_PATIENCE", 0.02)
    held, enough = threading.Event(), threading.Event()

    def hold():
        with locked(folder, lambda: None):
            held.set()
            enough.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    n_asked = 0

    def ask():
        nonlocal n_asked
        n_asked += 1
        if n_asked > 5:
            enough.set()

    message = rf"Waiting for another harvest \(process {os.getpid()} on .*\) to finish"
    with pytest.warns(UserWarning, match=message) as caught, locked(folder, ask):
        pass
    thread.join()
    assert len(caught) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="of Unix")
def test_a_file_system_without_locks(folder, monkeypatch):
    def flock(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_directory_lock.fcntl, "flock", flock)
    with (
        pytest.warns(UserWarning, match=r"has no locks \(No locks available\); see to"),
        locked(folder, lambda: None),
    ):
        pass
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_written_to(tmp_path):
    with (
        pytest.raises(OSError, match=r"cannot be written to: .*holds is as it was"),
        locked(tmp_path / "none", lambda: None),
    ):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="runs there as it is")
def test_the_way_of_windows(folder, monkeypatch):
    """Its module, made of the locks of this system."""
    import fcntl

    def locking(descriptor, mode, n_bytes):
        assert (mode, n_bytes) == (2, 1)
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == 2**30
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    fake = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
    monkeypatch.setitem(sys.modules, "msvcrt", fake)
    spec = importlib.util.spec_from_file_location("lock", _directory_lock.__file__)
    lock = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        spec.loader.exec_module(lock)
        n_asked = 0

        def stop():
            nonlocal n_asked
            n_asked += 1
            raise ValueError("held")

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with lock.locked(folder, stop):
                assert Path(folder / LOCK_NAME).read_text().startswith("process")
                with pytest.raises(ValueError, match="held"), lock.locked(folder, stop):
                    pass
            with lock.locked(folder, stop):
                pass
    assert n_asked == 1
    assert not list(folder.iterdir())
