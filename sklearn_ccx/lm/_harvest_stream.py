"""harvest_stream: activations of a language model that are not stored."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from .._engine._torch_state import torch_state
from .._validation import check_int, check_option
from ..activations import ActivationStream
from ._architectures import check_model, transformer_blocks
from ._evaluation_mode import evaluation_mode
from ._harvest import IN_MEMORY_DTYPES, record_batch
from ._inputs import IntArray, TokenSelection, TokenSequences, read_inputs
from ._sites import resolve_sites


def harvest_stream(
    model: PreTrainedModel,
    inputs: Any,
    *,
    buffer_size: int = 2**16,
    sites: str | Sequence[str] = "mlp_in",
    tokenizer: Callable[..., Any] | None = None,
    max_length: int | None = None,
    max_tokens: int | None = None,
    drop_special: bool = True,
    drop_positions: int = 0,
    batch_size: int = 32,
    dtype: str = "float32",
) -> ActivationStream:
    """Stream activations of a language model to a coder that is trained on them.

    They are those that :func:`harvest` would record, in the same order, but never all
    at once: pass the stream to ``fit`` or ``partial_fit`` in the place of X. The inputs
    are turned into token ids at once, which is little beside activations; the model is
    run when a buffer is due.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model of a known family; see :func:`site_names`.

    inputs : iterable of str, iterable of sequences of int, or dict
        As in :func:`harvest`. Shuffle texts before: what the first buffer is like
        decides about scales.

    buffer_size : int, default=65536
        Tokens that are held, and shuffled, at a time.

    sites : str or sequence of str, default="mlp_in"
        What to record, as in :func:`harvest`.

    tokenizer : transformers.PreTrainedTokenizerBase, default=None
        Makes token ids of texts, and says which tokens are special.

    max_length : int, default=None
        Tokens at which a sequence is cut.

    max_tokens : int, default=None
        The token budget of a pass. None takes all.

    drop_special : bool, default=True
        Whether to leave out special tokens.

    drop_positions : int, default=0
        How many positions at the start of each sequence to leave out.

    batch_size : int, default=32
        Sequences that the model runs on at a time.

    dtype : {"float32", "float16"}, default="float32"
        Of the activations.

    Returns
    -------
    stream : ActivationStream
        A pass over it has as many rows as tokens are recorded.

    Raises
    ------
    ValueError
        As :func:`harvest`.
    TypeError
        As :func:`harvest`.

    See Also
    --------
    harvest : The same activations, stored.
    sklearn_ccx.callbacks.Checkpoint : From which a fit on a stream goes on.

    Notes
    -----
    A sequence that two buffers share is run once where they follow each other. Every
    pass over the stream runs the model anew, unless one buffer holds all of it.

    Examples
    --------
    >>> import numpy as np
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from sklearn_ccx import InteractionCrosscoder
    >>> from sklearn_ccx.lm import harvest_stream
    >>> config = GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=16)
    >>> ids = np.random.default_rng(0).integers(16, size=(40, 10))
    >>> stream = harvest_stream(
    ...     GPT2LMHeadModel(config), ids, buffer_size=150, drop_positions=1
    ... )
    >>> stream
    ActivationStream(n_samples=360, buffer_size=150)
    >>> ccx = InteractionCrosscoder(16, k=2, max_iter=2, random_state=0).fit(stream)
    >>> ccx.n_sites_, len(ccx.loss_curve_)
    (2, 6)
    """
    model = check_model(model)
    names = resolve_sites(sites, transformer_blocks(model))
    check_option(dtype, "dtype", IN_MEMORY_DTYPES)
    batch_size = check_int(batch_size, "batch_size")
    selection = TokenSelection.checked(
        max_length, max_tokens, drop_special, drop_positions
    )
    with torch_state(grad=False):
        sequences = read_inputs(model, inputs, tokenizer, selection)
    reader = _Reader(model, names, sequences, batch_size, dtype)
    return ActivationStream(reader, sequences.n_tokens, buffer_size=buffer_size)


class _Reader:
    """Records the tokens of some places, in batches that do not depend on these."""

    def __init__(
        self,
        model: PreTrainedModel,
        names: tuple[str, ...],
        sequences: TokenSequences,
        batch_size: int,
        dtype: str,
    ) -> None:
        self._model, self._names, self._sequences = model, names, sequences
        self._dtype = dtype
        self._batches = sequences.batches(batch_size)
        n_tokens = [sequences.count(rows) for rows in self._batches]
        self._ends = np.cumsum(n_tokens)
        self._newest: tuple[int, npt.NDArray[Any]] | None = None

    def __call__(self, start: int, stop: int) -> npt.NDArray[Any]:
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop, side="left"))
        parts = []
        with torch_state(grad=False), evaluation_mode(self._model):
            for number in range(first, last + 1):
                recorded = self._recorded(number)
                end = int(self._ends[number])
                offset = end - len(recorded)
                parts.append(recorded[max(start - offset, 0) : stop - offset])
        return np.concatenate(parts)

    def _recorded(self, number: int) -> npt.NDArray[Any]:
        """A batch, of which the newest is kept: the next buffer may begin in it."""
        if self._newest is None or self._newest[0] != number:
            rows: IntArray = self._batches[number]
            blocks = transformer_blocks(self._model)
            recorded = record_batch(
                self._model, blocks, self._names, self._dtype, self._sequences, rows
            )
            self._newest = number, recorded.numpy()
        return self._newest[1]
