"""What a training tells of itself while it runs."""

from ._trainer import PassReport


class Watcher:
    """Told of the steps and passes of a training; this one takes no notice."""

    def on_pass_begin(self, n_steps: int) -> None:
        """Called before a pass of so many steps, or before what is left of one."""

    def on_step(self) -> None:
        """Called after each step, when the state of the training is that after it."""

    def on_pass_end(self, report: PassReport) -> bool:
        """Called after each pass; True ends the training."""
        return False
