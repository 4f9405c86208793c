"""What the manifest of a harvest and the headers of its shards say.

Both are read as what anybody may have edited: whatever they hold, there is one clear
error.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._validation import shown
from ._stored_rows import STORAGE_DTYPES

MANIFEST = "manifest.json"
FORMAT = "sklearn_ccx harvest 1"
TOKEN_FIELDS = ("token_ids", "positions", "sequence_ids")

# Settings that the first directories did not have, with what they stood for.
LATER_SETTINGS: dict[str, Any] = {"drop_positions": 0}

_SAFETENSORS_DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
_BYTES_OF = {"F16": 2, "BF16": 2, "F32": 4, "I64": 8}

# The entry of a shard's metadata.
_METADATA = "sklearn_ccx"

# Larger than any header written here.
_MAX_HEADER_BYTES = 2**24


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check the manifest at a path.

    Raises
    ------
    ValueError
        If there is none, it cannot be read, or it is not one of a harvest.
    """
    try:
        manifest = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{str(path.parent)!r} is not a directory written by harvest: it has no "
            f"{path.name}."
        ) from None
    except IsADirectoryError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # not JSON, or not even text
        raise ValueError(f"{path} is damaged: {error}.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        given = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise ValueError(
            f"{path} has the format {shown(given)}; this version reads {FORMAT!r}."
        )
    problem = _problem_of_settings(manifest.get("settings"))
    if problem is None:
        problem = _problem_of_shards(manifest.get("shards"))
    if problem is not None:
        raise ValueError(
            f"{path} is damaged: {problem}. Restore it, or harvest into another "
            "directory."
        )
    return manifest


def _problem_of_settings(settings: Any) -> str | None:
    if not isinstance(settings, dict):
        return f"settings must be an object; got {shown(settings)}"
    sites = settings.get("sites")
    named = isinstance(sites, list) and all(isinstance(x, str) and x for x in sites)
    if not named or not sites or len(set(sites)) < len(sites):
        return f"settings.sites must list names of sites; got {shown(sites)}"
    if not _is_count(settings.get("width"), minimum=1):
        return (
            "settings.width must be a positive integer; got "
            f"{shown(settings.get('width'))}"
        )
    dtype = settings.get("dtype")
    if not isinstance(dtype, str) or dtype not in STORAGE_DTYPES:
        return (
            f"settings.dtype must be one of {sorted(STORAGE_DTYPES)}; got "
            f"{shown(dtype)}"
        )
    return None


def _problem_of_shards(shards: Any) -> str | None:
    if not isinstance(shards, list) or not shards:
        return f"shards must list the shards; got {shown(shards)}"
    for number, shard in enumerate(shards):
        if not isinstance(shard, dict):
            return f"shards[{number}] must be an object; got {shown(shard)}"
        for name in ("n_tokens", "n_bytes"):
            if not _is_count(shard.get(name)):
                return (
                    f"shards[{number}].{name} must be an integer from 0; got "
                    f"{shown(shard.get(name))}"
                )
        checksum = shard.get("sha256", "")
        if checksum is not None and not (
            isinstance(checksum, str) and re.fullmatch("[0-9a-f]{64}", checksum)
        ):
            return (
                f"shards[{number}].sha256 must be null or 64 hexadecimal digits; got "
                f"{shown(checksum)}"
            )
    return None


def _is_count(value: Any, minimum: int = 0) -> bool:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return is_int and value >= minimum


def metadata_of(manifest: dict[str, Any], number: int) -> dict[str, str]:
    """What a shard says of itself, in the way of safetensors.

    It is one entry, since safetensors gives several in an order that changes.
    """
    content = {
        "settings": manifest["settings"],
        "shard": number,
        "n_shards": len(manifest["shards"]),
    }
    return {_METADATA: json.dumps(content, sort_keys=True, default=int)}


