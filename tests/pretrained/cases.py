"""Small files in each format, written from its formulas, with what they compute.

The references are in float64 and follow the formulas of the formats one by one. They
share nothing with the package.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

D, M, L, K = 6, 14, 2, 3
N_SAMPLES = 40


@dataclass(frozen=True)
class Written:
    """What a file computes: codes and reconstruction of activations."""

    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray, np.ndarray], np.ndarray]
    expected: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    codes: Callable[[np.ndarray], np.ndarray] | None = None


def activations(n_sites=None, seed=7):
    """Rows with a mean that is not zero."""
    rng = np.random.default_rng(seed)
    shape = (D,) if n_sites is None else (n_sites, D)
    return 2 * rng.normal(size=(N_SAMPLES, *shape)) + rng.normal(size=shape)


def relu(p):
    return np.maximum(p, 0)


def top_k(p, k):
    """The k largest of each row, of which negative ones are 0."""
    kept = np.zeros_like(p)
    for row, out in zip(p, kept, strict=True):
        for i in sorted(range(len(row)), key=lambda i: -row[i])[:k]:
            out[i] = max(row[i], 0)
    return kept


def jump(p, threshold):
    return relu(p) * (p > threshold)


def arrays(rng, m=M, d=D):
    """An encoder, a decoder and their biases."""
    return (
        rng.normal(size=(d, m)),
        rng.normal(size=(m, d)),
        rng.normal(size=m),
        rng.normal(size=d),
    )


def write_json(values, path):
    path.write_text(json.dumps(values))


def write_safetensors(tensors, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)


def write_torch(tensors, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({k: as_tensor(v) for k, v in tensors.items()}, path)


def as_tensor(value):
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


# SAELens


def sae_lens(directory, rng, architecture="standard", *, flat=False, **changes):
    W_enc, W_dec, b_enc, b_dec = arrays(rng)
    tensors = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec}
    said = {"model_name": "gpt2", "hook_name": "blocks.4.hook_resid_mid"}
    config = {
        "architecture": architecture,
        "d_in": D,
        "d_sae": M,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **changes,
    }
    normalization = config["normalize_activations"]
    rescales = config.get("rescale_acts_by_decoder_norm", False)
    if architecture == "topk" and not flat:
        config |= {"k": K, "rescale_acts_by_decoder_norm": rescales}
    if architecture == "jumprelu":
        tensors["threshold"] = rng.normal(size=M)
    if architecture in ("batchtopk", "matryoshka_batchtopk"):
        tensors["topk_threshold"] = np.array(1.1)
        config["k"] = K
    if architecture == "gated":
        del tensors["b_enc"]
        tensors |= {n: rng.normal(size=M) for n in ("b_gate", "b_mag", "r_mag")}
    if flat:
        config |= said
        if architecture == "topk":
            config |= {"architecture": "standard", "activation_fn_str": "topk"}
            config["activation_fn_kwargs"] = {"k": K}
        for key in ("reshape_activations", "apply_b_dec_to_input"):
            del config[key]
    else:
        config.setdefault("metadata", said)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(config, directory / "cfg.json")
    write_safetensors(tensors, directory / "sae_weights.safetensors")
    applies = 1.0 if config.get("apply_b_dec_to_input", True) else 0.0
    norms = np.sqrt((W_dec**2).sum(axis=1)) if rescales else np.ones(M)

    def encode(x):
        u = normalized(x, normalization) - applies * b_dec
        if architecture == "gated":
            is_open = u @ W_enc + tensors["b_gate"] > 0
            magnitude = np.exp(tensors["r_mag"]) * (u @ W_enc) + tensors["b_mag"]
            return is_open * relu(magnitude)
        p = u @ W_enc + b_enc
        if architecture == "standard":
            return relu(p)
        if architecture == "topk":
            return top_k(p * norms, K)
        if architecture == "jumprelu":
            return jump(p, tensors["threshold"])
        return jump(p * norms, 1.1)

    def decode(codes, x):
        return restored((codes / norms) @ W_dec + b_dec, x, normalization)

    expected = {
        "format": "sae_lens",
        "model_name": "gpt2",
        "reads": "blocks.4.resid_mid",
    }
    return Written(encode, decode, expected)


def normalized(x, kind):
    if kind == "constant_norm_rescale":
        return x * np.sqrt(D) / np.sqrt((x**2).sum(axis=1, keepdims=True))
    if kind == "layer_norm":
        mean = x.mean(axis=1, keepdims=True)
        return (x - mean) / (x.std(axis=1, ddof=1, keepdims=True) + 1e-5)
    return x


def restored(y, x, kind):
    if kind == "constant_norm_rescale":
        return y / np.sqrt(D) * np.sqrt((x**2).sum(axis=1, keepdims=True))
    if kind == "layer_norm":
        mean = x.mean(axis=1, keepdims=True)
        return y * x.std(axis=1, ddof=1, keepdims=True) + mean
    return y


# Gemma Scope


def gemma_scope(directory, rng, *, embedding=False):
    W_enc, W_dec, b_enc, b_dec = arrays(rng)
    threshold = abs(rng.normal(size=M))
    name = "gemma-scope-2b-pt-res" + ("/embedding" if embedding else "/layer_5")
    place = directory / name / "width_16k"
    place.mkdir(parents=True)
    np.savez(
        place / "params.npz",
        W_enc=W_enc,
        W_dec=W_dec,
        b_enc=b_enc,
        b_dec=b_dec,
        threshold=threshold,
    )
    unit = np.sqrt(D) if embedding else 1.0
    return Written(
        lambda x: jump(x / unit @ W_enc + b_enc, threshold),
        lambda codes, x: (codes @ W_dec + b_dec) * unit,
        {
            "format": "gemma_scope",
            "model_name": "google/gemma-2-2b",
            "reads": "blocks.0.resid_pre" if embedding else "blocks.5.resid_post",
        },
        {"subfolder": f"{name}/width_16k"},
    )


def gemma_scope_2(directory, rng):
    W_enc, W_dec, b_enc, b_dec = arrays(rng)
    threshold = abs(rng.normal(size=M))
    hook = "model.layers.7.pre_feedforward_layernorm.output"
    config = {"architecture": "jump_relu", "affine_connection": False}
    config |= {"hf_hook_point_in": hook, "hf_hook_point_out": hook}
    write_json(
        config | {"model_name": "google/gemma-3-1b-pt"}, directory / "config.json"
    )
    tensors = {"w_enc": W_enc, "w_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec}
    write_safetensors(
        tensors | {"threshold": threshold}, directory / "params.safetensors"
    )
    return Written(
        lambda x: jump(x @ W_enc + b_enc, threshold),
        lambda codes, x: codes @ W_dec + b_dec,
        {
            "format": "gemma_scope_2",
            "model_name": "google/gemma-3-1b-pt",
            "reads": "blocks.7.mlp_in",
        },
    )


# OpenMOSS


def llama_scope(directory, rng):
    W_enc, W_dec, b_enc, b_dec = arrays(rng)
    config = {
        "d_model": D,
        "d_sae": M,
        "jump_relu_threshold": 0.4,
        "dataset_average_activation_norm": {"in": 3.7, "out": 3.7},
        "hook_point_in": "blocks.15.hook_resid_post",
        "hook_point_out": "blocks.15.hook_resid_post",
    }
    place = directory / "Llama3_1-8B-Base-L15R-8x"
    tensors = {"encoder.weight": W_enc.T, "decoder.weight": W_dec.T}
    tensors |= {"encoder.bias": b_enc, "decoder.bias": b_dec}
    write_safetensors(tensors, place / "checkpoints/final.safetensors")
    write_json(config, place / "hyperparams.json")
    s = np.sqrt(D) / 3.7
    return Written(
        lambda x: jump(x * s @ W_enc + b_enc, 0.4 * s),
        lambda codes, x: (codes @ W_dec + b_dec) / s,
        {
            "format": "llama_scope",
            "model_name": "meta-llama/Llama-3.1-8B",
            "reads": "blocks.15.resid_post",
        },
        {"subfolder": place.name},
    )


def llama_scope_distill(directory, rng):
    W_enc, W_dec, b_enc, b_dec = arrays(rng)
    log_threshold = rng.normal(size=M)
    hook = "blocks.3.hook_resid_post"
    config = {"d_model": D, "expansion_factor": M / D, "act_fn": "jumprelu"}
    config |= {"norm_activation": "dataset-wise", "hook_point_in": hook}
    config["dataset_average_activation_norm"] = {hook: 3.7}
    write_json(config, directory / "config.json")
    tensors = {"encoder.weight": W_enc.T, "decoder.weight": W_dec.T}
    tensors |= {"encoder.bias": b_enc, "decoder.bias": b_dec}
    tensors["log_jumprelu_threshold"] = log_threshold
    write_safetensors(tensors, directory / "sae_weights.safetensors")
    s = np.sqrt(D) / 3.7
    return Written(
        lambda x: jump(x * s @ W_enc + b_enc, np.exp(log_threshold)),
        lambda codes, x: (codes @ W_dec + b_dec) / s,
        {"format": "llama_scope", "reads": "blocks.3.resid_post"},
    )


def llamascopium(directory, rng, act_fn="jumprelu", *, weighs=True, torch_file=False):
    W_E, W_D, b_E, b_D = arrays(rng)
    log_threshold = rng.normal(size=M)
    hook = "blocks.3.ln2.hook_normalized"
    config = {"sae_type": "sae", "d_model": D, "expansion_factor": M / D}
    config |= {"act_fn": act_fn, "norm_activation": "dataset-wise", "top_k": K}
    config |= {"sparsity_include_decoder_norm": weighs, "use_decoder_bias": True}
    config |= {"hook_point_in": hook, "hook_point_out": hook, "use_glu_encoder": False}
    write_json(config, directory / "config.json")
    tensors = {"W_E": W_E, "W_D": W_D, "b_E": b_E, "b_D": b_D}
    tensors[f"dataset_average_activation_norm.{hook}"] = np.array(3.7)
    if act_fn == "jumprelu":
        tensors["activation_function.log_jumprelu_threshold"] = log_threshold
    if torch_file:
        held = {name: as_tensor(value) for name, value in tensors.items()}
        torch.save({"sae": held}, directory / "sae_weights.pt")
    else:
        write_safetensors(tensors, directory / "sae_weights.safetensors")
    s = np.sqrt(D) / 3.7
    norms = np.sqrt((W_D**2).sum(axis=1)) if weighs else np.ones(M)

    def encode(x):
        q = (x * s @ W_E + b_E) * norms
        if act_fn == "relu":
            kept = relu(q)
        elif act_fn == "topk":
            kept = top_k(q, K)
        else:
            kept = jump(q, np.exp(log_threshold))
        return kept / norms

    return Written(
        encode,
        lambda codes, x: (codes @ W_D + b_D) / s,
        {"format": "llamascopium", "reads": hook},
        # Those of top-k stay multiplied by the norms.
        codes=(lambda x: encode(x) * norms) if act_fn == "topk" else None,
    )


# Sparsify


def sparsify(directory, rng, *, expanded=False):
    W_enc, W_dec, b_enc, b_dec = arrays(rng, m=2 * D if expanded else M)
    config = {"d_in": D, "k": K, "normalize_decoder": True, "multi_topk": False}
    sizes = {"num_latents": M, "expansion_factor": 32}
    config |= {"expansion_factor": 2, "num_latents": 0} if expanded else sizes
    if not expanded:
        config |= {
            "activation": "topk",
            "skip_connection": False,
            "transcode": False,
        }
    place = directory / "layers.9"
    tensors = {"encoder.weight": W_enc.T, "encoder.bias": b_enc}
    tensors |= {"W_dec": W_dec, "b_dec": b_dec}
    write_safetensors(tensors, place / "sae.safetensors")
    write_json(config, place / "cfg.json")
    return Written(
        lambda x: top_k(relu((x - b_dec) @ W_enc + b_enc), K),
        lambda codes, x: codes @ W_dec + b_dec,
        {"format": "sparsify", "reads": "blocks.9.resid_post"},
        {"subfolder": "layers.9"},
    )


# dictionary_learning


def dictionary_learning(directory, rng, class_name, *, compiled=False, bare=False):
    W_enc, W_dec, b_enc, b_dec = arrays(rng)
    threshold = abs(rng.normal(size=M))
    linear = {"encoder.weight": W_enc.T, "decoder.weight": W_dec.T}
    with_bias = linear | {"encoder.bias": b_enc}
    flat = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec}
    k, theta = np.array(K, dtype=np.int32), np.array(1.2)
    gated = {name: rng.normal(size=M) for name in ("r_mag", "gate_bias", "mag_bias")}

    def gate(x):
        u = (x - b_dec) @ W_enc
        magnitude = np.exp(gated["r_mag"]) * u + gated["mag_bias"]
        return (u + gated["gate_bias"] > 0) * relu(magnitude)

    def shifted(x):
        return relu((x - b_dec) @ W_enc + b_enc)

    tensors, encode = {
        "AutoEncoder": (with_bias | {"bias": b_dec}, shifted),
        "AutoEncoderNew": (
            with_bias | {"decoder.bias": b_dec},
            lambda x: relu(x @ W_enc + b_enc),
        ),
        "GatedAutoEncoder": (linear | gated | {"decoder_bias": b_dec}, gate),
        "JumpReluAutoEncoder": (
            flat | {"threshold": threshold},
            lambda x: jump(x @ W_enc + b_enc, threshold),
        ),
        "AutoEncoderTopK": (
            with_bias | {"b_dec": b_dec, "k": k, "threshold": np.array(-1.0)},
            lambda x: top_k(shifted(x), K),
        ),
        "BatchTopKSAE": (
            with_bias | {"b_dec": b_dec, "k": k, "threshold": theta},
            lambda x: shifted(x) * (shifted(x) > 1.2),
        ),
        "MatryoshkaBatchTopKSAE": (
            flat | {"k": k, "threshold": theta, "group_sizes": np.array([4, M - 4])},
            lambda x: shifted(x) * (shifted(x) > 1.2),
        ),
    }[class_name]
    if compiled:
        tensors = {f"_orig_mod.{name}": value for name, value in tensors.items()}
    write_torch(tensors, directory / "ae.pt")
    if not bare:
        trainer = {"dict_class": class_name, "activation_dim": D, "dict_size": M}
        trainer |= {"k": K, "layer": 8, "lm_name": "EleutherAI/pythia-70m-deduped"}
        trainer["submodule_name"] = "resid_post_layer_8"
        config = {"trainer": trainer, "buffer": {"ctx_len": 128}}
        write_json(config, directory / "config.json")
    expected = {"format": "dictionary_learning"}
    if not bare:
        expected["reads"] = "blocks.8.resid_post"
        expected["model_name"] = "EleutherAI/pythia-70m-deduped"
    return Written(encode, lambda codes, x: codes @ W_dec + b_dec, expected)


def crosscoder(directory, rng, *, batch=False):
    W_enc, W_dec = rng.normal(size=(L, D, M)), rng.normal(size=(L, M, D))
    b_enc, b_dec = rng.normal(size=M), rng.normal(size=(L, D))
    nan = np.full((), np.nan)
    tensors = {"encoder.weight": W_enc, "decoder.weight": W_dec}
    tensors |= {"encoder.bias": b_enc, "decoder.bias": b_dec}
    tensors |= {"code_normalization_id": np.array(0), "target_rms": np.array(1.0)}
    tensors |= {"activation_mean": nan, "activation_std": nan}
    if batch:
        tensors |= {"k": np.array(K, dtype=np.int32), "threshold": np.array(9.0)}
    write_safetensors(tensors, directory / "model.safetensors")
    write_json({"activation_dim": D, "dict_size": M}, directory / "config.json")

    def encode(x):
        f = relu(sum(x[:, site] @ W_enc[site] for site in range(L)) + b_enc)
        if not batch:
            return f
        norms = sum(np.sqrt((W_dec[site] ** 2).sum(axis=1)) for site in range(L))
        return f * (f * norms > 9.0)

    def decode(codes, x):
        return np.stack([codes @ W_dec[s] + b_dec[s] for s in range(L)], axis=1)

    return Written(encode, decode, {"format": "dictionary_learning"})


# One file each


def openai(directory, rng, *, activation="TopK", location="resid_post_attn_v5_32k"):
    W_enc, W_dec, latent_bias, pre_bias = arrays(rng)
    state = {"k": K} if activation == "TopK" else {}
    place = directory / location / "autoencoders"
    place.mkdir(parents=True)
    held = {
        "pre_bias": as_tensor(pre_bias),
        "encoder.weight": as_tensor(W_enc.T),
        "latent_bias": as_tensor(latent_bias),
        "decoder.weight": as_tensor(W_dec.T),
        "stats_last_nonzero": torch.zeros(M, dtype=torch.long),
        "activation": activation,
        "activation_state_dict": state,
    }
    torch.save(held, place / "8.pt")
    kind = "layer_norm" if activation == "TopK" else None

    def encode(x):
        p = (normalized(x, kind) - pre_bias) @ W_enc + latent_bias
        return top_k(p, K) if activation == "TopK" else relu(p)

    return Written(
        encode,
        lambda codes, x: restored(codes @ W_dec + pre_bias, x, kind),
        {
            "format": "openai",
            "model_name": "openai-community/gpt2",
            "reads": "blocks.8.resid_mid",
        },
        {"subfolder": f"{location}/autoencoders"},
    )


def qwen_scope(directory, rng, *, named=True):
    W_enc, W_dec, b_enc, b_dec = arrays(rng)
    place = directory / (f"SAE-Res-W32K-L0_{K}" if named else "weights")
    tensors = {"W_enc": W_enc.T, "W_dec": W_dec.T, "b_enc": b_enc, "b_dec": b_dec}
    for layer in (2, 13):
        noise = {n: v if layer == 13 else v + 1 for n, v in tensors.items()}
        write_torch(noise, place / f"layer{layer}.sae.pt")
    return Written(
        lambda x: top_k(x @ W_enc + b_enc, K),
        lambda codes, x: codes @ W_dec + b_dec,
        {"format": "qwen_scope", "reads": "blocks.13.resid_post"},
        {"subfolder": place.name, "filename": "layer13.sae.pt"}
        | ({} if named else {"k": K}),
    )


def ckkissane(directory, rng, *, scaled=False):
    W_enc, W_dec = rng.normal(size=(2, D, M)), rng.normal(size=(M, 2, D))
    b_enc, b_dec = rng.normal(size=M), rng.normal(size=(2, D))
    place = directory / "blocks.14.hook_resid_pre"
    tensors = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec}
    write_torch(tensors, place / "cc_weights.pt")
    write_json({"d_in": D, "hook_point": place.name}, place / "cfg.json")
    scale = np.array([0.3, 0.2]) if scaled else np.ones(2)

    def encode(x):
        return relu(sum(x[:, s] * scale[s] @ W_enc[s] for s in range(2)) + b_enc)

    def decode(codes, x):
        per_site = [(codes @ W_dec[:, s] + b_dec[s]) / scale[s] for s in range(2)]
        return np.stack(per_site, axis=1)

    return Written(
        encode,
        decode,
        {"format": "ckkissane", "reads": "blocks.14.resid_pre"},
        {"subfolder": place.name} | ({"input_scale": scale} if scaled else {}),
    )


def goodfire(directory, rng):
    W_enc, W_dec, b_enc, b_dec = arrays(rng)
    tensors = {"encoder_linear.weight": W_enc.T, "encoder_linear.bias": b_enc}
    tensors |= {"decoder_linear.weight": W_dec.T, "decoder_linear.bias": b_dec}
    write_torch(tensors, directory / "Llama-3.1-8B-Instruct-SAE-l19.pth")
    return Written(
        lambda x: relu(x @ W_enc + b_enc),
        lambda codes, x: codes @ W_dec + b_dec,
        {"format": "goodfire", "reads": None},
    )


def _made(function, *args, **kwargs) -> Callable[[Path, Any], Written]:
    return lambda directory, rng: function(directory, rng, *args, **kwargs)


_RESCALED = {"rescale_acts_by_decoder_norm": True}
_PLAIN_INPUT = {"apply_b_dec_to_input": False}
_CLASSES = (
    "AutoEncoder",
    "AutoEncoderNew",
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
)
CASES: dict[str, Callable[[Path, Any], Written]] = {
    **{
        f"sae_lens {architecture} {norm}{' plain' if plain else ''}": _made(
            sae_lens,
            architecture,
            normalize_activations=norm,
            **(_PLAIN_INPUT if plain else {}),
        )
        for architecture in ("standard", "topk", "jumprelu", "gated")
        for norm in (
            "none",
            "expected_average_only_in",
            "constant_norm_rescale",
            "layer_norm",
        )
        for plain in (False, True)
    },
    "sae_lens topk rescaled": _made(sae_lens, "topk", **_RESCALED),
    "sae_lens batchtopk": _made(sae_lens, "batchtopk"),
    "sae_lens batchtopk rescaled": _made(sae_lens, "batchtopk", **_RESCALED),
    "sae_lens matryoshka": _made(sae_lens, "matryoshka_batchtopk", **_RESCALED),
    "sae_lens flat": _made(sae_lens, flat=True),
    "sae_lens flat topk": _made(sae_lens, "topk", flat=True),
    "sae_lens flat jumprelu": _made(sae_lens, "jumprelu", flat=True),
    "gemma_scope": _made(gemma_scope),
    "gemma_scope embedding": _made(gemma_scope, embedding=True),
    "gemma_scope_2": _made(gemma_scope_2),
    "llama_scope": _made(llama_scope),
    "llama_scope distill": _made(llama_scope_distill),
    **{
        f"llamascopium {act_fn}{' weighing' if weighs else ''}": _made(
            llamascopium, act_fn, weighs=weighs
        )
        for act_fn in ("relu", "topk", "jumprelu")
        for weighs in (False, True)
    },
    "llamascopium torch": _made(llamascopium, torch_file=True),
    "sparsify": _made(sparsify),
    "sparsify old": _made(sparsify, expanded=True),
    **{f"dictionary_learning {c}": _made(dictionary_learning, c) for c in _CLASSES},
    "dictionary_learning compiled": _made(
        dictionary_learning, "BatchTopKSAE", compiled=True
    ),
    **{
        f"dictionary_learning {c} bare": _made(dictionary_learning, c, bare=True)
        for c in _CLASSES
        if c not in ("AutoEncoderTopK", "BatchTopKSAE")
    },
    "crosscoder": _made(crosscoder),
    "crosscoder batch": _made(crosscoder, batch=True),
    "openai": _made(openai),
    "openai relu": _made(openai, activation="ReLU"),
    "qwen_scope": _made(qwen_scope),
    "qwen_scope unnamed": _made(qwen_scope, named=False),
    "ckkissane": _made(ckkissane),
    "ckkissane scaled": _made(ckkissane, scaled=True),
    "goodfire": _made(goodfire),
}
