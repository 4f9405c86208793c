"""A normalisation in front of an MLP, which each sample scales by its own size."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FrozenNorm:
    r"""LayerNorm or RMSNorm without its weights, which are in those of the MLP.

    With the scale :math:`s_b` of the true activations :math:`r_b` held fixed the norm
    is linear: :math:`(C r_b) / s_b`, where :math:`C` takes the mean away for LayerNorm
    and nothing for RMSNorm, and

    .. math::

        s_b = \sqrt{\tfrac 1 D \|C r_b\|^2 + \epsilon}.

    Parameters
    ----------
    is_centred : bool
        Whether the mean of a row is taken away, as in LayerNorm.
    eps : float
        What is added to the mean square.
    offset_D : Tensor of shape (D,)
        The decoder's bias in the user's units: rows in training units come without it.
    offset_written_N : Tensor of shape (N,)
        What the decoder's bias writes to the neurons before it is divided by the scale.
    """

    is_centred: bool
    eps: float
    offset_D: Tensor
    offset_written_N: Tensor

    def scales(self, rows_BD: Tensor) -> Tensor:
        """Scale of each row, given without the decoder's bias, (B, 1)."""
        rows_BD = rows_BD + self.offset_D
        if self.is_centred:
            rows_BD = rows_BD - rows_BD.mean(dim=1, keepdim=True)
        # Squares of what is at most 1 do not overflow.
        tiny = torch.finfo(rows_BD.dtype).tiny
        largest_B1 = rows_BD.abs().amax(dim=1, keepdim=True).clamp(min=tiny)
        mean_square_B1 = (rows_BD / largest_B1).square().mean(dim=1, keepdim=True)
        root_eps = torch.full_like(largest_B1, math.sqrt(self.eps))
        return torch.hypot(largest_B1 * mean_square_B1.sqrt(), root_eps)
