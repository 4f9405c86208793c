"""Token ids that are padded and come without an attention mask."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Padding:
    """How ids are padded that come without an attention mask.

    Parameters
    ----------
    token : int or None
        The padding token.
    n_own : int
        How many of a run of them may be the sequence's own: 1 if the token also
        begins or ends texts, else 0.
    """

    token: int | None
    n_own: int

    @classmethod
    def of(
        cls, model: PreTrainedModel, tokenizer: Callable[..., Any] | None
    ) -> "Padding":
        """The padding token of the tokenizer, or else of the model."""
        token = getattr(tokenizer, "pad_token_id", None)
        if token is None:
            token = getattr(model.config, "pad_token_id", None)
        borders: list[int] = []
        for holder in (model.config, tokenizer):
            borders += ids_of(holder, ("bos_token_id", "eos_token_id"))
        return cls(token, int(token in borders))

    def token_span(self, ids: npt.NDArray[np.int64]) -> slice:
        """Where the sequence is between the padding."""
        if self.token is None:
            return slice(None)
        others = np.flatnonzero(ids != self.token)
        if not len(others):
            return slice(0, self.n_own)
        start, stop = int(others[0]), int(others[-1]) + 1
        return slice(max(0, start - self.n_own), stop + self.n_own)


def ids_of(holder: object, names: Iterable[str]) -> list[int]:
    """Token ids that a configuration or a tokenizer names, some as a list."""
    ids: list[int] = []
    for name in names:
        value = getattr(holder, name, None)
        if value is not None:
            ids.extend(value if isinstance(value, list) else [value])
    return ids
