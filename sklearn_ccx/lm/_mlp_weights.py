"""The MLPs of a language model, as MLPWeights."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..networks._mlp_weights import MLPWeights
from ._architectures import Block, check_blocks, check_model, transformer_blocks
from ._sites import resolve_sites, split_name

FloatArray = npt.NDArray[np.float32]

# Of the modules in transformers.activations, and torch's, the ones that are known.
_ACTIVATIONS = {
    "FastGELUActivation": "gelu_tanh",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "Identity": "identity",
    "LinearActivation": "identity",
    "NewGELUActivation": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",  # GELUTanh in earlier versions
    "ReLU": "relu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "Sigmoid": "logistic",
    "Tanh": "tanh",
}


def mlp_weights(
    model: PreTrainedModel,
    blocks: int | Iterable[int] | None = None,
    *,
    sites: str | Sequence[str] = "mlp_in",
    fold_norm: bool = False,
) -> list[MLPWeights]:
    """Take the MLPs of a language model.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model of a known family; see :func:`site_names`.

    blocks : int or iterable of int, default=None
        Which blocks' MLPs, from 0. None takes those of all blocks whose input is
        among `sites`.

    sites : str or sequence of str, default="mlp_in"
        The sites of the activations, as given to :func:`harvest` or found in
        ``Harvest.sites``. They determine the ``site`` of each MLP.

    fold_norm : bool, default=False
        Whether to take the scale and the shift of the normalisation before the MLP
        into ``W_in`` and ``b_in``. The MLP then reads the normalised residual
        stream *before* that scale and shift, which is not a harvested site: it is
        ``layer_norm(resid_mid)`` without parameters (or ``rms_norm``). `site` is
        still the place of the block's "mlp_in" among `sites`.

    Returns
    -------
    mlps : list of MLPWeights
        One for each block, in float32, independent of the model.

    Raises
    ------
    ValueError
        If the architecture or a nonlinearity is not known, a block does not exist,
        the input of a block's MLP is not among `sites`, an adapter is not merged or
        `fold_norm` is asked of an MLP without a normalisation of its own.
    TypeError
        If `model` is not a transformers model.

    See Also
    --------
    harvest : The activations that these MLPs read.
    sklearn_ccx.MLPWeights.from_torch : The same for any other network.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from sklearn_ccx.lm import mlp_weights
    >>> config = GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=16)
    >>> mlp_weights(GPT2LMHeadModel(config), sites=["resid_pre", "mlp_in"])
    [MLPWeights(d=8, n_neurons=32, d_out=8, activation='gelu_tanh', site=1),
     MLPWeights(d=8, n_neurons=32, d_out=8, activation='gelu_tanh', site=3)]
    """
    model = check_model(model)
    all_blocks = transformer_blocks(model)
    site_of_block = _mlp_sites(resolve_sites(sites, all_blocks))
    chosen = _blocks_with_input(blocks, site_of_block, len(all_blocks))
    return [
        _weights_of(all_blocks[block], site_of_block[block], fold_norm)
        for block in chosen
    ]


def _mlp_sites(names: Sequence[str]) -> dict[int, int]:
    """Index of the site that each block's MLP reads."""
    split = [split_name(name) for name in names]
    return {
        block: index for index, (block, site) in enumerate(split) if site == "mlp_in"
    }


def _blocks_with_input(
    blocks: int | Iterable[int] | None, site_of_block: dict[int, int], n_blocks: int
) -> list[int]:
    if not site_of_block:
        raise ValueError(
            'No MLP reads any of sites; add "mlp_in" to them and harvest it.'
        )
    if blocks is None:
        return list(site_of_block)
    chosen = check_blocks(blocks, n_blocks)
    for block in chosen:
        if block not in site_of_block:
            raise ValueError(
                f"The MLP of block {block} reads 'blocks.{block}.mlp_in', which is not "
                "among sites; add it there and harvest it."
            )
    return chosen


def _weights_of(block: Block, site: int, fold_norm: bool) -> MLPWeights:
    def read(linear: nn.Module) -> tuple[FloatArray, FloatArray | None]:
        weight, bias = _weight(linear), _bias(linear)
        return _fold(block, weight, bias) if fold_norm else (weight, bias)

    W_in, b_in = read(block.linear_in)
    W_gate = b_gate = None
    if block.linear_gate is not None:
        W_gate, b_gate = read(block.linear_gate)
    return MLPWeights(
        W_in,
        _weight(block.linear_out),
        b_in=b_in,
        b_out=_bias(block.linear_out),
        W_gate=W_gate,
        b_gate=b_gate,
        activation=_activation_name(block.activation),
        site=site,
    )


def _weight(linear: Any) -> FloatArray:
    """The matrix that rows are multiplied by from the right."""
    if hasattr(linear, "base_layer"):
        raise ValueError(
            "The MLP has an adapter that is not merged; pass the model that "
            "model.merge_and_unload() returns."
        )
    weight = _array(linear.weight)
    return weight if isinstance(linear, Conv1D) else weight.T


def _bias(linear: Any) -> FloatArray | None:
    return None if linear.bias is None else _array(linear.bias)


def _array(parameter: Tensor) -> FloatArray:
    return parameter.detach().float().cpu().numpy()


def _fold(
    block: Block, W_in: FloatArray, b_in: FloatArray | None
) -> tuple[FloatArray, FloatArray | None]:
    """Input weights and bias that include the scale and shift of the normalisation."""
    norm: Any = block.mlp_norm
    if norm is None:
        raise ValueError(
            "fold_norm=True needs a normalisation that only the MLP reads; the MLPs of "
            "this model read the residual stream itself. Pass fold_norm=False."
        )
    if norm.weight is None:  # it has no parameters
        return W_in, b_in
    scale_D = _array(norm.weight) + block.norm_scale_offset
    shift = getattr(norm, "bias", None)
    if shift is not None:
        written_N = _array(shift) @ W_in
        b_in = written_N if b_in is None else b_in + written_N
    return scale_D[:, np.newaxis] * W_in, b_in


def _activation_name(activation: nn.Module) -> str:
    name = type(activation).__name__
    if name not in _ACTIVATIONS:
        raise ValueError(
            f"The nonlinearity {name} of the model's MLPs is not known; known are "
            f"{sorted(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]
