"""Fits that several processes do together, as one process does them alone.

Started by torchrun this script does all of them and saves what was fitted.
"""

import contextlib
import io
import os
import sys
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose
from packaging.version import Version
from sklearn.exceptions import ConvergenceWarning
from torch import distributed, multiprocessing

from sklearn_ccx import InteractionCrosscoder, InteractionSAE, MLPWeights
from sklearn_ccx._engine._trainer import Trainer
from sklearn_ccx.callbacks import Checkpoint
from sklearn_ccx.coders._running_fit import RunningFit
from tests.conftest import make_mlp

ACTIVATIONS = "batchtopk", "topk", "relu", "jumprelu"

# Of a step: three to find the cut of BatchTopK, one for the auxiliary loss, and one for
# gradients, losses and counts.
MAX_REDUCTIONS = 5

# Neither batches of one size (41, 40, 40) nor equal parts of a batch.
N_SAMPLES = 121


def activations(n_samples=N_SAMPLES, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.exponential(size=(n_samples, 10)) * (rng.random((n_samples, 10)) < 0.3)
    directions = np.random.default_rng(9).normal(size=(10, 2 * 6))
    return (codes @ directions + 0.1 * rng.normal(size=12)).reshape(n_samples, 2, 6)


def gated_mlp():
    rng = np.random.default_rng(5)
    gate = rng.normal(size=(6, 8))
    weights = rng.normal(size=(6, 8)), rng.normal(size=(8, 4))
    return MLPWeights(*weights, W_gate=gate, activation="silu", site=1)


def mlp_behind_a_norm():
    rng = np.random.default_rng(6)
    weights = rng.normal(size=(6, 8)), rng.normal(size=(8, 4))
    norm = {"norm": "layernorm", "norm_weight": rng.normal(size=6)}
    return MLPWeights(*weights, activation="gelu", site=0, **norm)


PLAIN = [make_mlp(6, 9, seed=1, site=1), make_mlp(6, 7, "gelu", seed=2)]
MLPS = {"plain": PLAIN, "gated": gated_mlp(), "behind a norm": mlp_behind_a_norm()}


def crosscoder(**changes):
    parameters = {
        "n_components": 24,
        "k": 3,
        "batch_size": 50,
        "max_iter": 10,
        "mlp": PLAIN,
        "lam_fidelity": 0.2,
        "random_state": 0,
        "device": "cpu",
    }
    return InteractionCrosscoder(**parameters | changes)


def fit(**changes):
    return crosscoder(**changes).fit(activations())


def partial_fits():
    coder = crosscoder(max_iter=3)
    for seed in range(4):
        coder.partial_fit(activations(101, seed))
    return coder


def diverges():
    """One row, which one process has, is too large in the second call."""
    X = activations()
    spoilt = X.copy()
    spoilt[17] = 1e200
    coder = crosscoder(max_iter=3).partial_fit(X)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        coder.partial_fit(spoilt)
    assert ConvergenceWarning in [warning.category for warning in caught]
    return coder


def fit_of_noise(**changes):
    X = np.random.default_rng(0).normal(size=(81, 6))
    parameters = {"n_components": 64, "k": 4, "batch_size": 32, "random_state": 0}
    return InteractionSAE(**parameters | {"device": "cpu"} | changes).fit(X)


def stops_early():
    coder = fit_of_noise(max_iter=200, early_stopping=True, n_iter_no_change=5)
    assert coder.n_iter_ < 200
    return coder


def revives_features():
    """Features that are never active at first take part in the auxiliary loss."""
    coder = fit_of_noise(n_components=48, k=1, max_iter=12, learning_rate_init=0.02)
    assert coder.history_["dead_features"].max() > 0
    return coder


def goes_on_warm():
    coder = crosscoder(max_iter=3, warm_start=True).fit(activations(60, 1))
    return coder.fit(activations())


def one_sample_a_batch(activation):
    """One of two processes has none of it."""
    mlps = [MLPS["gated"], MLPS["behind a norm"], *PLAIN]
    parameters = {"activation": activation, "mlp": mlps, "batch_size": 1}
    parameters |= {"lam_fidelity": 0.1, "max_iter": 6}
    return crosscoder(**parameters).fit(activations(5))


def large_enough_to_be_sparse():
    """Products over active entries only, and a cut among many numbers."""
    X = np.random.default_rng(0).normal(size=(600, 64))
    parameters = {"n_components": 512, "k": 8, "batch_size": 300, "max_iter": 8}
    return InteractionSAE(**parameters, random_state=0, device="cpu").fit(X)


PENALTIES = ("lam", "lam_fidelity", "lam_margin", "lam_interval")
CASES = {
    f"{activation}, {penalty} at plain MLPs": partial(
        fit, activation=activation, **dict.fromkeys(PENALTIES, 0.0) | {penalty: 0.3}
    )
    for activation in ACTIVATIONS
    for penalty in PENALTIES
}
CASES |= {
    f"{activation}, MLP {kind}": partial(
        fit, activation=activation, mlp=MLPS[kind], lam=0.1, lam_fidelity=0.1
    )
    for activation in ACTIVATIONS
    for kind in ("gated", "behind a norm")
}
CASES |= {
    f"{activation}, one sample a batch": partial(one_sample_a_batch, activation)
    for activation in ACTIVATIONS
}
CASES |= {
    case.__name__: case
    for case in (
        partial_fits,
        diverges,
        stops_early,
        revives_features,
        goes_on_warm,
        large_enough_to_be_sparse,
    )
}
CASES["no penalty"] = partial(fit, lam=0.0, lam_fidelity=0.0)
CASES["two dominant features"] = partial(fit, lam=0.1, n_dominant=2)
CASES["uncentred"] = partial(fit, center=False, normalize=False, learning_rate_init=0.1)


def fitted_arrays(coder):
    """What a fit has set, as arrays."""
    arrays = {}
    for name, value in vars(coder).items():
        if name == "history_":
            arrays |= {f"history {key}": column for key, column in value.items()}
        elif name.endswith("_") and name not in ("mlp_", "activation_"):
            arrays[name] = np.asarray(value)
    return arrays


def fit_all(directory):
    """Do every fit; keep what was fitted in a file of this process."""
    kept = {}
    for name, case in CASES.items():
        arrays = fitted_arrays(case())
        kept |= {f"{name}/{key}": value for key, value in arrays.items()}
    np.savez(Path(directory, f"process_{os.environ['RANK']}.npz"), **kept)


def in_own_group(directory):
    """Start two processes that begin a process group of their own."""
    store = Path(directory, "store").as_uri()
    multiprocessing.spawn(work_in_own_group, (store, directory), nprocs=2)


def work_in_own_group(rank, store, directory):
    os.environ["SKLEARN_CCX_KERNELS"] = "torch"
    limit = timedelta(seconds=60)
    distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=2, timeout=limit
    )
    check_without_a_seed()
    check_a_memory_map(rank, directory)
    check_what_must_be_the_same(rank)
    check_fits_of_their_own(rank)
    check_progress(rank)
    check_callbacks_of_one(rank)
    check_checkpoint(rank, directory)
    check_number_of_reductions()
    distributed.destroy_process_group()


