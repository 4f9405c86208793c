"""Fits with a checkpoint, in processes that can be killed.

``python -m tests.kills.fits`` imports everything once, and then forks a process for
each fit that it is asked for on its standard input.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]

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
        X = ActivationStream(lambda start, stop: X_all[start:stop], N_SAMPLES)
        X_all = np.random.default_rng(0).normal(size=(N_SAMPLES, 6))
        X.buffer_size = N_SAMPLES // 3
    if kind != "partial_fit":
        return made.set_callbacks(checkpoint).fit(X)
    # What the guide advises: save after each call, and go on from there.
    file = directory / "coder.safetensors"
    coder = load(file) if file.exists() else made
    while getattr(coder, "n_iter_", 0) < N_PASSES:
        coder.set_callbacks(checkpoint).partial_fit(X)
        save(coder, file)
    return coder


def _serve():
    import torch

    from sklearn_ccx._engine import _trainer

    torch.set_num_threads(1)
    for kind in KINDS:  # whatever is imported at the first call
        with tempfile.TemporaryDirectory() as directory:
            fit(kind, Path(directory))
    step = _trainer.Trainer.step
    progress = None

    def slowly(self, *args):
        time.sleep(0.003)
        result = step(self, *args)
        progress.write("1")
        progress.flush()
        return result

    _trainer.Trainer.step = slowly
    print("ready", flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        if "wait" in task:
            print(os.waitpid(task["wait"], 0)[1], flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            with open(task["report"] + ".progress", "w") as progress:
                try:
                    outcome = digest(fit(task["kind"], Path(task["directory"])))
                except Exception as error:
                    outcome = f"{type(error).__name__}: {error}"
            Path(task["report"]).write_text(outcome)
            os._exit(0)
        print(pid, flush=True)


class FitServer:
    """Starts fits in processes of their own."""

    def __init__(self, folder):
        self._folder, self._n_started = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kills.fits"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._process.stdout.readline() != "ready\n":
            self.stop()
            raise RuntimeError("The server of fits did not start.")

    def run(self, kind, directory, kill_after=None):
        """Fit, and kill the process after some seconds of training.

        Returns
        -------
        outcome : str or None
            The digest of the fit or its error; None if it was killed.
        n_steps : int
            Steps that it took.
        """
        self._n_started += 1
        report = self._folder / f"report-{self._n_started}"
        progress = Path(f"{report}.progress")
        task = {"kind": kind, "directory": str(directory), "report": str(report)}
        pid = int(self._ask(task))
        if kill_after is not None:
            deadline = time.monotonic() + 60
            while not (progress.exists() and progress.stat().st_size):
                if report.exists() or time.monotonic() > deadline:
                    break
                time.sleep(0.0005)
            time.sleep(kill_after)
            os.kill(pid, signal.SIGKILL)
        self._ask({"wait": pid})
        outcome = report.read_text() if report.exists() else None
        return outcome, len(progress.read_text()) if progress.exists() else 0

    def _ask(self, task):
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def stop(self):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


if __name__ == "__main__":
    _serve()
