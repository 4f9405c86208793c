"""What a fit is asked to do, with every default and every "auto" resolved."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LossStrengths:
    """Strengths of the terms beside the reconstruction.

    Parameters
    ----------
    lam, lam_fidelity : float
        Strengths of the interaction bound and of the one-feature fidelity.
    n_dominant : int
        How many features a neuron keeps.
    aux_k : int
        How many dead features may explain what the others leave; 0 for none.
    lam_margin, lam_interval : float
        Strengths of the worst logits and of the largest error that can be excluded.
    """

    lam: float
    lam_fidelity: float
    n_dominant: int
    aux_k: int
    lam_margin: float = 0.0
    lam_interval: float = 0.0

    @property
    def has_penalty(self) -> bool:
        """Whether the loss looks at the neurons of the MLPs."""
        return max(self.lam, self.lam_fidelity) > 0 or self.has_intervals

    @property
    def has_intervals(self) -> bool:
        """Whether the loss looks at what the intervals of a proof allow."""
        return max(self.lam_margin, self.lam_interval) > 0


@dataclass(frozen=True)
class FitSettings:
    """Settings of a fit.

    Parameters
    ----------
    n_components : int
        Number of features, ``M``.
    k : int
        Active features per sample, at most `n_components`.
    activation : {"batchtopk", "topk", "relu", "jumprelu"}
        From pre-activations to codes.
    l1_coefficient : float
        Strength of the sparsity loss of "relu".
    strengths : LossStrengths
        Strengths of the loss terms.
    learning_rate : float
        Between warm-up and decay.
    batch_size : int
        Largest batch; a pass is cut into batches of nearly equal size.
    n_passes : int
        Planned passes over the data.
    tol : float
        By how much the held-out loss must fall to count as improved.
    n_iter_no_change : int
        Passes without improvement after which a fit with held-out rows stops.
    dtype, device
        Of the computation.
    mixed_precision : bool
        Whether matrix products take bfloat16.
    progress : str or None
        What to call the progress bar; None shows none.
    """

    n_components: int
    k: int
    activation: str
    l1_coefficient: float
    strengths: LossStrengths
    learning_rate: float
    batch_size: int
    n_passes: int
    tol: float
    n_iter_no_change: int
    dtype: torch.dtype
    device: torch.device
    mixed_precision: bool
    progress: str | None = None
