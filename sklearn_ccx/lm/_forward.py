"""Running a model with hooks, and leaving it as it was."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ._architectures import Block, ExpertMixture, is_causal, language_model
from ._inputs import TokenBatch
from ._sites import split_name


def of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that does nothing when another thread runs the model."""
    thread = threading.get_ident()

    def hook_or_nothing(*args: Any) -> Any:
        return hook(*args) if threading.get_ident() == thread else None

    return hook_or_nothing


def run(model: PreTrainedModel, batch: TokenBatch) -> Any:
    """Output of the model on a batch."""
    inputs = {"input_ids": batch.ids_BT, "attention_mask": batch.is_token_BT.long()}
    if "token_type_ids" in batch.extras_BT:
        inputs["token_type_ids"] = batch.extras_BT["token_type_ids"]
    # Nothing is generated, so that keys and values would be kept for nothing.
    no_cache = {"use_cache": False} if is_causal(model) else {}
    return model(**inputs, **no_cache)


def record_sites(
    model: PreTrainedModel,
    blocks: Sequence[Block],
    sites: Sequence[str],
    batch: TokenBatch,
) -> Tensor:
    """Activations of the kept tokens of a batch, (n_kept, L, D).

    The head of the model is not run.
    """
    shape_BT = batch.ids_BT.shape
    recorded: list[Tensor] = [torch.empty(0)] * len(sites)

    def record(slot: int, activation: Tensor) -> None:
        by_token_BTD = activation.reshape(*shape_BT, -1)
        is_kept_BT = batch.is_kept_BT.to(activation.device)
        recorded[slot] = by_token_BTD[is_kept_BT].float().to(batch.ids_BT.device)

    def record_input(slot: int, _module: Any, args: Any, kwargs: Any) -> None:
        record(slot, args[0] if args else kwargs["hidden_states"])

    def record_output(slot: int, _module: Any, _args: Any, output: Any) -> None:
        record(slot, _hidden_states(output))

    with ExitStack() as hooks:
        for slot, name in enumerate(sites):
            block_index, site = split_name(name)
            module = blocks[block_index].reader(site)
            if site == "resid_post":
                handle = module.register_forward_hook(
                    of_this_thread(partial(record_output, slot))
                )
            else:
                handle = module.register_forward_pre_hook(
                    of_this_thread(partial(record_input, slot)), with_kwargs=True
                )
            hooks.callback(handle.remove)
        run(language_model(model), batch)
    return torch.stack(recorded, dim=1)


def record_routes(
    model: PreTrainedModel, mixture: ExpertMixture, batch: TokenBatch
) -> Tensor:
    """The experts that the kept tokens of a batch are routed to, (n_kept, n_chosen)."""
    recorded: list[Tensor] = []

    def record(_module: nn.Module, args: Any, kwargs: Any) -> None:
        # The router gives its experts the rows, the experts of each, and their weights.
        experts_Nk = [*args, *kwargs.values()][1]
        by_token_BTk = experts_Nk.reshape(*batch.ids_BT.shape, -1)
        recorded.append(by_token_BTk[batch.is_kept_BT.to(by_token_BTk.device)])

    handle = mixture.experts.register_forward_pre_hook(
        of_this_thread(record), with_kwargs=True
    )
    try:
        run(language_model(model), batch)
    finally:
        handle.remove()
    (experts_nk,) = recorded
    return experts_nk


@contextmanager
def replaced_output(
    module: nn.Module, rows: Tensor, is_kept_BT: Tensor
) -> Iterator[None]:
    """Replace the output of a module at the kept tokens by rows, (n_kept, O)."""

    def replace(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        by_token_BTO = output.reshape(*is_kept_BT.shape, -1).clone()
        by_token_BTO[is_kept_BT] = rows.to(by_token_BTO)
        return by_token_BTO.reshape(output.shape)

    handle = module.register_forward_hook(of_this_thread(replace))
    try:
        yield
    finally:
        handle.remove()


def _hidden_states(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
