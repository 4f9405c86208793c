"""Texts and token ids as sequences that a model can be run on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from .._validation import as_numpy, check_bool, check_int, check_list, shown
from ._architectures import architecture_of, language_model
from ._padding import Padding, ids_of

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# What a model reads or is scored by besides its ids, and what pads it.
_PADDING_OF = {"token_type_ids": 0, "labels": -100}

_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id")


@dataclass(frozen=True)
class TokenSelection:
    """Which tokens of the inputs are read, and which of these are harvested.

    Parameters
    ----------
    max_length, max_tokens : int or None
        Tokens at which to cut a sequence, and all of them.
    drop_special : bool
        Whether to leave out special tokens.
    drop_positions : int
        Positions to leave out at the start of each sequence.
    """

    max_length: int | None
    max_tokens: int | None
    drop_special: bool
    drop_positions: int

    @classmethod
    def checked(
        cls, max_length: Any, max_tokens: Any, drop_special: Any, drop_positions: Any
    ) -> "TokenSelection":
        """Check what the user passed.

        Raises
        ------
        TypeError
            If a value has the wrong type.
        ValueError
            If a number is too small.
        """

        def optional(value: Any, name: str) -> int | None:
            return None if value is None else check_int(value, name)

        return cls(
            max_length=optional(max_length, "max_length"),
            max_tokens=optional(max_tokens, "max_tokens"),
            drop_special=check_bool(drop_special, "drop_special"),
            drop_positions=check_int(drop_positions, "drop_positions", minimum=0),
        )


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
    tokenizer: Callable[..., Any] | None,
    selection: TokenSelection,
) -> TokenSequences:
    """Validate inputs and decide which tokens are kept.

    Raises
    ------
    ValueError
        If there is no token to keep, an id is unknown to the model, a sequence is
        longer than it can read or the inputs have another form.
    TypeError
        If the inputs are no list or dict, or the tokenizer is none.
    """
    is_tokenizer = callable(tokenizer) and hasattr(tokenizer, "all_special_ids")
    if tokenizer is not None and not is_tokenizer:
        raise TypeError(
            "tokenizer must be a tokenizer of transformers, such as "
            f"AutoTokenizer.from_pretrained(...) returns; got {shown(tokenizer)}."
        )
    model = language_model(model)
    fields = _by_field(model, inputs, tokenizer, selection.max_length)
    ids = fields.pop("input_ids")
    # Many tokenizers give token types to models that have none, of which some would
    # add the embedding of token 0 for them.
    if not getattr(model.config, "type_vocab_size", 0):
        fields.pop("token_type_ids", None)
    _check_ids(ids, model)
    special = _special_ids(model, tokenizer) if selection.drop_special else []
    is_kept = [~np.isin(array, special) for array in ids]
    for kept in is_kept:
        kept[: selection.drop_positions] = False
    sequences = TokenSequences(
        ids=ids,
        is_kept=is_kept,
        extras=fields,
        padding_id=_padding_id(model),
    )
    if not sequences.n_tokens:
        raise ValueError(_nothing_to_harvest(ids, selection))
    if selection.max_tokens is None:
        return sequences
    return sequences.limited_to(selection.max_tokens)


def _padding_id(model: PreTrainedModel) -> int:
    """An id that the model has an embedding for; some count positions without it."""
    token = getattr(model.config, "pad_token_id", None)
    n_known = model.get_input_embeddings().num_embeddings
    return token if token is not None and 0 <= token < n_known else 0


def _nothing_to_harvest(ids: list[IntArray], selection: TokenSelection) -> str:
    longest = max((len(array) for array in ids), default=0)
    if 0 < longest <= selection.drop_positions:
        return (
            "inputs has no token to harvest: the longest sequence has "
            f"{longest} tokens, and drop_positions={selection.drop_positions} leaves "
            "out all of them."
        )
    return (
        "inputs has no token to harvest: all sequences are empty or hold special "
        "tokens only; pass drop_special=False to harvest these."
    )


def _by_field(
    model: PreTrainedModel,
    inputs: Any,
    tokenizer: Callable[..., Any] | None,
    max_length: int | None,
) -> dict[str, list[IntArray]]:
    """Sequences of ids, and of what goes with them, without padding."""
    if isinstance(inputs, Mapping):
        return _from_mapping(model, inputs, tokenizer, max_length)
    if isinstance(inputs, str):
        raise ValueError("inputs is a single text; pass a list of texts.")
    rows = _rows(inputs, "inputs")
    if any(isinstance(row, str) for row in rows):
        return _from_texts(rows, tokenizer, max_length)
    return _from_mapping(model, {"input_ids": rows}, tokenizer, max_length)


def _from_texts(
    texts: list[Any], tokenizer: Callable[..., Any] | None, max_length: int | None
) -> dict[str, list[IntArray]]:
    if tokenizer is None:
        raise ValueError("inputs are texts; pass the model's tokenizer.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"inputs[{number}] is {shown(text)}, and others are texts; pass texts "
                "only, and leave out missing ones."
            )
    encoded = tokenizer(
        [str(text) for text in texts],  # numpy's strings too
        return_attention_mask=False,
        truncation=max_length is not None,
        max_length=max_length,
    )
    names = [name for name in ("input_ids", *_PADDING_OF) if name in encoded]
    return {
        name: [np.asarray(row, dtype=np.int64) for row in encoded[name]]
        for name in names
    }


def _from_mapping(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    tokenizer: Callable[..., Any] | None,
    max_length: int | None,
) -> dict[str, list[IntArray]]:
    known = {"input_ids", "attention_mask", *_PADDING_OF}
    if "input_ids" not in inputs or not known.issuperset(inputs):
        raise ValueError(
            f"inputs must hold 'input_ids' and may hold {sorted(known - {'input_ids'})}"
            f"; got {sorted(map(str, inputs))}."
        )
    fields = {}
    for name, rows in inputs.items():
        where = "inputs" if len(inputs) == 1 else f"inputs[{name!r}]"
        fields[name] = [_sequence(row, where) for row in _rows(rows, where)]
    ids = fields["input_ids"]
    lengths = [len(row) for row in ids]
    for name, rows in fields.items():
        if [len(row) for row in rows] != lengths:
            raise ValueError(
                f"inputs[{name!r}] must have the shape of inputs['input_ids']."
            )
    spans: list[Any]
    if "attention_mask" in fields:
        spans = [_token_span(mask) for mask in fields.pop("attention_mask")]
    else:
        padding = Padding.of(model, tokenizer)
        spans = [padding.token_span(row) for row in ids]
    return {
        name: [row[span][:max_length] for row, span in zip(rows, spans, strict=True)]
        for name, rows in fields.items()
    }


def _token_span(mask: IntArray) -> IntArray:
    """Positions that the mask has, between the padding on either side."""
    span = np.flatnonzero(mask)
    if len(span) and len(span) != span[-1] - span[0] + 1:
        raise ValueError(
            "inputs['attention_mask'] has a gap; only padding at the start or the "
            "end of a sequence can be left out."
        )
    return span


def _rows(values: Any, name: str) -> list[Any]:
    """One item for each text."""
    if hasattr(values, "columns"):
        raise TypeError(f"{name} is a data frame; pass one of its columns.")
    if getattr(values, "ndim", 1) == 0:
        raise TypeError(f"{name} must be a list; got {shown(values)}.")
    return check_list(values, name)


def _sequence(row: Any, name: str) -> IntArray:
    array = as_numpy(row, f"an item of {name}")
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iub"):
        raise ValueError(
            f"{name} must be sequences of integers, one for each text; got an item of "
            f"shape {array.shape} and dtype {array.dtype}."
        )
    return array.astype(np.int64)


def _check_ids(ids: list[IntArray], model: PreTrainedModel) -> None:
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
                f"Sequence {number} of inputs has the token id {unknown[0]}, but the "
                f"model knows 0..{n_known - 1}; use the tokenizer that belongs to it."
            )


def _special_ids(
    model: PreTrainedModel, tokenizer: Callable[..., Any] | None
) -> list[int]:
    if tokenizer is not None:
        return list(tokenizer.all_special_ids)  # type: ignore[attr-defined]
    return ids_of(model.config, _SPECIAL_IDS)
