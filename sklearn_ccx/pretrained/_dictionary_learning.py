"""dictionary_learning and its forks: ``ae.pt`` or ``model.safetensors``."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ._config import Config
from ._folder import Folder
from ._format import Format, refusal
from ._places import Place, place_of
from ._tensor_files import FloatArray, TensorFile
from ._weights import DictionaryWeights, without_input_bias

_CONFIG = "config.json"
_WEIGHTS = ("ae.pt", "model.safetensors")

_Arrays = dict[str, Any]

# How a crosscoder of a fork weighs a feature's sites; the last has codes per site.
_CODE_NORMALIZATIONS = ("CROSSCODER", "SAE", "MIXED", "NONE", "DECOUPLED")


def _recognises(folder: Folder) -> bool:
    if folder.chosen is not None:
        return folder.chosen in _WEIGHTS
    return folder.has("ae.pt") or (
        folder.has("model.safetensors") and folder.has(_CONFIG)
    )


def _read(folder: Folder) -> DictionaryWeights:
    config = Config({}, folder.label)
    if folder.has(_CONFIG):
        config = folder.config(_CONFIG)
    trainer = config.section("trainer") if "trainer" in config else config
    place, model_name = _origin(trainer)
    name = folder.weights(*_WEIGHTS)
    if name is None:
        raise ValueError(f"{folder.label} has none of {', '.join(_WEIGHTS)}.")
    tensors = folder.tensors(name).without_prefix("_orig_mod.")
    class_name = _class_name(trainer, tensors)
    _check_not_normalized(tensors)
    arrays = _CLASSES[class_name](
        tensors,
        trainer.integer("activation_dim", None),
        trainer.integer("dict_size", None),
    )
    if "k" in arrays and arrays["k"] is None:
        arrays["k"] = trainer.integer("k", None)
    return DictionaryWeights(
        **arrays, place=place, model_name=model_name, config=config.as_dict()
    )


def _origin(trainer: Config) -> tuple[Place, str | None]:
    """Where it reads, and the model."""
    layer = trainer.get("layer")
    if isinstance(layer, str) and layer.isdigit():
        layer = int(layer)
    block = layer if isinstance(layer, int) and not isinstance(layer, bool) else None
    return place_of(trainer.text("submodule_name"), block), trainer.text("lm_name")


def _class_name(trainer: Config, tensors: TensorFile) -> str:
    """The class that the configuration names, or that the tensors tell."""
    if trainer.get("dict_class") is not None:
        return trainer.option("dict_class", _CLASSES)
    if tensors.n_axes("encoder.weight") == 3:
        return "BatchTopKCrossCoder" if "threshold" in tensors else "CrossCoder"
    if "W_enc" in tensors:
        has_groups = "group_sizes" in tensors
        return "MatryoshkaBatchTopKSAE" if has_groups else "JumpReluAutoEncoder"
    for name, class_name in (
        ("r_mag", "GatedAutoEncoder"),
        ("bias", "AutoEncoder"),
        ("decoder.bias", "AutoEncoderNew"),
    ):
        if name in tensors:
            return class_name
    raise ValueError(
        f"{tensors.label} does not tell which class of dictionary_learning it is of, "
        f"and no {_CONFIG} beside it does ('dict_class'); the classes are "
        f"{', '.join(_CLASSES)}."
    )


def _check_not_normalized(tensors: TensorFile) -> None:
    """Raise if a fork's normalisation of the activations is in use."""
    for name in ("activation_mean", "activation_std", "activation_global_scale"):
        if name in tensors and not tensors.is_nan(name):
            raise refusal(
                tensors.label,
                f"it normalises the activations ({name}) in a way of its own, which is "
                "not known here; fold that into the weights and save them without",
            )


def _encoder(
    tensors: TensorFile, d: int | None, m: int | None
) -> tuple[FloatArray, FloatArray]:
    """Encoder and decoder of classes that keep them as linear layers."""
    rows, columns = ("dict_size", m), ("activation_dim", d)
    W_enc = tensors.array("encoder.weight", rows, columns).T
    d, m = W_enc.shape
    W_dec = tensors.array("decoder.weight", (columns[0], d), (rows[0], m)).T
    return W_enc, W_dec


def _auto_encoder(tensors: TensorFile, d: int | None, m: int | None) -> _Arrays:
    W_enc, W_dec = _encoder(tensors, d, m)
    d, m = W_enc.shape
    b_dec = tensors.array("bias", ("activation_dim", d))
    b_enc = tensors.array("encoder.bias", ("dict_size", m))
    return {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_enc": without_input_bias(b_enc, b_dec, W_enc),
        "b_dec": b_dec,
        "activation": "relu",
    }


def _auto_encoder_new(tensors: TensorFile, d: int | None, m: int | None) -> _Arrays:
    W_enc, W_dec = _encoder(tensors, d, m)
    d, m = W_enc.shape
    return {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_enc": tensors.array("encoder.bias", ("dict_size", m)),
        "b_dec": tensors.array("decoder.bias", ("activation_dim", d)),
        "activation": "relu",
    }


def _gated(tensors: TensorFile, d: int | None, m: int | None) -> _Arrays:
    W_enc, W_dec = _encoder(tensors, d, m)
    d, m = W_enc.shape
    features = ("dict_size", m)
    b_dec = tensors.array("decoder_bias", ("activation_dim", d))
    gain = np.exp(tensors.array("r_mag", features))
    b_mag = tensors.array("mag_bias", features)
    threshold = b_mag - gain * tensors.array("gate_bias", features)
    W_enc = W_enc * gain
    return {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_enc": without_input_bias(b_mag, b_dec, W_enc),
        "b_dec": b_dec,
        "activation": "jumprelu",
        "threshold": threshold,
    }


