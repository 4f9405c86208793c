"""Qwen Scope: one ``layer{n}.sae.pt`` for each layer."""

import re

from ._folder import Folder
from ._format import Format
from ._places import Place
from ._weights import DictionaryWeights

_SUFFIX = ".sae.pt"


def _recognises(folder: Folder) -> bool:
    return folder.the_only(_SUFFIX) is not None


def _read(folder: Folder) -> DictionaryWeights:
    name = folder.the_only(_SUFFIX)
    if name is None:
        raise ValueError(f"{folder.label} has no file that ends in {_SUFFIX}.")
    tensors = folder.tensors(name)
    W_enc = tensors.array("W_enc", ("m", None), ("d", None)).T
    d, m = W_enc.shape
    layer = re.search(r"layer(\d+)", name)
    return DictionaryWeights(
        W_enc=W_enc,
        W_dec=tensors.array("W_dec", ("d", d), ("m", m)).T,
        b_enc=tensors.array("b_enc", ("m", m)),
        b_dec=tensors.array("b_dec", ("d", d)),
        activation="topk",
        k=_k(folder.parts),
        place=Place("resid_post", int(layer[1]) if layer else None, name),
    )


def _k(parts: tuple[str, ...]) -> int | None:
    """The number of active features, which the name of the repository tells."""
    for part in reversed(parts):
        match = re.search(r"L0_(\d+)", part)
        if match:
            return int(match[1])
    return None


QWEN_SCOPE = Format("qwen_scope", f"layer0{_SUFFIX}", _recognises, _read)
