"""Formats that are known and not read, so that the error says why."""

from ._folder import Folder
from ._format import TRANSCODER, Format, refusal
from ._weights import DictionaryWeights


def _recognises_crosscode(folder: Folder) -> bool:
    return folder.has("model_cfg.yaml")


def _refuse_crosscode(folder: Folder) -> DictionaryWeights:
    raise refusal(
        folder.label,
        "it is a crosscoder of crosscode, whose activation is in a configuration that "
        "is not read. Pass its arrays to InteractionCrosscoder.from_weights, with "
        "the activation that it was trained with",
    )


def _recognises_circuit_tracer(folder: Folder) -> bool:
    return folder.has("config.yaml") and any(
        name.startswith("layer_") and name.endswith(".safetensors")
        for name in folder.names()
    )


def _refuse_circuit_tracer(folder: Folder) -> DictionaryWeights:
    raise refusal(folder.label, f"it is of circuit-tracer: {TRANSCODER}")


CROSSCODE = Format(
    "crosscode", "model_cfg.yaml and model.pt", _recognises_crosscode, _refuse_crosscode
)
CIRCUIT_TRACER = Format(
    "circuit_tracer",
    "config.yaml and layer_0.safetensors",
    _recognises_circuit_tracer,
    _refuse_circuit_tracer,
)
