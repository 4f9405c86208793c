"""The kernels with torch alone: which features dominate, and the gradients of that.

:mod:`._numba` has the same functions for the CPU, compiled, and :mod:`._triton` for
CUDA.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .._sparse_codes import DominantPairs, SparseCodes


def dominant_entries(codes: SparseCodes, M_MN: Tensor, n_dominant: int) -> Tensor:
    """Find the entries that contribute most to each neuron on each sample.

    The contribution of an entry of feature ``h`` and value ``a`` to neuron ``n`` is
    ``a * M[h, n]``.

    Parameters
    ----------
    codes : SparseCodes
        Non-negative codes of B samples.
    M_MN : Tensor of shape (M, N)
        What one unit of each feature writes to each neuron.
    n_dominant : int
        How many entries to find.

    Returns
    -------
    Tensor of shape (R, B, N), int64
        Entries by falling magnitude of their contribution, -1 where fewer than
        ``n_dominant`` contribute. Ties go to the feature with the lower index.
    """
    codes = codes.detach()
    values_A1, magnitude_MN = codes.values_A.unsqueeze(1), M_MN.detach().abs()

    def sizes(entry_S: Tensor) -> Tensor:
        return magnitude_MN[codes.features_A[entry_S]] * values_A1[entry_S]

    return largest_entries(codes, M_MN.shape[1], n_dominant, sizes)


def largest_entries(
    codes: SparseCodes,
    n_neurons: int,
    n_dominant: int,
    sizes: Callable[[Tensor], Tensor],
) -> Tensor:
    """Find the entries that are largest at each neuron on each sample.

    The entries are visited slot by slot (the first of every sample, then the second,
    ...), so that nothing larger than ``n_dominant * B * N`` is held.

    Parameters
    ----------
    codes : SparseCodes
        Codes of B samples.
    n_neurons : int
        ``N``.
    n_dominant : int
        How many entries to find.
    sizes : callable
        Non-negative sizes at all neurons, (S, N), of some entries, (S,).

    Returns
    -------
    Tensor of shape (R, B, N), int64
        As :func:`dominant_entries` returns.
    """
    n_samples = len(codes)
    # Samples with many entries first: those that still have one in a slot are then a
    # leading block.
    n_entries_B, order_B = torch.sort(codes.n_entries(), descending=True, stable=True)
    first_entry_B = codes.first_entry_B[order_B]
    n_entries = n_entries_B.tolist()

    shape_RBN = (n_dominant, n_samples, n_neurons)
    largest_RBN = codes.values_A.new_zeros(shape_RBN)
    entry_RBN = torch.full_like(largest_RBN, -1, dtype=torch.int64)

    n_left = n_samples
    for slot in range(n_entries[0] if n_entries else 0):
        while n_entries[n_left - 1] <= slot:
            n_left -= 1
        entry_S = first_entry_B[:n_left] + slot
        candidate_SN = sizes(entry_S)
        candidate_entry_SN = entry_S.unsqueeze(1)
        # Insertion: from the first rank that the candidate wins, the entries held
        # move down by one, so that equal ones keep their order.
        wins_SN = torch.zeros_like(candidate_SN, dtype=torch.bool)
        for rank in range(n_dominant):
            held_SN = largest_RBN[rank, :n_left]
            held_entry_SN = entry_RBN[rank, :n_left]
            wins_SN = wins_SN | (candidate_SN > held_SN)
            if rank + 1 < n_dominant:
                loser_SN = torch.minimum(candidate_SN, held_SN)
                loser_entry_SN = torch.where(wins_SN, held_entry_SN, candidate_entry_SN)
            torch.maximum(candidate_SN, held_SN, out=held_SN)
            held_entry_SN.copy_(torch.where(wins_SN, candidate_entry_SN, held_entry_SN))
            if rank + 1 < n_dominant:
                candidate_SN, candidate_entry_SN = loser_SN, loser_entry_SN

    return torch.empty_like(entry_RBN).index_copy_(1, order_B, entry_RBN)


def dominant_contributions(
    codes: SparseCodes, M_MN: Tensor, entry_RBN: Tensor
) -> Tensor:
    """Signed contributions of entries, (R, B, N), 0 where ``entry_RBN`` is -1."""
    if not len(codes.values_A):
        return M_MN.new_zeros(entry_RBN.shape)
    contributions = []
    for entry_BN in entry_RBN.clamp(min=0):
        written_BN = M_MN.gather(0, codes.features_A[entry_BN])
        contributions.append(written_BN.mul_(codes.values_A[entry_BN]))
    return torch.stack(contributions).mul_(entry_RBN >= 0)


def sign_times_outer(M_MN: Tensor, left_M: Tensor, right_N: Tensor) -> Tensor:
    """``sign(M) * outer(left, right)``, (M, N)."""
    return M_MN.sign().mul_(left_M.unsqueeze(1)).mul_(right_N)


def add_dominant_gradients(
    codes: SparseCodes,
    M_MN: Tensor,
    entry_RBN: Tensor,
    grad_RBN: Tensor,
    grad_values_A: Tensor,
    grad_M_MN: Tensor,
) -> None:
    """Add the gradients of :func:`dominant_contributions` in place.

    Parameters
    ----------
    codes, M_MN, entry_RBN
        As in :func:`dominant_contributions`.
    grad_RBN : Tensor of shape (R, B, N)
        Gradient of a loss with respect to the contributions.
    grad_values_A, grad_M_MN : Tensor
        What its gradients with respect to the entries' values and to ``M`` are added
        to.
    """
    if not len(codes.values_A):
        return
    for entry_BN, grad_BN in zip(entry_RBN, grad_RBN, strict=True):
        grad_BN = grad_BN * (entry_BN >= 0)
        entry_BN = entry_BN.clamp(min=0)
        feature_BN = codes.features_A[entry_BN]
        to_values_BN = grad_BN * M_MN.gather(0, feature_BN)
        grad_values_A.index_add_(0, entry_BN.flatten(), to_values_BN.flatten())
        grad_M_MN.scatter_add_(0, feature_BN, grad_BN * codes.values_A[entry_BN])


def pair_sums(
    codes: SparseCodes,
    M_MN: Tensor,
    sensitivity_N: Tensor,
    entry_BN: Tensor,
    pairs: DominantPairs,
) -> Tensor:
    """Sum what entries send to the neurons that an entry of the same row dominates.

    Parameters
    ----------
    codes : SparseCodes
        Non-negative codes of B samples.
    M_MN : Tensor of shape (M, N)
        What one unit of each feature writes to each neuron.
    sensitivity_N : Tensor of shape (N,)
        Weights of the neurons.
    entry_BN : Tensor of shape (B, N)
        Dominant entries, -1 for none.
    pairs : DominantPairs
        The pairs to sum over.

    Returns
    -------
    Tensor of shape (P,)
        The sum of each pair.
    """
    weighted_MN, values_A1 = M_MN.abs() * sensitivity_N, codes.values_A.unsqueeze(1)

    def sent(entry_S: Tensor) -> Tensor:
        return weighted_MN[codes.features_A[entry_S]].mul_(values_A1[entry_S])

    return pair_sums_of(codes, entry_BN, pairs, sent)


def pair_sums_of(
    codes: SparseCodes,
    entry_BN: Tensor,
    pairs: DominantPairs,
    sent: Callable[[Tensor], Tensor],
) -> Tensor:
    """Sum as in :func:`pair_sums` what ``sent`` says of some entries, (S, N)."""
    sums_P = codes.values_A.new_zeros(len(pairs.dominant_P))
    if not len(sums_P):
        return sums_P
    # Where no entry is dominant nothing is sent, so that any pair will do.
    first_pair_BN = pairs.first_pair_A[entry_BN.clamp(min=0)]
    first_pair_BN.masked_fill_(entry_BN < 0, 0)
    n_entries_B = codes.n_entries()
    has_any_B = (entry_BN >= 0).any(dim=1)
    for slot in range(int(n_entries_B.max())):
        exists_B = has_any_B & (n_entries_B > slot)
        sent_BN = sent(codes.first_entry_B[exists_B] + slot)
        pair_BN = first_pair_BN[exists_B] + slot
        sent_BN.masked_fill_(entry_BN[exists_B] < 0, 0.0)
        sums_P.index_add_(0, pair_BN.flatten(), sent_BN.flatten())
    return sums_P
