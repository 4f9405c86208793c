"""Gemma Scope: ``params.npz``; Gemma Scope 2: ``params.safetensors`` with a config."""

import math
import re

from ._config import Config
from ._folder import Folder
from ._format import CROSS_LAYER, TRANSCODER, Format, refusal
from ._places import Place, place_of
from ._weights import DictionaryWeights

_NPZ = "params.npz"
_SAFETENSORS, _CONFIG = "params.safetensors", "config.json"

# The last part of the name of a repository, and what its dictionaries read.
_SITES = {
    "res": "resid_post",
    "mlp": "mlp_out",
    "att": "hook_z",
    "transcoders": "transcoder",
}
_REPOSITORY = re.compile(
    rf"gemma-scope-(?P<size>\d+b)-(?P<kind>pt|it)-(?P<site>{'|'.join(_SITES)})"
)


def _recognises_1(folder: Folder) -> bool:
    return folder.chosen == _NPZ or (folder.chosen is None and folder.has(_NPZ))


def _read_1(folder: Folder) -> DictionaryWeights:
    site, model_name = _repository(folder.parts)
    if site == "transcoder":
        raise refusal(folder.label, TRANSCODER)
    is_embedding = "embedding" in folder.parts
    tensors = folder.tensors(folder.weights(_NPZ) or _NPZ)
    W_enc = tensors.array("W_enc", ("d", None), ("m", None))
    d, m = W_enc.shape
    return DictionaryWeights(
        W_enc=W_enc,
        W_dec=tensors.array("W_dec", ("m", m), ("d", d)),
        b_enc=tensors.array("b_enc", ("m", m)),
        b_dec=tensors.array("b_dec", ("d", d)),
        activation="jumprelu",
        threshold=tensors.array("threshold", ("m", m)),
        # It was trained on embeddings before the model multiplies them.
        input_scale=1 / math.sqrt(d) if is_embedding else None,
        place=_place(folder.parts, site, is_embedding),
        model_name=model_name,
    )


def _repository(parts: tuple[str, ...]) -> tuple[str | None, str | None]:
    """The site and the model that the name of the repository tells."""
    for part in reversed(parts):
        match = _REPOSITORY.search(part)
        if match:
            tuned = "-it" if match["kind"] == "it" else ""
            return _SITES[match["site"]], f"google/gemma-2-{match['size']}{tuned}"
    return None, None


def _place(parts: tuple[str, ...], site: str | None, is_embedding: bool) -> Place:
    if is_embedding:
        return place_of("embedding")
    for part in reversed(parts):
        match = re.fullmatch(r"layer_(\d+)", part)
        if match:
            return Place(site, int(match[1]), part)
    return Place(site)


def _recognises_2(folder: Folder) -> bool:
    if folder.chosen not in (None, _SAFETENSORS):
        return False
    return folder.has(_SAFETENSORS) and folder.has(_CONFIG)


def _read_2(folder: Folder) -> DictionaryWeights:
    config = folder.config(_CONFIG)
    config.option("architecture", ("jump_relu",))
    place = _place_2(config)
    tensors = folder.tensors(_SAFETENSORS)
    if tensors.n_axes("w_dec") == 3:
        raise refusal(folder.label, CROSS_LAYER)
    if config.get("affine_connection") or "affine_skip_connection" in tensors:
        raise refusal(folder.label, TRANSCODER)
    W_enc = tensors.array("w_enc", ("d", None), ("m", None))
    d, m = W_enc.shape
    return DictionaryWeights(
        W_enc=W_enc,
        W_dec=tensors.array("w_dec", ("m", m), ("d", d)),
        b_enc=tensors.array("b_enc", ("m", m)),
        b_dec=tensors.array("b_dec", ("d", d)),
        activation="jumprelu",
        threshold=tensors.array("threshold", ("m", m)),
        place=place,
        model_name=config.text("model_name"),
        config=config.as_dict(),
    )


def _place_2(config: Config) -> Place:
    read, written = (
        config.text("hf_hook_point_in"),
        config.text("hf_hook_point_out"),
    )
    if read is not None and written is not None and read != written:
        raise refusal(config.label, TRANSCODER)
    return place_of(read)


GEMMA_SCOPE = Format("gemma_scope", _NPZ, _recognises_1, _read_1)
GEMMA_SCOPE_2 = Format(
    "gemma_scope_2", f"{_CONFIG} and {_SAFETENSORS}", _recognises_2, _read_2
)
