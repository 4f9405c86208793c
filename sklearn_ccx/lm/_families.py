"""Where the activations and the MLPs of each family of models are."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Mixture:
    """Paths of the modules of a block whose MLP is a mixture of experts.

    Parameters
    ----------
    router : str
        The module that reads the input of the MLP and distributes it.
    experts : str
        The module with the weights of all experts. A block without it has a single
        MLP.
    refusal : str or None
        Why an expert is not an MLP of ours; None where it is.
    """

    router: str
    experts: str
    refusal: str | None = None


@dataclass(frozen=True)
class Architecture:
    """Paths of the modules of one family, the blocks' from the language model.

    Parameters
    ----------
    blocks : str
        The list of blocks.
    attention : str
        The module of a block that takes the input of attention.
    mlp_norm : str or None
        The normalisation whose output the MLP reads; None where normalisation comes
        later, so that the MLP reads the residual stream.
    linear_in, activation, linear_out : str
        The MLP.
    linear_gate : str or None
        The layer before the nonlinearity of a gated MLP, whose ``linear_in`` is the
        linear factor.
    is_fused : bool
        Whether ``linear_in`` is the gate too, which is the first half of its outputs.
    is_parallel : bool
        Whether attention and MLP read the same residual stream side by side.
    mixture : Mixture or None
        The experts of the blocks that have some.
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
    is_fused: bool = False
    is_parallel: bool = False
    mixture: Mixture | None = None
    is_causal: bool = True
    first_position_is_after_padding: bool = False


# Of some families the paths depend on the configuration.
Family: TypeAlias = Architecture | Callable[[Any], Architecture]


def _fc_proj(mlp_norm: str, **others: Any) -> Architecture:
    """The MLP of GPT-2 in blocks of GPT-2."""
    names = "mlp.c_fc", "mlp.act", "mlp.c_proj"
    return Architecture("h", "attn", mlp_norm, *names, **others)


def _gated(mlp_norm: str | None = "post_attention_layernorm", **others: Any) -> Any:
    """The MLP of Llama in blocks of Llama."""
    paths = {
        "blocks": "layers",
        "attention": "self_attn",
        "linear_in": "mlp.up_proj",
        "activation": "mlp.act_fn",
        "linear_out": "mlp.down_proj",
        "linear_gate": "mlp.gate_proj",
    }
    return Architecture(mlp_norm=mlp_norm, **{**paths, **others})


_GATED = _gated()
# Gate and linear factor as one layer, which chunks its output.
_FUSED = _gated(
    linear_in="mlp.gate_up_proj",
    linear_gate=None,
    activation="mlp.activation_fn",
    is_fused=True,
)
_MIXTURE = _gated(mixture=Mixture("mlp", "mlp.experts"))
_GPT_OSS = _gated(
    mixture=Mixture(
        "mlp",
        "mlp.experts",
        refusal=(
            "they clamp both factors and compute min(g, limit) sigmoid(alpha g) "
            "(u + 1), which is not a nonlinearity of the gate times u"
        ),
    )
)
_LLAMA4 = _gated(
    linear_in="feed_forward.up_proj",
    linear_gate="feed_forward.gate_proj",
    activation="feed_forward.activation_fn",
    linear_out="feed_forward.down_proj",
    mixture=Mixture(
        "feed_forward",
        "feed_forward.experts",
        refusal=(
            "the router multiplies what an expert reads, and not what it writes, so "
            'that no expert reads "mlp_in"'
        ),
    ),
)
_STARCODER2 = _gated(
    linear_in="mlp.c_fc",
    linear_gate=None,
    activation="mlp.act",
    linear_out="mlp.c_proj",
)
_PHI = Architecture(
    "layers",
    "self_attn",
    "input_layernorm",
    "mlp.fc1",
    "mlp.activation_fn",
    "mlp.fc2",
    is_parallel=True,
)
_GPTJ = Architecture(
    "h",
    "attn",
    "ln_1",
    "mlp.fc_in",
    "mlp.act",
    "mlp.fc_out",
    is_parallel=True,
)
_OPT = Architecture(
    "decoder.layers", "self_attn", "final_layer_norm", "fc1", "activation_fn", "fc2"
)


def _bert(first_position_is_after_padding: bool = False) -> Architecture:
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
_MODERNBERT = Architecture(
    "layers",
    "attn",
    "mlp_norm",
    "mlp.Wi",
    "mlp.act",
    "mlp.Wo",
    is_fused=True,
    is_causal=False,
)


def _opt(config: Any) -> Architecture:
    return _OPT if config.do_layer_norm_before else replace(_OPT, mlp_norm=None)


def _gpt_neox(config: Any) -> Architecture:
    return Architecture(
        "layers",
        "attention",
        "post_attention_layernorm",
        "mlp.dense_h_to_4h",
        "mlp.act",
        "mlp.dense_4h_to_h",
        is_parallel=config.use_parallel_residual,
    )


def _falcon(config: Any) -> Architecture:
    is_parallel = config.new_decoder_architecture or config.parallel_attn
    if config.new_decoder_architecture and config.num_ln_in_parallel_attn != 1:
        mlp_norm = "ln_mlp"
    else:
        mlp_norm = "input_layernorm" if is_parallel else "post_attention_layernorm"
    return Architecture(
        "h",
        "self_attention",
        mlp_norm,
        "mlp.dense_h_to_4h",
        "mlp.act",
        "mlp.dense_4h_to_h",
        is_parallel=is_parallel,
    )


def _stablelm(config: Any) -> Architecture:
    if config.use_parallel_residual:
        return _gated("input_layernorm", is_parallel=True)
    return _GATED


# By `config.model_type` of the language model.
FAMILIES: dict[str, Family] = {
    "bert": _bert(),
    "cohere": _gated("input_layernorm", is_parallel=True),
    "cohere2": _gated("input_layernorm", is_parallel=True),
    "distilbert": _DISTILBERT,
    "electra": _bert(),
    "falcon": _falcon,
    "gemma": _GATED,
    "gemma2": _gated("pre_feedforward_layernorm"),
    "gemma3_text": _gated("pre_feedforward_layernorm"),
    "glm": _FUSED,
    "glm4": _FUSED,
    "gpt2": _fc_proj("ln_2"),
    "gpt_bigcode": _fc_proj("ln_2"),
    "gpt_neo": _fc_proj("ln_2"),
    "gpt_neox": _gpt_neox,
    "gpt_oss": _GPT_OSS,
    "gptj": _GPTJ,
    "llama": _GATED,
    "llama4_text": _LLAMA4,
    "mistral": _GATED,
    "mixtral": _MIXTURE,
    "modernbert": _MODERNBERT,
    "mpnet": _bert(first_position_is_after_padding=True),
    "olmo": _GATED,
    "olmo2": _gated(None),
    "olmo3": _gated(None),
    "opt": _opt,
    "phi": _PHI,
    "phi3": _FUSED,
    "qwen2": _GATED,
    "qwen2_moe": _MIXTURE,
    "qwen3": _GATED,
    "qwen3_moe": _MIXTURE,
    "roberta": _bert(first_position_is_after_padding=True),
    "stablelm": _stablelm,
    "starcoder2": _STARCODER2,
    "xlm-roberta": _bert(first_position_is_after_padding=True),
}
