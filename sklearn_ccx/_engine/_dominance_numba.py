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

# Neurons whose running maxima fit the first-level cache.
_TILE = 768


def dominant_features(codes_BM: Tensor, M_MN: Tensor, n_dominant: int) -> Tensor:
    """Find dominant features as in :func:`._dominance.dominant_features`."""
    n_samples, n_neurons = len(codes_BM), M_MN.shape[1]
    index_RBN = np.empty((n_dominant, n_samples, n_neurons), dtype=np.int64)
    codes, M = _array(codes_BM), _array(M_MN)
    kernel = _search_one if n_dominant == 1 else _search
    _over_slices(
        n_samples, lambda start, stop: kernel(codes, M, index_RBN, start, stop)
    )
    return torch.from_numpy(index_RBN)


def sign_times_outer(M_MN: Tensor, left_M: Tensor, right_N: Tensor) -> Tensor:
    """``sign(M) * outer(left, right)``, (M, N)."""
    out = np.empty(M_MN.shape, dtype=_array(M_MN).dtype)
    M, left, right = _array(M_MN), _array(left_M), _array(right_N)
    _over_slices(
        len(M), lambda start, stop: _sign_outer(M, left, right, out, start, stop)
    )
    return torch.from_numpy(out)


def add_dominant_gradients(
    codes_BM: Tensor,
    M_MN: Tensor,
    index_RBN: Tensor,
    grad_RBN: Tensor,
    grad_codes_BM: Tensor,
    grad_M_MN: Tensor,
) -> None:
    """Add gradients as in :func:`._dominance.add_dominant_gradients`."""
    codes, M, index, grad = map(_array, (codes_BM, M_MN, index_RBN, grad_RBN))
    grad_codes, grad_M = _array(grad_codes_BM), _array(grad_M_MN)
    _over_slices(
        len(codes),
        lambda start, stop: _to_codes(M, index, grad, grad_codes, start, stop),
    )
    _over_slices(
        M.shape[1],
        lambda start, stop: _to_M(codes, index, grad, grad_M, start, stop),
    )


def pair_sums(
    features_BS: Tensor,
    values_BS: Tensor,
    M_MN: Tensor,
    output_norm_N: Tensor,
    index_BN: Tensor,
) -> Tensor:
    """Sum over neurons as in :func:`._dominance.pair_sums`."""
    features, values, index = map(_array, (features_BS, values_BS, index_BN))
    M, output_norm = _array(M_MN), _array(output_norm_N)
    n_samples, n_slots = features.shape
    sums = np.zeros((n_samples, n_slots, n_slots), dtype=M.dtype)
    _over_slices(
        n_samples,
        lambda start, stop: _pair_sums(
            features, values, M, output_norm, index, sums, start, stop
        ),
    )
    return torch.from_numpy(sums)


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    return tensor.detach().contiguous().numpy()


def _over_slices(n: int, run: Callable[[int, int], None]) -> None:
    n_threads = min(torch.get_num_threads(), n)
    if n_threads <= 1:
        run(0, n)
        return
    bounds = np.linspace(0, n, n_threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(run, bounds[:-1], bounds[1:]))


@numba.njit(nogil=True, cache=True)
def _search_one(codes, M, index, start, stop):  # type: ignore[no-untyped-def]
    n_components, n_neurons = M.shape
    largest = np.empty(_TILE, dtype=M.dtype)
    winner = np.empty(_TILE, dtype=np.int32)
    for b in range(start, stop):
        for first in range(0, n_neurons, _TILE):
            width = min(_TILE, n_neurons - first)
            largest[:width] = 0
            winner[:width] = -1
            for h in range(n_components):
                code = codes[b, h]
                if code > 0:
                    row = M[h, first : first + width]
                    for n in range(width):
                        magnitude = code * abs(row[n])
                        wins = magnitude > largest[n]
                        largest[n] = magnitude if wins else largest[n]
                        winner[n] = h if wins else winner[n]
            for n in range(width):
                index[0, b, first + n] = winner[n]


@numba.njit(nogil=True, cache=True)
def _search(codes, M, index, start, stop):  # type: ignore[no-untyped-def]
    n_components, n_neurons = M.shape
    n_dominant = len(index)
    largest = np.empty((n_dominant, n_neurons), dtype=M.dtype)
    for b in range(start, stop):
        largest[:] = 0
        index[:, b] = -1
        for h in range(n_components):
            code = codes[b, h]
            if code > 0:
                for n in range(n_neurons):
                    magnitude = code * abs(M[h, n])
                    rank = n_dominant
                    while rank > 0 and magnitude > largest[rank - 1, n]:
                        rank -= 1
                        if rank + 1 < n_dominant:
                            largest[rank + 1, n] = largest[rank, n]
                            index[rank + 1, b, n] = index[rank, b, n]
                    if rank < n_dominant:
                        largest[rank, n] = magnitude
                        index[rank, b, n] = h


@numba.njit(nogil=True, cache=True)
def _sign_outer(M, left, right, out, start, stop):  # type: ignore[no-untyped-def]
    for h in range(start, stop):
        for n in range(M.shape[1]):
            value = left[h] * right[n]
            out[h, n] = value if M[h, n] > 0 else (-value if M[h, n] < 0 else 0)


@numba.njit(nogil=True, cache=True)
def _to_codes(M, index, grad, grad_codes, start, stop):  # type: ignore[no-untyped-def]
    for rank in range(len(index)):
        for b in range(start, stop):
            for n in range(M.shape[1]):
                h = index[rank, b, n]
                if h >= 0:
                    grad_codes[b, h] += grad[rank, b, n] * M[h, n]


@numba.njit(nogil=True, cache=True)
def _to_M(codes, index, grad, grad_M, start, stop):  # type: ignore[no-untyped-def]
    for rank in range(len(index)):
        for b in range(len(codes)):
            for n in range(start, stop):
                h = index[rank, b, n]
                if h >= 0:
                    grad_M[h, n] += grad[rank, b, n] * codes[b, h]


@numba.njit(nogil=True, cache=True)
def _pair_sums(  # type: ignore[no-untyped-def]
    features, values, M, output_norm, index, sums, start, stop
):
    n_slots, n_neurons = features.shape[1], M.shape[1]
    slot_of = np.zeros(len(M), dtype=np.int32)
    dominant = np.empty(n_neurons, dtype=np.int32)
    for b in range(start, stop):
        for slot in range(n_slots):
            slot_of[features[b, slot]] = slot
        for n in range(n_neurons):
            dominant[n] = slot_of[index[b, n]] if index[b, n] >= 0 else 0
        for slot in range(n_slots):
            code = values[b, slot]
            if code > 0:
                h = features[b, slot]
                for n in range(n_neurons):
                    sent = output_norm[n] * abs(M[h, n])
                    sums[b, dominant[n], slot] += sent
                for other in range(n_slots):
                    sums[b, other, slot] *= code
