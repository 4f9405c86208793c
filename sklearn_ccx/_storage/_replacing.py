"""Write a file so that its name always stands for a complete one."""

import errno
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_SUFFIX = ".unfinished"

# File names end at 255 bytes, of which a character takes up to four.
_MAX_NAME = 40


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` when the block ends.

    It is written beside ``path`` under another name, flushed to the disk and then
    renamed: a kill, a full disk or an error in the block leaves what was there before.
    What an earlier process left behind when it was killed is removed. The file's mode
    follows the umask.

    Parameters
    ----------
    path : Path
        The file to make or to replace. Its directory must exist.

    Raises
    ------
    ValueError
        If `path` is a directory or a device.
    OSError
        If the file cannot be written; it names `path`.
    """
    _check_is_file(path)
    try:
        _remove_abandoned(path)
        unfinished, file = _begin(path)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if sys.platform != "win32":
                    os.replace(unfinished, path)  # while it is locked
            if sys.platform == "win32":  # open files cannot be renamed there
                os.replace(unfinished, path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(
            error.errno,
            f"{error.strerror or error}; what was there before is unchanged",
            str(path),
        ) from error
    sync_directory(path.parent)


def _check_is_file(path: Path) -> None:
    """Raise if a file of this name would take the place of something else."""
    if path.is_dir():
        raise ValueError(
            f"path={str(path)!r} is a directory; name a file, which may be in it."
        )
    if path.exists() and not path.is_file():
        raise ValueError(f"path={str(path)!r} is no file but a device; name a file.")


def _begin(path: Path) -> tuple[Path, BinaryIO]:
    """An empty file under a name of its own, locked until it is closed."""
    while True:
        unfinished = path.with_name(f"{_prefix(path)}{secrets.token_hex(8)}{_SUFFIX}")
        file = unfinished.open("xb")
        _lock(file, wait=True)
        # Before it was locked, it looked as if it were abandoned.
        if sys.platform == "win32" or os.fstat(file.fileno()).st_nlink:
            return unfinished, file
        file.close()


def _remove_abandoned(path: Path) -> None:
    """Remove what was written for ``path`` by processes that are no more."""
    with os.scandir(path.parent) as entries:
        found = [
            entry.path
            for entry in entries
            if entry.name.startswith(_prefix(path)) and entry.name.endswith(_SUFFIX)
        ]
    for name in found:
        with suppress(OSError), open(name, "rb") as file:
            if _lock(file, wait=False):
                os.unlink(name)


def _prefix(path: Path) -> str:
    return f".{path.name[:_MAX_NAME]}."


if sys.platform == "win32":

    def _lock(file: BinaryIO, *, wait: bool) -> bool:
        """True: there, open files cannot be removed."""
        return True

else:
    import fcntl

    def _lock(file: BinaryIO, *, wait: bool) -> bool:
        """Lock a file; False if another process has, or files cannot be locked."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            return False
        return True


def sync_directory(directory: Path) -> None:
    """Put the names in a directory on the disk, where the file system can."""
    if sys.platform == "win32":  # where directories cannot be opened
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
