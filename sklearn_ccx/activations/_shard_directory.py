"""The directory that a harvest is written to.

It holds a manifest in JSON and shards in the safetensors format, each with the tensors
"activations" (n, L, d), "token_ids", "positions" and "sequence_ids" (n,). The manifest
says what the shards were made from, how many there are, and of each one that is
finished the size and the SHA-256 checksum. Each shard says in its metadata what the
manifest says of its making. One harvest at a time writes, and a file that has its name
is whole.
"""

import errno
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .._storage import sync_directory
from ._directory_lock import LOCK_NAME, locked
from ._durable_files import (
    is_unfinished,
    remove_unfinished,
    written_whole,
)
from ._manifest import (
    FORMAT,
    MANIFEST,
    TOKEN_FIELDS,
    differing_settings,
    metadata_of,
    read_header,
    read_manifest,
)
from ._sharded import ShardedActivations
from ._stored_rows import ShardFile


class ShardDirectory:
    """Shards of a harvest and the manifest that describes them.

    Made by :meth:`writing`, :meth:`create` or :meth:`open`.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self._manifest = manifest

    @classmethod
    @contextmanager
    def writing(
        cls, path: Path, settings: Mapping[str, Any], shard_lengths: list[int]
    ) -> Iterator[Self]:
        """Begin or go on with a directory, to which nobody else writes meanwhile.

        Raises
        ------
        ValueError
            As :meth:`create` does.
        """
        _check_folder(path)
        _make_folder(path)

        def check_settings() -> None:
            if (path / MANIFEST).exists():
                cls.open(path)._check_settings(settings)

        with locked(path, check_settings):
            directory = cls.create(path, settings, shard_lengths)
            remove_unfinished(path)
            yield directory

    @classmethod
    def create(
        cls, path: Path, settings: Mapping[str, Any], shard_lengths: list[int]
    ) -> Self:
        """Begin a directory, or go on with one that has the same settings.

        Raises
        ------
        ValueError
            If the directory was made with other settings, or holds other files.
        """
        _check_folder(path)
        if (path / MANIFEST).exists():
            directory = cls.open(path)
            directory._check_settings(settings)
            directory._check_lengths(shard_lengths)
            return directory
        _make_folder(path)
        shards = [{"n_tokens": n, "n_bytes": 0, "sha256": None} for n in shard_lengths]
        manifest = {"format": FORMAT, "settings": dict(settings), "shards": shards}
        directory = cls(path, manifest)
        with directory._says_what_is_kept(MANIFEST):
            directory._write_manifest(manifest)
        return directory

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the manifest of a directory.

        Raises
        ------
        ValueError
            If there is none, or it is not one of a harvest.
        """
        return cls(path, read_manifest(path / MANIFEST))

    @classmethod
    def finished(cls, path: Path, settings: Mapping[str, Any]) -> Self | None:
        """The directory if it holds all shards, and nothing that a writer removes.

        Raises
        ------
        ValueError
            If the directory was made with other settings.
        """
        if not (path / MANIFEST).exists():
            return None
        directory = cls.open(path)
        directory._check_settings(settings)
        is_tidy = not any(map(_is_of_writer, path.iterdir()))
        return directory if is_tidy and not directory.missing() else None

    @property
    def settings(self) -> dict[str, Any]:
        """What the shards were made from."""
        return self._manifest["settings"]

    @property
    def _shards(self) -> list[dict[str, Any]]:
        return self._manifest["shards"]

    def __len__(self) -> int:
        return len(self._shards)

    def shard_path(self, number: int) -> Path:
        """Where a shard is or will be."""
        return self.path / f"shard-{number:05d}.safetensors"

    def missing(self) -> list[int]:
        """Numbers of the shards that are still to be written."""
        return [
            number
            for number, shard in enumerate(self._shards)
            if shard["sha256"] is None or not self.shard_path(number).exists()
        ]

    def write(self, number: int, tensors: dict[str, Tensor]) -> None:
        """Write a shard and then note it in the manifest.

        Raises
        ------
        OSError
            If it cannot be written, saying what is kept.
        """
        path = self.shard_path(number)
        with self._says_what_is_kept(path.name):
            with written_whole(path) as unfinished:
                save_file(tensors, unfinished, metadata_of(self._manifest, number))
                found = {
                    "n_bytes": unfinished.stat().st_size,
                    "sha256": _sha256(unfinished),
                }
            shards = list(self._shards)
            shards[number] = shards[number] | found
            self._write_manifest(self._manifest | {"shards": shards})

    def verify(self, *, checksums: Collection[int] | None = None) -> None:
        """Check the finished shards against the manifest.

        Parameters
        ----------
        checksums : collection of int or None
            The shards that are read to compare their checksums; None is all.

        Raises
        ------
        ValueError
            If a shard is not what was written, or not what the manifest says, naming
            it.
        """
        self._check_names()
        missing = set(self.missing())
        for number, shard in enumerate(self._shards):
            if number in missing:
                continue
            path = self.shard_path(number)
            n_bytes = path.stat().st_size
            if n_bytes != shard["n_bytes"]:
                problem = f"has {n_bytes} bytes instead of {shard['n_bytes']}"
            elif checksums is not None and number not in checksums:
                continue
            elif _sha256(path) != shard["sha256"]:
                problem = "does not have the checksum it was written with"
            else:
                continue
            raise ValueError(
                f"The shard {path} {problem}; delete it and call harvest again with "
                "the same arguments, which writes it anew."
            )
        for number in set(range(len(self))) - missing:
            self._offset(number)

    def activations(self) -> ShardedActivations:
        """All activations, without reading them."""
        # Wherever they are pickled to, the files are where they are.
        files = [
            ShardFile(
                self.shard_path(number).absolute(),
                self._offset(number),
                shard["n_tokens"],
            )
            for number, shard in enumerate(self._shards)
        ]
        settings = self.settings
        row_shape = (len(settings["sites"]), settings["width"])
        return ShardedActivations(files, row_shape, settings["dtype"])

    def token_arrays(self) -> dict[str, npt.NDArray[np.int64]]:
        """Token ids, positions and sequence numbers of all rows."""
        parts: dict[str, list[npt.NDArray[np.int64]]] = {}
        for number in range(len(self)):
            with safe_open(self.shard_path(number), framework="numpy") as shard:
                for name in TOKEN_FIELDS:
                    parts.setdefault(name, []).append(shard.get_tensor(name))
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def _offset(self, number: int) -> int:
        """Bytes before the activations of a shard, whose header is as it should be."""
        path = self.shard_path(number)
        header = read_header(path, self._manifest, number)
        if header.problem is not None:
            raise ValueError(
                f"The shard {path} {header.problem}. One of the two was changed: "
                "restore it, or harvest into another directory."
            )
        return header.offset

    def _check_names(self) -> None:
        known = {self.shard_path(number).name for number in range(len(self))}
        there = {path.name for path in self.path.glob("shard-*.safetensors")}
        if there - known:
            raise ValueError(
                f"{self.path / sorted(there - known)[0]} is not in the manifest, which "
                f"has {len(self)} shards. One of the two was changed: restore it, or "
                "harvest into another directory."
            )

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        differences = differing_settings(self.settings, dict(settings))
        texts = [
            f"{name} ({there!r} there, {here!r} here)"
            for name, (there, here) in differences.items()
            if name in settings
        ]
        if texts:
            raise ValueError(
                f"out={str(self.path)!r} was written with other settings: "
                f"{'; '.join(texts)}. Name another directory or repeat the call "
                "that began it."
            )

    def _check_lengths(self, shard_lengths: list[int]) -> None:
        if [shard["n_tokens"] for shard in self._shards] != shard_lengths:
            raise ValueError(
                f"{self.path / MANIFEST} has other numbers of tokens than the shards "
                "of these inputs, and was changed: restore it, or name another "
                "directory."
            )

    @contextmanager
    def _says_what_is_kept(self, name: str) -> Iterator[None]:
        """Say in errors of the system what they leave."""
        try:
            yield
        except SafetensorError as error:
            found = re.search(r"os error (\d+)", str(error))
            code, reason = int(found[1]) if found else errno.EIO, str(error)
            cause: Exception = error
        except OSError as error:
            code, reason = error.errno or errno.EIO, error.strerror or str(error)
            cause = error
        else:
            return
        n_kept = len(self) - len(self.missing())
        raise OSError(
            code,
            f"{name} could not be written to {str(self.path)!r}: {reason}. "
            f"{n_kept} of {len(self)} shards are finished and are kept; when there is "
            "room for the others, the same call goes on with them",
        ) from cause

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        text = json.dumps(manifest, indent=1, default=int)  # numpy's integers
        with written_whole(self.path / MANIFEST) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
        self._manifest = manifest


def _check_folder(path: Path) -> None:
    """Raise if there is something else at a path."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"out={str(path)!r} is a file; name a new or empty directory.")
    if not path.exists() or (path / MANIFEST).exists():
        return
    others = [item for item in path.iterdir() if not _is_of_writer(item)]
    # Another harvest may have begun it in between.
    if others and not (path / MANIFEST).exists():
        raise ValueError(
            f"out={str(path)!r} holds other files; name a new or empty directory."
        )


def _is_of_writer(path: Path) -> bool:
    """Whether it is there while a harvest writes only, or was left by one."""
    return path.name == LOCK_NAME or is_unfinished(path)


def _make_folder(path: Path) -> None:
    """Make a folder and those above it, and put their names on disk."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
        sync_directory(folder.parent)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
