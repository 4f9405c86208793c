"""Kernels of the interaction loss for the CPU, compiled by numba.

Each does in one pass over its inputs what takes torch several. They run without the
GIL on slices that write to separate memory, one for each of torch's threads, so that
results do not depend on the number of threads.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._sparse_codes import DominantPairs, SparseCodes

# Neurons whose running maxima fit the first-level cache.
_TILE = 768


def dominant_entries(codes: SparseCodes, M_MN: Tensor, n_dominant: int) -> Tensor:
    """Find dominant entries as in :func:`._torch.dominant_entries`."""
    n_samples, n_neurons = len(codes), M_MN.shape[1]
    entry_RBN = np.empty((n_dominant, n_samples, n_neurons), dtype=np.int64)
    values, features, bounds = _entries(codes)
    M = _array(M_MN)
    kernel = _search_one if n_dominant == 1 else _search
    _over_slices(
        n_samples,
        lambda start, stop: kernel(values, features, bounds, M, entry_RBN, start, stop),
    )
    return torch.from_numpy(entry_RBN)


def dominant_contributions(
    codes: SparseCodes, M_MN: Tensor, entry_RBN: Tensor
) -> Tensor:
    """Contributions as in :func:`._torch.dominant_contributions`."""
    values, features, _ = _entries(codes)
    M, entry = _array(M_MN), _array(entry_RBN)
    out = np.empty(entry.shape, dtype=M.dtype)
    _over_slices(
        len(codes),
        lambda start, stop: _contributions(
            values, features, M, entry, out, start, stop
        ),
    )
    return torch.from_numpy(out)


def sign_times_outer(M_MN: Tensor, left_M: Tensor, right_N: Tensor) -> Tensor:
    """``sign(M) * outer(left, right)``, (M, N)."""
    out = np.empty(M_MN.shape, dtype=_array(M_MN).dtype)
    M, left, right = _array(M_MN), _array(left_M), _array(right_N)
    _over_slices(
        len(M), lambda start, stop: _sign_outer(M, left, right, out, start, stop)
    )
    return torch.from_numpy(out)


def add_dominant_gradients(
    codes: SparseCodes,
    M_MN: Tensor,
    entry_RBN: Tensor,
    grad_RBN: Tensor,
    grad_values_A: Tensor,
    grad_M_MN: Tensor,
) -> None:
    """Add gradients as in :func:`._torch.add_dominant_gradients`."""
    values, features, _ = _entries(codes)
    M, entry, grad = map(_array, (M_MN, entry_RBN, grad_RBN))
    grad_values, grad_M = grad_values_A.numpy(), grad_M_MN.numpy()
    _over_slices(
        len(codes),
        lambda start, stop: _to_values(
            features, M, entry, grad, grad_values, start, stop
        ),
    )
    _over_slices(
        M.shape[1],
        lambda start, stop: _to_M(values, features, entry, grad, grad_M, start, stop),
    )


def pair_sums(
    codes: SparseCodes,
    M_MN: Tensor,
    sensitivity_N: Tensor,
    entry_BN: Tensor,
    pairs: DominantPairs,
) -> Tensor:
    """Sum over neurons as in :func:`._torch.pair_sums`."""
    values, features, bounds = _entries(codes)
    M, sensitivity, entry = map(_array, (M_MN, sensitivity_N, entry_BN))
    first_pair = _array(pairs.first_pair_A)
    sums = np.zeros(len(pairs.dominant_P), dtype=M.dtype)
    _over_slices(
        len(codes),
        lambda start, stop: _pair_sums(
            values,
            features,
            bounds,
            M,
            sensitivity,
            entry,
            first_pair,
            sums,
            start,
            stop,
        ),
    )
    return torch.from_numpy(sums)


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    return tensor.detach().contiguous().numpy()


def _entries(codes: SparseCodes) -> tuple[npt.NDArray[Any], ...]:
    """Values and features of the entries, and where each row begins and ends."""
    return _array(codes.values_A), _array(codes.features_A), _array(codes.bounds())


def _over_slices(n: int, run: Callable[[int, int], None]) -> None:
    n_threads = min(torch.get_num_threads(), n)
    if n_threads <= 1:
        run(0, n)
        return
    bounds = np.linspace(0, n, n_threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(run, bounds[:-1], bounds[1:]))


@numba.njit(nogil=True, cache=True)
def _search_one(  # type: ignore[no-untyped-def]
    values, features, bounds, M, entry, start, stop
):
    n_neurons = M.shape[1]
    largest = np.empty(_TILE, dtype=M.dtype)
    winner = np.empty(_TILE, dtype=np.int32)
    for b in range(start, stop):
        first_entry, last_entry = bounds[b], bounds[b + 1]
        for first in range(0, n_neurons, _TILE):
            width = min(_TILE, n_neurons - first)
            largest[:width] = 0
            winner[:width] = -1
            for a in range(first_entry, last_entry):
                code = values[a]
                row = M[features[a], first : first + width]
                slot = a - first_entry
                for n in range(width):
                    magnitude = code * abs(row[n])
                    wins = magnitude > largest[n]
                    largest[n] = magnitude if wins else largest[n]
                    winner[n] = slot if wins else winner[n]
            for n in range(width):
                slot = winner[n]
                entry[0, b, first + n] = first_entry + slot if slot >= 0 else -1


@numba.njit(nogil=True, cache=True)
def _search(  # type: ignore[no-untyped-def]
    values, features, bounds, M, entry, start, stop
):
    n_neurons = M.shape[1]
    n_dominant = len(entry)
    largest = np.empty((n_dominant, n_neurons), dtype=M.dtype)
    for b in range(start, stop):
        largest[:] = 0
        entry[:, b] = -1
        for a in range(bounds[b], bounds[b + 1]):
            code, h = values[a], features[a]
            for n in range(n_neurons):
                magnitude = code * abs(M[h, n])
                rank = n_dominant
                while rank > 0 and magnitude > largest[rank - 1, n]:
                    rank -= 1
                    if rank + 1 < n_dominant:
                        largest[rank + 1, n] = largest[rank, n]
                        entry[rank + 1, b, n] = entry[rank, b, n]
                if rank < n_dominant:
                    largest[rank, n] = magnitude
                    entry[rank, b, n] = a


@numba.njit(nogil=True, cache=True)
def _contributions(  # type: ignore[no-untyped-def]
    values, features, M, entry, out, start, stop
):
    for rank in range(len(entry)):
        for b in range(start, stop):
            for n in range(M.shape[1]):
                a = entry[rank, b, n]
                out[rank, b, n] = values[a] * M[features[a], n] if a >= 0 else 0


@numba.njit(nogil=True, cache=True)
def _sign_outer(M, left, right, out, start, stop):  # type: ignore[no-untyped-def]
    for h in range(start, stop):
        for n in range(M.shape[1]):
            value = left[h] * right[n]
            out[h, n] = value if M[h, n] > 0 else (-value if M[h, n] < 0 else 0)


@numba.njit(nogil=True, cache=True)
def _to_values(  # type: ignore[no-untyped-def]
    features, M, entry, grad, grad_values, start, stop
):
    for rank in range(len(entry)):
        for b in range(start, stop):
            for n in range(M.shape[1]):
                a = entry[rank, b, n]
                if a >= 0:
                    grad_values[a] += grad[rank, b, n] * M[features[a], n]


@numba.njit(nogil=True, cache=True)
def _to_M(  # type: ignore[no-untyped-def]
    values, features, entry, grad, grad_M, start, stop
):
    for rank in range(len(entry)):
        for b in range(entry.shape[1]):
            for n in range(start, stop):
                a = entry[rank, b, n]
                if a >= 0:
                    grad_M[features[a], n] += grad[rank, b, n] * values[a]


@numba.njit(nogil=True, cache=True)
def _pair_sums(  # type: ignore[no-untyped-def]
    values, features, bounds, M, sensitivity, entry, first_pair, sums, start, stop
):
    n_neurons = M.shape[1]
    pair = np.empty(n_neurons, dtype=np.int64)
    for b in range(start, stop):
        first_entry, last_entry = bounds[b], bounds[b + 1]
        for n in range(n_neurons):
            pair[n] = first_pair[entry[b, n]] if entry[b, n] >= 0 else -1
        for a in range(first_entry, last_entry):
            h, slot = features[a], a - first_entry
            for n in range(n_neurons):
                if pair[n] >= 0:
                    sums[pair[n] + slot] += sensitivity[n] * abs(M[h, n])
        for dominant in range(first_entry, last_entry):
            first = first_pair[dominant]
            if first >= 0:
                for a in range(first_entry, last_entry):
                    sums[first + a - first_entry] *= values[a]
