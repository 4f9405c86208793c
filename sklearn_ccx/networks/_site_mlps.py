"""Which MLPs read which sites: their validation and their tensors."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from .._engine._tensors import to_tensor
from .._engine.neurons import NONLINEARITIES, FrozenGatedMLP, FrozenMLP, FrozenNorm
from .._validation import shown
from ._mlp_weights import MLPWeights
from ._row_norms import row_norms

# What the parameter `mlp` may be.
MLPs: TypeAlias = MLPWeights | Sequence[MLPWeights] | None


def check_mlps(mlp: MLPs, n_sites: int, width: int) -> list[MLPWeights] | None:
    """List the MLPs and check that each fits the site it reads.

    Raises
    ------
    ValueError
        If the list is empty, a site is out of range or ``W_in`` does not match
        the width of the sites.
    TypeError
        If it is not a list, or an item of it is not an :class:`MLPWeights`.
    """
    if mlp is None:
        return None
    given: Any = [mlp] if isinstance(mlp, MLPWeights) else mlp
    # Not any iterable: a generator would be empty in the second fit, and a set has
    # no order.
    is_list = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    if not is_list and not (isinstance(given, np.ndarray) and given.ndim == 1):
        raise TypeError(
            "mlp must be an MLPWeights, a list of them or None; got "
            f"{shown(given)}. MLPWeights.from_sklearn and MLPWeights.from_torch make "
            "one of a network."
        )
    mlps = list(given)
    if not mlps:
        raise ValueError("mlp is an empty list; pass None for identity neurons.")
    for index, item in enumerate(mlps):
        if not isinstance(item, MLPWeights):
            raise TypeError(f"mlp[{index}] must be an MLPWeights; got {shown(item)}.")
        if item.site >= n_sites:
            raise ValueError(
                f"mlp[{index}] reads site={item.site}, but the activations have "
                f"{n_sites} site(s); use a site in 0..{n_sites - 1}."
            )
        if item.W_in.shape[0] != width:
            raise ValueError(
                f"mlp[{index}].W_in has shape {item.W_in.shape}, but the site of X "
                f"that it reads has width {width}; W_in must have shape ({width}, "
                "n_neurons)."
            )
    return mlps


def check_provable(
    mlps: list[MLPWeights] | None, lam_margin: float, lam_interval: float
) -> None:
    """Check that the losses on proofs fit the MLPs.

    Raises
    ------
    ValueError
        If there are no logits to take a margin of, or an MLP is gated.
    """
    if mlps is None:
        if lam_margin > 0:
            raise ValueError(
                "lam_margin needs mlp, an MLP of which the output is the logits of a "
                "classifier; use lam_interval for other outputs."
            )
        return
    if max(lam_margin, lam_interval) > 0:
        for index, mlp in enumerate(mlps):
            if mlp.W_gate is not None:
                raise ValueError(
                    f"mlp[{index}] is gated, which lam_margin and lam_interval do not "
                    "cover; use lam or lam_fidelity."
                )


class InputWeights(NamedTuple):
    """What the neurons of an MLP multiply the activations at its site by, and add."""

    W_DN: npt.NDArray[np.floating[Any]]
    bias_N: npt.NDArray[np.floating[Any]]


def input_weights(mlp: MLPWeights, *, magnitudes: bool = False) -> InputWeights:
    r"""Weights and biases of the neurons' inputs, those of the gates first.

    A norm is taken into them but for the scale :math:`s_b` of a sample :math:`r_b`,

    .. math::

        \Bigl(\frac{C r_b}{s_b} \odot \gamma + \beta\Bigr) W_{in} + b_{in}
        = \frac{r_b}{s_b} \underbrace{C \operatorname{diag}(\gamma) W_{in}}_{W}
          + \underbrace{\beta W_{in} + b_{in}}_{bias},

    with :math:`C = I - \mathbf 1 \mathbf 1^T / D` for LayerNorm and the identity for
    RMSNorm. These are in float64; without a norm they are the MLP's own.

    With `magnitudes` they are sums of magnitudes instead: of the terms that the neurons
    add up for rows that are centred already, where that is part of the norm.
    """
    W_DN, bias_N = mlp.W_in, mlp.b_in
    if mlp.W_gate is not None and mlp.b_gate is not None:
        W_DN, bias_N = np.hstack([mlp.W_gate, W_DN]), np.hstack([mlp.b_gate, bias_N])
    if magnitudes:
        W_DN, bias_N = np.abs(W_DN), np.abs(bias_N)
    if mlp.norm_weight is None or mlp.norm_bias is None:
        return InputWeights(W_DN, bias_N)
    weight_D, shift_D = mlp.norm_weight, mlp.norm_bias.astype(np.float64)
    if magnitudes:
        weight_D, shift_D = np.abs(weight_D), np.abs(shift_D)
    W_DN = W_DN.astype(np.float64)
    bias_N = bias_N + shift_D @ W_DN
    W_DN *= weight_D[:, np.newaxis]
    if mlp.norm == "layernorm" and not magnitudes:
        W_DN -= W_DN.mean(axis=0)
    return InputWeights(W_DN, bias_N)


def freeze_mlps(
    mlps: list[MLPWeights] | None,
    offset: npt.NDArray[Any],
    n_sites: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> list[FrozenMLP]:
    """Tensors of the MLPs; identity neurons at every site where there are none.

    Parameters
    ----------
    mlps : list of MLPWeights or None
        As returned by :func:`check_mlps`.
    offset : ndarray of shape (n_sites * width,)
        The decoder's bias, which belongs to no feature: what it writes to a
        neuron is part of that neuron's bias.
    n_sites : int
        Number of sites.
    dtype, device
        Of the tensors.
    """
    offset_LD = offset.reshape(n_sites, -1)

    def tensor(array: npt.NDArray[Any]) -> torch.Tensor:
        return to_tensor(array, dtype, device)

    if mlps is None:
        return [
            FrozenMLP(
                site=site,
                nonlinearity=NONLINEARITIES["identity"],
                W_in_DN=None,
                W_out_NO=None,
                bias_N=tensor(offset_LD[site]),
                output_norm_N=tensor(np.ones(offset_LD.shape[1])),
            )
            for site in range(n_sites)
        ]
    frozen = []
    for mlp in mlps:
        inputs, offset_D = input_weights(mlp), offset_LD[mlp.site]
        bias_N, written_N = inputs.bias_N, offset_D @ inputs.W_DN
        norm = None
        if mlp.norm is None:
            bias_N = bias_N + written_N
        else:
            norm = FrozenNorm(
                mlp.norm == "layernorm", mlp.eps, tensor(offset_D), tensor(written_N)
            )
        frozen_class = FrozenMLP if mlp.W_gate is None else FrozenGatedMLP
        frozen.append(
            frozen_class(
                site=mlp.site,
                nonlinearity=NONLINEARITIES[mlp.activation],
                W_in_DN=tensor(inputs.W_DN),
                W_out_NO=tensor(mlp.W_out),
                bias_N=tensor(bias_N),
                output_norm_N=tensor(row_norms(mlp.W_out)),
                b_out_O=tensor(mlp.b_out),
                norm=norm,
            )
        )
    return frozen
