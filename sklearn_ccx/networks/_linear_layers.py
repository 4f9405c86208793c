"""The matrix and the bias that a linear layer of a foreign network multiplies by.

What a layer stores need not be what it multiplies by: quantised layers store codes and
scales, adapters add to the product, parametrisations and hooks change it. Only a plain
``torch.nn.Linear`` is taken at its word. Any other layer is run on a few random rows,
and what it stores is taken where the results agree.
"""

from collections.abc import Callable
from dataclasses import dataclass
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
    holds_numbers,
    is_changed,
    is_plain,
    kind_of,
    parameter_of,
    precision_of,
    quantised,
    reasons,
    stores_codes,
)
from ._row_norms import row_norms

FloatArray = npt.NDArray[np.floating]

_N_ROWS = 4


def linear_layer(layer: Any, name: str) -> tuple[FloatArray, FloatArray | None]:
    """Read the matrix, of shape (in, out), and the bias of a linear layer.

    Parameters
    ----------
    layer : torch.nn.Module
        A ``torch.nn.Linear``, or another module that multiplies by its ``weight``,
        transposed or not, and adds its ``bias``.
    name : str
        What the layer is called in errors.

    Raises
    ------
    ValueError
        If the layer does not multiply by what it stores, or stores nothing.
    TypeError
        If it is not a linear layer.
    """
    if hasattr(layer, "base_layer"):
        raise ValueError(
            f"{name} has an adapter that is not merged; pass the model that "
            "model.merge_and_unload() returns."
        )
    weight = parameter_of(layer, "weight") if isinstance(layer, nn.Module) else None
    if weight is None:
        raise _not_linear(layer, name)
    check_loaded(weight, layer, name)
    with torch_state(grad=False):
        if stores_codes(weight):
            return _read(layer, name, _dequantised)
        if weight.ndim != 2:
            raise _not_linear(layer, name)
        if type(layer) is nn.Linear and not is_changed(layer):
            return as_numpy(weight, name).T, _bias(layer, name)
        return _read(layer, name, _stored)


def _stored(layer: nn.Module) -> Tensor | None:
    """The weight as it is stored."""
    return parameter_of(layer, "weight")


def _dequantised(layer: nn.Module) -> Tensor | None:
    """What the weight, or the layer, says that its codes mean."""
    weight = parameter_of(layer, "weight")
    # torch's own method returns the codes of a plain tensor as floats.
    is_own = weight is not None and (weight.is_quantized or not is_plain(weight))
    for holder in (weight if is_own else None, layer):
        dequantize = getattr(holder, "dequantize", None)
        if callable(dequantize):
            try:
                dequantised = dequantize()
            except Exception:  # foreign code; without a result the layer is refused
                continue
            if isinstance(dequantised, Tensor) and holds_numbers(dequantised):
                return dequantised
    return None


def _read(
    layer: nn.Module, name: str, matrix_of: Callable[[nn.Module], Tensor | None]
) -> tuple[FloatArray, FloatArray | None]:
    """The matrix and bias with which the layer computes what it computes."""
    before = matrix_of(layer)
    if before is not None and before.ndim == 2:
        for is_transposed in _orientations(layer):
            probe = _Probe.of(layer, before, is_transposed, name)
            output = probe.run(layer)
            # Some hooks compute the weight when the layer is run.
            after = matrix_of(layer)
            if output is None or after is None:
                continue
            W, bias = _matrix(after, is_transposed, name), _bias(layer, name)
            if probe.agrees(output, W, bias):
                return W, bias
    raise _refusal(layer, name)


def _orientations(layer: nn.Module) -> tuple[bool, bool]:
    """Whether the matrix may be stored transposed, the likelier answer first.

    ``Conv1D`` is the linear layer of GPT-2 in transformers, which may not be installed.
    """
    is_conv1d = any(base.__name__ == "Conv1D" for base in type(layer).__mro__)
    return (False, True) if is_conv1d else (True, False)


