"""Codes held as their active entries, and the products that only need those."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class SparseCodes:
    """Active entries of codes of shape (B, M), by rows and by features within a row.

    Parameters
    ----------
    values_A : Tensor of shape (A,)
        Codes of the entries, differentiable. Zeros may be among them.
    features_A : Tensor of shape (A,), int64
        Their features.
    rows_A : Tensor of shape (A,), int64
        Their rows.
    first_entry_B : Tensor of shape (B,), int64
        Where each row begins among the entries.
    n_components : int
        ``M``.
    """

    values_A: Tensor
    features_A: Tensor
    rows_A: Tensor
    first_entry_B: Tensor
    n_components: int

    @classmethod
    def from_dense(cls, codes_BM: Tensor) -> Self:
        """The positive entries of dense codes."""
        rows_A, features_A = codes_BM.detach().nonzero(as_tuple=True)
        values_A = codes_BM[rows_A, features_A]
        return cls.from_entries(values_A, features_A, rows_A, *codes_BM.shape)

    @classmethod
    def from_entries(
        cls,
        values_A: Tensor,
        features_A: Tensor,
        rows_A: Tensor,
        n_samples: int,
        n_components: int,
    ) -> Self:
        """Entries sorted by rows and by features within a row."""
        samples_B = torch.arange(n_samples, device=rows_A.device)
        first_entry_B = torch.searchsorted(rows_A, samples_B)
        return cls(values_A, features_A, rows_A, first_entry_B, n_components)

    def __len__(self) -> int:
        return len(self.first_entry_B)

    def detach(self) -> "SparseCodes":
        """The same entries without their gradient."""
        return SparseCodes(
            self.values_A.detach(),
            self.features_A,
            self.rows_A,
            self.first_entry_B,
            self.n_components,
        )

    def divided_by(self, divisor_B: Tensor) -> "SparseCodes":
        """The codes of each row divided by its number."""
        return replace(self, values_A=self.values_A / divisor_B[self.rows_A])

    def bounds(self) -> Tensor:
        """Where each row begins, and where the last one ends, (B + 1,)."""
        return functional.pad(self.first_entry_B, (0, 1), value=len(self.values_A))

    def n_entries(self) -> Tensor:
        """Number of entries of each row, (B,)."""
        return self.bounds().diff()

    def decode(self, W_dec_MF: Tensor) -> Tensor:
        """``codes W_dec``, (B, F)."""
        return functional.embedding_bag(
            self.features_A,
            W_dec_MF,
            self.first_entry_B,
            mode="sum",
            per_sample_weights=self.values_A,
        )

    def sum_by_feature(self) -> Tensor:
        """``codes.sum(dim=0)``, (M,)."""
        sums_M = self.values_A.new_zeros(self.n_components)
        return sums_M.index_add(0, self.features_A, self.values_A)

    def count_by_feature(self) -> Tensor:
        """``(codes > 0).sum(dim=0)``, (M,)."""
        counts_M = self.features_A.new_zeros(self.n_components)
        is_active_A = (self.values_A > 0).to(counts_M.dtype)
        return counts_M.index_add_(0, self.features_A, is_active_A)

    def sum_by_row(self, entries_A: Tensor) -> Tensor:
        """Sum of some quantity over the entries of each row, (B,)."""
        return entries_A.new_zeros(len(self)).index_add(0, self.rows_A, entries_A)

    def rows(self, rows: slice) -> tuple["SparseCodes", int]:
        """Codes of some rows, and the entry that becomes their first."""
        bounds = self.bounds()
        start, stop, _ = rows.indices(len(self))
        first, last = int(bounds[start]), int(bounds[stop])
        return (
            SparseCodes(
                self.values_A[first:last],
                self.features_A[first:last],
                self.rows_A[first:last] - start,
                self.first_entry_B[rows] - first,
                self.n_components,
            ),
            first,
        )

    def dominant_pairs(self, entry_BN: Tensor) -> "DominantPairs":
        """Every pair of a dominant entry and an entry of the same row.

        Parameters
        ----------
        entry_BN : Tensor of shape (B, N), int64
            Dominant entries at the neurons, -1 for none.
        """
        is_dominant_A = torch.zeros_like(self.features_A, dtype=torch.bool)
        is_dominant_A[entry_BN[entry_BN >= 0]] = True
        return self.pairs_of(is_dominant_A.nonzero().squeeze(1))

    def pairs_of(self, dominant_D: Tensor) -> "DominantPairs":
        """Every pair of one of the given entries and an entry of the same row."""
        n_entries_B = self.n_entries()
        row_D = self.rows_A[dominant_D]
        n_others_D = n_entries_B[row_D]
        first_pair_D = n_others_D.cumsum(0) - n_others_D
        # Where the pairs of an entry begin, for those that dominate some neuron.
        first_pair_A = torch.full_like(self.features_A, -1)
        first_pair_A[dominant_D] = first_pair_D
        dominant_P = dominant_D.repeat_interleave(n_others_D)
        n_pairs = len(dominant_P)
        slot_P = torch.arange(n_pairs, device=dominant_P.device)
        slot_P -= first_pair_D.repeat_interleave(n_others_D)
        other_P = self.first_entry_B[row_D].repeat_interleave(n_others_D) + slot_P
        return DominantPairs(
            self.features_A[dominant_P], self.features_A[other_P], first_pair_A
        )

    def dense(self) -> Tensor:
        """The codes with their zeros, (B, M)."""
        codes_BM = self.values_A.new_zeros((len(self), self.n_components))
        return codes_BM.index_put((self.rows_A, self.features_A), self.values_A)


@dataclass(frozen=True)
class DominantPairs:
    """Pairs of a dominant entry and an entry of the same row.

    The pairs of one dominant entry follow each other, in the order of the entries.

    Parameters
    ----------
    dominant_P, other_P : Tensor of shape (P,), int64
        Features of the pairs.
    first_pair_A : Tensor of shape (A,), int64
        Where the pairs of each entry begin, -1 for those that dominate nothing.
    """

    dominant_P: Tensor
    other_P: Tensor
    first_pair_A: Tensor

    def different(self, values_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs of different features with a value, and the values."""
        interacts_P = (values_P != 0) & (self.dominant_P != self.other_P)
        return (
            self.dominant_P[interacts_P],
            self.other_P[interacts_P],
            values_P[interacts_P],
        )
