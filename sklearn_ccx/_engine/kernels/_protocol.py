"""What every set of kernels offers.

Dominant features are named by their entry among the active entries of the codes, so
that feature, code and gradient of each are one lookup away. Shapes and meanings are
those of :mod:`._torch`, with which the other kernels agree up to rounding.
"""

from typing import Protocol

from torch import Tensor

from .._sparse_codes import DominantPairs, SparseCodes


class Kernels(Protocol):
    """A module with these functions."""

    def dominant_entries(
        self, codes: SparseCodes, M_MN: Tensor, n_dominant: int
    ) -> Tensor:
        """Find the entries that contribute most to each neuron, (R, B, N)."""

    def dominant_contributions(
        self, codes: SparseCodes, M_MN: Tensor, entry_RBN: Tensor
    ) -> Tensor:
        """Signed contributions of entries, (R, B, N)."""

    def sign_times_outer(self, M_MN: Tensor, left_M: Tensor, right_N: Tensor) -> Tensor:
        """``sign(M) * outer(left, right)``, (M, N)."""

    def add_dominant_gradients(
        self,
        codes: SparseCodes,
        M_MN: Tensor,
        entry_RBN: Tensor,
        grad_RBN: Tensor,
        grad_values_A: Tensor,
        grad_M_MN: Tensor,
    ) -> None:
        """Add the gradients of ``dominant_contributions`` in place."""

    def pair_sums(
        self,
        codes: SparseCodes,
        M_MN: Tensor,
        sensitivity_N: Tensor,
        entry_BN: Tensor,
        pairs: DominantPairs,
    ) -> Tensor:
        """Sum what entries send to the neurons that another one dominates, (P,)."""
