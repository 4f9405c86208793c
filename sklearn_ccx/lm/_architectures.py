"""The blocks of a model of a known family, and the modules that read its sites."""

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from .._validation import shown
from ._families import FAMILIES, Architecture, Mixture
from ._unknown_models import how_to_take_mlps

# In the order in which a block computes them.
SITES = ("resid_pre", "attn_in", "resid_mid", "mlp_in", "resid_post")


@dataclass(frozen=True)
class DenseMLP:
    """The layers of an MLP; see :class:`~._families.Architecture`."""

    linear_in: nn.Module
    activation: nn.Module
    linear_out: nn.Module
    linear_gate: nn.Module | None
    is_fused: bool

    @property
    def reader(self) -> nn.Module:
        """The module that reads the input of the MLP."""
        return self.linear_in


@dataclass(frozen=True)
class ExpertMixture:
    """The experts of an MLP; see :class:`~._families.Mixture`."""

    router: nn.Module
    experts: nn.Module
    refusal: str | None

    @property
    def reader(self) -> nn.Module:
        """The module that reads the input of the MLP."""
        return self.router


@dataclass(frozen=True)
class Block:
    """The modules of one block; see :class:`~._families.Architecture`."""

    block: nn.Module
    attention: nn.Module
    mlp_norm: nn.Module | None
    mlp: DenseMLP | ExpertMixture
    is_parallel: bool

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that the block has, in order of computation."""
        return tuple(s for s in SITES if s != "resid_mid" or not self.is_parallel)

    def reader(self, site: str) -> nn.Module:
        """The module whose input is the site, or its output for "resid_post"."""
        return {
            "resid_pre": self.block,
            "attn_in": self.attention,
            "resid_mid": self.mlp.reader if self.mlp_norm is None else self.mlp_norm,
            "mlp_in": self.mlp.reader,
            "resid_post": self.block,
        }[site]


def check_model(model: object) -> PreTrainedModel:
    """The model itself, without the wrapper of an adapter.

    Raises
    ------
    TypeError
        If it is not a transformers model.
    """
    unwrap = getattr(model, "get_base_model", None)
    if not isinstance(model, PreTrainedModel) and callable(unwrap):
        model = unwrap()
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            "model must be a transformers PreTrainedModel, such as "
            "AutoModelForCausalLM.from_pretrained(...) returns; "
            f"got {type(model).__name__}."
        )
    return model


def language_model(model: PreTrainedModel) -> PreTrainedModel:
    """The model without a head, and without what reads images for it."""
    inner = model.base_model
    while True:
        parts = (getattr(inner, name, None) for name in ("language_model", "model"))
        part = next((p for p in parts if isinstance(p, PreTrainedModel)), None)
        if part is None:
            return inner
        inner = part


def architecture_of(model: PreTrainedModel) -> Architecture:
    """Look up the family of a model.

    Raises
    ------
    ValueError
        If the family is not known.
    """
    config = language_model(model).config
    family = FAMILIES.get(config.model_type)
    if family is None:
        advice = how_to_take_mlps(model, getattr(config, "hidden_size", 0))
        raise ValueError(
            f"The architecture {config.model_type!r} ({type(model).__name__}) is not "
            f"known; known are {sorted(FAMILIES)}. {advice}"
        )
    return family if isinstance(family, Architecture) else family(config)


def is_causal(model: PreTrainedModel) -> bool:
    """Whether the model predicts the next token."""
    is_decoder = getattr(language_model(model).config, "is_decoder", False)
    return architecture_of(model).is_causal or is_decoder


def transformer_blocks(model: PreTrainedModel) -> list[Block]:
    """List the blocks of a model of a known family.

    Raises
    ------
    ValueError
        If the family is not known, or the model has no blocks or runs its MLPs on
        chunks of tokens.
    """
    architecture = architecture_of(model)
    inner = language_model(model)
    if getattr(inner.config, "chunk_size_feed_forward", 0):
        raise ValueError(
            "The model runs its MLPs on chunks of tokens; load it with "
            "chunk_size_feed_forward=0."
        )
    modules = list(inner.get_submodule(architecture.blocks).children())
    if not modules:
        raise ValueError(f"{type(model).__name__} has no blocks, and so no sites.")
    return [
        Block(
            block=block,
            attention=block.get_submodule(architecture.attention),
            mlp_norm=_optional(block, architecture.mlp_norm),
            mlp=_mlp_of(block, architecture),
            is_parallel=architecture.is_parallel,
        )
        for block in modules
    ]


def _mlp_of(block: nn.Module, architecture: Architecture) -> DenseMLP | ExpertMixture:
    mixture = architecture.mixture
    if mixture is not None and _has(block, mixture):
        return ExpertMixture(
            router=block.get_submodule(mixture.router),
            experts=block.get_submodule(mixture.experts),
            refusal=mixture.refusal,
        )
    return DenseMLP(
        linear_in=block.get_submodule(architecture.linear_in),
        activation=block.get_submodule(architecture.activation),
        linear_out=block.get_submodule(architecture.linear_out),
        linear_gate=_optional(block, architecture.linear_gate),
        is_fused=architecture.is_fused,
    )


def _has(block: nn.Module, mixture: Mixture) -> bool:
    return any(path == mixture.experts for path, _ in block.named_modules())


def _optional(block: nn.Module, path: str | None) -> nn.Module | None:
    return None if path is None else block.get_submodule(path)


def check_blocks(
    blocks: int | Iterable[int], n_blocks: int, name: str = "blocks"
) -> list[int]:
    """List the blocks, an integer standing for one.

    Raises
    ------
    ValueError
        If a block does not exist or none is given.
    TypeError
        If it is no integer and no list of them.
    """
    is_one = not isinstance(blocks, Iterable) or isinstance(blocks, str | bytes)
    is_one = is_one or getattr(blocks, "ndim", 1) == 0
    items: list[Any] = [blocks] if is_one else list(blocks)  # type: ignore[arg-type]
    for block in items:
        if not isinstance(block, Integral) or isinstance(block, bool):
            raise TypeError(
                f"{name} must be an integer or a list of integers; got {shown(block)}."
            )
    if not items or not all(0 <= block < n_blocks for block in items):
        raise ValueError(
            f"{name} must be among 0..{n_blocks - 1}, the blocks of the model; "
            f"got {items}."
        )
    return [int(block) for block in items]
