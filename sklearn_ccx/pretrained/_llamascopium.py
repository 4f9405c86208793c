"""Llamascopium (OpenMOSS): ``config.json`` and ``sae_weights.safetensors``."""

import math
from typing import Any

import numpy as np

from ._config import Config
from ._folder import Folder
from ._format import CROSS_LAYER, TRANSCODER, Format, refusal
from ._places import place_of
from ._tensor_files import FloatArray, TensorFile
from ._weights import DictionaryWeights, decoder_norms, with_unit_rows

_CONFIG = "config.json"
_WEIGHTS = ("sae_weights.safetensors", "sae_weights.pt")

_TYPES = {
    "crosscoder": (
        "a feature of its crosscoders can be active at one site and not at another, "
        "and a feature of this package has one code for all sites"
    ),
    "clt": CROSS_LAYER,
    "transcoder": TRANSCODER,
    "lorsa": "it stands for a layer of attention",
    "molt": TRANSCODER,
}


def _recognises(folder: Folder) -> bool:
    if not folder.has(_CONFIG) or folder.weights(*_WEIGHTS) is None:
        return False
    return "sae_type" in folder.config(_CONFIG)


def read_openmoss(folder: Folder) -> DictionaryWeights:
    """A dictionary of OpenMOSS, with the old names of the tensors or the new."""
    config = folder.config(_CONFIG)
    kind = config.option("sae_type", ("sae", *_TYPES), "sae")
    if kind in _TYPES:
        raise refusal(config.label, _TYPES[kind])
    if config.flag("use_glu_encoder", False):
        raise refusal(config.label, "its encoder is gated by a product (GLU)")
    hook_name, written = config.text("hook_point_in"), config.text("hook_point_out")
    if written is not None and written != hook_name:
        raise refusal(config.label, TRANSCODER)
    d = config.integer("d_model")
    m = config.integer("d_sae", None)
    if m is None:
        m = round(d * config.number("expansion_factor"))
    tensors = folder.tensors(folder.weights(*_WEIGHTS) or _WEIGHTS[0]).inside("sae")
    arrays = _arrays(config, tensors, d, m)
    return DictionaryWeights(
        **arrays,
        input_scale=_input_scale(config, tensors, hook_name, d),
        place=place_of(hook_name),
        model_name=config.text("model_name"),
        config=config.as_dict(),
    )


def _arrays(config: Config, tensors: TensorFile, d: int, m: int) -> dict[str, Any]:
    width, features = ("d_model", d), ("d_sae", m)
    if "W_E" in tensors or "W_D" in tensors:
        W_enc = tensors.array("W_E", width, features)
        W_dec = tensors.array("W_D", features, width)
    else:
        W_enc = tensors.array("encoder.weight", features, width).T
        W_dec = tensors.array("decoder.weight", width, features).T
    b_enc = tensors.array(tensors.first("b_E", "encoder.bias"), features)
    if config.flag("use_decoder_bias", True):
        b_dec = tensors.array(tensors.first("b_D", "decoder.bias"), width)
    else:
        b_dec = np.zeros(d, dtype=W_dec.dtype)
    weighs = config.flag("sparsity_include_decoder_norm", False)
    activation: dict[str, Any] = {"activation": config.option("act_fn", _ACTIVATIONS)}
    if activation["activation"] == "topk":
        activation["k"] = config.integer("top_k")
        if weighs:
            W_enc, b_enc, W_dec = with_unit_rows(W_enc, b_enc, W_dec)
    elif activation["activation"] == "jumprelu":
        threshold = _threshold(tensors, m)
        if weighs:
            threshold = _divided(threshold, decoder_norms(W_dec))
        activation["threshold"] = threshold
    return {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_enc": b_enc,
        "b_dec": b_dec,
        **activation,
    }


_ACTIVATIONS = ("relu", "topk", "jumprelu")


def _threshold(tensors: TensorFile, m: int) -> FloatArray:
    name = tensors.first(
        "activation_function.log_jumprelu_threshold", "log_jumprelu_threshold"
    )
    return np.exp(tensors.array(name, ("d_sae", m)))


def _divided(threshold: FloatArray, norms: FloatArray) -> FloatArray:
    """Thresholds of what is compared after it is multiplied by a norm."""
    divided = np.full_like(threshold, np.finfo(threshold.dtype).max)
    np.divide(threshold, norms, out=divided, where=norms > 0)
    return divided


def _input_scale(
    config: Config, tensors: TensorFile, hook_name: str | None, d: int
) -> float | None:
    """What the activations are multiplied by, None where that is in the weights."""
    kind = config.option("norm_activation", ("dataset-wise", "inference"))
    if kind == "inference":
        return None
    name = f"dataset_average_activation_norm.{hook_name}"
    if name in tensors:
        mean_norm = tensors.scalar(name)
    else:
        said = config.section("dataset_average_activation_norm")
        key = hook_name if hook_name is not None and hook_name in said else "in"
        mean_norm = said.number(key)
    if not 0 < mean_norm < math.inf:
        raise ValueError(
            f"{tensors.label}: the mean norm of the activations must be above 0; got "
            f"{mean_norm}."
        )
    return math.sqrt(d) / mean_norm


LLAMASCOPIUM = Format(
    "llamascopium",
    f"{_CONFIG} and {' or '.join(_WEIGHTS)}",
    _recognises,
    read_openmoss,
)