@dataclass(frozen=True)
class ShardHeader:
    """The header of a shard.

    Attributes
    ----------
    offset : int
        Bytes before the activations.
    problem : str or None
        What does not agree with the manifest.
    """

    offset: int
    problem: str | None


def read_header(path: Path, manifest: dict[str, Any], number: int) -> ShardHeader:
    """Read the header of a shard and compare it with the manifest.

    A safetensors file begins with the length of its header, 8 bytes, and the header in
    JSON, which counts offsets from its own end.
    """
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        n_data = path.stat().st_size - 8 - n_header
        if n_data < 0 or n_header > _MAX_HEADER_BYTES:
            return ShardHeader(0, "is not in the safetensors format")
        try:
            header = json.loads(file.read(n_header))
        except (ValueError, RecursionError):
            return ShardHeader(0, "is not in the safetensors format")
    if not isinstance(header, dict):
        return ShardHeader(0, "is not in the safetensors format")
    settings = manifest["settings"]
    n_tokens = manifest["shards"][number]["n_tokens"]
    expected = {name: ("I64", [n_tokens]) for name in TOKEN_FIELDS}
    row_shape = [len(settings["sites"]), settings["width"]]
    dtype = _SAFETENSORS_DTYPES[settings["dtype"]]
    expected["activations"] = dtype, [n_tokens, *row_shape]
    for name, (dtype, shape) in expected.items():
        problem = _problem_of_tensor(header.get(name), dtype, shape, n_data)
        if problem is not None:
            return ShardHeader(0, f"has {name} {problem}")
    problem = _problem_of_metadata(header.get("__metadata__"), manifest, number)
    return ShardHeader(8 + n_header + header["activations"]["data_offsets"][0], problem)


def _problem_of_tensor(
    entry: Any, dtype: str, shape: list[int], n_data: int
) -> str | None:
    found = entry if isinstance(entry, dict) else {}
    if found.get("dtype") != dtype or found.get("shape") != shape:
        return (
            f"of dtype {shown(found.get('dtype'))} and shape "
            f"{shown(found.get('shape'))}, but the manifest says {dtype!r} and {shape}"
        )
    offsets = found.get("data_offsets")
    n_bytes = math.prod(shape) * _BYTES_OF[dtype]
    if (
        not (isinstance(offsets, list) and len(offsets) == 2)
        or not all(_is_count(offset) for offset in offsets)
        or offsets[1] - offsets[0] != n_bytes
        or offsets[1] > n_data
    ):
        return f"at {shown(offsets)}, which is not where {n_bytes} bytes can be"
    return None


def _problem_of_metadata(
    metadata: Any, manifest: dict[str, Any], number: int
) -> str | None:
    """Earlier versions wrote none, which agrees with everything."""
    if not isinstance(metadata, dict) or _METADATA not in metadata:
        return None
    try:
        written = json.loads(metadata[_METADATA])
        shard, n_shards = written["shard"], written["n_shards"]
        settings = dict(written["settings"])
    except (TypeError, ValueError, KeyError, RecursionError):
        return "has metadata that cannot be read"
    if (shard, n_shards) != (number, len(manifest["shards"])):
        return (
            f"was written as shard {shown(shard)} of {shown(n_shards)}, but the "
            f"manifest has it as shard {number} of {len(manifest['shards'])}"
        )
    differences = differing_settings(settings, manifest["settings"])
    if differences:
        name, (there, here) = next(iter(differences.items()))
        return (
            f"was written with {name}={shown(there)}, but the manifest says "
            f"{shown(here)}"
        )
    return None


def differing_settings(
    first: dict[str, Any], second: dict[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Settings that two harvests do not share, with both values."""
    first, second = LATER_SETTINGS | first, LATER_SETTINGS | second
    names = dict.fromkeys([*first, *second])
    return {
        name: (first.get(name), second.get(name))
        for name in names
        if first.get(name) != second.get(name)
    }
