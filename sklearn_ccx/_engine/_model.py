"""The crosscoder's weights, and what they make of a batch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._processes import BatchPart
from ._sparse_codes import SparseCodes
from .activations import CodeActivation, SelectingActivation, keep_above

# Multiplications of one dense product (B * M * F) from which on it takes longer than
# the sparse one and the bookkeeping around it.
_MIN_SPARSE_PRODUCT = 2**23


@dataclass(frozen=True)
class Encoded:
    """A training batch after the encoder and the decoder.

    Parameters
    ----------
    codes_BM : Tensor of shape (B, M) or None
        The codes; None where only their active entries were computed.
    entries : SparseCodes or None
        Their active entries; None where the codes were computed.
    recon_BF : Tensor of shape (B, F)
        The reconstruction.
    n_active_M : Tensor of shape (M,), int64
        On how many samples each feature is active.
    sparsity_loss : Tensor or None
        Loss of the activation itself.
    """

    codes_BM: Tensor | None
    entries: SparseCodes | None
    recon_BF: Tensor
    n_active_M: Tensor
    sparsity_loss: Tensor | None

    def active_entries(self) -> SparseCodes:
        """The codes as their active entries, differentiable."""
        if self.entries is not None:
            return self.entries
        assert self.codes_BM is not None
        return SparseCodes.from_dense(self.codes_BM)


class CrosscoderModel(nn.Module):
    """Encoder, activation and decoder in training units; decoder rows have unit norm.

    Parameters
    ----------
    W_enc_MF : Tensor of shape (M, F)
        Encoder weights.
    b_enc_M : Tensor of shape (M,)
        Encoder bias.
    W_dec_MF : Tensor of shape (M, F)
        Decoder.
    activation : CodeActivation
        From pre-activations to codes.
    """

    def __init__(
        self,
        W_enc_MF: Tensor,
        b_enc_M: Tensor,
        W_dec_MF: Tensor,
        activation: CodeActivation,
    ) -> None:
        super().__init__()
        self.W_enc_MF = nn.Parameter(W_enc_MF)
        self.b_enc_M = nn.Parameter(b_enc_M)
        self.W_dec_MF = nn.Parameter(W_dec_MF)
        self.activation = activation

    def pre_activations(self, x_BF: Tensor) -> Tensor:
        """Encoder output before the activation, (B, M)."""
        return torch.addmm(self.b_enc_M, x_BF, self.W_enc_MF.T).to(x_BF.dtype)

    def codes(self, x_BF: Tensor) -> Tensor:
        """Codes at inference, (B, M)."""
        return self.activation.codes(self.pre_activations(x_BF))

    def forward(self, x_BF: Tensor, part: BatchPart | None = None) -> Encoded:
        """Codes and reconstruction of a training batch or of a part of it."""
        if self._trains_sparsely(len(x_BF)):
            assert isinstance(self.activation, SelectingActivation)
            weights = self.W_enc_MF, self.b_enc_M
            entries = encode_active(x_BF, *weights, self.activation, part)
            recon_BF = entries.decode(self.W_dec_MF)
            return Encoded(None, entries, recon_BF, entries.count_by_feature(), None)
        codes_BM, sparsity_loss = self.activation.train_codes(
            self.pre_activations(x_BF), part
        )
        recon_BF = (codes_BM @ self.W_dec_MF).to(x_BF.dtype)
        n_active_M = (codes_BM > 0).sum(dim=0)
        return Encoded(codes_BM, None, recon_BF, n_active_M, sparsity_loss)

    def _trains_sparsely(self, n_samples: int) -> bool:
        """Whether products over active entries only are faster than dense ones."""
        if not isinstance(self.activation, SelectingActivation):
            return False
        n_components, n_columns = self.W_dec_MF.shape
        return n_samples * n_components * n_columns > _MIN_SPARSE_PRODUCT

    @torch.no_grad()
    def remove_radial_gradient(self) -> None:
        """Remove what would only change the norm of the decoder's rows."""
        grad_MF = self.W_dec_MF.grad
        assert grad_MF is not None
        radial_M1 = (grad_MF * self.W_dec_MF).sum(dim=1, keepdim=True)
        grad_MF.addcmul_(radial_M1, self.W_dec_MF, value=-1.0)

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Give every decoder row unit norm again, or NaN if its norm overflows."""
        norm_M1 = torch.linalg.vector_norm(self.W_dec_MF, dim=1, keepdim=True)
        # Divided by an infinite norm a diverged row would be 0, and pass for sound.
        norm_M1.masked_fill_(norm_M1.isinf(), torch.nan)
        self.W_dec_MF.div_(norm_M1.clamp(min=torch.finfo(norm_M1.dtype).tiny))


def encode_active(
    x_BF: Tensor,
    W_enc_MF: Tensor,
    b_enc_M: Tensor,
    activation: SelectingActivation,
    part: BatchPart | None = None,
) -> SparseCodes:
    """Encode a training batch; gradients are computed over active entries only."""
    n_samples, n_components = len(x_BF), len(b_enc_M)
    with torch.no_grad():
        pre_BM = torch.addmm(b_enc_M, x_BF, W_enc_MF.T).to(b_enc_M.dtype)
        positions_A = activation.select(pre_BM, part).sort().values
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
