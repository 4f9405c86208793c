"""The weights of one MLP as arrays."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..networks import activation_name, linear_layer
from ._architectures import DenseMLP

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class MLPArrays:
    """What :class:`~sklearn_ccx.MLPWeights` needs, but for site and normalisation."""

    W_in: FloatArray
    W_out: FloatArray
    activation: str
    b_in: FloatArray | None = None
    b_out: FloatArray | None = None
    W_gate: FloatArray | None = None
    b_gate: FloatArray | None = None


def read_mlp(mlp: DenseMLP, block: int) -> MLPArrays:
    """Read the layers of the MLP of a block.

    Raises
    ------
    ValueError
        If a layer does not multiply by the weights that it stores, or the
        nonlinearity is not known.
    """
    W_in, b_in = linear_layer(mlp.linear_in, f"linear_in of block {block}")
    W_gate = b_gate = None
    if mlp.is_fused:
        W_gate, W_in = np.hsplit(W_in, 2)
        if b_in is not None:
            b_gate, b_in = np.hsplit(b_in, 2)
    elif mlp.linear_gate is not None:
        W_gate, b_gate = linear_layer(mlp.linear_gate, f"linear_gate of block {block}")
    W_out, b_out = linear_layer(mlp.linear_out, f"linear_out of block {block}")
    return MLPArrays(
        W_in=W_in,
        W_out=W_out,
        activation=activation_of(mlp.activation, f"MLP of block {block}"),
        b_in=b_in,
        b_out=b_out,
        W_gate=W_gate,
        b_gate=b_gate,
    )


def activation_of(module: object, name: str) -> str:
    """The nonlinearity of an MLP.

    Raises
    ------
    ValueError
        If it is not known.
    """
    try:
        return activation_name(module)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"The {name} cannot be taken: {error}") from error
