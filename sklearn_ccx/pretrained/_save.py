"""save_dictionary."""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

from .._validation import check_option, check_text, shown
from ..coders import BaseInteractionCoder, fitted_parts
from ._sample_norms import SAMPLE_NORMS, sample_norm_of

FloatArray = npt.NDArray[np.floating]

# The version whose layout of files is written.
_SAE_LENS_VERSION = "6.0.0"


@dataclass(frozen=True)
class _Origin:
    """Where a dictionary reads."""

    model_name: str | None
    hook_name: str | None


def save_dictionary(
    estimator: Any,
    path: str | os.PathLike[str],
    format: str = "sae_lens",
    *,
    model_name: str | None = None,
    hook_name: str | None = None,
) -> None:
    """Write a fitted estimator in a format that other packages load.

    ============  ============  ==========================  ========================
    activation    sites         "sae_lens"                  "dictionary_learning"
    ============  ============  ==========================  ========================
    "relu"        one           standard                    AutoEncoderNew
    "topk"        one           topk                        AutoEncoderTopK
    "batchtopk"   one           jumprelu, with one          BatchTopKSAE
                                threshold for all features
    "jumprelu"    one           jumprelu                    JumpReluAutoEncoder
    "relu"        several       refused                     CrossCoder of its forks
    others        several       refused                     refused
    ============  ============  ==========================  ========================

    The files are written beside `path` and renamed once they are complete.

    Parameters
    ----------
    estimator : estimator
        A fitted :class:`~sklearn_ccx.InteractionSAE` or
        :class:`~sklearn_ccx.InteractionCrosscoder`, or what holds one. Of the steps
        before it, the `sample_norm` of :class:`PretrainedDictionary` can be written,
        to "sae_lens".

    path : str or path-like
        The directory to make. It must not exist, or be empty.

    format : {"sae_lens", "dictionary_learning"}, default="sae_lens"
        "sae_lens" is SAELens from version 6 on (``cfg.json`` and
        ``sae_weights.safetensors``), "dictionary_learning" has ``ae.pt`` and
        ``config.json``.

    model_name : str, default=None
        The model that it belongs to, in the words of the other package.

    hook_name : str, default=None
        Where it reads, in the words of the other package, such as
        "blocks.8.hook_resid_mid" for SAELens.

    Raises
    ------
    ValueError
        If the format cannot hold the estimator.
    TypeError
        If there is no estimator of this package, or a parameter has the wrong type.
    NotFittedError
        If the estimator is not fitted.
    OSError
        If the files cannot be written, or `path` exists and is not empty.

    See Also
    --------
    load_dictionary : Read such files.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionSAE
    >>> from sklearn_ccx.pretrained import load_dictionary, save_dictionary
    >>> X = np.random.default_rng(0).normal(size=(200, 6))
    >>> sae = InteractionSAE(12, k=3, max_iter=5, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = f"{directory}/sae"
    ...     save_dictionary(sae, path, "dictionary_learning")
    ...     loaded = load_dictionary(path, X=X)
    >>> loaded.format, loaded.config["trainer"]["dict_class"]
    ('dictionary_learning', 'BatchTopKSAE')
    >>> bool(np.allclose(loaded.estimator.transform(X), sae.transform(X)))
    True
    """
    write = _WRITERS[check_option(format, "format", list(_WRITERS))]
    for value, name in ((model_name, "model_name"), (hook_name, "hook_name")):
        if value is not None:
            check_text(value, name)
    directory = _check_directory(path)
    coder, steps = fitted_parts(estimator)
    kind = sample_norm_of([step for p in steps for _, step in p.steps])
    if kind is not None and format != "sae_lens":
        raise ValueError(
            f"estimator normalises each sample ({kind}), which the files of "
            f"{format!r} cannot say; save it as 'sae_lens'."
        )
    with _written_whole(directory) as place:
        write(coder, kind, _Origin(model_name, hook_name), place)


def _write_sae_lens(
    coder: BaseInteractionCoder, kind: str | None, origin: _Origin, directory: Path
) -> None:
    activation = coder.activation_
    if coder.n_sites_ > 1:
        raise ValueError(
            f"estimator has {coder.n_sites_} sites, and SAELens has no crosscoders."
        )
    W_enc, W_dec = _one_site(coder)
    m, d = W_dec.shape
    tensors = {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_enc": coder.encoder_intercept_,
        "b_dec": coder.intercept_,
    }
    config: dict[str, Any] = {
        "d_in": d,
        "d_sae": m,
        "dtype": str(W_dec.dtype),
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": SAMPLE_NORMS[kind],
        "reshape_activations": "none",
        "metadata": {
            # Without it SAELens takes the file for one from before version 6.
            "sae_lens_version": _SAE_LENS_VERSION,
            **_without_none(model_name=origin.model_name, hook_name=origin.hook_name),
        },
    }
    if activation == "relu":
        config["architecture"] = "standard"
    elif activation == "topk":
        config |= {"architecture": "topk", "k": coder.k_}
        config["rescale_acts_by_decoder_norm"] = False
    else:
        config["architecture"] = "jumprelu"
        tensors["threshold"] = np.broadcast_to(coder.threshold_, m)
    save_file(
        {name: _held(value, W_dec.dtype) for name, value in tensors.items()},
        directory / "sae_weights.safetensors",
    )
    _write_json(config, directory / "cfg.json")


