"""The normalisation that a module of a foreign network computes.

Modules of one name compute different things (some add 1 to the weight that they store,
some keep their eps to themselves), so that nothing is taken by its name: the module is
run on a few random rows, and described by the formula that gives its output.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .._engine._torch_state import torch_state
from .._validation import as_numpy, shown
from ._foreign_modules import (
    beside_weight,
    check_loaded,
    kind_of,
    parameter_of,
    quantised,
    reasons,
    stores_codes,
)

FloatArray = npt.NDArray[np.floating]
Rows = npt.NDArray[np.float64]

# From rows that are small beside any eps in use to rows beside which none counts.
_ROW_SIZES = 2.0 ** np.arange(-22, 9, 2)


@dataclass(frozen=True)
class NormWeights:
    """A normalisation of rows.

    Parameters
    ----------
    kind : {"layernorm", "rmsnorm"}
        ``(r - mean) / sqrt(var + eps) * weight + bias``, with the biased variance, or
        ``r / sqrt(mean(r ** 2) + eps) * weight + bias``.
    weight : ndarray of shape (d,) or None
        The scale; None is 1.
    bias : ndarray of shape (d,) or None
        The shift; None is 0.
    eps : float
        What is added to the variance.
    """

    kind: str
    weight: FloatArray | None
    bias: FloatArray | None
    eps: float

    def parameters(self) -> dict[str, Any]:
        """As the parameters of :class:`MLPWeights`."""
        return {
            "norm": self.kind,
            "norm_weight": self.weight,
            "norm_bias": self.bias,
            "eps": self.eps,
        }

    def of(self, rows: Rows) -> Rows:
        """The normalised rows."""
        centred, variances = _centred(self.kind, rows)
        normalised = centred / np.sqrt(variances + self.eps)
        if self.weight is not None:
            normalised = normalised * self.weight
        return normalised if self.bias is None else normalised + self.bias


def norm_layer(module: Any, name: str, width: int) -> NormWeights:
    """Read the normalisation that a module computes.

    Parameters
    ----------
    module : torch.nn.Module
        A LayerNorm or an RMSNorm of torch, of transformers, or any other module that
        computes one of them along the last axis.
    name : str
        What the module is called in errors.
    width : int
        Length of the rows.

    Raises
    ------
    ValueError
        If the module computes something else, or its weights cannot be read.
    TypeError
        If it is not a module.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"{name} must be a module that normalises rows, such as "
            f"torch.nn.LayerNorm or torch.nn.RMSNorm; got {shown(module)}."
        )
    with torch_state(grad=False):
        weight = _vector(module, "weight", width, name)
        bias = _vector(module, "bias", width, name)
        stored = parameter_of(module, "weight")
        rows = _rows(width, stored)
        output = _run(module, rows)
        if output is not None:
            for norm in _candidates(module, rows, output, weight, bias):
                if _agrees(norm, rows, output):
                    return norm
    stores = (
        "without a weight" if stored is None else f"with a weight of {stored.dtype}"
    )
    raise ValueError(
        f"{name} is a {kind_of(module)} {stores}{beside_weight(module)} that computes "
        f"neither a LayerNorm nor an RMSNorm of rows of {width} numbers."
        f"{reasons(module)} Only these two can stand before an MLP; read the site "
        "behind the normalisation instead."
    )


def _vector(module: nn.Module, part: str, width: int, name: str) -> FloatArray | None:
    stored = parameter_of(module, part)
    if stored is None:
        return None
    check_loaded(stored, module, name)
    if stores_codes(stored):
        raise quantised(stored, module, name)
    array = as_numpy(stored, f"the {part} of {name}")
    if array.shape != (width,):
        raise ValueError(
            f"{name} is a {kind_of(module)} whose {part} has shape {array.shape}, but "
            f"the MLP reads {width} numbers."
        )
    return array


def _rows(width: int, like: Tensor | None) -> Tensor:
    """Rows of all sizes, with a mean, in numbers that each dtype of torch holds."""
    rng = np.random.default_rng(0)
    rows = rng.integers(-64, 129, size=(2, len(_ROW_SIZES), width)) / 128
    rows = (rows * _ROW_SIZES[:, np.newaxis]).reshape(-1, width)
    if like is None:
        return torch.from_numpy(rows).float()
    return torch.from_numpy(rows).to(like.dtype).to(like.device)


def _run(module: nn.Module, rows: Tensor) -> Rows | None:
    """The output, or None if there is none for these rows."""
    try:
        # As a batch of one sequence, which is what the modules of transformers get.
        output = module(rows.clone()[None])
    except Exception:  # foreign code; without a result the module is refused
        return None
    if not isinstance(output, Tensor) or output.shape != (1, *rows.shape):
        return None
    return as_numpy(output[0], "output").astype(np.float64)


def _candidates(
    module: nn.Module,
    rows: Tensor,
    output: Rows,
    weight: FloatArray | None,
    bias: FloatArray | None,
) -> Iterator[NormWeights]:
    """What the module may be."""
    # Gemma's norms store what is to be added to 1.
    weights = [weight] if weight is None else [weight, weight + weight.dtype.type(1)]
    for kind, scale in product(("layernorm", "rmsnorm"), weights):
        for eps in _stored_eps(module, rows):
            yield NormWeights(kind, scale, bias, eps)
        measured = _measured_eps(NormWeights(kind, scale, bias, 0.0), rows, output)
        if measured is not None:
            yield NormWeights(kind, scale, bias, measured)


def _stored_eps(module: nn.Module, rows: Tensor) -> list[float]:
    """Numbers of the module that may be its eps, and torch's own for None."""
    stored = [v for v in vars(module).values() if isinstance(v, float) and 0 < v < 1]
    return [*stored, *(torch.finfo(t).eps for t in (rows.dtype, torch.float32))]


def _measured_eps(norm: NormWeights, rows: Tensor, output: Rows) -> float | None:
    """The eps that a norm of this kind would have, which shrinks its output."""
    inputs = as_numpy(rows, "rows").astype(np.float64)
    _, variances = _centred(norm.kind, inputs)
    shift = 0.0 if norm.bias is None else norm.bias
    with np.errstate(divide="ignore", invalid="ignore"):  # rows without a variance
        unshrunk = norm.of(inputs) - shift
        gains = ((output - shift) * unshrunk).sum(axis=1) / (unshrunk**2).sum(axis=1)
    is_usable = (gains > 0.2) & (gains < 0.95)
    if not is_usable.any():
        return None
    # Of a few rows, rounding goes to both sides. Two digits are as many as one writes.
    eps = np.median(variances[is_usable, 0] * (gains[is_usable] ** -2 - 1))
    return float(f"{float(eps):.1e}")


def _centred(kind: str, rows: Rows) -> tuple[Rows, Rows]:
    """Rows without their mean, if the kind takes it off, and their variances."""
    if kind == "layernorm":
        rows = rows - rows.mean(axis=1, keepdims=True)
    return rows, (rows**2).mean(axis=1, keepdims=True)


def _agrees(norm: NormWeights, rows: Tensor, output: Rows) -> bool:
    """Whether the output is that of the norm, up to rounding."""
    expected = norm.of(as_numpy(rows, "rows").astype(np.float64))
    size = np.abs(expected).max(axis=1, keepdims=True)
    if norm.bias is not None:
        size = size + 2 * np.abs(norm.bias).max()
    precision = max(torch.finfo(rows.dtype).eps, torch.finfo(torch.float32).eps)
    return bool((np.abs(output - expected) <= 8 * precision * size).all())
