"""Sparsify (eai-sparsify): ``cfg.json`` and ``sae.safetensors``."""

import re

from ._folder import Folder
from ._format import TRANSCODER, Format, refusal
from ._places import place_of
from ._weights import DictionaryWeights, without_input_bias

_CONFIG, _WEIGHTS = "cfg.json", "sae.safetensors"

# What `num_latents` of 0 multiplies the width by, if the file has no other.
_EXPANSION = 32


def _recognises(folder: Folder) -> bool:
    return folder.has(_CONFIG) and folder.has(_WEIGHTS)


def _read(folder: Folder) -> DictionaryWeights:
    config = folder.config(_CONFIG)
    if config.flag("transcode", False) or config.flag("skip_connection", False):
        raise refusal(config.label, TRANSCODER)
    if config.flag("signed", False):
        raise refusal(
            config.label,
            "its codes can be negative ('signed'), and those of this package are not",
        )
    config.option("activation", ("topk",), "topk")
    d = config.integer("d_in")
    m = config.get("num_latents") or d * config.integer("expansion_factor", _EXPANSION)
    tensors = folder.tensors(folder.weights(_WEIGHTS) or _WEIGHTS)
    if "W_skip" in tensors:
        raise refusal(tensors.label, TRANSCODER)
    W_enc = tensors.array("encoder.weight", ("num_latents", m), ("d_in", d)).T
    b_dec = tensors.array("b_dec", ("d_in", d))
    b_enc = tensors.array("encoder.bias", ("num_latents", m))
    return DictionaryWeights(
        W_enc=W_enc,
        W_dec=tensors.array("W_dec", ("num_latents", m), ("d_in", d)),
        b_enc=without_input_bias(b_enc, b_dec, W_enc),
        b_dec=b_dec,
        activation="topk",
        k=config.integer("k"),
        place=place_of(_hookpoint(folder.parts)),
        config=config.as_dict(),
    )


def _hookpoint(parts: tuple[str, ...]) -> str | None:
    """The name of the folder, if it is one of a module."""
    name = parts[-1] if parts else ""
    return name if re.search(r"\.\d+(\.|$)|embed", name) else None


SPARSIFY = Format("sparsify", f"{_CONFIG} and {_WEIGHTS}", _recognises, _read)
