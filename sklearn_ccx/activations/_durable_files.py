"""Files that are whole or not there, whatever happens to process or machine."""

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .._storage import sync_directory

_UNFINISHED = re.compile(r"(manifest|shard-\d{5,})(-[0-9a-f]{16})?\.unfinished")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path to write to; what was written takes its place once it is on disk.

    The path lies in a folder of its own, with a name that no other writer has, so that
    whatever the writing leaves behind can be found by :func:`remove_unfinished`. The
    mode of the file is that of any new file, as the umask says.
    """
    folder = path.parent / f"{path.stem}-{secrets.token_hex(8)}.unfinished"
    folder.mkdir()
    try:
        unfinished = folder / path.name
        unfinished.touch()
        mode = stat.S_IMODE(unfinished.stat().st_mode)
        yield unfinished
        # A writer may have put another file in its place.
        if stat.S_IMODE(unfinished.stat().st_mode) != mode:
            unfinished.chmod(mode)
        _sync_file(unfinished)
        os.replace(unfinished, path)
        sync_directory(path.parent)
    except Exception:
        # On a full disk its space is needed. A process that is being ended leaves it.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    with suppress(OSError):
        folder.rmdir()


def is_unfinished(path: Path) -> bool:
    """Whether it is what an interrupted writer left."""
    return _UNFINISHED.fullmatch(path.name) is not None


def remove_unfinished(folder: Path) -> None:
    """Remove what interrupted writers left; nobody else may be writing."""
    for path in folder.iterdir():
        if is_unfinished(path):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
