"""The MLPs of a language model, as MLPWeights."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from .._engine._torch_state import with_torch_state
from .._validation import check_bool, check_int, check_option
from ..networks import MLPWeights, NormWeights, norm_layer
from ._architectures import (
    Block,
    ExpertMixture,
    check_blocks,
    check_model,
    transformer_blocks,
)
from ._experts import read_expert
from ._mlp_arrays import FloatArray, MLPArrays, read_mlp
from ._sites import resolve_sites, split_name

# Where the features may be that an MLP reads.
_READABLE = ("mlp_in", "resid_mid", "resid_pre")


@with_torch_state()
def mlp_weights(
    model: PreTrainedModel,
    blocks: int | Iterable[int] | None = None,
    *,
    site: str = "mlp_in",
    sites: str | Sequence[str] | None = None,
    expert: int | None = None,
    fold_norm: bool = False,
) -> list[MLPWeights]:
    """Take the MLPs of a language model.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model of a known family; see :func:`site_names`.

    blocks : int or iterable of int, default=None
        Which blocks' MLPs, from 0. None takes those of all blocks whose `site` is
        among `sites`.

    site : {"mlp_in", "resid_mid", "resid_pre"}, default="mlp_in"
        Where the features are that the MLP reads.

        - "mlp_in" is the input of the MLP itself, behind the normalisation.
        - "resid_mid" is the residual stream between attention and MLP. The
          normalisation between it and the MLP becomes part of the
          :class:`~sklearn_ccx.MLPWeights`. Where there is none, as in the encoders,
          "resid_mid" is "mlp_in".
        - "resid_pre" is the same for blocks that run attention and MLP side by side,
          whose MLPs read the residual stream at the input of the block. Other blocks
          have attention between the two, and refuse it.

    sites : str or sequence of str, default=None
        The sites of the activations, as given to :func:`harvest` or found in
        ``Harvest.sites``; `site` must be among them. They determine the ``site`` of
        each MLP. None is `site` alone, of all blocks.

    expert : int, default=None
        For blocks that are mixtures of experts: which expert, from 0. Its MLP is what
        it computes before the router's weight; the rows that it sees are those that
        :func:`routed_experts` says.

    fold_norm : bool, default=False
        Whether to take the scale and the shift of the normalisation before the MLP
        into ``W_in`` and ``b_in``. The MLP then reads the normalised residual
        stream *before* that scale and shift, which is not a harvested site: it is
        ``layer_norm(resid_mid)`` without parameters (or ``rms_norm``). `site` must
        be "mlp_in", and the ``site`` of the MLP is still its place among `sites`.

    Returns
    -------
    mlps : list of MLPWeights
        One for each block, in float32, independent of the model.

    Raises
    ------
    ValueError
        If the architecture, a nonlinearity or a normalisation is not known, a block
        does not exist, the MLPs do not read `site` or it is not among `sites`, a block
        has experts and `expert` is None or the other way around, the experts are no
        such MLPs (gpt-oss, Llama 4), an adapter is not merged, the weights are
        quantised or offloaded, or `fold_norm` is asked of an MLP without a
        normalisation.
    TypeError
        If `model` is not a transformers model or a parameter has the wrong type.

    See Also
    --------
    harvest : The activations that these MLPs read.
    routed_experts : The rows that an expert sees.
    sklearn_ccx.MLPWeights.from_torch : The same for any other network.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from sklearn_ccx.lm import mlp_weights
    >>> config = GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=16)
    >>> model = GPT2LMHeadModel(config)
    >>> mlp_weights(model, sites=["resid_pre", "mlp_in"])
    [MLPWeights(d=8, n_neurons=32, d_out=8, activation='gelu_tanh', site=1),
     MLPWeights(d=8, n_neurons=32, d_out=8, activation='gelu_tanh', site=3)]
    >>> mlp_weights(model, 1, site="resid_mid")[0].norm
    'layernorm'
    """
    site = str(check_option(site, "site", _READABLE))
    fold_norm = check_bool(fold_norm, "fold_norm")
    expert = None if expert is None else check_int(expert, "expert", minimum=0)
    model = check_model(model)
    all_blocks = transformer_blocks(model)
    _check_read(all_blocks[0], site, fold_norm)
    names = resolve_sites(site if sites is None else sites, all_blocks)
    index_of_block = _indices(names, site)
    chosen = _chosen_blocks(blocks, index_of_block, site, len(all_blocks))
    _check_experts(all_blocks, chosen, expert)
    return [
        _weights_of(
            all_blocks[number],
            number,
            site=site,
            index=index_of_block[number],
            expert=expert,
            fold_norm=fold_norm,
        )
        for number in chosen
    ]


def _check_read(block: Block, site: str, fold_norm: bool) -> None:
    """Check that the MLPs of blocks like this one read a site."""
    if site == "resid_mid" and block.is_parallel:
        raise ValueError(
            'site="resid_mid" does not exist in this model, whose blocks run attention '
            'and MLP side by side; their MLPs read site="resid_pre".'
        )
    if site == "resid_pre" and not block.is_parallel:
        raise ValueError(
            'site="resid_pre" is not what the MLPs of this model read: attention '
            'writes into the residual stream in between. Harvest "resid_mid" and pass '
            'site="resid_mid". What features of "resid_pre" do there depends on the '
            'scale of "resid_mid", which activations at "resid_pre" do not tell.'
        )
    if fold_norm and site != "mlp_in":
        raise ValueError(
            f"fold_norm=True is for activations behind the normalisation; at {site!r} "
            "it is part of the MLP, with its scale. Pass fold_norm=False."
        )
    if fold_norm and block.mlp_norm is None:
        raise ValueError(
            "fold_norm=True needs a normalisation that the MLP reads; the MLPs of "
            "this model read the residual stream itself. Pass fold_norm=False."
        )


def _indices(names: Sequence[str], site: str) -> dict[int, int]:
    """Place of the site of each block among the names."""
    split = [split_name(name) for name in names]
    return {block: index for index, (block, name) in enumerate(split) if name == site}


def _chosen_blocks(
    blocks: int | Iterable[int] | None,
    index_of_block: dict[int, int],
    site: str,
    n_blocks: int,
) -> list[int]:
    if not index_of_block:
        raise ValueError(
            f'No MLP reads any of sites; add "{site}" to them and harvest it.'
        )
    if blocks is None:
        return list(index_of_block)
    chosen = check_blocks(blocks, n_blocks)
    for block in chosen:
        if block not in index_of_block:
            raise ValueError(
                f"The MLP of block {block} reads 'blocks.{block}.{site}', which is not "
                "among sites; add it there and harvest it."
            )
    return chosen


def _check_experts(
    all_blocks: list[Block], chosen: list[int], expert: int | None
) -> None:
    """Check that the blocks have experts if, and only if, one is asked for."""
    mixtures = [n for n in chosen if isinstance(all_blocks[n].mlp, ExpertMixture)]
    if expert is None and mixtures:
        raise ValueError(
            f"The MLPs of blocks {mixtures} are mixtures of experts; pass expert, the "
            "number of one, and take the rows that "
            "sklearn_ccx.lm.routed_experts says are routed to it."
        )
    if expert is not None and len(mixtures) < len(chosen):
        single = [n for n in chosen if n not in mixtures]
        raise ValueError(
            f"expert={expert} was given, but blocks {single} have a single MLP; pass "
            f"expert=None for those, or blocks among {mixtures}."
        )


def _weights_of(
    block: Block,
    number: int,
    *,
    site: str,
    index: int,
    expert: int | None,
    fold_norm: bool,
) -> MLPWeights:
    if isinstance(block.mlp, ExpertMixture):
        assert expert is not None
        arrays = read_expert(block.mlp, expert, f"experts of block {number}")
    else:
        arrays = read_mlp(block.mlp, number)
    norm = None
    if block.mlp_norm is not None and (fold_norm or site != "mlp_in"):
        name = f"the normalisation before the MLP of block {number}"
        norm = norm_layer(block.mlp_norm, name, len(arrays.W_in))
    if fold_norm and norm is not None:
        arrays, norm = _fold(arrays, norm), None
    parameters = vars(arrays) | ({} if norm is None else norm.parameters())
    singles: dict[str, Any] = {k: _single(value) for k, value in parameters.items()}
    return MLPWeights(**singles, site=index)


def _fold(arrays: MLPArrays, norm: NormWeights) -> MLPArrays:
    """Input weights and biases that include the scale and shift of the norm."""

    def scaled(W: FloatArray) -> FloatArray:
        return W if norm.weight is None else norm.weight[:, np.newaxis] * W

    def shifted(W: FloatArray, bias: FloatArray | None) -> FloatArray | None:
        if norm.bias is None:
            return bias
        written = norm.bias @ W
        return written if bias is None else bias + written

    folded = replace(
        arrays, W_in=scaled(arrays.W_in), b_in=shifted(arrays.W_in, arrays.b_in)
    )
    if arrays.W_gate is None:
        return folded
    return replace(
        folded,
        W_gate=scaled(arrays.W_gate),
        b_gate=shifted(arrays.W_gate, arrays.b_gate),
    )


def _single(value: Any) -> Any:
    """An array in float32; anything else as it is."""
    if isinstance(value, np.ndarray):
        return value.astype(np.float32, copy=False)
    return value
