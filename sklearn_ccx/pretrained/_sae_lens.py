"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``, of version 6 and before it."""

import math
from typing import Any

import numpy as np

from ._config import Config
from ._folder import Folder
from ._format import TRANSCODER, Format, refusal
from ._places import Place, place_of
from ._tensor_files import FloatArray, TensorFile
from ._weights import DictionaryWeights, with_unit_rows, without_input_bias

_CONFIG, _WEIGHTS = "cfg.json", "sae_weights.safetensors"

_ARCHITECTURES = (
    "standard",
    "topk",
    "jumprelu",
    "gated",
    "batchtopk",
    "matryoshka_batchtopk",
)
_REFUSED = {
    "transcoder": TRANSCODER,
    "skip_transcoder": TRANSCODER,
    "jumprelu_transcoder": TRANSCODER,
    "jumprelu_skip_transcoder": TRANSCODER,
    "matching_pursuit": (
        "matching pursuit has no encoder: it finds the codes of a sample step by step "
        "with the decoder alone"
    ),
    "abstopk": "its codes can be negative, and those of this package are not",
    "temporal": "its codes depend on the tokens before, by attention",
}

# Before version 6, these name the activation of the architecture "standard".
_ACTIVATIONS = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu"}

_NORMALIZATIONS = {
    "none": None,
    "expected_average_only_in": None,
    "covariance_whitening": None,
    "constant_norm_rescale": "constant_norm",
    "layer_norm": "layer_norm",
}
_NOTES = {
    "expected_average_only_in": (
        "Its training multiplied the activations by sqrt(d) / mean norm, a number that "
        "the files do not hold. SAELens folds it into the weights of what it releases; "
        "if these are weights from before that, pass it as input_scale."
    ),
    "covariance_whitening": (
        "Its training whitened the activations with a matrix that the files do not "
        "hold. SAELens folds it into the weights of what it releases; weights from "
        "before that can only be used on whitened activations."
    ),
}


def _recognises(folder: Folder) -> bool:
    return folder.has(_CONFIG) and folder.has(_WEIGHTS)


def _read(folder: Folder) -> DictionaryWeights:
    config = folder.config(_CONFIG)
    architecture = _architecture(config)
    d, m = config.integer("d_in"), config.integer("d_sae", None)
    if config.integer("d_out", d) != d:
        raise refusal(config.label, TRANSCODER)
    normalization = config.option("normalize_activations", _NORMALIZATIONS, "none")
    config.option("reshape_activations", ("none", "hook_z"), "none")
    if config.flag("finetuning_scaling_factor", False):
        raise refusal(
            config.label,
            "its codes are multiplied by factors of a fine-tuning "
            "('finetuning_scaling_factor'), which SAELens itself no longer loads",
        )
    place, model_name = _origin(config)
    tensors = folder.tensors(folder.weights(_WEIGHTS) or _WEIGHTS)
    arrays = _arrays(config, tensors, architecture, d, m)
    note = _NOTES.get(normalization)
    return DictionaryWeights(
        **arrays,
        sample_norm=_NORMALIZATIONS[normalization],
        place=place,
        model_name=model_name,
        config=config.as_dict(),
        notes=() if note is None else (note,),
    )


def _architecture(config: Config) -> str:
    architecture = config.option(
        "architecture", (*_ARCHITECTURES, *_REFUSED), "standard"
    )
    if architecture in _REFUSED:
        raise refusal(config.label, _REFUSED[architecture])
    if architecture == "standard":
        for key in ("activation_fn", "activation_fn_str"):
            name = config.option(key, _ACTIVATIONS, "relu")
            if name != "relu":
                return _ACTIVATIONS[name]
    return architecture


def _arrays(
    config: Config, tensors: TensorFile, architecture: str, d: int, m: int | None
) -> dict[str, Any]:
    """Weights, biases and activation."""
    W_enc = tensors.array("W_enc", ("d_in", d), ("d_sae", m))
    m = W_enc.shape[1]
    features = ("d_sae", m)
    W_dec = tensors.array("W_dec", features, ("d_in", d))
    b_dec = tensors.array("b_dec", ("d_in", d))
    activation: dict[str, Any] = {"activation": "relu"}
    threshold: FloatArray
    if architecture == "gated":
        gain = np.exp(tensors.array("r_mag", features))
        b_enc = tensors.array("b_mag", features)
        # The gate is open where the magnitude exceeds this.
        threshold = b_enc - gain * tensors.array("b_gate", features)
        activation = {"activation": "jumprelu", "threshold": threshold}
        W_enc = W_enc * gain
    else:
        b_enc = tensors.array("b_enc", features)
    if config.flag("apply_b_dec_to_input", True):
        b_enc = without_input_bias(b_enc, b_dec, W_enc)
    if config.flag("rescale_acts_by_decoder_norm", False):
        W_enc, b_enc, W_dec = with_unit_rows(W_enc, b_enc, W_dec)
    if architecture == "topk":
        activation = {"activation": "topk", "k": _k(config)}
    elif architecture == "jumprelu":
        threshold = tensors.array("threshold", features)
        activation = {"activation": "jumprelu", "threshold": threshold}
    elif architecture in ("batchtopk", "matryoshka_batchtopk"):
        # Weights of a training; those it releases are saved as jumprelu.
        activation = {
            "activation": "batchtopk",
            "threshold": tensors.scalar("topk_threshold"),
            "k": math.ceil(config.number("k")),
        }
    return {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_enc": b_enc,
        "b_dec": b_dec,
        **activation,
    }


def _k(config: Config) -> int:
    old = config.section("activation_fn_kwargs")
    k: int = (old if "k" in old else config).integer("k")
    return k


def _origin(config: Config) -> tuple[Place, str | None]:
    """Where it reads, and the model."""
    said = config.section("metadata")
    said = said if any(k in said for k in ("hook_name", "model_name")) else config
    hook_name = said.text("hook_name") or said.text("hook_point")
    block = said.get("hook_layer", said.get("hook_point_layer"))
    place = place_of(hook_name, block if isinstance(block, int) else None)
    written = said.text("hook_name_out")
    if written is not None and written != hook_name:
        raise refusal(config.label, TRANSCODER)
    if config.get("reshape_activations") == "hook_z":
        place = Place("hook_z", place.block, hook_name)
    return place, said.text("model_name")


SAE_LENS = Format("sae_lens", f"{_CONFIG} and {_WEIGHTS}", _recognises, _read)
