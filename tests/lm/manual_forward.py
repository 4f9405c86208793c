"""The forward pass of each family, block by block with the model's own layers.

Nothing is hooked: each site is a variable of the computation.
"""

import torch


def manual_sites(model, ids):
    """Activations of one sequence at every site, by name, and the last hidden state."""
    base = base_of(model)
    config = base.config
    output = base(ids, output_hidden_states=True)
    x = output.hidden_states[0]
    T = ids.shape[1]
    mask = torch.full((T, T), -torch.inf).triu(1)[None, None]
    positions = torch.arange(T)[None]
    sites = {}
    for index, block in enumerate(_blocks(base)):
        if config.model_type in ("gpt2", "gpt_neo"):
            here = _gpt2(block, x, mask)
        elif config.model_type == "gpt_neox":
            rotation = base.rotary_emb(x, positions)
            here = _gpt_neox(block, x, mask, rotation, config.use_parallel_residual)
        elif config.model_type == "gpt_bigcode":
            here = _gpt2(block, x, mask)
        elif config.model_type == "gptj":
            here = _gptj(block, x, mask, positions)
        elif config.model_type == "falcon":
            rotation = base.rotary_emb(x, positions)
            here = _falcon(block, x, mask, rotation)
        elif config.model_type in ("phi", "cohere", "cohere2") or (
            config.model_type == "stablelm" and config.use_parallel_residual
        ):
            rotation = base.rotary_emb(x, positions)
            here = _one_norm(block, x, mask, rotation)
        elif config.model_type in ("olmo2", "olmo3"):
            kind = (config.layer_types[index],) if config.model_type == "olmo3" else ()
            rotation = base.rotary_emb(x, positions, *kind)
            here = _late_norms(block, x, mask, rotation)
        elif config.model_type == "modernbert":
            rotation = base.rotary_emb(x, positions, config.layer_types[index])
            here = _modernbert(block, x, rotation)
        elif config.model_type == "glm4":
            rotation = base.rotary_emb(x, positions)
            here = _glm4(block, x, mask, rotation)
        elif config.model_type == "opt":
            here = _opt(block, x, mask, config.do_layer_norm_before)
        elif config.model_type == "distilbert":
            here = _distilbert(block, x)
        elif hasattr(base, "encoder"):
            bias = ()
            if config.model_type == "mpnet":
                bias = (base.encoder.compute_position_bias(x),)
            here = _bert(block, x, bias)
        else:
            kind = ()
            if config.model_type == "gemma3_text":
                kind = (config.layer_types[index],)
            rotation = base.rotary_emb(x, positions, *kind)
            here = _llama(block, x, mask, rotation)
        sites |= {f"blocks.{index}.{site}": value[0] for site, value in here.items()}
        x = here["resid_post"]
    return sites, _final_norm(base)(x), output.last_hidden_state


def base_of(model):
    """The language model, without its head and what reads images."""
    return {
        "Gemma3ForConditionalGeneration": lambda: model.model.language_model,
        "Llama4ForCausalLM": lambda: model.model,
        "Llama4ForConditionalGeneration": lambda: model.language_model.model,
    }.get(type(model).__name__, lambda: model.base_model)()


def _blocks(base):
    for path in ("h", "layers", "decoder.layers", "encoder.layer", "transformer.layer"):
        try:
            return list(base.get_submodule(path))
        except AttributeError:
            pass
    raise AssertionError("no blocks")


def _final_norm(base):
    paths = ("ln_f", "final_layer_norm", "final_layernorm", "final_norm", "norm")
    for path in (*paths, "decoder.final_layer_norm"):
        try:
            return base.get_submodule(path) or torch.nn.Identity()
        except AttributeError:
            pass
    return torch.nn.Identity()


def _gpt2(block, x, mask):
    a = block.ln_1(x)
    mid = x + block.attn(a, attention_mask=mask)[0]
    u = block.ln_2(mid)
    return _sites(x, a, mid, u, mid + block.mlp(u))


def _gpt_neox(block, x, mask, rotation, is_parallel):
    a = block.input_layernorm(x)
    attended = x + block.attention(a, mask, position_embeddings=rotation)[0]
    mid = None if is_parallel else attended
    u = block.post_attention_layernorm(x if is_parallel else attended)
    return _sites(x, a, mid, u, attended + block.mlp(u))


