"""Codes held as their active entries, and the products that only need those."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from .activations._code_activation import SelectingActivation, keep_above


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

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Every pair of entries of the same row.

        Returns
        -------
        first_P, second_P : Tensor of shape (P,), int64
            The pairs' features.
        slots_P : Tensor of shape (P,), int64
            The pairs' positions in a flattened tensor of shape (B, S, S), with S the
            largest number of entries of a row.
        """
        n_entries_B = self.n_entries()
        n_slots = int(n_entries_B.max())
        slots_S = torch.arange(n_slots, device=self.rows_A.device)
        exists_BS = slots_S < n_entries_B.unsqueeze(1)
        exists_BSS = exists_BS.unsqueeze(2) & exists_BS.unsqueeze(1)
        slots_P = exists_BSS.flatten().nonzero().squeeze(1)
        features_BS = slots_P.new_zeros(exists_BS.shape)
        features_BS[exists_BS] = self.features_A
        first_BSS = features_BS.unsqueeze(2).expand(exists_BSS.shape)
        second_BSS = features_BS.unsqueeze(1).expand(exists_BSS.shape)
        return first_BSS[exists_BSS], second_BSS[exists_BSS], slots_P

    def dense(self) -> Tensor:
        """The codes with their zeros, (B, M)."""
        codes_BM = self.values_A.new_zeros((len(self), self.n_components))
        return codes_BM.index_put((self.rows_A, self.features_A), self.values_A)


def encode_active(
    x_BF: Tensor, W_enc_MF: Tensor, b_enc_M: Tensor, activation: SelectingActivation
) -> SparseCodes:
    """Encode a training batch; gradients are computed over active entries only."""
    n_samples, n_components = len(x_BF), len(b_enc_M)
    with torch.no_grad():
        pre_BM = torch.addmm(b_enc_M, x_BF, W_enc_MF.T).to(b_enc_M.dtype)
        positions_A = activation.select(pre_BM).sort().values
        pre_A = pre_BM.flatten()[positions_A]
        rows_A = positions_A.div(n_components, rounding_mode="floor")
        features_A = positions_A - rows_A * n_components
    pre_A = _ActivePreActivations.apply(
        x_BF, W_enc_MF, b_enc_M, pre_A, rows_A, features_A
    )
    return SparseCodes.from_entries(
        keep_above(pre_A, 0.0), features_A, rows_A, n_samples, n_components
    )


class _ActivePreActivations(torch.autograd.Function):
    """``x W_enc.T + b_enc`` at some entries, of which the values are known."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BF: Tensor,
        W_enc_MF: Tensor,
        b_enc_M: Tensor,
        pre_A: Tensor,
        rows_A: Tensor,
        features_A: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x_BF, rows_A, features_A)
        ctx.n_components = len(b_enc_M)
        return pre_A

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_BF, rows_A, features_A = ctx.saved_tensors
        # W_enc's gradient is a sum of the rows of x for each feature, weighted with the
        # gradients of its active entries.
        by_feature_A = features_A.argsort(stable=True)
        features_M = torch.arange(ctx.n_components, device=x_BF.device)
        grad_W_MF = functional.embedding_bag(
            rows_A[by_feature_A],
            x_BF,
            torch.searchsorted(features_A[by_feature_A], features_M),
            mode="sum",
            per_sample_weights=grads[0][by_feature_A],
        )
        grad_b_M = grads[0].new_zeros(ctx.n_components)
        grad_b_M.index_add_(0, features_A, grads[0])
        return None, grad_W_MF, grad_b_M, None, None, None
