"""One writer of a directory at a time.

The system holds the lock for an open file, and frees it when the process ends, however
it ends. So a file that was left behind locks nothing.
"""

import errno
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_NAME = "harvest.lock"

# Seconds between two attempts, which grow from the first to the last, and after which
# a caller is told what it waits for.
_FIRST_PAUSE, _LAST_PAUSE, _PATIENCE = 0.01, 1.0, 5.0

# What systems say of a file system that has no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextmanager
def locked(folder: Path, while_waiting: Callable[[], object]) -> Iterator[None]:
    """Hold the lock on a folder, and wait for it before.

    Parameters
    ----------
    folder : Path
        Must exist.
    while_waiting : callable
        Called before each pause, to raise if it makes no sense to wait.

    Warns
    -----
    UserWarning
        If it takes long, or the file system has no locks.
    """
    path = folder / LOCK_NAME
    descriptor = _wait_for(path, while_waiting)
    try:
        yield
    finally:
        _free(path, descriptor)


def _wait_for(path: Path, while_waiting: Callable[[], object]) -> int:
    start, pause, told = time.monotonic(), _FIRST_PAUSE, False
    while True:
        descriptor = _opened(path)
        try:
            got = _try_lock(descriptor, path)
            # Its holder removes the file at the end: then another one counts.
            if got and _is_same_file(descriptor, path):
                with suppress(OSError):  # the name is for others' messages only
                    os.truncate(descriptor, 0)
                    os.write(descriptor, _own_name().encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if got:
            continue
        while_waiting()
        if not told and time.monotonic() - start > _PATIENCE:
            told = True
            warnings.warn(
                f"Waiting for another harvest{_name_of_holder(path)} to finish "
                f"{path.parent}.",
                UserWarning,
                stacklevel=4,
            )
        time.sleep(pause)
        pause = min(2 * pause, _LAST_PAUSE)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{str(path.parent)!r} cannot be written to: {error.strerror}. What it "
            "holds is as it was",
        ) from error


def _free(path: Path, descriptor: int) -> None:
    if sys.platform == "win32":  # where an open file cannot be removed
        os.close(descriptor)
        with suppress(OSError):
            path.unlink()
    else:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _try_lock(descriptor: int, path: Path) -> bool:
    """Whether the lock could be had at once."""
    try:
        if sys.platform == "win32":
            # A byte that nobody reads: what is locked cannot be read by others.
            os.lseek(descriptor, 2**30, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            warnings.warn(
                f"The file system of {path.parent} has no locks "
                f"({error.strerror}); see to it that one harvest at a time writes "
                "there.",
                UserWarning,
                stacklevel=5,
            )
            return True
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _own_name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _name_of_holder(path: Path) -> str:
    """Who wrote its name into the lock, in brackets."""
    with suppress(OSError, UnicodeDecodeError):
        name = path.read_text(encoding="utf-8")
        return f" ({name})" if name else ""
    return ""
