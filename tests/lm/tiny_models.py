"""Tiny models with random weights, at least one of each family."""

import torch
import transformers

D, N_BLOCKS, N_NEURONS, N_IDS, CONTEXT = 16, 2, 24, 40, 16
N_EXPERTS = 4

# Encoders and OPT reserve these; the others must not take common ids for special.
_NO_SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_GPT2 = {"vocab_size": N_IDS, "n_positions": CONTEXT, "n_embd": D, "n_head": 2}
_GPT2 |= {"n_layer": N_BLOCKS, "n_inner": N_NEURONS, **_NO_SPECIAL}
_COMMON = {
    "vocab_size": N_IDS,
    "max_position_embeddings": CONTEXT,
    "hidden_size": D,
    "num_hidden_layers": N_BLOCKS,
    "num_attention_heads": 2,
    "intermediate_size": N_NEURONS,
}
_LLAMA = {**_COMMON, "num_key_value_heads": 1, "head_dim": 8, **_NO_SPECIAL}
_BERT = {**_COMMON, "pad_token_id": 0}
_ROBERTA = {**_BERT, "max_position_embeddings": CONTEXT + 2, "pad_token_id": 1}
_OPT = {**_COMMON, "ffn_dim": N_NEURONS, "word_embed_proj_dim": D, **_NO_SPECIAL}
_OPT["pad_token_id"] = 1
_FALCON = {"vocab_size": N_IDS, "hidden_size": D, "num_hidden_layers": N_BLOCKS}
_FALCON |= {"num_attention_heads": 2, "ffn_hidden_size": N_NEURONS, **_NO_SPECIAL}
_STABLELM = {**_COMMON, "num_key_value_heads": 2, **_NO_SPECIAL}
_LLAMA4 = {**_LLAMA, "intermediate_size_mlp": N_NEURONS, "moe_layers": []}
_VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
_VISION |= {"num_attention_heads": 2, "image_size": 8, "patch_size": 4}
_OUTSIDE_SPECIAL = dict.fromkeys(
    ["bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"]
)

