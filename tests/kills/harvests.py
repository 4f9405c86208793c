"""Harvests in processes that can be killed.

``python -m tests.kills.harvests`` imports everything once, and then forks a process for
each harvest that it is asked for on its standard input.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]

N_SHARDS, BATCHES_PER_SHARD = 8, 2
SETTINGS = {"sites": ["resid_pre", "mlp_in"], "batch_size": 1, "shard_size": 8}
# Tokens of each sequence, so that a shard takes two.
LENGTH = 4


def models_and_inputs():
    """Two models that differ, and inputs that fill the shards."""
    from tests.lm.tiny_models import make_model, random_ids

    models = [make_model("gpt2") for _ in range(2)]
    for parameter in models[1].parameters():
        parameter.data += 0.01
    return models, random_ids(*[LENGTH] * (N_SHARDS * BATCHES_PER_SHARD))


def digests(directory):
    """What every file of a directory holds."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
        if path.is_file()
    }


def digest_of_rows(activations):
    return hashlib.sha256(np.asarray(activations).tobytes()).hexdigest()


def _serve():
    import torch
    from tqdm import tqdm

    from sklearn_ccx.lm import _harvest

    torch.set_num_threads(1)
    # Its own lock is shared by forked processes, and stays with one that is killed.
    tqdm.set_lock(threading.RLock())
    models, inputs = models_and_inputs()
    record = _harvest.record_sites
    progress = None

    def slowly(*args):
        time.sleep(0.004)
        recorded = record(*args)
        progress.write("1")
        progress.flush()
        return recorded

    _harvest.harvest(models[0], inputs[:1])  # whatever is made at the first call
    _harvest.record_sites = slowly
    print("ready", flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        if "wait" in task:
            print(os.waitpid(task["wait"], 0)[1], flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            out = Path(task["out"])
            with open(task["report"] + ".progress", "w") as progress:
                try:
                    result = _harvest.harvest(
                        models[task["model"]], inputs, out=out, **SETTINGS
                    )
                    outcome = digest_of_rows(result.activations)
                except Exception as error:
                    outcome = f"{type(error).__name__}: {error}"
            Path(task["report"]).write_text(outcome)
            os._exit(0)
        print(pid, flush=True)


class HarvestServer:
    """Starts harvests in processes of their own."""

    def __init__(self, folder):
        self._folder = folder
        self._n_started = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kills.harvests"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._process.stdout.readline() != "ready\n":
            self.stop()
            raise RuntimeError("The server of harvests did not start.")

    def start(self, out, model=0):
        self._n_started += 1
        report = self._folder / f"report-{self._n_started}"
        pid = int(self.ask({"out": str(out), "model": model, "report": str(report)}))
        return StartedHarvest(self, pid, report)

    def ask(self, task):
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def stop(self):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


class StartedHarvest:
    """A harvest in a process."""

    def __init__(self, server, pid, report):
        self._server, self._pid, self._report = server, pid, report

    def kill(self):
        os.kill(self._pid, signal.SIGKILL)

    def wait(self):
        """The digest of its rows, the error it ended with, or "killed"."""
        status = int(self._server.ask({"wait": self._pid}))
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return "killed"
        return self._report.read_text()

    def n_batches(self):
        """How many batches the model has run for it."""
        progress = self._report.with_name(f"{self._report.name}.progress")
        return len(progress.read_text()) if progress.exists() else 0


if __name__ == "__main__":
    _serve()