def gathered(value):
    values = [None, None]
    distributed.all_gather_object(values, value)
    return values


def check_without_a_seed():
    """The first process draws for all, though each has drawn something else."""
    coder = crosscoder(random_state=None, max_iter=2).fit(activations())
    first, second = gathered(coder.components_)
    assert np.array_equal(first, second)
    again = crosscoder(random_state=None, max_iter=2).fit(activations())
    assert not np.array_equal(again.components_, coder.components_)


def check_a_memory_map(rank, directory):
    path = Path(directory, "X.npy")
    if rank == 0:
        np.save(path, activations())
    distributed.barrier()
    X = np.load(path, mmap_mode="r")
    expected = crosscoder(max_iter=2).fit(activations()).components_
    assert np.array_equal(crosscoder(max_iter=2).fit(X).components_, expected)
    alone = crosscoder(max_iter=2, distributed=False).fit(X).components_
    assert_allclose(expected, alone, rtol=1e-9, atol=1e-12)


def check_what_must_be_the_same(rank):
    X = activations()
    changed = X.copy()
    changed[60] += 1e-9 * rank
    assert_raises("differ in rows of X", crosscoder().fit, changed)
    assert_raises("the shape of X", crosscoder().fit, X[rank:])
    assert_raises("in parameters", crosscoder(lam=0.1 * rank).fit, X)
    assert_raises("in parameters", crosscoder(n_components=24 + rank).partial_fit, X)
    # One of them has been there before.
    coder = crosscoder(max_iter=3)
    if rank:
        coder.set_params(distributed=None).partial_fit(X)
    coder.set_params(distributed="auto")
    assert_raises("what was fitted before", coder.partial_fit, X)


