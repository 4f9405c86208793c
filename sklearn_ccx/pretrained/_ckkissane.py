"""C. Kissane's crosscoder of two models: ``cfg.json`` and ``cc_weights.pt``."""

from ._folder import Folder
from ._format import Format
from ._places import place_of
from ._weights import DictionaryWeights

_CONFIG, _WEIGHTS = "cfg.json", "cc_weights.pt"


def _recognises(folder: Folder) -> bool:
    return folder.weights(_WEIGHTS) == _WEIGHTS and folder.has(_WEIGHTS)


def _read(folder: Folder) -> DictionaryWeights:
    config = folder.config(_CONFIG) if folder.has(_CONFIG) else None
    tensors = folder.tensors(folder.weights(_WEIGHTS) or _WEIGHTS)
    models = ("models", 2)
    W_enc = tensors.array("W_enc", models, ("d", None), ("m", None))
    _, d, m = W_enc.shape
    hook_name = None if config is None else config.text("hook_point")
    return DictionaryWeights(
        W_enc=W_enc,
        W_dec=tensors.array("W_dec", ("m", m), models, ("d", d)),
        b_enc=tensors.array("b_enc", ("m", m)),
        b_dec=tensors.array("b_dec", models, ("d", d)),
        activation="relu",
        place=place_of(hook_name or (folder.parts[-1] if folder.parts else None)),
        model_name=None if config is None else config.text("model_name"),
        config={} if config is None else config.as_dict(),
        notes=(
            "Its two sites are the same place of two models. Its training scaled the "
            "activations of each model to a mean norm of sqrt(d): pass these two "
            "factors as input_scale, unless they are folded into the weights.",
        ),
    )


CKKISSANE = Format("ckkissane", f"{_CONFIG} and {_WEIGHTS}", _recognises, _read)
