"""The learning rate as a function of the position in the training."""

from dataclasses import dataclass

# Shares of all steps over which the learning rate rises at the start and falls
# to 0 at the end.
_WARM_UP_SHARE = 0.05
_DECAY_SHARE = 0.25


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the position in the planned passes.

    Parameters
    ----------
    learning_rate : float
        The rate between warm-up and decay.
    n_passes : int
        Planned passes over the data; a longer training starts over.
    """

    learning_rate: float
    n_passes: int

    def rate(self, i_pass: int, i_batch: int, n_batches: int) -> float:
        """Learning rate of the step about to be taken."""
        n_steps = self.n_passes * n_batches
        step = (i_pass % self.n_passes) * n_batches + i_batch
        rise = (step + 1) / (_WARM_UP_SHARE * n_steps)
        fall = (n_steps - step) / (_DECAY_SHARE * n_steps)
        return self.learning_rate * min(1.0, rise, fall)
