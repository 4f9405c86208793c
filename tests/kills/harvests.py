"""Harvests in processes that can be killed: ``python -m tests.kills.harvests``."""

import hashlib
import time
from pathlib import Path

import numpy as np

from tests.kills.server import Progress, serve

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


def _main():
    from sklearn_ccx.lm import _harvest

    models, inputs = models_and_inputs()
    record = _harvest.record_sites

    def slowly(*args):
        time.sleep(0.004)
        recorded = record(*args)
        Progress.one_more()
        return recorded

    def work(task):
        model, out = models[task["model"]], Path(task["out"])
        return digest_of_rows(
            _harvest.harvest(model, inputs, out=out, **SETTINGS).activations
        )

    _harvest.harvest(models[0], inputs[:1])  # whatever is made at the first call
    _harvest.record_sites = slowly
    serve(work)


if __name__ == "__main__":
    _main()
