"""The weights of one expert of a mixture, which is a gated MLP, as arrays.

Current transformers hold the weights of all experts as two tensors with three axes.
That they are put together as expected is checked by running a few rows through them.
"""

import numpy as np
import torch
from torch import Tensor, nn

from .._engine._torch_state import torch_state
from .._engine.neurons import NONLINEARITIES
from .._validation import as_numpy, check_int
from ..networks._foreign_modules import (
    check_loaded,
    kind_of,
    precision_of,
    quantised,
    reasons,
    stores_codes,
)
from ._architectures import ExpertMixture
from ._mlp_arrays import MLPArrays, activation_of

_N_ROWS = 4


def read_expert(mixture: ExpertMixture, expert: int, name: str) -> MLPArrays:
    """The MLP that an expert is.

    Parameters
    ----------
    mixture : ExpertMixture
        The experts of a block.
    expert : int
        Which one, from 0.
    name : str
        What the experts are called in errors.

    Raises
    ------
    ValueError
        If there is no such expert, the experts are no MLPs of ours, or their weights
        are quantised, offloaded or held otherwise.
    """
    experts = mixture.experts
    check_readable(mixture, name)
    with torch_state(grad=False):
        gate_in_ENHD = _weights(experts, "gate_up_proj", name)
        out_EDN = _weights(experts, "down_proj", name)
        n_experts = len(out_EDN)
        if check_int(expert, "expert", minimum=0) >= n_experts:
            raise ValueError(
                f"expert must be in 0..{n_experts - 1}, the {name}; got {expert}."
            )
        activation = activation_of(getattr(experts, "act_fn", None), name)
        gate_in = as_numpy(gate_in_ENHD[expert], name)
        n_neurons = len(gate_in) // 2
        arrays = MLPArrays(
            W_in=gate_in[n_neurons:].T,
            W_out=as_numpy(out_EDN[expert], name).T,
            activation=activation,
            W_gate=gate_in[:n_neurons].T,
        )
        if not _computes(experts, expert, arrays, out_EDN):
            raise ValueError(
                f"The {name} are a {kind_of(experts)} that does not compute the gated "
                "MLP of its gate_up_proj and down_proj: rows that went through it are "
                f"others.{reasons(experts)}"
            )
    return arrays


def check_readable(mixture: ExpertMixture, name: str) -> None:
    """Check that the experts are MLPs of ours.

    Raises
    ------
    ValueError
        With the reason why they are not.
    """
    if mixture.refusal is not None:
        raise ValueError(
            f"The {name} ({kind_of(mixture.experts)}) cannot be explained one by one: "
            f"{mixture.refusal}."
        )


def _weights(experts: nn.Module, part: str, name: str) -> Tensor:
    weight = getattr(experts, part, None)
    if not isinstance(weight, Tensor):
        raise ValueError(
            f"The {name} are a {kind_of(experts)} that holds no tensor {part}, which "
            "is how quantised experts differ from those that can be taken. Load the "
            "model without quantisation."
        )
    check_loaded(weight, experts, f"{part} of the {name}")
    if stores_codes(weight):
        raise quantised(weight, experts, f"{part} of the {name}")
    if weight.ndim != 3:
        raise ValueError(
            f"The {name} are a {kind_of(experts)} whose {part} has shape "
            f"{tuple(weight.shape)}, not one matrix for each expert."
        )
    return weight


def _computes(experts: nn.Module, expert: int, arrays: MLPArrays, like: Tensor) -> bool:
    """Whether rows that are routed to the expert come out as from the gated MLP."""
    rng = np.random.default_rng(0)
    rows = rng.integers(-128, 129, size=(_N_ROWS, len(arrays.W_in))) / 64
    routes = torch.full((_N_ROWS, 1), expert, device=like.device)
    try:
        output = experts(
            torch.from_numpy(rows).to(like.dtype).to(like.device),
            routes,
            torch.ones(_N_ROWS, 1, dtype=like.dtype, device=like.device),
        )
    except Exception:  # foreign code; without a result the experts are refused
        return False
    if not isinstance(output, Tensor) or output.shape != (_N_ROWS, like.shape[1]):
        return False
    W_gate, W_in, W_out = (
        np.asarray(array, np.float64)
        for array in (arrays.W_gate, arrays.W_in, arrays.W_out)
    )
    gate, linear = rows @ W_gate, rows @ W_in
    phi = NONLINEARITIES[arrays.activation]
    opened = phi.function(torch.from_numpy(gate)).numpy()
    expected = (opened * linear) @ W_out
    # What rounding does to each factor, and then to their product.
    size = np.abs(rows) @ np.abs(W_gate) * phi.lipschitz * np.abs(linear)
    size += np.abs(opened) * (np.abs(rows) @ np.abs(W_in))
    tolerance = 8 * precision_of(like.dtype) * (size @ np.abs(W_out))
    return bool((np.abs(as_numpy(output, "output") - expected) <= tolerance).all())