# Configuration, model with a language-model head, and arguments of the former.
MODELS = {
    "bert": ("BertConfig", "BertForMaskedLM", _BERT),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        {
            "vocab_size": N_IDS,
            "max_position_embeddings": CONTEXT,
            "dim": D,
            "n_layers": N_BLOCKS,
            "n_heads": 2,
            "hidden_dim": N_NEURONS,
        },
    ),
    "electra": (
        "ElectraConfig",
        "ElectraForMaskedLM",
        {**_BERT, "embedding_size": 8},
    ),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", _LLAMA),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", _LLAMA),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", _LLAMA),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", _GPT2),
    "gpt_neo": (
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        {
            "vocab_size": N_IDS,
            "max_position_embeddings": CONTEXT,
            "hidden_size": D,
            "num_layers": N_BLOCKS,
            "attention_types": [[["global", "local"], 1]],
            "num_heads": 2,
            "intermediate_size": N_NEURONS,
            "window_size": 4,
            **_NO_SPECIAL,
        },
    ),
    "llama": (
        "LlamaConfig",
        "LlamaForCausalLM",
        {**_LLAMA, "mlp_bias": True},
    ),
    "mistral": ("MistralConfig", "MistralForCausalLM", _LLAMA),
    "mpnet": ("MPNetConfig", "MPNetForMaskedLM", _ROBERTA),
    "opt": ("OPTConfig", "OPTForCausalLM", _OPT),
    "opt_post_norm": (
        "OPTConfig",
        "OPTForCausalLM",
        {**_OPT, "do_layer_norm_before": False},
    ),
    "pythia": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {**_COMMON, **_NO_SPECIAL}),
    "gpt_neox_serial": (
        "GPTNeoXConfig",
        "GPTNeoXForCausalLM",
        {**_COMMON, **_NO_SPECIAL, "use_parallel_residual": False},
    ),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _LLAMA),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _LLAMA),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", _ROBERTA),
    "xlm_roberta": ("XLMRobertaConfig", "XLMRobertaForMaskedLM", _ROBERTA),
    "cohere": ("CohereConfig", "CohereForCausalLM", _LLAMA),
    "cohere2": ("Cohere2Config", "Cohere2ForCausalLM", _LLAMA),
    "falcon": ("FalconConfig", "FalconForCausalLM", {**_FALCON, "bias": True}),
    "falcon_serial": (
        "FalconConfig",
        "FalconForCausalLM",
        {**_FALCON, "parallel_attn": False},
    ),
    "falcon_new": (
        "FalconConfig",
        "FalconForCausalLM",
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "falcon_new_one_norm": (
        "FalconConfig",
        "FalconForCausalLM",
        {
            **_FALCON,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
        },
    ),
    "gemma3_vision": (
        "Gemma3Config",
        "Gemma3ForConditionalGeneration",
        {
            "text_config": _LLAMA,
            "vision_config": _VISION,
            "mm_tokens_per_image": 4,
            "image_token_id": 2,
            **_NO_SPECIAL,
        },
    ),
    "glm": ("GlmConfig", "GlmForCausalLM", _LLAMA),
    "glm4": ("Glm4Config", "Glm4ForCausalLM", _LLAMA),
    "gpt_bigcode": ("GPTBigCodeConfig", "GPTBigCodeForCausalLM", _GPT2),
    "gptj": ("GPTJConfig", "GPTJForCausalLM", {**_GPT2, "rotary_dim": 4}),
    "llama4": ("Llama4TextConfig", "Llama4ForCausalLM", _LLAMA4),
    "llama4_vision": (
        "Llama4Config",
        "Llama4ForConditionalGeneration",
        {
            "text_config": _LLAMA4,
            "vision_config": {
                **_VISION,
                "intermediate_size": 64,
                "projector_input_dim": 16,
                "projector_output_dim": 16,
                "vision_output_dim": 16,
            },
            **_NO_SPECIAL,
        },
    ),
    "modernbert": (
        "ModernBertConfig",
        "ModernBertForMaskedLM",
        {**_BERT, "mlp_bias": True, "norm_bias": True, **_OUTSIDE_SPECIAL},
    ),
    "olmo": ("OlmoConfig", "OlmoForCausalLM", _LLAMA),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", _LLAMA),
    "olmo3": ("Olmo3Config", "Olmo3ForCausalLM", _LLAMA),
    "phi": ("PhiConfig", "PhiForCausalLM", {**_COMMON, **_NO_SPECIAL}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", _LLAMA),
    "stablelm": ("StableLmConfig", "StableLmForCausalLM", _STABLELM),
    "stablelm_parallel": (
        "StableLmConfig",
        "StableLmForCausalLM",
        {**_STABLELM, "use_parallel_residual": True},
    ),
    "starcoder2": ("Starcoder2Config", "Starcoder2ForCausalLM", _LLAMA),
}
# Every block has experts, but for the second of qwen3_moe and the first of llama4_moe.
_QWEN_MOE = {**_LLAMA, "moe_intermediate_size": N_NEURONS, "num_experts": N_EXPERTS}
_QWEN_MOE["num_experts_per_tok"] = 2
_MIXTRAL = {**_LLAMA, "num_local_experts": N_EXPERTS, "num_experts_per_tok": 2}
MIXTURES = {
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", _MIXTRAL),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        {**_QWEN_MOE, "shared_expert_intermediate_size": 20},
    ),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {**_QWEN_MOE, "mlp_only_layers": [1], "norm_topk_prob": True},
    ),
}
REFUSED_MIXTURES = {
    "gpt_oss": (
        "GptOssConfig",
        "GptOssForCausalLM",
        {**_MIXTRAL, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    ),
    "llama4_moe": (
        "Llama4TextConfig",
        "Llama4ForCausalLM",
        {**_LLAMA4, "moe_layers": [1], "num_local_experts": N_EXPERTS},
    ),
}
GATED_FUSED = ("glm", "glm4", "modernbert", "phi3")
GATED = (
    *("cohere", "cohere2", "gemma", "gemma2", "gemma3", "gemma3_vision", "llama"),
    *("llama4", "llama4_vision", "mistral", "olmo", "olmo2", "olmo3", "qwen2"),
    *("qwen3", "stablelm", "stablelm_parallel", *GATED_FUSED),
)
ENCODERS = (
    *("bert", "distilbert", "electra", "modernbert", "mpnet", "roberta"),
    "xlm_roberta",
)
# The MLP reads the residual stream itself.
POST_NORM = (
    *("bert", "distilbert", "electra", "mpnet", "olmo2", "olmo3", "opt_post_norm"),
    *("roberta", "xlm_roberta"),
)
# Attention and MLP read the same residual stream.
PARALLEL = (
    *("cohere", "cohere2", "falcon", "falcon_new", "falcon_new_one_norm", "gptj"),
    *("phi", "pythia", "stablelm_parallel"),
)


def make_model(name, **changes):
    """A model of a family, every parameter random, biases and norms included."""
    models = MODELS | MIXTURES | REFUSED_MIXTURES
    config_class, model_class, arguments = models[name]
    config = getattr(transformers, config_class)(**{**arguments, **changes})
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = getattr(transformers, model_class)(config).eval()
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def random_ids(*lengths, seed=1):
    """Sequences without an id that any of the models takes for special."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(3, N_IDS, (length,), generator=generator).tolist()
        for length in lengths
    ]