@dataclass(frozen=True)
class _Probe:
    """Rows that a layer is run on.

    One is zero, which leaves the bias alone, some are of the order of 1 and some so
    large that the product outweighs the bias. All entries have so few digits that each
    dtype of torch holds them.
    """

    rows: npt.NDArray[np.float64]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(
        cls, layer: nn.Module, stored: Tensor, is_transposed: bool, name: str
    ) -> "_Probe":
        W, bias = _matrix(stored, is_transposed, name), _bias(layer, name)
        rng = np.random.default_rng(0)
        rows = rng.integers(-128, 129, size=(_N_ROWS, W.shape[0])) / 128
        size_of_product = float(np.abs(_product(rows, W)).max(initial=0))
        size_of_bias = 0.0 if bias is None else float(np.abs(bias).max(initial=0))
        ratio = 1.0
        if size_of_product > 0:
            fits = float(torch.finfo(stored.dtype).max) / 16 / max(size_of_product, 1.0)
            ratio = min(max(1.0, 4 * size_of_bias / size_of_product), fits)
        large = rows * 2.0 ** np.floor(np.log2(ratio))
        rows = np.vstack([0 * rows[:1], rows, large])
        return cls(rows, stored.dtype, stored.device)

    def run(self, layer: nn.Module) -> npt.NDArray[Any] | None:
        """The output of the layer, or None if it has none for these rows."""
        rows = torch.from_numpy(self.rows).to(self.dtype).to(self.device)
        try:
            output = layer(rows)
        except Exception:  # foreign code; without a result the layer is refused
            return None
        return as_numpy(output, "output") if isinstance(output, Tensor) else None

    def agrees(
        self, output: npt.NDArray[Any], W: FloatArray, bias: FloatArray | None
    ) -> bool:
        """Whether the output is the product, up to rounding."""
        expected = _product(self.rows, W)
        size = np.outer(row_norms(self.rows), row_norms(W.T))
        if bias is not None:
            if bias.shape != expected.shape[1:]:
                return False
            expected = expected + bias
            size = size + np.abs(bias)
        if output.shape != expected.shape:
            return False
        tolerance = 4 * precision_of(self.dtype) + 32 * float(np.finfo(W.dtype).eps)
        smallest = torch.finfo(self.dtype).tiny * torch.finfo(self.dtype).eps
        return bool((np.abs(output - expected) <= tolerance * size + smallest).all())


def _product(rows: npt.NDArray[np.float64], W: FloatArray) -> npt.NDArray[np.float64]:
    """``rows @ W`` in the precision of W, each column scaled so that it fits."""
    _, exponent = np.frexp(np.abs(W).max(initial=0))
    _, row_exponents = np.frexp(np.abs(rows).max(axis=1, initial=0))
    scaled = np.ldexp(rows, -row_exponents[:, np.newaxis]).astype(W.dtype)
    product = (scaled @ np.ldexp(W, -exponent)).astype(np.float64)
    unscaled: npt.NDArray[np.float64] = np.ldexp(
        product, row_exponents[:, np.newaxis] + exponent
    )
    return unscaled


def _matrix(stored: Tensor, is_transposed: bool, name: str) -> FloatArray:
    array = as_numpy(stored, name)
    if not np.isfinite(array).all():
        raise ValueError(f"The weight of {name} contains NaN or infinity.")
    return array.T if is_transposed else array


def _bias(layer: nn.Module, name: str) -> FloatArray | None:
    bias = parameter_of(layer, "bias")
    return None if bias is None else as_numpy(bias, f"the bias of {name}")


def _not_linear(layer: object, name: str) -> TypeError:
    given = kind_of(layer) if isinstance(layer, nn.Module) else shown(layer)
    return TypeError(
        f"{name} must be a torch.nn.Linear or another layer that multiplies by a "
        f"matrix; got {given}. For another layer pass its arrays to "
        "MLPWeights(W_in, W_out)."
    )


def _refusal(layer: nn.Module, name: str) -> ValueError:
    weight = parameter_of(layer, "weight")
    assert weight is not None
    if stores_codes(weight):
        return quantised(weight, layer, name)
    return ValueError(
        f"{name} is a {kind_of(layer)} that does not compute x @ weight + bias from "
        f"the weight of {weight.dtype} that it stores{beside_weight(layer)}: rows that "
        f"went through it are others.{reasons(layer)} If it is quantised, dequantise "
        "the model, with model.dequantize() in transformers. Else pass the matrices "
        "that it stands for to MLPWeights(W_in, W_out)."
    )