def _write_dictionary_learning(
    coder: BaseInteractionCoder, kind: str | None, origin: _Origin, directory: Path
) -> None:
    if coder.n_sites_ > 1:
        class_name, tensors = _crosscoder(coder)
    else:
        class_name, tensors = _CLASSES[coder.activation_], _of_one_site(coder)
    dtype = coder.components_.dtype
    state = {
        name: torch.from_numpy(_held(value, dtype)) for name, value in tensors.items()
    }
    if class_name in ("AutoEncoderTopK", "BatchTopKSAE"):
        state["k"] = torch.tensor(coder.k_, dtype=torch.int)
        threshold = coder.threshold_ if class_name == "BatchTopKSAE" else -1.0
        state["threshold"] = torch.tensor(float(threshold), dtype=torch.float32)
    torch.save(state, directory / "ae.pt")
    trainer = {
        "dict_class": class_name,
        "activation_dim": coder.n_features_in_ // coder.n_sites_,
        "dict_size": len(coder.components_),
        "k": coder.k_,
        **_without_none(lm_name=origin.model_name, submodule_name=origin.hook_name),
    }
    _write_json({"trainer": trainer, "buffer": {}}, directory / "config.json")


_CLASSES = {
    "relu": "AutoEncoderNew",
    "topk": "AutoEncoderTopK",
    "batchtopk": "BatchTopKSAE",
    "jumprelu": "JumpReluAutoEncoder",
}


def _of_one_site(coder: BaseInteractionCoder) -> dict[str, Any]:
    """Tensors of the class that the activation asks for."""
    W_enc, W_dec = _one_site(coder)
    b_enc, b_dec = coder.encoder_intercept_, coder.intercept_
    if coder.activation_ == "jumprelu":
        return {
            "W_enc": W_enc,
            "W_dec": W_dec,
            "b_enc": b_enc,
            "b_dec": b_dec,
            "threshold": coder.threshold_,
        }
    linear = {"encoder.weight": W_enc.T, "decoder.weight": W_dec.T}
    if coder.activation_ == "relu":
        return {**linear, "encoder.bias": b_enc, "decoder.bias": b_dec}
    # Theirs take the decoder's bias from the input.
    precise = np.float64
    shifted = b_enc.astype(precise) + b_dec.astype(precise) @ W_enc.astype(precise)
    return {**linear, "encoder.bias": shifted, "b_dec": b_dec}


def _crosscoder(coder: BaseInteractionCoder) -> tuple[str, dict[str, Any]]:
    if coder.activation_ != "relu":
        raise ValueError(
            f'estimator is a crosscoder with activation="{coder.activation_}", and the '
            "crosscoders of dictionary_learning's forks that could hold it compare "
            'codes with thresholds in another way; only activation="relu" can be saved.'
        )
    by_site = len(coder.components_), coder.n_sites_, -1
    return "CrossCoder", {
        "encoder.weight": coder.encoder_components_.reshape(by_site).transpose(1, 2, 0),
        "encoder.bias": coder.encoder_intercept_,
        "decoder.weight": coder.components_.reshape(by_site).transpose(1, 0, 2),
        "decoder.bias": coder.intercept_.reshape(coder.n_sites_, -1),
        "code_normalization_id": np.zeros(()),
    }


_WRITERS: dict[
    str, Callable[[BaseInteractionCoder, str | None, _Origin, Path], None]
] = {
    "sae_lens": _write_sae_lens,
    "dictionary_learning": _write_dictionary_learning,
}


def _one_site(coder: BaseInteractionCoder) -> tuple[FloatArray, FloatArray]:
    """Encoder of shape (d, m) and decoder of shape (m, d)."""
    return coder.encoder_components_.T, coder.components_


def _held(value: Any, dtype: np.dtype[Any]) -> FloatArray:
    """An array as files hold it."""
    return np.array(value, dtype=dtype, order="C")


def _without_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _write_json(values: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")


def _check_directory(path: Any) -> Path:
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str):
        raise TypeError(
            "path must be a directory to make, as a str or a pathlib.Path; got "
            f"{shown(path)}."
        )
    if not name or "\0" in name:
        raise ValueError(f"path must be no empty text, without null; got {name!r}.")
    directory = Path(check_text(name, "path"))
    is_taken = os.path.lexists(directory)
    if is_taken and not (directory.is_dir() and not any(directory.iterdir())):
        raise FileExistsError(
            errno.EEXIST, "path exists and is no empty directory", name
        )
    return directory


@contextmanager
def _written_whole(directory: Path) -> Iterator[Path]:
    """A directory beside another one, which becomes it at the end."""
    directory = directory.absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside = directory.with_name(f".{directory.name[:100]}.{uuid.uuid4().hex}")
    beside.mkdir()
    try:
        yield beside
        if directory.is_dir():
            directory.rmdir()
        beside.rename(directory)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
