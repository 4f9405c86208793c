"""Texts and token ids as sequences that a model can be run on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ._architectures import architecture_of

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# What a model reads or is scored by besides its ids, and what pads it.
_PADDING_OF = {"token_type_ids": 0, "labels": -100}

_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id")


@dataclass(frozen=True)
class TokenSequences:
    """Sequences of token ids, without padding.

    Parameters
    ----------
    ids : list of ndarray of shape (length,)
        Token ids of each sequence.
    is_kept : list of ndarray of shape (length,)
        Which positions are harvested.
    extras : dict of str to list of ndarray
        "token_type_ids" and "labels" where given, aligned with the ids.
    padding_id : int
        Fills the batches.
    """

    ids: list[IntArray]
    is_kept: list[BoolArray]
    extras: dict[str, list[IntArray]]
    padding_id: int

    @property
    def n_tokens(self) -> int:
        """Number of positions to harvest."""
        return self.count(range(len(self.ids)))

    def limited_to(self, max_tokens: int) -> "TokenSequences":
        """Keep the first tokens only, and the sequences that have any of them."""
        is_kept, n_left = [], max_tokens
        for kept in self.is_kept:
            if n_left <= 0:
                break
            is_kept.append(kept & (np.cumsum(kept) <= n_left))
            n_left -= int(kept.sum())
        n = len(is_kept)
        extras = {name: values[:n] for name, values in self.extras.items()}
        return replace(self, ids=self.ids[:n], is_kept=is_kept, extras=extras)

    def batches(self, batch_size: int) -> list[IntArray]:
        """Which sequences run together: those with a token to keep, in order."""
        rows = np.flatnonzero([kept.any() for kept in self.is_kept])
        starts = range(0, len(rows), batch_size)
        return [rows[start : start + batch_size] for start in starts]

    def load(self, rows: IntArray, device: torch.device) -> "TokenBatch":
        """Pad some sequences on the right to a common length."""

        def padded(arrays: Sequence[npt.NDArray[Any]], value: int) -> Tensor:
            length = max(len(array) for array in arrays)
            out = np.full((len(arrays), length), value, dtype=arrays[0].dtype)
            for row, array in zip(out, arrays, strict=True):
                row[: len(array)] = array
            return torch.from_numpy(out).to(device)

        ids = [self.ids[row] for row in rows]
        return TokenBatch(
            ids_BT=padded(ids, self.padding_id),
            is_token_BT=padded([np.ones(len(array), dtype=bool) for array in ids], 0),
            is_kept_BT=padded([self.is_kept[row] for row in rows], 0),
            extras_BT={
                name: padded([values[row] for row in rows], _PADDING_OF[name])
                for name, values in self.extras.items()
            },
        )

    def count(self, rows: Iterable[int]) -> int:
        """Number of kept tokens in some sequences."""
        return sum(int(self.is_kept[row].sum()) for row in rows)

    def token_arrays(self, rows: Iterable[int]) -> dict[str, IntArray]:
        """Ids, positions and sequence numbers of the kept tokens of some sequences."""
        rows = list(rows)
        positions = [np.flatnonzero(self.is_kept[row]) for row in rows]
        lengths = [len(array) for array in positions]
        ids = [self.ids[row][at] for row, at in zip(rows, positions, strict=True)]
        return {
            "token_ids": np.concatenate(ids),
            "positions": np.concatenate(positions),
            "sequence_ids": np.repeat(np.asarray(rows, dtype=np.int64), lengths),
        }


@dataclass(frozen=True)
class TokenBatch:
    """Some sequences, padded to a common length; all tensors are (B, T)."""

    ids_BT: Tensor
    is_token_BT: Tensor
    is_kept_BT: Tensor
    extras_BT: dict[str, Tensor]


def read_inputs(
    model: PreTrainedModel,
    inputs: Any,
    *,
    tokenizer: Callable[..., Any] | None,
    max_length: int | None,
    max_tokens: int | None,
    drop_special: bool,
) -> TokenSequences:
    """Validate inputs and decide which tokens are kept.

    Raises
    ------
    ValueError
        If there is no token to keep, an id is unknown to the model, a sequence is
        longer than it can read or the inputs have another form.
    """
    fields = _by_field(inputs, tokenizer, max_length)
    ids = fields.pop("input_ids")
    # Many tokenizers give token types to models that have none, of which some would
    # add the embedding of token 0 for them.
    if not getattr(model.config, "type_vocab_size", 0):
        fields.pop("token_type_ids", None)
    _check_ids(ids, model, max_length)
    special = _special_ids(model, tokenizer) if drop_special else []
    sequences = TokenSequences(
        ids=ids,
        is_kept=[~np.isin(array, special) for array in ids],
        extras=fields,
        padding_id=model.config.pad_token_id or 0,
    )
    if not sequences.n_tokens:
        raise ValueError(
            "inputs has no token to harvest: all sequences are empty or hold special "
            "tokens only; pass drop_special=False to harvest these."
        )
    return sequences if max_tokens is None else sequences.limited_to(max_tokens)


def _by_field(
    inputs: Any, tokenizer: Callable[..., Any] | None, max_length: int | None
) -> dict[str, list[IntArray]]:
    """Sequences of ids, and of what goes with them, without padding."""
    if isinstance(inputs, Mapping):
        return _from_mapping(inputs, max_length)
    if isinstance(inputs, str):
        raise ValueError("inputs is a single text; pass a list of texts.")
    if len(inputs) and isinstance(inputs[0], str):
        if tokenizer is None:
            raise ValueError("inputs are texts; pass the model's tokenizer.")
        cut = {"truncation": max_length is not None, "max_length": max_length}
        encoded = tokenizer(list(inputs), return_attention_mask=False, **cut)
        names = [name for name in ("input_ids", *_PADDING_OF) if name in encoded]
        return {
            name: [np.asarray(row, dtype=np.int64) for row in encoded[name]]
            for name in names
        }
    return {"input_ids": [_sequence(row, "inputs")[:max_length] for row in inputs]}


def _from_mapping(
    inputs: Mapping[str, Any], max_length: int | None
) -> dict[str, list[IntArray]]:
    known = {"input_ids", "attention_mask", *_PADDING_OF}
    if "input_ids" not in inputs or not known.issuperset(inputs):
        raise ValueError(
            f"inputs must hold 'input_ids' and may hold {sorted(known - {'input_ids'})}"
            f"; got {sorted(inputs)}."
        )
    fields = {
        name: [_sequence(row, f"inputs[{name!r}]") for row in rows]
        for name, rows in inputs.items()
    }
    lengths = [len(row) for row in fields["input_ids"]]
    for name, rows in fields.items():
        if [len(row) for row in rows] != lengths:
            raise ValueError(
                f"inputs[{name!r}] must have the shape of inputs['input_ids']."
            )
    masks = fields.pop("attention_mask", [np.ones(n, dtype=np.int64) for n in lengths])
    spans = [_token_span(mask)[:max_length] for mask in masks]
    return {
        name: [row[span] for row, span in zip(rows, spans, strict=True)]
        for name, rows in fields.items()
    }


def _token_span(mask: IntArray) -> IntArray:
    """Positions between the padding, which may be on either side."""
    span = np.flatnonzero(mask)
    if len(span) and len(span) != span[-1] - span[0] + 1:
        raise ValueError(
            "inputs['attention_mask'] has a gap; only padding at the start or the "
            "end of a sequence can be left out."
        )
    return span


def _sequence(row: Any, name: str) -> IntArray:
    array = np.asarray(row.cpu() if isinstance(row, Tensor) else row)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iub"):
        raise ValueError(
            f"{name} must be sequences of integers, one for each text; got an item of "
            f"shape {array.shape} and dtype {array.dtype}."
        )
    return array.astype(np.int64)


def _check_ids(
    ids: list[IntArray], model: PreTrainedModel, max_length: int | None
) -> None:
    n_known = model.get_input_embeddings().num_embeddings
    longest = max((len(array) for array in ids), default=0)
    limit = getattr(model.config, "max_position_embeddings", longest)
    if architecture_of(model).first_position_is_after_padding:
        limit -= model.config.pad_token_id + 1
    if longest > limit:
        raise ValueError(
            f"A sequence has {longest} tokens, but the model reads at most {limit}; "
            f"pass max_length={limit} to cut it or split the text."
        )
    for number, array in enumerate(ids):
        unknown = array[(array < 0) | (array >= n_known)]
        if len(unknown):
            raise ValueError(
                f"Sequence {number} has the token id {unknown[0]}, but the model knows "
                f"0..{n_known - 1}; use the tokenizer that belongs to it."
            )


def _special_ids(
    model: PreTrainedModel, tokenizer: Callable[..., Any] | None
) -> list[int]:
    if tokenizer is not None:
        return list(tokenizer.all_special_ids)  # type: ignore[attr-defined]
    special: list[int] = []
    for name in _SPECIAL_IDS:
        value = getattr(model.config, name, None)
        if value is not None:
            special.extend(value if isinstance(value, list) else [value])
    return special
