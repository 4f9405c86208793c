"""Tiny models with random weights, at least one of each family."""

import torch
import transformers

D, N_BLOCKS, N_NEURONS, N_IDS, CONTEXT = 16, 2, 24, 40, 16

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
}
GATED = ("gemma", "gemma2", "gemma3", "llama", "mistral", "qwen2", "qwen3")
ENCODERS = ("bert", "distilbert", "electra", "mpnet", "roberta", "xlm_roberta")


def make_model(name, **changes):
    """A model of a family, every parameter random, biases and norms included."""
    config_class, model_class, arguments = MODELS[name]
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
