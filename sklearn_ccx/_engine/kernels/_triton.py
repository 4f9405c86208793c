"""Kernels of the interaction loss for CUDA, compiled by Triton.

They hold one value for each sample and neuron, as those of :mod:`._torch` do, but
read the entries of a row where they lie, so that the CPU need not know how many there
are. Additions to one number happen in an order that is fixed within a program; with
``torch.use_deterministic_algorithms(True)`` one program makes all of them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._sparse_codes import SparseCodes
from ._torch import dominant_contributions, pair_sums, sign_times_outer

__all__ = [
    "add_dominant_gradients",
    "dominant_contributions",
    "dominant_entries",
    "pair_sums",
    "sign_times_outer",
]

# Neurons that a program handles at a time.
_TILE = 256

# Samples of which one program adds the gradients.
_CHUNK = 32


def dominant_entries(codes: SparseCodes, M_MN: Tensor, n_dominant: int) -> Tensor:
    """Find dominant entries as in :func:`._torch.dominant_entries`."""
    n_samples, n_neurons = len(codes), M_MN.shape[1]
    shape_RBN = (n_dominant, n_samples, n_neurons)
    entry_RBN = torch.empty(shape_RBN, dtype=torch.int64, device=M_MN.device)
    _search[n_samples, triton.cdiv(n_neurons, _TILE)](
        codes.values_A.detach(),
        codes.features_A,
        codes.bounds(),
        M_MN.detach().contiguous(),
        entry_RBN,
        n_samples,
        n_neurons,
        n_dominant,
        TILE=_TILE,
    )
    return entry_RBN


def add_dominant_gradients(
    codes: SparseCodes,
    M_MN: Tensor,
    entry_RBN: Tensor,
    grad_RBN: Tensor,
    grad_values_A: Tensor,
    grad_M_MN: Tensor,
) -> None:
    """Add gradients as in :func:`._torch.add_dominant_gradients`."""
    n_dominant, n_samples, n_neurons = entry_RBN.shape
    grad_RBN = grad_RBN.contiguous()
    _to_values[(n_samples,)](
        codes.features_A,
        codes.bounds(),
        M_MN.contiguous(),
        entry_RBN,
        grad_RBN,
        grad_values_A,
        n_samples,
        n_neurons,
        n_dominant,
        TILE=_TILE,
    )
    n_rows = n_dominant * n_samples
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    chunk = n_rows if is_deterministic else _CHUNK
    _to_M[triton.cdiv(n_neurons, _TILE), triton.cdiv(n_rows, chunk)](
        codes.values_A.detach(),
        codes.features_A,
        entry_RBN,
        grad_RBN,
        grad_M_MN,
        n_rows,
        n_neurons,
        chunk,
        TILE=_TILE,
    )


@triton.jit
def _search(  # type: ignore[no-untyped-def]
    values,
    features,
    bounds,
    M,
    entry,
    n_samples,
    n_neurons,
    n_dominant,
    TILE: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * TILE + tl.arange(0, TILE)
    exists = n < n_neurons
    first, last = tl.load(bounds + b), tl.load(bounds + b + 1)
    # The winner of each rank is the largest that comes after that of the rank before.
    before = tl.full([TILE], float("inf"), M.dtype.element_ty)
    before_entry = tl.full([TILE], -1, tl.int64)
    for rank in range(n_dominant):
        largest = tl.zeros([TILE], M.dtype.element_ty)
        winner = tl.full([TILE], -1, tl.int64)
        for a in range(first, last):
            row = M + tl.load(features + a) * n_neurons
            magnitude = tl.load(values + a) * tl.abs(tl.load(row + n, exists, 0.0))
            is_left = (magnitude < before) | (
                (magnitude == before) & (a > before_entry)
            )
            wins = is_left & (magnitude > largest)
            largest = tl.where(wins, magnitude, largest)
            winner = tl.where(wins, a, winner)
        tl.store(entry + (rank * n_samples + b) * n_neurons + n, winner, exists)
        before, before_entry = largest, winner


@triton.jit
def _to_values(  # type: ignore[no-untyped-def]
    features,
    bounds,
    M,
    entry,
    grad,
    grad_values,
    n_samples,
    n_neurons,
    n_dominant,
    TILE: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    first, last = tl.load(bounds + b), tl.load(bounds + b + 1)
    for rank in range(n_dominant):
        row = (rank * n_samples + b) * n_neurons
        for start in range(0, n_neurons, TILE):
            n = start + tl.arange(0, TILE)
            dominant = tl.load(entry + row + n, n < n_neurons, -1)
            exists = dominant >= 0
            feature = tl.load(features + dominant, exists, 0)
            written = tl.load(M + feature * n_neurons + n, exists, 0.0)
            sent = written * tl.load(grad + row + n, exists, 0.0)
            for a in range(first, last):
                total = tl.sum(tl.where(dominant == a, sent, 0.0))
                tl.atomic_add(grad_values + a, total)


@triton.jit
def _to_M(  # type: ignore[no-untyped-def]
    values, features, entry, grad, grad_M, n_rows, n_neurons, chunk, TILE: tl.constexpr
):
    n = tl.program_id(0) * TILE + tl.arange(0, TILE)
    start = tl.program_id(1).to(tl.int64) * chunk
    for row in range(start, tl.minimum(start + chunk, n_rows)):
        dominant = tl.load(entry + row * n_neurons + n, n < n_neurons, -1)
        exists = dominant >= 0
        feature = tl.load(features + dominant, exists, 0)
        sent = tl.load(values + dominant, exists, 0.0)
        sent *= tl.load(grad + row * n_neurons + n, exists, 0.0)
        tl.atomic_add(grad_M + feature * n_neurons + n, sent, exists)
