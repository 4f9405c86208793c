"""Which MLPs read which sites: their validation and their tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .._engine.neurons._frozen_gated_mlp import FrozenGatedMLP
from .._engine.neurons._frozen_mlp import FrozenMLP
from .._engine.neurons._nonlinearity import NONLINEARITIES
from .._engine._tensors import to_tensor
from ._mlp_weights import MLPWeights


def check_mlps(
    mlp: "MLPWeights | Sequence[MLPWeights] | None", n_sites: int, width: int
) -> list[MLPWeights] | None:
    """List the MLPs and check that each fits the site it reads.

    Raises
    ------
    ValueError
        If the list is empty, a site is out of range or ``W_in`` does not match
        the width of the sites.
    TypeError
        If an item of the list is not an :class:`MLPWeights`.
    """
    if mlp is None:
        return None
    mlps = [mlp] if isinstance(mlp, MLPWeights) else list(mlp)
    if not mlps:
        raise ValueError("mlp is an empty list; pass None for identity neurons.")
    for index, item in enumerate(mlps):
        if not isinstance(item, MLPWeights):
            raise TypeError(
                f"mlp[{index}] must be an MLPWeights; got {type(item).__name__}."
            )
        if item.site >= n_sites:
            raise ValueError(
                f"mlp[{index}] reads site={item.site}, but the activations have "
                f"{n_sites} site(s); use a site in 0..{n_sites - 1}."
            )
        if item.W_in.shape[0] != width:
            raise ValueError(
                f"mlp[{index}].W_in has shape {item.W_in.shape}, but the site it reads "
                f"has width {width}; W_in must have shape ({width}, n_neurons)."
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
        W_in, b_in = mlp.W_in, mlp.b_in
        frozen_class = FrozenMLP
        if mlp.W_gate is not None and mlp.b_gate is not None:
            W_in, b_in = np.hstack([mlp.W_gate, W_in]), np.hstack([mlp.b_gate, b_in])
            frozen_class = FrozenGatedMLP
        frozen.append(
            frozen_class(
                site=mlp.site,
                nonlinearity=NONLINEARITIES[mlp.activation],
                W_in_DN=tensor(W_in),
                W_out_NO=tensor(mlp.W_out),
                bias_N=tensor(b_in + offset_LD[mlp.site] @ W_in),
                output_norm_N=tensor(np.linalg.norm(mlp.W_out, axis=1)),
                b_out_O=tensor(mlp.b_out),
            )
        )
    return frozen
