"""Llama Scope: ``hyperparams.json`` and ``checkpoints/final.safetensors``."""

import math
import re

from ._config import Config
from ._folder import Folder
from ._format import TRANSCODER, Format, refusal
from ._llamascopium import read_openmoss
from ._places import Place, place_of
from ._weights import DictionaryWeights

_CONFIG, _WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
_DISTILL_CONFIG, _DISTILL_WEIGHTS = "config.json", "sae_weights.safetensors"

_REPOSITORY = re.compile(r"Llama3_1-8B-(?P<kind>Base|Instruct)")
_MODELS = {
    "Base": "meta-llama/Llama-3.1-8B",
    "Instruct": "meta-llama/Llama-3.1-8B-Instruct",
}


def _recognises(folder: Folder) -> bool:
    if folder.has(_CONFIG):
        return True
    if not (folder.has(_DISTILL_CONFIG) and folder.has(_DISTILL_WEIGHTS)):
        return False
    config = folder.config(_DISTILL_CONFIG)
    return "hook_point_in" in config and "sae_type" not in config


def _read(folder: Folder) -> DictionaryWeights:
    if not folder.has(_CONFIG):
        # The dictionaries of the distilled R1 have the files of the later releases.
        return read_openmoss(folder)
    config = folder.config(_CONFIG)
    place = _place(config)
    d, m = config.integer("d_model"), config.integer("d_sae")
    mean_norm = config.section("dataset_average_activation_norm").number("in")
    if mean_norm <= 0:
        raise ValueError(
            f"{config.label}: the mean norm of the activations must be above 0; got "
            f"{mean_norm}."
        )
    scale = math.sqrt(d) / mean_norm
    tensors = folder.tensors(folder.weights(_WEIGHTS) or _WEIGHTS)
    return DictionaryWeights(
        W_enc=tensors.array("encoder.weight", ("d_sae", m), ("d_model", d)).T,
        W_dec=tensors.array("decoder.weight", ("d_model", d), ("d_sae", m)).T,
        b_enc=tensors.array("encoder.bias", ("d_sae", m)),
        b_dec=tensors.array("decoder.bias", ("d_model", d)),
        activation="jumprelu",
        threshold=config.number("jump_relu_threshold") * scale,
        input_scale=scale,
        place=place,
        model_name=_model_name(folder.parts),
        config=config.as_dict(),
    )


def _place(config: Config) -> Place:
    read, written = config.text("hook_point_in"), config.text("hook_point_out")
    if written is not None and written != read:
        raise refusal(config.label, TRANSCODER)
    return place_of(read)


def _model_name(parts: tuple[str, ...]) -> str | None:
    for part in reversed(parts):
        match = _REPOSITORY.search(part)
        if match:
            return _MODELS[match["kind"]]
    return None


LLAMA_SCOPE = Format(
    "llama_scope",
    f"{_CONFIG} and {_WEIGHTS}, or {_DISTILL_CONFIG} and {_DISTILL_WEIGHTS}",
    _recognises,
    _read,
)
