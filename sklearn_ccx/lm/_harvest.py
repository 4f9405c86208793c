"""Activations of a language model, in memory or on disk."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from .._engine._torch_state import with_torch_state
from .._validation import check_bool, check_int, check_option, check_path
from ..activations import Harvest, load_harvest
from ..activations._shard_directory import ShardDirectory
from ._architectures import Block, check_model, language_model, transformer_blocks
from ._evaluation_mode import evaluation_mode
from ._forward import record_sites
from ._inputs import IntArray, TokenSelection, TokenSequences, read_inputs
from ._sites import resolve_sites

_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}

# Those that numpy can hold.
IN_MEMORY_DTYPES = ("float16", "float32")

# Size of a shard when shard_size is None. One shard is held in memory.
_SHARD_BYTES = 2**28


@with_torch_state()
def harvest(
    model: PreTrainedModel,
    inputs: Any,
    *,
    sites: str | Sequence[str] = "mlp_in",
    tokenizer: Callable[..., Any] | None = None,
    max_length: int | None = None,
    max_tokens: int | None = None,
    drop_special: bool = True,
    drop_positions: int = 0,
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

    inputs : iterable of str, iterable of sequences of int, or dict
        Texts, which need `tokenizer`; token ids, one sequence for each text; or a
        dict (such as a tokenizer returns) with "input_ids" and, optionally,
        "attention_mask" and "token_type_ids", which only models that have token types
        are given. Where no attention mask is given, the padding tokens at the start
        and at the end of a sequence of ids are padding; see Notes. A generator is used
        up by one call.

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

    drop_positions : int, default=0
        How many positions at the start of each sequence to leave out, special tokens
        counted. The model sees them in any case. The first token of a sequence often
        has activations that are many times larger than all others, and 1 leaves it
        out.

    batch_size : int, default=32
        Sequences that run together.

    dtype : {"float32", "float16", "bfloat16"}, default="float32"
        Of the activations recorded. "bfloat16", which numpy does not have, needs
        `out`.

    out : str or path-like, default=None
        Directory to write to, in shards. None keeps the activations in memory. A
        call that was interrupted goes on where it stopped when it is repeated, and
        ends with the same files as one that was not. While another call writes there,
        also in another process, it waits.

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
        If `model` is not a transformers model or a parameter has the wrong type.
    OSError
        If a file cannot be written, as on a full disk. The shards that are finished
        are kept, and the same call goes on with them.

    Warns
    -----
    UserWarning
        If it waits for another call, or if the file system of `out` has no locks.

    See Also
    --------
    mlp_weights : The MLPs that read the sites.
    load_harvest : Open a directory written here.

    Notes
    -----
    Shards are in the safetensors format, beside a manifest in JSON with the settings,
    sizes and SHA-256 checksums. The settings include digests of the inputs and of the
    model's weights, so that a directory never mixes two models. A shard is on disk,
    and not only on its way there, before the manifest says so, and what was written is
    read back and compared at the end. If the process is killed, the shard that it was
    at is lost, and no other.

    Ids without an attention mask may be padded with the padding token of `tokenizer`,
    or without one of the model's configuration: a run of it at the start or at the end
    of a sequence is left out, and the model does not see it. Where the padding token
    also begins or ends texts, as in many models that have none of their own, one of
    each run stays, since it may be the sequence's own. An attention mask says
    it for certain.

    While it runs, it holds a lock on the model, so that calls from several threads with
    one model wait for each other.

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
    shard_size = None if shard_size is None else check_int(shard_size, "shard_size")
    path = None if out is None else check_path(out, "out", of="directory")
    _check_dtype(dtype, path)
    batch_size = check_int(batch_size, "batch_size")
    verbose = check_bool(verbose, "verbose")
    selection = TokenSelection.checked(
        max_length, max_tokens, drop_special, drop_positions
    )
    sequences = read_inputs(model, inputs, tokenizer, selection)
    record = partial(record_batch, model, blocks, names, dtype, sequences)
    batches = sequences.batches(batch_size)
    progress = tqdm(
        total=sequences.n_tokens, desc="harvest", unit="token", disable=not verbose
    )
    width = language_model(model).config.hidden_size
    with progress, evaluation_mode(model):
        if path is None:
            return _harvest_to_memory(
                record, batches, sequences, names, width, dtype, progress
            )
        if shard_size is None:
            row_bytes = len(names) * width * _DTYPES[dtype].itemsize
            shard_size = max(1, _SHARD_BYTES // row_bytes)
        settings = {
            "model": type(model).__name__,
            "sites": list(names),
            **asdict(selection),
            "batch_size": batch_size,
            "dtype": dtype,
            "shard_size": shard_size,
            "width": width,
            "inputs_sha256": _digest_of_inputs(sequences),
            "model_sha256": _digest_of_model(model),
        }
        shards = _group(batches, sequences, shard_size)
        _harvest_to_directory(record, shards, sequences, settings, path, progress)
    return load_harvest(path, verify=False)


def _check_dtype(dtype: str, path: Path | None) -> None:
    check_option(dtype, "dtype", sorted(_DTYPES))
    if dtype == "bfloat16" and path is None:
        raise ValueError(
            'dtype="bfloat16" cannot be held by numpy; name a directory to write to '
            'with out, or use dtype="float16".'
        )


def record_batch(
    model: PreTrainedModel,
    blocks: list[Block],
    names: tuple[str, ...],
    dtype: str,
    sequences: TokenSequences,
    rows: IntArray,
) -> Tensor:
    """Activations of the kept tokens of some sequences in the dtype asked for."""
    batch = sequences.load(rows, model.device)
    recorded_BLD = record_sites(model, blocks, names, batch).to(_DTYPES[dtype])
    is_finite_L = torch.isfinite(recorded_BLD).all(dim=2).all(dim=0)
    if not is_finite_L.all():
        site = names[int(is_finite_L.int().argmin())]
        raise ValueError(
            f"The activations at {site} are not finite in {_DTYPES[dtype]}; use "
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
    finished = ShardDirectory.finished(path, settings)
    if finished is not None:
        # Nobody writes there any more, so that nobody has to wait.
        finished.verify()
        progress.update(sequences.n_tokens)
        return
    lengths = [sum(map(sequences.count, batches)) for batches in shards]
    with ShardDirectory.writing(path, settings, lengths) as directory:
        directory.verify()
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
        directory.verify(checksums=missing)


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
