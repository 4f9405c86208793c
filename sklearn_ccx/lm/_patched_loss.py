"""The loss of a language model one of whose MLPs gives another output."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from .._engine._torch_state import with_torch_state
from .._validation import as_numpy, check_int
from ._architectures import (
    Block,
    ExpertMixture,
    check_blocks,
    check_model,
    is_causal,
    language_model,
    transformer_blocks,
)
from ._evaluation_mode import evaluation_mode
from ._forward import replaced_output, run
from ._inputs import TokenBatch, TokenSelection, TokenSequences, read_inputs

FloatArray = npt.NDArray[np.floating]

_NO_LABEL = -100


@with_torch_state()
def patched_loss(
    model: PreTrainedModel,
    inputs: Any,
    block: int | Iterable[int] | None = None,
    *,
    tokenizer: Callable[..., Any] | None = None,
    max_length: int | None = None,
    max_tokens: int | None = None,
    drop_special: bool = True,
    drop_positions: int = 0,
    batch_size: int = 32,
) -> Callable[..., float]:
    """Make the `loss` of :func:`~sklearn_ccx.ablation_fidelity` for a language model.

    The loss runs the model on the inputs with the output of one block's MLP replaced
    at the harvested tokens; at the others, such as special tokens, the MLP's own
    output stays. It is the mean cross-entropy in nats,

    - for a model that predicts the next token, of the prediction made at each
      harvested token that has a next one;
    - for an encoder, of the prediction at each position whose label, in
      ``inputs["labels"]``, is not -100.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model of a known family with a language-model head, such as
        ``AutoModelForCausalLM`` returns.

    inputs : iterable of str, iterable of sequences of int, or dict
        Those of :func:`harvest`. A dict may have "labels", which an encoder needs:
        the id to predict at each position, or -100 for none. As in transformers,
        the label at a position is what a causal model predicts one position before.

    block : int or iterable of int, default=None
        The block of each MLP of the estimator, in the order of its `mlp`. None
        takes all blocks, as :func:`mlp_weights` does.

    tokenizer : transformers.PreTrainedTokenizerBase, default=None
        As given to :func:`harvest`; this and the next four determine which tokens
        are patched.

    max_length : int, default=None
        As given to :func:`harvest`.

    max_tokens : int, default=None
        As given to :func:`harvest`.

    drop_special : bool, default=True
        As given to :func:`harvest`.

    drop_positions : int, default=0
        As given to :func:`harvest`.

    batch_size : int, default=32
        Sequences that run together.

    Returns
    -------
    loss : callable
        ``loss(output, mlp_index=0)`` takes the output of one MLP for all harvested
        tokens, of shape `(n_tokens, d)`, and returns the cross-entropy. With None as
        the output nothing is replaced: the loss of the model itself.

    Raises
    ------
    ValueError
        If the architecture is not known, a block does not exist, an encoder has no
        labels or there is nothing to predict. The loss raises one if the output does
        not have one row for each token or `mlp_index` has no block.
    TypeError
        If `model` is not a transformers model or has no language-model head, or a
        parameter has the wrong type.

    See Also
    --------
    harvest : The activations that the estimator explains.
    sklearn_ccx.ablation_fidelity : Takes the loss.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from sklearn_ccx import InteractionCrosscoder, ablation_fidelity
    >>> from sklearn_ccx.lm import harvest, mlp_weights, patched_loss
    >>> config = GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=16)
    >>> model = GPT2LMHeadModel(config)
    >>> ids = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11]]
    >>> X = harvest(model, ids).activations
    >>> ccx = InteractionCrosscoder(
    ...     16, k=4, mlp=mlp_weights(model), max_iter=5, random_state=0
    ... ).fit(X)
    >>> fidelity = ablation_fidelity(ccx, X, loss=patched_loss(model, ids))
    >>> fidelity["keep_largest"].shape
    (2,)
    """
    model = check_model(model)
    blocks = transformer_blocks(model)
    every_block = range(len(blocks))
    chosen = check_blocks(every_block if block is None else block, len(blocks), "block")
    batch_size = check_int(batch_size, "batch_size")
    selection = TokenSelection.checked(
        max_length, max_tokens, drop_special, drop_positions
    )
    linear_outs = [_linear_out(blocks, number) for number in chosen]
    if model.get_output_embeddings() is None:
        raise TypeError(
            f"{type(model).__name__} has no language-model head; load the model with "
            "AutoModelForCausalLM or AutoModelForMaskedLM."
        )
    sequences = read_inputs(model, inputs, tokenizer, selection)
    predicts_next = is_causal(model)
    if not predicts_next and "labels" not in sequences.extras:
        raise ValueError(
            f"{type(model).__name__} does not predict the next token; pass inputs "
            'as a dict with "labels": the id to predict at each position, or -100.'
        )
    return partial(
        _loss,
        model=model,
        linear_outs=linear_outs,
        sequences=sequences,
        batch_size=batch_size,
        predicts_next=predicts_next,
    )


@with_torch_state()
def _loss(
    output: FloatArray | None,
    mlp_index: int = 0,
    *,
    model: PreTrainedModel,
    linear_outs: list[nn.Module],
    sequences: TokenSequences,
    batch_size: int,
    predicts_next: bool,
) -> float:
    mlp_index = check_int(mlp_index, "mlp_index", minimum=0)
    if mlp_index >= len(linear_outs):
        raise ValueError(
            f"The loss patches {len(linear_outs)} MLP(s), but was called for "
            f"mlp_index={mlp_index}; give patched_loss the block of each MLP of the "
            "estimator."
        )
    linear_out = linear_outs[mlp_index]
    patches = _patches(
        output, sequences.n_tokens, language_model(model).config.hidden_size
    )
    total, n_predicted = 0.0, 0
    with evaluation_mode(model):
        for rows in sequences.batches(batch_size):
            batch = sequences.load(rows, model.device)
            patched: AbstractContextManager[None] = nullcontext()
            if patches is not None:
                patch, patches = patches.tensor_split([sequences.count(rows)])
                patched = replaced_output(linear_out, patch, batch.is_kept_BT)
            with patched:
                logits_BTV = run(model, batch).logits
            targets_BT = _targets(batch, predicts_next)
            total += _cross_entropy_sum(logits_BTV, targets_BT)
            n_predicted += int((targets_BT != _NO_LABEL).sum())
    if not n_predicted:
        raise ValueError("inputs has nothing to predict at the harvested tokens.")
    loss = total / n_predicted
    if not np.isfinite(loss):
        raise ValueError(
            f"The loss is {loss}: the model's own, or that with output, which may be "
            "too large for the model's precision."
        )
    return loss


def _linear_out(blocks: list[Block], number: int) -> nn.Module:
    mlp = blocks[number].mlp
    if isinstance(mlp, ExpertMixture):
        raise ValueError(
            f"The MLP of block {number} is a mixture of experts, whose outputs are "
            "weighted and added; the loss with one of them replaced is not known. "
            "Leave loss out, so that fidelity is that of the expert's output."
        )
    return mlp.linear_out


def _patches(output: FloatArray | None, n_tokens: int, width: int) -> Tensor | None:
    if output is None:
        return None
    shape = n_tokens, width
    array = as_numpy(output, "output")
    if array.dtype == np.longdouble:  # torch has none
        array = array.astype(np.float64)
    if array.shape != shape:
        raise ValueError(
            f"The output of the MLP has shape {array.shape}, but the harvested "
            f"tokens need {shape}; give patched_loss and harvest the same inputs, "
            "max_length, max_tokens, drop_special and drop_positions."
        )
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise ValueError(
            "The output of the MLP must be finite numbers; got an array of dtype "
            f"{array.dtype} that holds something else."
        )
    return torch.from_numpy(np.ascontiguousarray(array))


def _targets(batch: TokenBatch, predicts_next: bool) -> Tensor:
    """What is predicted at each position, -100 for nothing."""
    labels_BT = batch.extras_BT.get("labels", batch.ids_BT)
    labels_BT = labels_BT.masked_fill(~batch.is_token_BT, _NO_LABEL)
    if not predicts_next:
        return labels_BT
    next_BT = labels_BT.roll(-1, dims=1)
    next_BT[:, -1] = _NO_LABEL
    return next_BT.masked_fill(~batch.is_kept_BT, _NO_LABEL)


def _cross_entropy_sum(logits_BTV: Tensor, targets_BT: Tensor) -> float:
    predicted_BT = targets_BT != _NO_LABEL
    return float(
        functional.cross_entropy(
            logits_BTV[predicted_BT].float(), targets_BT[predicted_BT], reduction="sum"
        )
    )
