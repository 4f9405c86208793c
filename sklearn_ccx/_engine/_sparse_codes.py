"""Codes held as their active entries, and the products that only need those."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ._code_activation import SelectingActivation


@dataclass(frozen=True)
class SparseCodes:
    """Active entries of codes of shape (B, M), by rows and by features within a row.

    Parameters
    ----------
    values_A : Tensor of shape (A,)
        Codes of the active entries, differentiable.
    features_A : Tensor of shape (A,), int64
        Their features.
    positions_A : Tensor of shape (A,), int64
        Their positions in the flattened codes, ascending.
    first_entry_B : Tensor of shape (B,), int64
        Where each row begins among the entries.
    n_components : int
        ``M``.
    """

    values_A: Tensor
    features_A: Tensor
    positions_A: Tensor
    first_entry_B: Tensor
    n_components: int

    def decode(self, W_dec_MF: Tensor) -> Tensor:
        """``codes W_dec``, (B, F)."""
        return functional.embedding_bag(
            self.features_A,
            W_dec_MF,
            self.first_entry_B,
            mode="sum",
            per_sample_weights=self.values_A,
        )

    def dense(self) -> Tensor:
        """The codes with their zeros, (B, M)."""
        shape = len(self.first_entry_B), self.n_components
        codes = self.values_A.new_zeros(shape[0] * shape[1])
        return codes.scatter(0, self.positions_A, self.values_A).view(shape)


def encode_active(
    x_BF: Tensor, W_enc_MF: Tensor, b_enc_M: Tensor, activation: SelectingActivation
) -> SparseCodes:
    """Encode a training batch; gradients are computed over active entries only."""
    n_samples, n_components = len(x_BF), len(b_enc_M)
    with torch.no_grad():
        pre_BM = torch.addmm(b_enc_M, x_BF, W_enc_MF.T)
        positions_A = activation.select(pre_BM).sort().values
        pre_A = pre_BM.flatten()[positions_A]
        rows_A = positions_A.div(n_components, rounding_mode="floor")
        features_A = positions_A - rows_A * n_components
        samples_B = torch.arange(n_samples, device=x_BF.device)
        first_entry_B = torch.searchsorted(rows_A, samples_B)
    values_A = _ActivePreActivations.apply(
        x_BF, W_enc_MF, b_enc_M, pre_A, rows_A, features_A
    )
    return SparseCodes(values_A, features_A, positions_A, first_entry_B, n_components)


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
