"""OpenAI's dictionaries of GPT-2 small: one ``.pt`` for each layer."""

import re
from collections.abc import Mapping

from ._folder import Folder
from ._format import Format
from ._places import Place
from ._weights import DictionaryWeights, without_input_bias

# Parts of the paths at which they were published, and where these read.
_LOCATIONS = {
    "resid_post_attn": "resid_mid",
    "resid_post_mlp": "resid_post",
    "resid_delta_attn": "update",
    "resid_delta_mlp": "update",
    "mlp_post_act": "neurons",
}


def _recognises(folder: Folder) -> bool:
    name = folder.the_only(".pt")
    return name is not None and "latent_bias" in folder.tensors(name)


def _read(folder: Folder) -> DictionaryWeights:
    name = folder.the_only(".pt")
    if name is None:
        raise ValueError(f"{folder.label} has no .pt file.")
    tensors = folder.tensors(name)
    W_enc = tensors.array("encoder.weight", ("m", None), ("d", None)).T
    d, m = W_enc.shape
    b_dec = tensors.array("pre_bias", ("d", d))
    b_enc = tensors.array("latent_bias", ("m", m))
    activation, k = tensors.other("activation"), None
    if activation == "TopK":
        state = tensors.other("activation_state_dict")
        k = state.get("k") if isinstance(state, Mapping) else None
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(
                f"{tensors.label}: 'activation_state_dict' must have k, a positive "
                f"integer; got {k!r}."
            )
    elif activation != "ReLU":
        raise ValueError(
            f"{tensors.label}: 'activation' must be 'TopK' or 'ReLU' to be read; got "
            f"{activation!r}."
        )
    return DictionaryWeights(
        W_enc=W_enc,
        W_dec=tensors.array("decoder.weight", ("d", d), ("m", m)).T,
        b_enc=without_input_bias(b_enc, b_dec, W_enc),
        b_dec=b_dec,
        activation="topk" if k else "relu",
        k=k,
        # Those with top-k, and only those, read normalised samples.
        sample_norm="layer_norm" if k else None,
        place=_place((*folder.parts, name)),
        model_name="openai-community/gpt2",
    )


def _place(parts: tuple[str, ...]) -> Place:
    file = re.fullmatch(r"(\d+)\.pt", parts[-1])
    block = int(file[1]) if file else None
    for part in reversed(parts):
        for location, site in _LOCATIONS.items():
            if location in part:
                layer = re.search(r"layer_(\d+)", part)
                return Place(site, int(layer[1]) if layer else block, location)
    return Place(block=block)


OPENAI = Format("openai", "one .pt", _recognises, _read)
