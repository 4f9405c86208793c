"""Activations of a language model, in memory or on disk."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_scalar
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from ..activations._sharded import ShardedActivations
from ._architectures import Block, check_model, transformer_blocks
from ._forward import evaluation_mode, record_sites
from ._inputs import IntArray, TokenSequences, read_inputs
from ..activations._shard_directory import ShardDirectory
from ._sites import resolve_sites

_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}

# Size of a shard when shard_size is None. One shard is held in memory.
_SHARD_BYTES = 2**28


@dataclass(frozen=True)
class Harvest:
    """Activations of a language model and the tokens they belong to.

    Attributes
    ----------
    activations : {ndarray, ShardedActivations} of shape (n_tokens, n_sites, d)
        One row for each token, by sequence and position: the X of the estimators.

    token_ids : ndarray of shape (n_tokens,), int64
        The token at which the row was recorded.

    positions : ndarray of shape (n_tokens,), int64
        Its position in its sequence, from 0, special tokens counted.

    sequence_ids : ndarray of shape (n_tokens,), int64
        Which of the inputs it is from.

    sites : tuple of str
        Full name of each site, in the order of the second axis of `activations`.

    See Also
    --------
    harvest : Record activations.
    load_harvest : Open activations that were written to a directory.
    """

    activations: npt.NDArray[np.floating] | ShardedActivations
    token_ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    sequence_ids: npt.NDArray[np.int64]
    sites: tuple[str, ...]


def harvest(
    model: PreTrainedModel,
    inputs: Any,
    *,
    sites: str | Sequence[str] = "mlp_in",
    tokenizer: Callable[..., Any] | None = None,
    max_length: int | None = None,
    max_tokens: int | None = None,
    drop_special: bool = True,
    batch_size: int = 32,
    dtype: str = "float32",
    out: str | os.PathLike[str] | None = None,
    shard_size: int | None = None,
    verbose: bool = False,
) -> Harvest:
    """Run a language model and record its activations at each token.

    The model runs on the device and in the precision that it has, without gradients
    and without dropout, and is left as it was.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model of a known family; see :func:`site_names`.

    inputs : list of str, sequence of sequences of int, or dict
        Texts, which need `tokenizer`; token ids, one sequence for each text; or a
        dict (such as a tokenizer returns) with "input_ids" and, optionally,
        "attention_mask" and "token_type_ids", which only models that have token types
        are given.

    sites : str or sequence of str, default="mlp_in"
        What to record: "resid_pre", "attn_in", "resid_mid", "mlp_in" or
        "resid_post" of all blocks, or of a single one as in "blocks.0.mlp_in"; see
        :func:`site_names`. The result has them in order of computation.

    tokenizer : transformers.PreTrainedTokenizerBase, default=None
        Makes token ids of texts, and says which tokens are special.

    max_length : int, default=None
        Tokens at which a sequence is cut. None cuts none; one that is longer than
        the model can read is an error.

    max_tokens : int, default=None
        Tokens after which to stop. None takes all.

    drop_special : bool, default=True
        Whether to leave out special tokens: those of `tokenizer`, or without one
        the beginning, end, separator and padding tokens that the model's
        configuration names. The model sees them in either case. Padding is
        always left out.

    batch_size : int, default=32
        Sequences that run together.

    dtype : {"float32", "float16", "bfloat16"}, default="float32"
        Of the activations recorded. "bfloat16", which numpy does not have, needs
        `out`.

    out : str or path-like, default=None
        Directory to write to, in shards. None keeps the activations in memory. A
        call that was interrupted goes on where it stopped when it is repeated, and
        ends with the same files as one that was not.

    shard_size : int, default=None
        Tokens at which a shard is full; it ends with the batch. One shard is held
        in memory. None takes as many as fill 256 MiB.

    verbose : bool, default=False
        Whether to show a progress bar.

    Returns
    -------
    harvest : Harvest
        The activations and their tokens.

    Raises
    ------
    ValueError
        If the architecture or a site is not known, `inputs` has no token to
        record, an activation does not fit `dtype`, or `out` was written with other
        settings or has a damaged shard, which is named.
    TypeError
        If `model` is not a transformers model.

    See Also
    --------
    mlp_weights : The MLPs that read the sites.
    load_harvest : Open a directory written here.

    Notes
    -----
    Shards are in the safetensors format, beside a manifest in JSON with the settings,
    sizes and SHA-256 checksums. The settings include digests of the inputs and of the
    model's weights, so that a directory never mixes two models.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from sklearn_ccx.lm import harvest
    >>> config = GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=16)
    >>> model = GPT2LMHeadModel(config)
    >>> result = harvest(model, [[1, 2, 3, 4], [5, 6]], sites=["resid_pre", "mlp_in"])
    >>> result.activations.shape
    (6, 4, 8)
    >>> result.sites
    ('blocks.0.resid_pre', 'blocks.0.mlp_in', 'blocks.1.resid_pre', 'blocks.1.mlp_in')
    >>> result.sequence_ids
    array([0, 0, 0, 0, 1, 1])
    """
    model = check_model(model)
    blocks = transformer_blocks(model)
    names = resolve_sites(sites, blocks)
    _check_parameters(batch_size, max_length, max_tokens, shard_size, dtype, out)
    sequences = read_inputs(
        model,
        inputs,
        tokenizer=tokenizer,
        max_length=max_length,
        max_tokens=max_tokens,
        drop_special=drop_special,
    )
    record = partial(_record, model, blocks, names, _DTYPES[dtype], sequences)
    batches = sequences.batches(batch_size)
    progress = tqdm(
        total=sequences.n_tokens, desc="harvest", unit="token", disable=not verbose
    )
    width = model.config.hidden_size
    with progress, evaluation_mode(model):
        if out is None:
            return _harvest_to_memory(
                record, batches, sequences, names, width, dtype, progress
            )
        if shard_size is None:
            row_bytes = len(names) * width * _DTYPES[dtype].itemsize
            shard_size = max(1, _SHARD_BYTES // row_bytes)
        settings = {
            "model": type(model).__name__,
            "sites": list(names),
            "max_length": max_length,
            "max_tokens": max_tokens,
            "drop_special": drop_special,
            "batch_size": batch_size,
            "dtype": dtype,
            "shard_size": shard_size,
            "width": width,
            "inputs_sha256": _digest_of_inputs(sequences),
            "model_sha256": _digest_of_model(model),
        }
        shards = _group(batches, sequences, shard_size)
        _harvest_to_directory(record, shards, sequences, settings, Path(out), progress)
    return load_harvest(out, verify=False)


def load_harvest(directory: str | os.PathLike[str], *, verify: bool = True) -> Harvest:
    """Open activations that :func:`harvest` wrote to a directory.

    Parameters
    ----------
    directory : str or path-like
        The `out` of :func:`harvest`.

    verify : bool, default=True
        Whether to read all shards once and compare their checksums. The sizes of the
        shards are compared in either case.

    Returns
    -------
    harvest : Harvest
        The activations are a :class:`ShardedActivations`, which leaves them on disk.

    Raises
    ------
    ValueError
        If the directory is not one of :func:`harvest` or is not complete, or if a
        shard is damaged, which is named.

    See Also
    --------
    harvest : Write such a directory.

    Examples
    --------
    >>> import tempfile
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from sklearn_ccx.lm import harvest, load_harvest
    >>> config = GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=16)
    >>> model = GPT2LMHeadModel(config)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     _ = harvest(model, [[1, 2, 3], [4, 5]], out=directory, dtype="bfloat16")
    ...     load_harvest(directory).activations
    ShardedActivations(shape=(5, 2, 8), storage_dtype='bfloat16', n_files=1)
    """
    shards = ShardDirectory.open(Path(directory))
    shards.verify(checksums=verify)
    missing = shards.missing()
    if missing:
        raise ValueError(
            f"{os.fspath(directory)!r} is not complete: {len(missing)} shards are "
            f"missing, the first is {shards.shard_path(missing[0]).name}; call harvest "
            "again with the same arguments, which writes them."
        )
    return Harvest(
        activations=shards.activations(),
        **shards.token_arrays(),
        sites=tuple(shards.settings["sites"]),
    )


def _check_parameters(
    batch_size: int,
    max_length: int | None,
    max_tokens: int | None,
    shard_size: int | None,
    dtype: str,
    out: str | os.PathLike[str] | None,
) -> None:
    sizes = {
        "batch_size": batch_size,
        "max_length": max_length,
        "max_tokens": max_tokens,
        "shard_size": shard_size,
    }
    for name, value in sizes.items():
        if value is not None:
            check_scalar(value, name, (int, np.integer), min_val=1)
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {sorted(_DTYPES)}; got {dtype!r}.")
    if dtype == "bfloat16" and out is None:
        raise ValueError(
            'dtype="bfloat16" cannot be held by numpy; name a directory to write to '
            'with out, or use dtype="float16".'
        )


def _record(
    model: PreTrainedModel,
    blocks: list[Block],
    names: tuple[str, ...],
    dtype: torch.dtype,
    sequences: TokenSequences,
    rows: IntArray,
) -> Tensor:
    """Activations of the kept tokens of some sequences in the dtype asked for."""
    batch = sequences.load(rows, model.device)
    recorded_BLD = record_sites(model, blocks, names, batch).to(dtype)
    is_finite_L = torch.isfinite(recorded_BLD).all(dim=2).all(dim=0)
    if not is_finite_L.all():
        site = names[int(is_finite_L.int().argmin())]
        raise ValueError(
            f"The activations at {site} are not finite in {dtype}; use "
            'dtype="float32" or "bfloat16", or look for NaN in the weights.'
        )
    return recorded_BLD.cpu()


def _harvest_to_memory(
    record: Callable[[IntArray], Tensor],
    batches: list[IntArray],
    sequences: TokenSequences,
    names: tuple[str, ...],
    width: int,
    dtype: str,
    progress: tqdm,
) -> Harvest:
    activations = np.empty((sequences.n_tokens, len(names), width), dtype=dtype)
    start = 0
    for rows in batches:
        recorded = record(rows).numpy()
        activations[start : start + len(recorded)] = recorded
        start += len(recorded)
        progress.update(len(recorded))
    return Harvest(
        activations=activations,
        **sequences.token_arrays(range(len(sequences.ids))),
        sites=names,
    )


def _group(
    batches: list[IntArray], sequences: TokenSequences, shard_size: int
) -> list[list[IntArray]]:
    """Batches of each shard: as few as hold `shard_size` tokens."""
    shards: list[list[IntArray]] = [[]]
    n_tokens = 0
    for rows in batches:
        if n_tokens >= shard_size:
            shards.append([])
            n_tokens = 0
        shards[-1].append(rows)
        n_tokens += sequences.count(rows)
    return shards


def _harvest_to_directory(
    record: Callable[[IntArray], Tensor],
    shards: list[list[IntArray]],
    sequences: TokenSequences,
    settings: dict[str, Any],
    path: Path,
    progress: tqdm,
) -> None:
    lengths = [sum(map(sequences.count, batches)) for batches in shards]
    directory = ShardDirectory.create(path, settings, lengths)
    directory.verify(checksums=True)
    missing = directory.missing()
    progress.update(sum(lengths) - sum(lengths[number] for number in missing))
    for number in missing:
        parts = []
        for rows in shards[number]:
            parts.append(record(rows))
            progress.update(len(parts[-1]))
        tokens = sequences.token_arrays(np.concatenate(shards[number]).tolist())
        tensors = {name: torch.from_numpy(array) for name, array in tokens.items()}
        directory.write(number, tensors | {"activations": torch.cat(parts)})


def _digest_of_inputs(sequences: TokenSequences) -> str:
    digest = hashlib.sha256()
    fields: list[list[npt.NDArray[Any]]] = [sequences.ids, sequences.is_kept]
    for arrays in [*fields, *sequences.extras.values()]:
        for array in arrays:
            digest.update(len(array).to_bytes(8, "little") + array.tobytes())
    return digest.hexdigest()


def _digest_of_model(model: PreTrainedModel) -> str:
    config = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        config.pop(name, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in model.base_model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Bytes, since numpy does not have every dtype that weights come in.
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
