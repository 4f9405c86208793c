"""What to do with a model whose family is not known: its MLPs by their own names."""

from collections.abc import Iterator
from itertools import permutations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .._engine._torch_state import torch_state
from ..networks import activation_name
from ._evaluation_mode import evaluation_mode


def how_to_take_mlps(model: PreTrainedModel, width: int) -> str:
    """A sentence with the call that takes the model's MLPs.

    It names the modules where they can be found: where the MLP of the first block
    computes what its parts would compute as an MLP that reads `width` numbers.
    """
    with evaluation_mode(model), torch_state(grad=False):
        for path, blocks in model.named_modules():
            if isinstance(blocks, nn.ModuleList) and len(blocks):
                for arguments in _mlps_of(blocks[0], width):
                    if all(_has(block, arguments) for block in blocks):
                        return _advice(path, arguments)
    return (
        "Take the weights of its MLPs with "
        "MLPWeights.from_torch(linear_in, linear_out, activation) and record "
        "what they read with a forward hook on linear_in."
    )


def _advice(path: str, arguments: dict[str, str]) -> str:
    modules = {name: _code("block", module) for name, module in arguments.items()}
    call = f"{modules['linear_in']}, {modules['linear_out']}, {modules['activation']}"
    if "linear_gate" in modules:
        call += f", linear_gate={modules['linear_gate']}"
    return (
        f"Take the weights of its MLPs with [MLPWeights.from_torch({call}, site=site) "
        f"for site, block in enumerate({_code('model', path)})] and record what each "
        f"reads with {modules['linear_in']}.register_forward_pre_hook(hook)."
    )


def _code(root: str, path: str) -> str:
    """A path of modules as Python has it."""
    names = path.split(".")
    return root + "".join(f"[{n}]" if n.isdigit() else f".{n}" for n in names)


def _has(block: nn.Module, arguments: dict[str, str]) -> bool:
    modules = dict(block.named_modules())
    return all(path in modules for path in arguments.values())


def _mlps_of(block: nn.Module, width: int) -> Iterator[dict[str, str]]:
    """Paths of the parts of MLPs in a block, for each way to see them as one."""
    for path, parent in block.named_modules():
        children = dict(parent.named_children())
        linears = [name for name, child in children.items() if _is_linear(child)]
        activations = [name for name, child in children.items() if _is_phi(child)]
        if len(linears) not in (2, 3) or len(activations) != 1:
            continue
        for order in permutations(linears):
            names = dict(
                zip(("linear_in", "linear_out", "linear_gate"), order, strict=False)
            )
            names["activation"] = activations[0]
            parts = {role: children[name] for role, name in names.items()}
            if _computes(parent, parts, width):
                prefix = f"{path}." if path else ""
                yield {role: f"{prefix}{name}" for role, name in names.items()}


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


def _is_phi(module: nn.Module) -> bool:
    if any(True for _ in module.parameters()):
        return False
    try:
        return activation_name(module) != "identity"  # dropout is, too
    except TypeError:
        return False


def _computes(parent: nn.Module, parts: dict[str, nn.Module], width: int) -> bool:
    """Whether a module computes the MLP that its parts would make."""
    weight = parts["linear_in"].weight
    assert isinstance(weight, Tensor)
    # Large enough to leave the part of the nonlinearity that is nearly linear, where a
    # gate and what it multiplies could be taken for each other.
    rows = 10 * torch.randn(1, 4, width, generator=torch.Generator().manual_seed(0))
    rows = rows.to(weight)
    try:
        output = parent(rows)
        hidden = parts["linear_in"](rows)
        if "linear_gate" in parts:
            hidden = parts["activation"](parts["linear_gate"](rows)) * hidden
        else:
            hidden = parts["activation"](hidden)
        expected = parts["linear_out"](hidden)
        error = float((output - expected).norm())
        size = float(expected.norm())
    except Exception:  # a foreign module may raise anything; then it is another thing
        return False
    return error <= 8 * torch.finfo(expected.dtype).eps * size
