"""The MLPs of a language model, as MLPWeights."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from .._engine._torch_state import with_torch_state
from .._validation import as_numpy, check_bool
from ..networks import MLPWeights, activation_name, linear_layer
from ._architectures import Block, check_blocks, check_model, transformer_blocks
from ._sites import resolve_sites, split_name

FloatArray = npt.NDArray[np.float32]


@with_torch_state()
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
        the input of a block's MLP is not among `sites`, an adapter is not merged, the
        weights are quantised or offloaded, or `fold_norm` is asked of an MLP without
        a normalisation of its own.
    TypeError
        If `model` is not a transformers model or a parameter has the wrong type.

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
    fold_norm = check_bool(fold_norm, "fold_norm")
    model = check_model(model)
    all_blocks = transformer_blocks(model)
    site_of_block = _mlp_sites(resolve_sites(sites, all_blocks))
    chosen = _blocks_with_input(blocks, site_of_block, len(all_blocks))
    return [
        _weights_of(all_blocks, block, site_of_block[block], fold_norm)
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


def _weights_of(
    blocks: list[Block], number: int, site: int, fold_norm: bool
) -> MLPWeights:
    block = blocks[number]

    def read(layer: str) -> tuple[FloatArray, FloatArray | None]:
        name = f"{layer} of block {number}"
        W, bias = linear_layer(getattr(block, layer), name)
        return _single(W), None if bias is None else _single(bias)

    def read_input(layer: str) -> tuple[FloatArray, FloatArray | None]:
        return _fold(block, *read(layer)) if fold_norm else read(layer)

    W_in, b_in = read_input("linear_in")
    W_gate = b_gate = None
    if block.linear_gate is not None:
        W_gate, b_gate = read_input("linear_gate")
    W_out, b_out = read("linear_out")
    return MLPWeights(
        W_in,
        W_out,
        b_in=b_in,
        b_out=b_out,
        W_gate=W_gate,
        b_gate=b_gate,
        activation=_activation_of(block),
        site=site,
    )


def _single(array: npt.NDArray[Any]) -> FloatArray:
    return array.astype(np.float32, copy=False)


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
    weight = _single(as_numpy(norm.weight, "the weight of the normalisation"))
    scale_D = weight + block.norm_scale_offset
    shift = getattr(norm, "bias", None)
    if shift is not None:
        shift_D = _single(as_numpy(shift, "the bias of the normalisation"))
        written_N = shift_D @ W_in
        b_in = written_N if b_in is None else b_in + written_N
    return scale_D[:, np.newaxis] * W_in, b_in


def _activation_of(block: Block) -> str:
    try:
        return activation_name(block.activation)
    except TypeError as error:
        raise ValueError(f"The MLPs of the model cannot be taken: {error}") from error
