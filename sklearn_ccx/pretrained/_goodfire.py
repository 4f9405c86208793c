"""Goodfire: one ``.pt`` or ``.pth`` with two linear layers."""

from ._folder import Folder
from ._format import Format
from ._weights import DictionaryWeights

_SUFFIXES = (".pt", ".pth")


def _recognises(folder: Folder) -> bool:
    name = folder.the_only(*_SUFFIXES)
    return name is not None and "encoder_linear.weight" in folder.tensors(name)


def _read(folder: Folder) -> DictionaryWeights:
    name = folder.the_only(*_SUFFIXES)
    if name is None:
        raise ValueError(f"{folder.label} has no file that ends in {_SUFFIXES}.")
    tensors = folder.tensors(name)
    W_enc = tensors.array("encoder_linear.weight", ("m", None), ("d", None)).T
    d, m = W_enc.shape
    return DictionaryWeights(
        W_enc=W_enc,
        W_dec=tensors.array("decoder_linear.weight", ("d", d), ("m", m)).T,
        b_enc=tensors.array("encoder_linear.bias", ("m", m)),
        b_dec=tensors.array("decoder_linear.bias", ("d", d)),
        activation="relu",
    )


GOODFIRE = Format("goodfire", "one .pt or .pth", _recognises, _read)
