"""What a module of a foreign network stores, and what may stand in its way."""

from typing import Any

import torch
from torch import Tensor, nn


def kind_of(module: object) -> str:
    """Name of the class."""
    return type(module).__name__


def parameter_of(module: Any, name: str) -> Tensor | None:
    """A tensor of the module; torch's quantised layers have methods for them."""
    value = getattr(module, name, None)
    if callable(value) and not isinstance(value, nn.Module | type):
        value = value()
    return value if isinstance(value, Tensor) else None


def check_loaded(weight: Tensor, module: nn.Module, name: str) -> None:
    """Check that a weight has data.

    Raises
    ------
    ValueError
        If it was not made yet, or is on the meta device.
    """
    if nn.parameter.is_lazy(weight):
        raise ValueError(
            f"{name} is a {kind_of(module)} that has no weights yet; run the network "
            "once."
        )
    if weight.device.type == "meta":
        raise ValueError(
            f"{name} is a {kind_of(module)} whose weights are on the meta device: they "
            "are offloaded or were never loaded. Load the model without offloading, "
            "for example without device_map."
        )


def stores_codes(weight: Tensor) -> bool:
    """Whether the entries may be codes of numbers and not the numbers."""
    return not (holds_numbers(weight) and is_plain(weight))


def holds_numbers(tensor: Tensor) -> bool:
    """Whether a dtype is one to compute in."""
    is_number = tensor.is_floating_point() or tensor.is_complex()
    return is_number and tensor.element_size() > 1


def is_plain(weight: Tensor) -> bool:
    """Whether a tensor is one of torch's own class."""
    return type(weight) in (Tensor, nn.Parameter)


def is_changed(module: nn.Module) -> bool:
    """Whether something may stand between the module's class and its output."""
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


def reasons(module: nn.Module) -> str:
    """Sentences on what may have changed the module's output."""
    hooks = " It has hooks; remove them." if is_changed(module) else ""
    mode = " It is in training mode; call eval()." if module.training else ""
    return hooks + mode


def beside_weight(module: nn.Module) -> str:
    """Names of the tensors that the module holds besides its weight and bias."""
    held = {**module._parameters, **module._buffers, **vars(module)}
    names = [
        name
        for name, value in held.items()
        if isinstance(value, Tensor) and name not in ("weight", "bias")
    ]
    return f" beside {', '.join(names)}" if names else ""


def quantised(weight: Tensor, module: nn.Module, name: str) -> ValueError:
    """The error for a module that stores codes."""
    return ValueError(
        f"{name} is a {kind_of(module)} with quantised weights: it stores codes of "
        f"{weight.dtype}{beside_weight(module)}, not the numbers that it computes "
        "with. Dequantise the model, with model.dequantize() in transformers, or pass "
        "the matrices to MLPWeights(W_in, W_out)."
    )


def precision_of(dtype: torch.dtype) -> float:
    """Of a matrix product, which may be less precise than its factors."""
    precision = torch.get_float32_matmul_precision()
    if dtype == torch.float32 and precision != "highest":
        return {"high": 2.0**-10, "medium": 2.0**-7}[precision]
    return float(torch.finfo(dtype).eps)
