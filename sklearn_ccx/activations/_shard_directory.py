"""The directory that a harvest is written to.

It holds a manifest in JSON and shards in the safetensors format, each with the tensors
"activations" (n, L, d), "token_ids", "positions" and "sequence_ids" (n,). The manifest
says what the shards were made from, how many there are, and of each one that is
finished the size and the SHA-256 checksum. Files are written under another name and
then renamed, so that one which has its name is whole.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ._sharded import ShardedActivations, ShardFile

_MANIFEST = "manifest.json"
_FORMAT = "sklearn_ccx harvest 1"

# Settings that the first directories did not have, with what they stood for.
_LATER_SETTINGS: dict[str, Any] = {"drop_positions": 0}


class ShardDirectory:
    """Shards of a harvest and the manifest that describes them.

    Made by :meth:`create` or :meth:`open`.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self._manifest = manifest

    @classmethod
    def create(
        cls, path: Path, settings: Mapping[str, Any], shard_lengths: list[int]
    ) -> "ShardDirectory":
        """Begin a directory, or go on with one that has the same settings.

        Raises
        ------
        ValueError
            If the directory was made with other settings, or holds other files.
        """
        if (path / _MANIFEST).exists():
            directory = cls.open(path)
            directory._check_settings(settings)
            return directory
        if path.exists() and set(path.iterdir()) - {_unfinished(path / _MANIFEST)}:
            raise ValueError(
                f"out={str(path)!r} holds other files; name a new or empty directory."
            )
        path.mkdir(parents=True, exist_ok=True)
        shards = [{"n_tokens": n, "n_bytes": 0, "sha256": None} for n in shard_lengths]
        manifest = {"format": _FORMAT, "settings": dict(settings), "shards": shards}
        directory = cls(path, manifest)
        directory._write_manifest()
        return directory

    @classmethod
    def open(cls, path: Path) -> "ShardDirectory":
        """Read the manifest of a directory.

        Raises
        ------
        ValueError
            If there is none, or it is not one of a harvest.
        """
        try:
            manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(
                f"{str(path)!r} is not a directory written by harvest: it has no "
                f"{_MANIFEST}."
            ) from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{path / _MANIFEST} is damaged: {error}.") from error
        if manifest.get("format") != _FORMAT:
            raise ValueError(
                f"{path / _MANIFEST} has the format {manifest.get('format')!r}; this "
                f"version reads {_FORMAT!r}."
            )
        return cls(path, manifest)

    @property
    def settings(self) -> dict[str, Any]:
        """What the shards were made from."""
        return self._manifest["settings"]

    def shard_path(self, number: int) -> Path:
        """Where a shard is or will be."""
        return self.path / f"shard-{number:05d}.safetensors"

    def missing(self) -> list[int]:
        """Numbers of the shards that are still to be written."""
        return [
            number
            for number, shard in enumerate(self._manifest["shards"])
            if shard["sha256"] is None or not self.shard_path(number).exists()
        ]

    def write(self, number: int, tensors: dict[str, Tensor]) -> None:
        """Write a shard and then note it in the manifest."""
        path = self.shard_path(number)
        unfinished = _unfinished(path)
        save_file(tensors, unfinished)
        shard = self._manifest["shards"][number]
        shard["n_bytes"] = unfinished.stat().st_size
        shard["sha256"] = _sha256(unfinished)
        os.replace(unfinished, path)
        self._write_manifest()

    def verify(self, *, checksums: bool) -> None:
        """Check the finished shards against the manifest.

        Raises
        ------
        ValueError
            If a shard is not what was written, naming it.
        """
        missing = set(self.missing())
        for number, shard in enumerate(self._manifest["shards"]):
            if number in missing:
                continue
            path = self.shard_path(number)
            n_bytes = path.stat().st_size
            if n_bytes != shard["n_bytes"]:
                problem = f"has {n_bytes} bytes instead of {shard['n_bytes']}"
            elif checksums and _sha256(path) != shard["sha256"]:
                problem = "does not have the checksum it was written with"
            else:
                continue
            raise ValueError(
                f"The shard {path} {problem}; delete it and call harvest again with "
                "the same arguments, which writes it anew."
            )

    def activations(self) -> ShardedActivations:
        """All activations, without reading them."""
        files = []
        for number, shard in enumerate(self._manifest["shards"]):
            path = self.shard_path(number)
            files.append(ShardFile(path, _data_offset(path), shard["n_tokens"]))
        settings = self.settings
        row_shape = (len(settings["sites"]), settings["width"])
        return ShardedActivations(files, row_shape, settings["dtype"])

    def token_arrays(self) -> dict[str, npt.NDArray[np.int64]]:
        """Token ids, positions and sequence numbers of all rows."""
        parts: dict[str, list[npt.NDArray[np.int64]]] = {}
        for number in range(len(self._manifest["shards"])):
            with safe_open(self.shard_path(number), framework="numpy") as shard:
                for name in ("token_ids", "positions", "sequence_ids"):
                    parts.setdefault(name, []).append(shard.get_tensor(name))
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        written = _LATER_SETTINGS | self.settings
        differences = [
            f"{name} ({written.get(name)!r} there, {value!r} here)"
            for name, value in settings.items()
            if written.get(name) != value
        ]
        if differences:
            raise ValueError(
                f"out={str(self.path)!r} was written with other settings: "
                f"{'; '.join(differences)}. Name another directory or repeat the call "
                "that began it."
            )

    def _write_manifest(self) -> None:
        path = self.path / _MANIFEST
        unfinished = _unfinished(path)
        text = json.dumps(self._manifest, indent=1, default=int)  # numpy's integers
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)


def _unfinished(path: Path) -> Path:
    """What a file is called while it is written."""
    return path.with_suffix(".unfinished")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _data_offset(path: Path) -> int:
    """Bytes before the activations in a safetensors file.

    The file begins with the length of its header, 8 bytes, and the header in JSON,
    which counts offsets from its own end.
    """
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(n_header))
    return 8 + n_header + header["activations"]["data_offsets"][0]
