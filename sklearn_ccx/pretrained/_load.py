"""load_dictionary."""

import os
import warnings
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from .._validation import check_bool, check_int, check_option
from ..coders import BaseInteractionCoder, InteractionCrosscoder, InteractionSAE
from ._folder import open_folder
from ._format import refusal
from ._measure import measure, what_is_off
from ._registry import FORMATS, recognised
from ._result import PretrainedDictionary
from ._sample_norms import sample_norm_transformer
from ._weights import DictionaryWeights


def load_dictionary(
    path: str | os.PathLike[str],
    format: str = "auto",
    *,
    subfolder: str | None = None,
    filename: str | None = None,
    revision: str | None = None,
    X: npt.ArrayLike | None = None,
    k: int | None = None,
    input_scale: float | npt.ArrayLike | None = None,
    codes_only: bool = False,
    **params: Any,
) -> PretrainedDictionary:
    r"""Load a sparse autoencoder or crosscoder that others trained.

    Reading runs no code from the files: pickled objects other than tensors are refused.

    ===========================  =====================================================
    `format`                     what it is
    ===========================  =====================================================
    "sae_lens"                   SAELens, of version 6 and before: standard, topk,
                                 batchtopk, matryoshka, jumprelu, gated
    "gemma_scope"                Gemma Scope
    "gemma_scope_2"              Gemma Scope 2
    "llama_scope"                Llama Scope, also of the distilled R1
    "llamascopium"               Llamascopium (OpenMOSS)
    "sparsify"                   Sparsify (eai-sparsify)
    "dictionary_learning"        dictionary_learning, and crosscoders of its forks
    "ckkissane"                  crosscoder of two models by ckkissane
    "qwen_scope"                 Qwen Scope
    "openai"                     OpenAI's dictionaries of GPT-2 small
    "goodfire"                   Goodfire
    "crosscode",                 known, and refused with the reason
    "circuit_tracer"
    ===========================  =====================================================

    Transcoders of any format are refused: they have no interaction at the input of an
    MLP.

    Parameters
    ----------
    path : str or path-like
        A directory, one of its files, or the id of a repository on the Hugging Face
        hub, such as "org/name". What exists on disk comes first. The hub needs the
        extra `hub`; of a repository only the files of the dictionary are downloaded.

    format : str, default="auto"
        One of the names above. "auto" tells it from the files.

    subfolder : str, default=None
        The folder of the dictionary inside `path`.

    filename : str, default=None
        The file with the weights, where a folder holds several dictionaries or names
        its files otherwise.

    revision : str, default=None
        Branch, tag or commit of a repository on the hub.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d), default=None
        Activations where the dictionary reads, as the model has them. They show
        whether it was loaded and applied as it should be: what it leaves unexplained
        and how many features are active is measured on them, batch by batch.

    k : int, default=None
        Number of active features of a top-k dictionary whose files do not say it.

    input_scale : float or array-like of shape (n_sites,), default=None
        What the activations were multiplied by in training, where it is neither in
        the files nor folded into the weights. The estimator then takes activations as
        the model has them.

    codes_only : bool, default=False
        Whether to load also what reads the output of an MLP or of attention. Its codes
        can be used; its features have no interaction at an MLP.

    **params : dict
        Parameters of the estimator, such as `mlp`, `device` or `sparse_output`.

    Returns
    -------
    dictionary : PretrainedDictionary
        The fitted estimator, where it reads, the model that it belongs to, and what
        must be done to samples before.

    Raises
    ------
    ValueError
        If there is no dictionary, its format is not known, a file is damaged or would
        have to run code, a tensor is missing or has another shape, or the dictionary
        cannot be represented, with the reason.
    TypeError
        If a parameter has the wrong type.
    OSError
        If a file cannot be read, or a repository cannot be had from the hub.
    ImportError
        If the hub is asked for and huggingface_hub is not installed.

    Warns
    -----
    UserWarning
        If `X` says that something is off: more of its variance is left unexplained
        than by its mean (1), no feature is active, or the number of active features
        is further than a factor of 4 from `k`.

    See Also
    --------
    save_dictionary : Write a fitted estimator for other packages.
    sklearn_ccx.InteractionSAE.from_weights : Make one from arrays.

    Notes
    -----
    Codes are those of the package that made the files, with one exception. Top-k of
    Llamascopium compares pre-activations after they are multiplied by the norms of the
    decoder's rows, and divides the codes by them again. Here the codes stay multiplied,
    and the rows have norm 1.

    A square encoder does not show that it is transposed. `X` does.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from safetensors.numpy import save_file
    >>> from sklearn_ccx.pretrained import load_dictionary
    >>> rng = np.random.default_rng(0)
    >>> W_dec = rng.normal(size=(32, 8)).astype(np.float32)
    >>> tensors = {"W_enc": W_dec.T.copy(), "W_dec": W_dec}
    >>> tensors |= {"b_enc": np.full(32, -2.0, np.float32)}
    >>> tensors |= {"b_dec": np.zeros(8, np.float32)}
    >>> config = {"architecture": "topk", "d_in": 8, "d_sae": 32, "k": 4}
    >>> config["metadata"] = {"model_name": "gpt2", "hook_name": "blocks.8.mlp.hook_in"}
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save_file(tensors, f"{directory}/sae_weights.safetensors")
    ...     _ = Path(directory, "cfg.json").write_text(json.dumps(config))
    ...     loaded = load_dictionary(directory, sparse_output=True)
    >>> loaded.model_name, loaded.reads
    ('gpt2', 'blocks.8.mlp_in')
    >>> codes = loaded.estimator.transform(rng.normal(size=(5, 8)))
    >>> codes.shape, codes.nnz <= 5 * 4
    ((5, 32), True)
    """
    name = check_option(format, "format", ["auto", *FORMATS])
    codes_only = check_bool(codes_only, "codes_only")
    if k is not None:
        k = check_int(k, "k")
    folder = open_folder(
        path, subfolder=subfolder, filename=filename, revision=revision
    )
    made = recognised(folder) if name == "auto" else FORMATS[name]
    weights = made.read(folder)
    if weights.place.is_output and not codes_only:
        raise refusal(
            folder.label,
            "the interaction of its features can be measured "
            f"{weights.place.interaction(weights.model_name)}. Pass codes_only=True to "
            "load it for its codes alone",
        )
    weights = _with_user_settings(weights, folder.label, k, input_scale)
    estimator = _estimator(weights, params)
    sample_norm = None
    if weights.sample_norm is not None:
        sample_norm = sample_norm_transformer(weights.sample_norm)
    fvu = l0 = None
    if X is not None:
        fvu, l0 = measure(estimator, sample_norm, X)
        off = what_is_off(estimator, fvu, l0)
        if off is not None:
            warnings.warn(_warning(folder.label, weights, off), stacklevel=2)
    return PretrainedDictionary(
        estimator=estimator,
        format=made.name,
        reads=weights.place.reads,
        model_name=weights.model_name,
        interaction=weights.place.interaction(weights.model_name, weights.sample_norm),
        sample_norm=sample_norm,
        notes=weights.notes,
        config=weights.config,
        hook_name=weights.place.hook_name,
        fvu=fvu,
        l0=l0,
    )


