"""Which experts the tokens of a language model go to."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from .._engine._torch_state import with_torch_state
from .._validation import check_int
from ._architectures import (
    ExpertMixture,
    check_blocks,
    check_model,
    transformer_blocks,
)
from ._evaluation_mode import evaluation_mode
from ._experts import check_readable
from ._forward import record_routes
from ._inputs import TokenSelection, read_inputs


@with_torch_state()
def routed_experts(
    model: PreTrainedModel,
    inputs: Any,
    block: int,
    *,
    tokenizer: Callable[..., Any] | None = None,
    max_length: int | None = None,
    max_tokens: int | None = None,
    drop_special: bool = True,
    drop_positions: int = 0,
    batch_size: int = 32,
) -> npt.NDArray[np.int64]:
    """Run a mixture of experts and record which ones each token is routed to.

    An expert sees the tokens that are routed to it, and its features are to be learnt
    and measured on those. The rows of a harvest that are routed to expert 3 are
    ``(routed_experts(model, inputs, block) == 3).any(axis=1)``.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model of a known family some of whose blocks have experts.

    inputs : iterable of str, iterable of sequences of int, or dict
        Those of :func:`harvest`.

    block : int
        The block, from 0.

    tokenizer : transformers.PreTrainedTokenizerBase, default=None
        As given to :func:`harvest`; this and the next four determine which tokens
        there are.

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
    experts : ndarray of shape (n_tokens, n_chosen), dtype int64
        The experts of each harvested token, the one with the largest weight first.

    Raises
    ------
    ValueError
        If the architecture is not known, the block does not exist or has no experts,
        or they are not MLPs of the form of :class:`~sklearn_ccx.MLPWeights`.
    TypeError
        If `model` is not a transformers model or a parameter has the wrong type.

    See Also
    --------
    harvest : The activations of the same tokens.
    mlp_weights : Takes one expert with `expert`.

    Examples
    --------
    >>> import torch
    >>> from transformers import MixtralConfig, MixtralForCausalLM
    >>> from sklearn_ccx.lm import harvest, mlp_weights, routed_experts
    >>> _ = torch.manual_seed(0)
    >>> config = MixtralConfig(
    ...     vocab_size=16,
    ...     hidden_size=8,
    ...     intermediate_size=12,
    ...     num_hidden_layers=1,
    ...     num_attention_heads=2,
    ...     num_key_value_heads=2,
    ...     num_local_experts=4,
    ...     num_experts_per_tok=2,
    ...     bos_token_id=None,
    ...     eos_token_id=None,
    ... )
    >>> model = MixtralForCausalLM(config)
    >>> ids = [[1, 2, 3, 4, 5], [6, 7, 8]]
    >>> experts = routed_experts(model, ids, block=0)
    >>> experts.shape
    (8, 2)
    >>> is_routed = (experts == 3).any(axis=1)
    >>> X = harvest(model, ids).activations[is_routed]
    >>> mlp_weights(model, expert=3)
    [MLPWeights(d=8, n_neurons=12, d_out=8, activation='silu', site=0, gated=True)]
    """
    model = check_model(model)
    blocks = transformer_blocks(model)
    number = check_int(block, "block", minimum=0)
    check_blocks(number, len(blocks), "block")
    mixture = blocks[number].mlp
    if not isinstance(mixture, ExpertMixture):
        with_experts = [
            n for n, b in enumerate(blocks) if isinstance(b.mlp, ExpertMixture)
        ]
        raise ValueError(
            f"Block {number} has a single MLP and no experts; blocks with experts are "
            f"{with_experts}."
        )
    check_readable(mixture, f"experts of block {number}")
    batch_size = check_int(batch_size, "batch_size")
    selection = TokenSelection.checked(
        max_length, max_tokens, drop_special, drop_positions
    )
    sequences = read_inputs(model, inputs, tokenizer, selection)
    with evaluation_mode(model):
        routes = [
            record_routes(model, mixture, sequences.load(rows, model.device))
            for rows in sequences.batches(batch_size)
        ]
    return np.concatenate([experts_nk.cpu().numpy() for experts_nk in routes])
