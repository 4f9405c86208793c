"""What the active features write to the neurons of an MLP on a batch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from .._sparse_codes import SparseCodes
from ..kernels import kernels_for

# Values of pairs of features that are held at a time.
_MAX_PAIRS = 2**22

# Up to so many dominant features the device is not asked how many there can be.
_MAX_UNCHECKED = 8


@dataclass(frozen=True)
class Contributions:
    r"""Contributions :math:`p_{bnh} = a_{bh} M_{hn}` and which of them dominate.

    The sums over :math:`h` are separable, :math:`a_b \cdot (|M| w)`, so that only the
    dominant contributions are ever held per sample and neuron. Where gradients are
    computed they come out of the forward pass, while ``M`` and the dominant features
    are at hand.

    Parameters
    ----------
    codes : SparseCodes
        Non-negative codes of B samples.
    M_MN : Tensor of shape (M, N)
        What one unit of each feature writes to each neuron.
    sensitivity_N : Tensor of shape (N,)
        :math:`\mathrm{Lip}(\varphi) \|W_{out}[n]\|`: how far the output can move for
        each unit that the neuron receives.
    entry_RBN : Tensor of shape (R, B, N)
        Dominant entries of the codes, -1 for none.
    """

    codes: SparseCodes
    M_MN: Tensor
    sensitivity_N: Tensor
    entry_RBN: Tensor

    def with_gradient(self) -> Self:
        """The same with values and ``M`` as leaves of a graph of their own."""
        values_A = self.codes.values_A.detach().requires_grad_()
        codes = replace(self.codes, values_A=values_A)
        return replace(self, codes=codes, M_MN=self.M_MN.detach().requires_grad_())

    @cached_property
    def dominant_RBN(self) -> Tensor:
        """What the dominant entries write to their neurons."""
        return self.inputs_of(self.entry_RBN)

    def inputs_of(self, entry_RBN: Tensor) -> Tensor:
        """What entries write to the neurons, (R, B, N), 0 where an entry is -1."""
        kernels = kernels_for(self.M_MN.device)
        return kernels.dominant_contributions(self.codes, self.M_MN, entry_RBN)

    def all_inputs(self) -> Tensor:
        """What all entries together write to the neurons, (B, N)."""
        return self.codes.decode(self.M_MN)

    def bound(self) -> Tensor:
        """``I(b)`` of each sample, (B,)."""
        entry_A = self.codes.values_A * self._written_M[self.codes.features_A]
        dominant_B = self.dominant_RBN.abs().sum(dim=0) @ self.sensitivity_N
        bound_B = self.codes.sum_by_row(entry_A) - dominant_B
        # What is left where all entries dominate is rounding.
        return bound_B.masked_fill(self.codes.n_entries() <= len(self.entry_RBN), 0.0)

    def bound_sum(self) -> Tensor:
        """Sum of :meth:`bound` over the samples."""
        dominant_N = self.dominant_RBN.abs().sum(dim=(0, 1))
        all_sum = self.codes.sum_by_feature() @ self._written_M
        return all_sum - dominant_N @ self.sensitivity_N

    def add_gradients(
        self, strength: float, grad_kept_BN: Tensor | None, grad_values_A: Tensor
    ) -> Tensor:
        """Gradients of ``strength * bound_sum`` and of a loss on the dominant input.

        Parameters
        ----------
        strength : float
            Factor of the bound.
        grad_kept_BN : Tensor of shape (B, N) or None
            Gradient of another loss with respect to the sum of the dominant inputs.
        grad_values_A : Tensor of shape (A,)
            What the gradient with respect to the entries' values is added to.

        Returns
        -------
        Tensor of shape (M, N)
            The gradient with respect to ``M``.
        """
        kernels, codes = kernels_for(self.M_MN.device), self.codes
        grad_RBN = self.dominant_RBN.sign() * (-strength * self.sensitivity_N)
        if grad_kept_BN is not None:
            grad_RBN += grad_kept_BN
        grad_M_MN: Tensor = kernels.sign_times_outer(
            self.M_MN, strength * codes.sum_by_feature(), self.sensitivity_N
        )
        grad_values_A += strength * self._written_M[codes.features_A]
        kernels.add_dominant_gradients(
            codes, self.M_MN, self.entry_RBN, grad_RBN, grad_values_A, grad_M_MN
        )
        return grad_M_MN

    def share_sum(self) -> tuple[Tensor, Tensor]:
        """Sum of ``max|p| / sum|p|`` over the neurons that receive any input.

        Returns the sum and the number of pairs of sample and neuron it runs over.
        """
        all_BN = self.codes.decode(self.M_MN.abs())
        return share_sum(self.dominant_RBN.abs().sum(dim=0), all_BN)

    def pair_sums(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What each feature sends to the neurons that another one dominates.

        Yields
        ------
        dominant_P, other_P : Tensor of shape (P,), int64
            Pairs of different features, of which some may come more than once.
        values_P : Tensor of shape (P,)
            Their sums over samples and neurons, not 0.
        """
        n_neurons = len(self.sensitivity_N)
        n_entries_B = self.codes.n_entries()
        n_pairs_B = n_entries_B * n_entries_B.clamp(max=n_neurons)
        for rows in _slices(n_pairs_B, _MAX_PAIRS):
            part = self.rows(rows)
            n_pairs = int(n_pairs_B[rows].sum())
            # One sample of which very many features are active: neuron by neuron.
            n_tiles = max(1, -(-n_pairs // _MAX_PAIRS)) if len(part.codes) == 1 else 1
            tile = -(-n_neurons // n_tiles)
            for start in range(0, n_neurons, tile):
                yield part._pairs(slice(start, start + tile))

    def rows(self, rows: slice) -> Self:
        """The contributions of some samples."""
        codes, first = self.codes.rows(rows)
        entry_RBN = self.entry_RBN[:, rows]
        return replace(self, codes=codes, entry_RBN=shifted(entry_RBN, first))

    def _pairs(self, neurons: slice) -> tuple[Tensor, Tensor, Tensor]:
        kernels = kernels_for(self.M_MN.device)
        pairs = self.codes.dominant_pairs(self.entry_RBN[0][:, neurons])
        values_P = kernels.pair_sums(
            self.codes,
            self.M_MN[:, neurons],
            self.sensitivity_N[neurons],
            self.entry_RBN[0][:, neurons],
            pairs,
        )
        return pairs.different(values_P)

    @cached_property
    def _written_M(self) -> Tensor:
        return self.M_MN.abs() @ self.sensitivity_N


def find_contributions(
    codes: SparseCodes, M_MN: Tensor, sensitivity_N: Tensor, n_dominant: int
) -> Contributions:
    """Find the dominant entries; see :class:`Contributions`."""
    kernels = kernels_for(M_MN.device)
    n_dominant = at_most_all(n_dominant, codes)
    entry_RBN = kernels.dominant_entries(codes, M_MN, n_dominant)
    return Contributions(codes, M_MN, sensitivity_N, entry_RBN)


def at_most_all(n_dominant: int, codes: SparseCodes) -> int:
    """How many dominant features to look for: no more than a sample can have."""
    n_dominant = min(n_dominant, max(1, codes.n_components))
    if n_dominant <= _MAX_UNCHECKED or not len(codes):
        return n_dominant
    return min(n_dominant, max(1, int(codes.n_entries().max())))


def written(codes: SparseCodes, M_MN: Tensor, entry_RBN: Tensor) -> Tensor:
    """``dominant_contributions`` of the kernels, differentiable by autograd."""
    if not len(codes.values_A):
        return M_MN.new_zeros(entry_RBN.shape)
    contributions = []
    for entry_BN in entry_RBN.clamp(min=0):
        written_BN = M_MN.gather(0, codes.features_A[entry_BN])
        contributions.append(written_BN * codes.values_A[entry_BN])
    return torch.stack(contributions) * (entry_RBN >= 0)


def shifted(entry_RBN: Tensor, first: int) -> Tensor:
    """Entries counted from another first one; -1 stays."""
    return torch.where(entry_RBN < 0, entry_RBN, entry_RBN - first)


def share_sum(dominant_BN: Tensor, all_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of ``dominant / all`` where anything is received, and the number of those."""
    reached_BN = all_BN > 0
    share_BN = dominant_BN / all_BN
    return share_BN[reached_BN].clamp(max=1.0).sum(), reached_BN.sum()


def _slices(sizes_B: Tensor, budget: int) -> Iterator[slice]:
    """Runs of rows whose sizes add up to no more than the budget, or single rows."""
    start = total = 0
    for row, size in enumerate(sizes_B.tolist()):
        if total + size > budget and row > start:
            yield slice(start, row)
            start, total = row, 0
        total += size
    if start < len(sizes_B):
        yield slice(start, len(sizes_B))