def _with_user_settings(
    weights: DictionaryWeights, label: str, k: int | None, input_scale: Any
) -> DictionaryWeights:
    """The weights with what the files leave to the user."""
    if k is not None:
        if weights.k not in (None, k) or weights.activation in ("relu", "jumprelu"):
            said = "has no k" if weights.k is None else f"says k={weights.k}"
            raise ValueError(f"k={k}, but {label} {said}; leave k out.")
        weights = replace(weights, k=k)
    if weights.activation == "topk" and weights.k is None:
        raise ValueError(
            f"{label} is a top-k dictionary and does not say how many features are "
            "active per sample; pass k=."
        )
    if input_scale is not None:
        if weights.input_scale is not None:
            raise ValueError(
                f"input_scale is given, but {label} has its own, "
                f"{weights.input_scale:.6g}; leave it out."
            )
        if weights.sample_norm is not None:
            raise ValueError(
                f"input_scale is given, but {label} normalises each sample; leave it "
                "out."
            )
        weights = replace(weights, input_scale=input_scale)
    return weights


def _estimator(
    weights: DictionaryWeights, params: dict[str, Any]
) -> BaseInteractionCoder:
    cls = InteractionCrosscoder if weights.W_enc.ndim == 3 else InteractionSAE
    scale = weights.input_scale
    return cls.from_weights(
        weights.W_enc,
        weights.W_dec,
        b_enc=weights.b_enc,
        b_dec=weights.b_dec,
        activation=weights.activation,
        k=weights.k,
        threshold=weights.threshold,
        input_scale=1.0 if scale is None else scale,
        **params,
    )


def _warning(label: str, weights: DictionaryWeights, off: str) -> str:
    reads = weights.place.reads or "a place that its files do not name"
    notes = "".join(f" {note}" for note in weights.notes)
    return (
        f"{label} does not seem to belong to X: {off}. It reads {reads} of "
        f"{weights.model_name or 'a model that its files do not name'}; check that X "
        "has the activations of that place, in the order (n_samples, d), as the model "
        f"has them, without the first token of each text.{notes}"
    )
