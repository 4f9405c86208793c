"""What a format is: how its files are recognised, and how they are read."""

from collections.abc import Callable
from dataclasses import dataclass

from ._folder import Folder
from ._weights import DictionaryWeights


@dataclass(frozen=True)
class Format:
    """A format of dictionaries.

    Attributes
    ----------
    name : str
        What users call it in `format`.
    files : str
        The files that it is made of, for errors.
    recognises : callable
        Whether a folder holds it, from names of files and configurations where these
        tell, from the names of tensors where they do not.
    read : callable
        The weights in a folder; raises where they cannot be represented.
    """

    name: str
    files: str
    recognises: Callable[[Folder], bool]
    read: Callable[[Folder], DictionaryWeights]


def refusal(label: str, reason: str) -> ValueError:
    """The error about a dictionary that cannot be represented."""
    return ValueError(f"{label} cannot be loaded: {reason}.")


TRANSCODER = (
    "it is a transcoder, which writes elsewhere than it reads: its decoder does not "
    "write to the input of an MLP, so that its features have no interaction there"
)
CROSS_LAYER = (
    "it is a cross-layer transcoder, which writes to the outputs of MLPs of several "
    "layers: its features have no interaction at the input of an MLP"
)