def _opt(block, x, mask, is_pre_norm):
    if is_pre_norm:
        a = block.self_attn_layer_norm(x)
        mid = x + block.self_attn(a, attention_mask=mask)[0]
        u = block.final_layer_norm(mid)
        post = mid + block.fc2(block.activation_fn(block.fc1(u)))
        return _sites(x, a, mid, u, post)
    mid = block.self_attn_layer_norm(x + block.self_attn(x, attention_mask=mask)[0])
    output = block.fc2(block.activation_fn(block.fc1(mid)))
    return _sites(x, x, mid, mid, block.final_layer_norm(mid + output))


def _llama(block, x, mask, rotation):
    a = block.input_layernorm(x)
    attended = block.self_attn(a, position_embeddings=rotation, attention_mask=mask)[0]
    if not hasattr(block, "pre_feedforward_layernorm"):
        mid = x + attended
        u = block.post_attention_layernorm(mid)
        return _sites(x, a, mid, u, mid + _mlp(block, u))
    mid = x + block.post_attention_layernorm(attended)
    u = block.pre_feedforward_layernorm(mid)
    post = mid + block.post_feedforward_layernorm(block.mlp(u))
    return _sites(x, a, mid, u, post)


def _mlp(block, u):
    """Output of the MLP; mixtures of experts return what they routed as well."""
    output = block.feed_forward(u) if hasattr(block, "feed_forward") else block.mlp(u)
    return output[0].view(u.shape) if isinstance(output, tuple) else output


def _glm4(block, x, mask, rotation):
    a = block.input_layernorm(x)
    attended = block.self_attn(a, position_embeddings=rotation, attention_mask=mask)[0]
    mid = x + block.post_self_attn_layernorm(attended)
    u = block.post_attention_layernorm(mid)
    return _sites(x, a, mid, u, mid + block.post_mlp_layernorm(block.mlp(u)))


def _late_norms(block, x, mask, rotation):
    attended = block.self_attn(x, position_embeddings=rotation, attention_mask=mask)[0]
    mid = x + block.post_attention_layernorm(attended)
    post = mid + block.post_feedforward_layernorm(block.mlp(mid))
    return _sites(x, x, mid, mid, post)


def _one_norm(block, x, mask, rotation):
    u = block.input_layernorm(x)
    attended = block.self_attn(u, position_embeddings=rotation, attention_mask=mask)[0]
    return _sites(x, u, None, u, x + attended + block.mlp(u))


def _gptj(block, x, mask, positions):
    u = block.ln_1(x)
    attended = block.attn(u, attention_mask=mask, position_ids=positions)[0]
    return _sites(x, u, None, u, x + attended + block.mlp(u))


def _falcon(block, x, mask, rotation):
    names = {name for name, _ in block.named_children()}
    a = (block.ln_attn if "ln_attn" in names else block.input_layernorm)(x)
    # A copy, since the block adds to the output of its MLP in place.
    attended = block.self_attention(
        a, attention_mask=mask, alibi=None, position_embeddings=rotation
    )[0].clone()
    if "post_attention_layernorm" in names:
        mid = x + attended
        u = block.post_attention_layernorm(mid)
        return _sites(x, a, mid, u, mid + block.mlp(u))
    u = block.ln_mlp(x) if "ln_mlp" in names else a
    return _sites(x, a, None, u, x + attended + block.mlp(u))


def _modernbert(block, x, rotation):
    a = block.attn_norm(x)
    mid = x + block.attn(a, position_embeddings=rotation)[0]
    u = block.mlp_norm(mid)
    return _sites(x, a, mid, u, mid + block.mlp(u))


def _bert(block, x, position_bias):
    mid = block.attention(x, None, *position_bias)[0]
    post = block.output(block.intermediate(mid), mid)
    return _sites(x, x, mid, mid, post)


def _distilbert(block, x):
    mid = block.sa_layer_norm(block.attention(x)[0] + x)
    return _sites(x, x, mid, mid, block.output_layer_norm(block.ffn(mid) + mid))


def _sites(resid_pre, attn_in, resid_mid, mlp_in, resid_post):
    sites = {"resid_pre": resid_pre, "attn_in": attn_in, "resid_mid": resid_mid}
    sites |= {"mlp_in": mlp_in, "resid_post": resid_post}
    return {name: value for name, value in sites.items() if value is not None}
