"""Fits with a checkpoint in processes that can be killed: ``-m tests.kills.fits``."""

import hashlib
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.kills.server import Progress, serve

N_SAMPLES, BATCH_SIZE, N_PASSES, EVERY = 192, 32, 4, 3
N_STEPS = N_PASSES * N_SAMPLES // BATCH_SIZE
KINDS = ("fit", "early_stopping", "stream", "partial_fit")


def digest(coder):
    """Of all arrays that a fit has made."""
    result = hashlib.sha256()
    for name, value in sorted(vars(coder).items()):
        if isinstance(value, np.ndarray):
            result.update(name.encode() + value.tobytes())
    result.update(repr(coder.loss_curve_).encode())
    return result.hexdigest()


def fit(kind, directory):
    """A fit from its beginning, or from where an earlier one was killed."""
    from sklearn_ccx import InteractionSAE, load, save
    from sklearn_ccx.activations import ActivationStream
    from sklearn_ccx.callbacks import Checkpoint

    X = np.random.default_rng(0).normal(size=(N_SAMPLES, 6))
    params = {"k": 2, "batch_size": BATCH_SIZE, "max_iter": N_PASSES, "random_state": 0}
    if kind == "early_stopping":
        params |= {"early_stopping": True, "n_iter_no_change": N_PASSES}
    made = InteractionSAE(12, **params)
    checkpoint = Checkpoint(directory / "checkpoints", every=EVERY)
    if kind == "stream":
        rows = X
        X = ActivationStream(
            lambda start, stop: rows[start:stop], N_SAMPLES, buffer_size=N_SAMPLES // 3
        )
    if kind != "partial_fit":
        return made.set_callbacks(checkpoint).fit(X)
    # What the guide advises: save after each call, and go on from there.
    file = directory / "coder.safetensors"
    coder = load(file) if file.exists() else made
    while getattr(coder, "n_iter_", 0) < N_PASSES:
        coder.set_callbacks(checkpoint).partial_fit(X)
        save(coder, file)
    return coder


def _main():
    from sklearn_ccx._engine import _trainer

    for kind in KINDS:  # whatever is imported at the first call
        with tempfile.TemporaryDirectory() as directory:
            fit(kind, Path(directory))
    step = _trainer.Trainer.step

    def slowly(self, *args):
        time.sleep(0.003)
        result = step(self, *args)
        Progress.one_more()
        return result

    _trainer.Trainer.step = slowly
    serve(lambda task: digest(fit(task["kind"], Path(task["directory"]))))


if __name__ == "__main__":
    _main()
