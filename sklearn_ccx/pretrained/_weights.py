"""What every format is read into: encoder, decoder, biases and activation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ._places import UNKNOWN, Place

FloatArray = npt.NDArray[np.floating]

# Rows of the encoder that are taken to float64 at once.
_ROWS = 256


@dataclass(frozen=True)
class DictionaryWeights:
    """A dictionary as arrays, in the conventions of ``from_weights``.

    Attributes
    ----------
    W_enc : ndarray of shape (d, m) or (n_sites, d, m)
        Encoder.
    W_dec : ndarray of shape (m, d) or (m, n_sites, d)
        Decoder.
    b_enc : ndarray of shape (m,)
        Added to the pre-activations; nothing is taken from the input.
    b_dec : ndarray of shape (d,) or (n_sites, d)
        Added to the reconstruction.
    activation : {"relu", "topk", "batchtopk", "jumprelu"}
        How pre-activations become codes.
    k : int or None
        Active features per sample. Of "topk", None is for the user to say.
    threshold : float or ndarray of shape (m,) or None
        Of "batchtopk" and "jumprelu".
    input_scale : float or None
        What activations are multiplied by for the dictionary, None for nothing.
    sample_norm : {"layer_norm", "constant_norm"} or None
        What is done to each sample first, which no weights can hold.
    place : Place
        Where it reads.
    model_name : str or None
        The model that it belongs to.
    config : mapping
        The file of its configuration.
    notes : tuple of str
        What a user must know.
    """

    W_enc: FloatArray
    W_dec: FloatArray
    b_enc: FloatArray
    b_dec: FloatArray
    activation: str
    k: int | None = None
    threshold: float | FloatArray | None = None
    input_scale: float | None = None
    sample_norm: str | None = None
    place: Place = UNKNOWN
    model_name: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def without_input_bias(
    b_enc: FloatArray, b_dec: FloatArray, W_enc: FloatArray
) -> FloatArray:
    """The bias of an encoder that reads x, from that of one that reads x - b_dec."""
    bias = b_enc.astype(np.float64)
    for start in range(0, len(W_enc), _ROWS):
        rows = slice(start, start + _ROWS)
        bias -= b_dec[rows].astype(np.float64) @ W_enc[rows].astype(np.float64)
    return bias.astype(b_enc.dtype)


def decoder_norms(W_dec: FloatArray) -> FloatArray:
    """Norms of the rows of a decoder of one site."""
    return np.linalg.norm(W_dec, axis=1)


def with_unit_rows(
    W_enc: FloatArray, b_enc: FloatArray, W_dec: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The same dictionary, with codes as large as what they write.

    Rows of the decoder that are zero stay so; their features have no code then.
    """
    norm = decoder_norms(W_dec)
    divisor = np.where(norm > 0, norm, 1.0).astype(W_dec.dtype)
    return W_enc * norm, b_enc * norm, W_dec / divisor[:, None]