def _jump_relu(tensors: TensorFile, d: int | None, m: int | None) -> _Arrays:
    rows, columns = ("dict_size", m), ("activation_dim", d)
    W_enc = tensors.array("W_enc", columns, rows)
    d, m = W_enc.shape
    rows, columns = (rows[0], m), (columns[0], d)
    return {
        "W_enc": W_enc,
        "W_dec": tensors.array("W_dec", rows, columns),
        "b_enc": tensors.array("b_enc", rows),
        "b_dec": tensors.array("b_dec", columns),
        "activation": "jumprelu",
        "threshold": tensors.array("threshold", rows),
    }


def _top_k(tensors: TensorFile, d: int | None, m: int | None) -> _Arrays:
    W_enc, W_dec = _encoder(tensors, d, m)
    d, m = W_enc.shape
    b_dec = tensors.array("b_dec", ("activation_dim", d))
    b_enc = tensors.array("encoder.bias", ("dict_size", m))
    return {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_enc": without_input_bias(b_enc, b_dec, W_enc),
        "b_dec": b_dec,
        "activation": "topk",
        "k": _k(tensors),
    }


def _batch_top_k(tensors: TensorFile, d: int | None, m: int | None) -> _Arrays:
    return {
        **_top_k(tensors, d, m),
        "activation": "batchtopk",
        "threshold": _threshold(tensors),
    }


def _matryoshka(tensors: TensorFile, d: int | None, m: int | None) -> _Arrays:
    rows, columns = ("dict_size", m), ("activation_dim", d)
    W_enc = tensors.array("W_enc", columns, rows)
    d, m = W_enc.shape
    rows, columns = (rows[0], m), (columns[0], d)
    b_dec = tensors.array("b_dec", columns)
    b_enc = tensors.array("b_enc", rows)
    return {
        "W_enc": W_enc,
        "W_dec": tensors.array("W_dec", rows, columns),
        "b_enc": without_input_bias(b_enc, b_dec, W_enc),
        "b_dec": b_dec,
        "activation": "batchtopk",
        "k": _k(tensors),
        "threshold": _threshold(tensors),
    }


def _crosscoder(tensors: TensorFile, d: int | None, m: int | None) -> _Arrays:
    if _code_normalization(tensors) == "DECOUPLED":
        raise refusal(
            tensors.label,
            "its features have a code of their own at each site (DECOUPLED), and those "
            "of this package have one for all sites",
        )
    width, features = ("activation_dim", d), ("dict_size", m)
    W_enc = tensors.array("encoder.weight", ("sites", None), width, features)
    n_sites, d, m = W_enc.shape
    sites, width, features = ("sites", n_sites), (width[0], d), (features[0], m)
    W_dec = tensors.array("decoder.weight", sites, features, width)
    return {
        "W_enc": W_enc,
        "W_dec": W_dec.transpose(1, 0, 2),
        "b_enc": tensors.array("encoder.bias", features),
        "b_dec": tensors.array("decoder.bias", sites, width),
        "activation": "relu",
    }


def _batch_top_k_crosscoder(
    tensors: TensorFile, d: int | None, m: int | None
) -> _Arrays:
    arrays = _crosscoder(tensors, d, m)
    normalization = _code_normalization(tensors)
    if normalization != "CROSSCODER":
        raise refusal(
            tensors.label,
            f"its codes are compared with the threshold as {normalization}, which is "
            "not known here",
        )
    norms = np.linalg.norm(arrays["W_dec"], axis=2).sum(axis=1)
    # A feature that writes nothing is never active.
    threshold = np.full_like(norms, np.finfo(norms.dtype).max)
    np.divide(_threshold(tensors), norms, out=threshold, where=norms > 0)
    return {**arrays, "activation": "jumprelu", "threshold": threshold}


def _code_normalization(tensors: TensorFile) -> str:
    name = "code_normalization_id"
    number = tensors.scalar(name) if name in tensors else 0.0
    if number not in range(len(_CODE_NORMALIZATIONS)):
        raise refusal(tensors.label, f"its {name} {number:g} is not known")
    return _CODE_NORMALIZATIONS[int(number)]


def _k(tensors: TensorFile) -> int | None:
    if "k" not in tensors:
        return None
    k = tensors.scalar("k")
    if not (k.is_integer() and k >= 1):
        raise ValueError(f"{tensors.label}: k must be a positive integer; got {k}.")
    return int(k)


def _threshold(tensors: TensorFile) -> float:
    threshold = tensors.scalar("threshold")
    if not 0 <= threshold < np.inf:
        raise ValueError(
            f"{tensors.label}: threshold is {threshold:g}, which says that its "
            "training has not measured it (it begins at -1): which features are active "
            "on a sample is not defined."
        )
    return threshold


_CLASSES: dict[str, Callable[[TensorFile, int | None, int | None], _Arrays]] = {
    "AutoEncoder": _auto_encoder,
    "AutoEncoderNew": _auto_encoder_new,
    "AutoEncoderTopK": _top_k,
    "BatchTopKCrossCoder": _batch_top_k_crosscoder,
    "BatchTopKSAE": _batch_top_k,
    "CrossCoder": _crosscoder,
    "GatedAutoEncoder": _gated,
    "JumpReluAutoEncoder": _jump_relu,
    "MatryoshkaBatchTopKSAE": _matryoshka,
}

DICTIONARY_LEARNING = Format(
    "dictionary_learning",
    f"ae.pt or model.safetensors, with {_CONFIG}",
    _recognises,
    _read,
)
