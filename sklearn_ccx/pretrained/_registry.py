"""All formats, in the order in which files are compared with them."""

from ._ckkissane import CKKISSANE
from ._dictionary_learning import DICTIONARY_LEARNING
from ._folder import Folder
from ._format import Format
from ._gemma_scope import GEMMA_SCOPE, GEMMA_SCOPE_2
from ._goodfire import GOODFIRE
from ._llama_scope import LLAMA_SCOPE
from ._llamascopium import LLAMASCOPIUM
from ._not_read import CIRCUIT_TRACER, CROSSCODE
from ._openai import OPENAI
from ._qwen_scope import QWEN_SCOPE
from ._sae_lens import SAE_LENS
from ._sparsify import SPARSIFY

# Those that are told by their tensors come last.
FORMATS: dict[str, Format] = {
    made.name: made
    for made in (
        SAE_LENS,
        GEMMA_SCOPE,
        GEMMA_SCOPE_2,
        LLAMA_SCOPE,
        LLAMASCOPIUM,
        SPARSIFY,
        CROSSCODE,
        CIRCUIT_TRACER,
        DICTIONARY_LEARNING,
        CKKISSANE,
        QWEN_SCOPE,
        OPENAI,
        GOODFIRE,
    )
}

# What a folder in a repository holds if it is a dictionary.
_TELLING = {
    "cfg.json",
    "params.npz",
    "params.safetensors",
    "hyperparams.json",
    "ae.pt",
    "sae_weights.safetensors",
}


def recognised(folder: Folder) -> Format:
    """The format of what is in a folder.

    Raises
    ------
    ValueError
        If it is none that is known.
    """
    for made in FORMATS.values():
        if made.recognises(folder):
            return made
    inside = folder.nested(_TELLING)
    if inside:
        more = ", ..." if len(inside) > 5 else ""
        raise ValueError(
            f"{folder.label} holds no dictionary itself, but folders that do: "
            f"{', '.join(inside[:5])}{more}; name one with subfolder=."
        )
    files = ", ".join(folder.names()[:8]) or "no file"
    known = "; ".join(f"{made.name} ({made.files})" for made in FORMATS.values())
    raise ValueError(
        f"{folder.label} is no dictionary of a known format: it has {files}. Known are "
        f"{known}. Name the format if the files have other names."
    )
