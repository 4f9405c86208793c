"""Where the activations and the MLPs of each family of models are."""

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from .._validation import shown
from ._unknown_models import how_to_take_mlps

# In the order in which a block computes them.
SITES = ("resid_pre", "attn_in", "resid_mid", "mlp_in", "resid_post")


@dataclass(frozen=True)
class Architecture:
    """Paths of the modules of one family, the blocks' from the base model.

    Parameters
    ----------
    blocks : str
        The list of blocks.
    attention : str
        The module of a block that takes the input of attention.
    mlp_norm : str or None
        The normalisation that only the MLP reads; None where normalisation comes
        after the residual is added, so that the MLP reads the residual stream.
    linear_in, activation, linear_out : str
        The MLP.
    linear_gate : str or None
        The layer before the nonlinearity of a gated MLP, whose ``linear_in`` is the
        linear factor.
    norm_scale_offset : float
        What is added to the weight of ``mlp_norm`` to get its scale.
    is_causal : bool
        Whether the model predicts the next token, unless its configuration says so.
    first_position_is_after_padding : bool
        Whether positions are counted from ``pad_token_id + 1``.
    """

    blocks: str
    attention: str
    mlp_norm: str | None
    linear_in: str
    activation: str
    linear_out: str
    linear_gate: str | None = None
    norm_scale_offset: float = 0.0
    is_causal: bool = True
    first_position_is_after_padding: bool = False


_GPT2 = Architecture("h", "attn", "ln_2", "mlp.c_fc", "mlp.act", "mlp.c_proj")
_GPT_NEOX = Architecture(
    "layers",
    "attention",
    "post_attention_layernorm",
    "mlp.dense_h_to_4h",
    "mlp.act",
    "mlp.dense_4h_to_h",
)
_OPT = Architecture(
    "decoder.layers", "self_attn", "final_layer_norm", "fc1", "activation_fn", "fc2"
)


def _llama(mlp_norm: str, norm_scale_offset: float = 0.0) -> Architecture:
    return Architecture(
        "layers",
        "self_attn",
        mlp_norm,
        "mlp.up_proj",
        "mlp.act_fn",
        "mlp.down_proj",
        linear_gate="mlp.gate_proj",
        norm_scale_offset=norm_scale_offset,
    )


def _bert(first_position_is_after_padding: bool) -> Architecture:
    return Architecture(
        "encoder.layer",
        "attention",
        None,
        "intermediate.dense",
        "intermediate.intermediate_act_fn",
        "output.dense",
        is_causal=False,
        first_position_is_after_padding=first_position_is_after_padding,
    )


_DISTILBERT = Architecture(
    "transformer.layer",
    "attention",
    None,
    "ffn.lin1",
    "ffn.activation",
    "ffn.lin2",
    is_causal=False,
)

# By `model.config.model_type`.
ARCHITECTURES = {
    "bert": _bert(False),
    "distilbert": _DISTILBERT,
    "electra": _bert(False),
    "gemma": _llama("post_attention_layernorm", norm_scale_offset=1.0),
    "gemma2": _llama("pre_feedforward_layernorm", norm_scale_offset=1.0),
    "gemma3_text": _llama("pre_feedforward_layernorm", norm_scale_offset=1.0),
    "gpt2": _GPT2,
    "gpt_neo": _GPT2,
    "gpt_neox": _GPT_NEOX,
    "llama": _llama("post_attention_layernorm"),
    "mistral": _llama("post_attention_layernorm"),
    "mpnet": _bert(True),
    "opt": _OPT,
    "qwen2": _llama("post_attention_layernorm"),
    "qwen3": _llama("post_attention_layernorm"),
    "roberta": _bert(True),
    "xlm-roberta": _bert(True),
}


@dataclass(frozen=True)
class Block:
    """The modules of one block; see :class:`Architecture`.

    ``has_resid_mid`` is False where attention and MLP read the same residual stream
    side by side.
    """

    block: nn.Module
    attention: nn.Module
    mlp_norm: nn.Module | None
    linear_in: nn.Module
    activation: nn.Module
    linear_out: nn.Module
    linear_gate: nn.Module | None
    norm_scale_offset: float
    has_resid_mid: bool

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that the block has, in order of computation."""
        return tuple(s for s in SITES if s != "resid_mid" or self.has_resid_mid)

    def reader(self, site: str) -> nn.Module:
        """The module whose input is the site, or its output for "resid_post"."""
        mlp_reader = self.linear_in if self.mlp_norm is None else self.mlp_norm
        return {
            "resid_pre": self.block,
            "attn_in": self.attention,
            "resid_mid": mlp_reader,
            "mlp_in": self.linear_in,
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


def architecture_of(model: PreTrainedModel) -> Architecture:
    """Look up the family of a model.

    Raises
    ------
    ValueError
        If the family is not known.
    """
    model_type = model.config.model_type
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"The architecture {model_type!r} ({type(model).__name__}) is not known; "
            f"known are {sorted(ARCHITECTURES)}. {how_to_take_mlps(model)}"
        )
    return ARCHITECTURES[model_type]


def is_causal(model: PreTrainedModel) -> bool:
    """Whether the model predicts the next token."""
    is_decoder = getattr(model.config, "is_decoder", False)
    return architecture_of(model).is_causal or is_decoder


def transformer_blocks(model: PreTrainedModel) -> list[Block]:
    """List the blocks of a model of a known family.

    Raises
    ------
    ValueError
        If the family is not known, or the model runs its MLPs on chunks of tokens.
    """
    architecture = architecture_of(model)
    config = model.config
    if getattr(config, "chunk_size_feed_forward", 0):
        raise ValueError(
            "The model runs its MLPs on chunks of tokens; load it with "
            "chunk_size_feed_forward=0."
        )
    is_parallel = getattr(config, "use_parallel_residual", False)
    is_pre_norm = getattr(config, "do_layer_norm_before", True)

    def optional(block: nn.Module, path: str | None) -> nn.Module | None:
        return None if path is None else block.get_submodule(path)

    return [
        Block(
            block=block,
            attention=block.get_submodule(architecture.attention),
            mlp_norm=optional(block, architecture.mlp_norm) if is_pre_norm else None,
            linear_in=block.get_submodule(architecture.linear_in),
            activation=block.get_submodule(architecture.activation),
            linear_out=block.get_submodule(architecture.linear_out),
            linear_gate=optional(block, architecture.linear_gate),
            norm_scale_offset=architecture.norm_scale_offset,
            has_resid_mid=not is_parallel,
        )
        for block in model.base_model.get_submodule(architecture.blocks).children()
    ]


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
