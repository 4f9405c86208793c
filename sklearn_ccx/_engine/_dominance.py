"""Which features dominate which neurons, and the gradients of that, with torch alone.

:mod:`._dominance_numba` has the same functions for the CPU, compiled.
"""

import torch
from torch import Tensor


def dominant_features(codes_BM: Tensor, M_MN: Tensor, n_dominant: int) -> Tensor:
    """Find the features that contribute most to each neuron on each sample.

    The contribution of feature ``h`` to neuron ``n`` on sample ``b`` is
    ``codes[b, h] * M[h, n]``. The active features of all samples are visited slot
    by slot (the first active feature of every sample, then the second, ...), so
    that nothing larger than ``n_dominant * B * N`` is held.

    Parameters
    ----------
    codes_BM : Tensor of shape (B, M)
        Non-negative codes.
    M_MN : Tensor of shape (M, N)
        What one unit of each feature writes to each neuron.
    n_dominant : int
        How many features to find.

    Returns
    -------
    Tensor of shape (R, B, N), int64
        Features by falling magnitude of their contribution, -1 where fewer than
        ``n_dominant`` features contribute. Ties go to the lower index.
    """
    codes_BM, M_MN = codes_BM.detach(), M_MN.detach()
    n_samples, n_neurons = len(codes_BM), M_MN.shape[1]
    samples_A, features_A = codes_BM.nonzero(as_tuple=True)  # A active entries
    values_A1 = codes_BM[samples_A, features_A].unsqueeze(1)
    counts_B = torch.bincount(samples_A, minlength=n_samples)
    # Samples with many active features first: those that still have a feature in
    # a slot are then a leading block.
    sorted_counts_B, order_B = torch.sort(counts_B, descending=True, stable=True)
    first_entry_B = (counts_B.cumsum(0) - counts_B)[order_B]
    sorted_counts = sorted_counts_B.tolist()

    shape_RBN = (n_dominant, n_samples, n_neurons)
    largest_RBN = M_MN.new_zeros(shape_RBN)
    index_RBN = torch.full(shape_RBN, -1, dtype=torch.int64, device=M_MN.device)
    magnitude_MN = M_MN.abs()

    n_left = n_samples
    for slot in range(sorted_counts[0] if sorted_counts else 0):
        while sorted_counts[n_left - 1] <= slot:
            n_left -= 1
        entries_S = first_entry_B[:n_left] + slot
        candidate_SN = magnitude_MN[features_A[entries_S]] * values_A1[entries_S]
        feature_SN = features_A[entries_S].unsqueeze(1)
        # Insertion: from the first rank that the candidate wins, the features held
        # move down by one, so that equal ones keep their order.
        wins_SN = torch.zeros_like(candidate_SN, dtype=torch.bool)
        for rank in range(n_dominant):
            held_SN = largest_RBN[rank, :n_left]
            held_index_SN = index_RBN[rank, :n_left]
            wins_SN = wins_SN | (candidate_SN > held_SN)
            if rank + 1 < n_dominant:
                loser_SN = torch.minimum(candidate_SN, held_SN)
                loser_index_SN = torch.where(wins_SN, held_index_SN, feature_SN)
            torch.maximum(candidate_SN, held_SN, out=held_SN)
            held_index_SN.copy_(torch.where(wins_SN, feature_SN, held_index_SN))
            if rank + 1 < n_dominant:
                candidate_SN, feature_SN = loser_SN, loser_index_SN

    return torch.empty_like(index_RBN).index_copy_(1, order_B, index_RBN)


def dominant_contributions(codes_BM: Tensor, M_MN: Tensor, index_RBN: Tensor) -> Tensor:
    """Signed contributions of the dominant features, (R, B, N).

    0 where ``index_RBN`` is -1.
    """
    exists_RBN = index_RBN >= 0
    contributions = [
        codes_BM.gather(1, index_BN) * M_MN.gather(0, index_BN)
        for index_BN in index_RBN.clamp(min=0)
    ]
    return torch.stack(contributions) * exists_RBN


def sign_times_outer(M_MN: Tensor, left_M: Tensor, right_N: Tensor) -> Tensor:
    """``sign(M) * outer(left, right)``, (M, N)."""
    return M_MN.sign().mul_(left_M.unsqueeze(1)).mul_(right_N)


def add_dominant_gradients(
    codes_BM: Tensor,
    M_MN: Tensor,
    index_RBN: Tensor,
    grad_RBN: Tensor,
    grad_codes_BM: Tensor,
    grad_M_MN: Tensor,
) -> None:
    """Add the gradients of :func:`dominant_contributions` in place.

    Parameters
    ----------
    codes_BM, M_MN, index_RBN : Tensor
        As in :func:`dominant_contributions`.
    grad_RBN : Tensor of shape (R, B, N)
        Gradient of a loss with respect to the contributions.
    grad_codes_BM, grad_M_MN : Tensor
        What its gradients with respect to the codes and to ``M`` are added to.
    """
    for index_BN, grad_BN in zip(index_RBN, grad_RBN, strict=True):
        grad_BN = grad_BN * (index_BN >= 0)
        index_BN = index_BN.clamp(min=0)
        grad_codes_BM.scatter_add_(1, index_BN, grad_BN * M_MN.gather(0, index_BN))
        grad_M_MN.scatter_add_(0, index_BN, grad_BN * codes_BM.gather(1, index_BN))


def pair_sums(
    features_BS: Tensor,
    values_BS: Tensor,
    M_MN: Tensor,
    output_norm_N: Tensor,
    index_BN: Tensor,
) -> Tensor:
    """Sum what each active feature sends to the neurons that each one dominates.

    Parameters
    ----------
    features_BS, values_BS : Tensor of shape (B, S)
        Active features of each sample and their codes, in S slots; unused slots hold
        other features with code 0.
    M_MN : Tensor of shape (M, N)
        What one unit of each feature writes to each neuron.
    output_norm_N : Tensor of shape (N,)
        Weights of the neurons.
    index_BN : Tensor of shape (B, N)
        Dominant features, -1 for none.

    Returns
    -------
    Tensor of shape (B, S, S)
        First the slot of the dominant feature, then that of the other.
    """
    n_samples, n_slots = features_BS.shape
    slots_BS = torch.arange(n_slots, device=M_MN.device).expand(n_samples, -1)
    slot_BM = features_BS.new_zeros((n_samples, len(M_MN)))
    slot_BM.scatter_(1, features_BS, slots_BS)
    # Where no feature is dominant nothing is sent, so that any slot will do.
    dominant_slot_BN = slot_BM.gather(1, index_BN.clamp(min=0))
    weighted_MN = M_MN.abs() * output_norm_N
    sums_BSS = weighted_MN.new_zeros((n_samples, n_slots, n_slots))
    for slot in range(n_slots):
        sent_BN = weighted_MN[features_BS[:, slot]] * values_BS[:, slot, None]
        sums_BSS[:, :, slot].scatter_add_(1, dominant_slot_BN, sent_BN)
    return sums_BSS
