"""What the active features write to the neurons of an MLP on a batch."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ..kernels import kernels_for
from .._sparse_codes import SparseCodes


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
    output_norm_N : Tensor of shape (N,)
        Euclidean norm of each neuron's output weights.
    entry_RBN : Tensor of shape (R, B, N)
        Dominant entries of the codes, -1 for none.
    """

    codes: SparseCodes
    M_MN: Tensor
    output_norm_N: Tensor
    entry_RBN: Tensor

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
        """``I(b) / Lip`` of each sample, (B,)."""
        entry_A = self.codes.values_A * self._written_M[self.codes.features_A]
        dominant_B = self.dominant_RBN.abs().sum(dim=0) @ self.output_norm_N
        bound_B = self.codes.sum_by_row(entry_A) - dominant_B
        # What is left where all entries dominate is rounding.
        return bound_B.masked_fill(self.codes.n_entries() <= len(self.entry_RBN), 0.0)

    def bound_sum(self) -> Tensor:
        """Sum of :meth:`bound` over the samples."""
        dominant_N = self.dominant_RBN.abs().sum(dim=(0, 1))
        all_sum = self.codes.sum_by_feature() @ self._written_M
        return all_sum - dominant_N @ self.output_norm_N

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
        grad_RBN = self.dominant_RBN.sign() * (-strength * self.output_norm_N)
        if grad_kept_BN is not None:
            grad_RBN += grad_kept_BN
        grad_M_MN: Tensor = kernels.sign_times_outer(
            self.M_MN, strength * codes.sum_by_feature(), self.output_norm_N
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

    def pair_sums(self) -> Tensor:
        """What each entry sends to the neurons that each one dominates, (B, S, S).

        First the slot of the dominant entry in its row, then that of the other; S is
        the largest number of entries of a row.
        """
        kernels = kernels_for(self.M_MN.device)
        sums_BSS: Tensor = kernels.pair_sums(
            self.codes, self.M_MN, self.output_norm_N, self.entry_RBN[0]
        )
        return sums_BSS

    @cached_property
    def _written_M(self) -> Tensor:
        return self.M_MN.abs() @ self.output_norm_N


def find_contributions(
    codes: SparseCodes, M_MN: Tensor, output_norm_N: Tensor, n_dominant: int
) -> Contributions:
    """Find the dominant entries; see :class:`Contributions`."""
    kernels = kernels_for(M_MN.device)
    entry_RBN = kernels.dominant_entries(codes, M_MN, n_dominant)
    return Contributions(codes, M_MN, output_norm_N, entry_RBN)


def share_sum(dominant_BN: Tensor, all_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of ``dominant / all`` where anything is received, and the number of those."""
    reached_BN = all_BN > 0
    share_BN = dominant_BN / all_BN
    return share_BN[reached_BN].clamp(max=1.0).sum(), reached_BN.sum()