def assert_raises(message, function, *args):
    with pytest.raises(ValueError, match=f"{message}.*distributed=None"):
        function(*args)


def check_fits_of_their_own(rank):
    """Without the others, different processes fit different things."""
    parameters = {"random_state": rank, "max_iter": 2}
    own = crosscoder(distributed=None, **parameters).fit(activations(60 + rank))
    first, second = gathered(own.components_)
    assert not np.allclose(first, second)
    together = crosscoder(distributed=True, max_iter=2).fit(activations())
    first, second = gathered(together.components_)
    assert np.array_equal(first, second)


def check_progress(rank):
    """Only the first process shows it."""
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown):
        crosscoder(max_iter=1, verbose=1).fit(activations())
    assert ("InteractionCrosscoder" in shown.getvalue()) == (rank == 0)


def check_callbacks_of_one(rank):
    """What one process looks at holds up nobody, and what it ends is ended."""
    n_passes = 0

    def on_pass_end(running, report):
        nonlocal n_passes
        n_passes += 1
        if rank == 0:
            running._attributes()
        return rank == 1 and n_passes == 2

    with mock.patch.object(RunningFit, "on_pass_end", on_pass_end):
        coder = crosscoder(max_iter=5).fit(activations())
    assert coder.n_iter_ == n_passes == 2


def check_checkpoint(rank, directory):
    """The first process writes and reads it, and the others go where it does."""
    if Version(sklearn.__version__) < Version("1.9"):
        return
    own = Path(directory, f"checkpoints_{rank}")
    parameters = {"max_iter": 4, "random_state": None, "early_stopping": True}

    def fit_with_checkpoint():
        coder = crosscoder(**parameters).set_callbacks(Checkpoint(own, every=2))
        return coder.fit(activations()).components_

    whole = fit_with_checkpoint()
    assert len(list(own.iterdir())) == (rank == 0)
    with mock.patch.object(Trainer, "step", side_effect=AssertionError("a step")):
        assert np.array_equal(fit_with_checkpoint(), whole)


def check_number_of_reductions():
    """A step takes few of them, whatever the number of sites, MLPs and parameters."""
    counts = {}
    for name in ("all_reduce", "all_gather", "broadcast"):
        function = getattr(distributed, name)

        def counted(*args, name=name, function=function, **kwargs):
            counts[name] = counts.get(name, 0) + 1
            return function(*args, **kwargs)

        setattr(distributed, name, counted)
    for activation in ACTIVATIONS:
        for mlps in (PLAIN, [*PLAIN, MLPS["gated"], MLPS["behind a norm"]]):
            taken = []
            for batch_size in (20, 10):
                counts.clear()
                parameters = {"activation": activation, "mlp": mlps, "max_iter": 1}
                crosscoder(batch_size=batch_size, **parameters).fit(activations(120))
                taken.append(sum(counts.values()))
            n_steps = 120 // 10 - 120 // 20
            assert 0 < taken[1] - taken[0] <= MAX_REDUCTIONS * n_steps, (taken, counts)


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
