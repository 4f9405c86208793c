"""The same results on a dask cluster and on a ray cluster of two workers.

These need the extra ``test-fleet``.
"""

import os

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV

from sklearn_ccx import (
    InteractionCrosscoder,
    MLPWeights,
    ablation_fidelity,
    certify,
    dominant_share,
    interaction_matrix,
    interaction_scores,
)
from sklearn_ccx.interactions import NeuronReader, run_tasks
from sklearn_ccx.interactions._row_tasks import chunk_rows
from sklearn_ccx.model_selection import SCORERS
from tests.conftest import make_mlp

# What these packages say about themselves and leave to the garbage collector.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def dask_cluster():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert len(client.scheduler_info()["workers"]) == 2
        yield client


@pytest.fixture(scope="module")
def ray_cluster():
    ray = pytest.importorskip("ray")
    register_ray = pytest.importorskip("ray.util.joblib").register_ray
    with pytest.MonkeyPatch.context() as patch:
        # No token in the home folder, and no word about it.
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        register_ray()
        yield ray
        ray.shutdown()


@pytest.fixture(params=["dask", "ray"])
def backend(request):
    request.getfixturevalue(f"{request.param}_cluster")
    return request.param


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(1000, 24)) * (rng.random((1000, 24)) < 0.2)
    return (codes @ rng.normal(size=(24, 2 * 16))).reshape(1000, 2, 16)


@pytest.fixture(scope="module")
def estimator():
    W = np.random.default_rng(1).normal(size=(3, 16, 16))
    mlps = [
        make_mlp(16, 24, "gelu", seed=1, site=1),
        MLPWeights(W[0], W[1], W_gate=W[2], activation="silu"),
    ]
    return InteractionCrosscoder(32, k=4, mlp=mlps, max_iter=2, random_state=0)


@pytest.fixture(scope="module")
def fitted(estimator, X):
    return estimator.fit(X)


@pytest.fixture(params=["array", "map"])
def kept(request, X, tmp_path):
    """The activations in memory and in a file."""
    if request.param == "array":
        return X
    np.save(tmp_path / "X.npy", X)
    return np.load(tmp_path / "X.npy", mmap_mode="r")


def loss(output, mlp_index):
    return float(np.square(output).mean()) + mlp_index


def stacked(fidelity):
    return np.array(list(fidelity.values()))


ANALYSES = {
    "matrix": lambda *args: interaction_matrix(
        *args, normalize="coactivation", batch_size=32
    ).toarray(),
    "scores": lambda *args: interaction_scores(*args, batch_size=32),
    "share": lambda *args: dominant_share(*args, batch_size=32),
    "fidelity": lambda *args: stacked(
        ablation_fidelity(*args, random_state=0, batch_size=32)
    ),
    "fidelity of a loss": lambda *args: stacked(
        ablation_fidelity(*args, random_state=0, loss=loss, batch_size=32)
    ),
    "certify": lambda *args: certify(*args, batch_size=32).error_bound,
}


@pytest.fixture
def short_chunks(monkeypatch):
    monkeypatch.setattr("sklearn_ccx.interactions._reader._CHUNK_ROWS", 64)


def test_tasks_run_in_both_workers(backend, fitted, X, short_chunks):
    reader = NeuronReader(fitted, X, batch_size=32)
    tasks = [(rows,) for rows in chunk_rows(reader)]
    assert len(tasks) > 10
    with joblib.parallel_config(backend, n_jobs=-1):
        processes = set(run_tasks(lambda reader: os.getpid(), reader, tasks, None))
    assert os.getpid() not in processes
    assert len(processes) == 2


@pytest.mark.parametrize("analysis", ANALYSES)
def test_analyses(backend, fitted, kept, analysis, short_chunks):
    if backend == "ray" and analysis in ("scores", "share"):
        pytest.skip("ray starts its workers for each call, which takes long")
    expected = ANALYSES[analysis](fitted, np.array(kept))
    with joblib.parallel_config(backend, n_jobs=-1):
        assert joblib.effective_n_jobs(None) == 2
        found = ANALYSES[analysis](fitted, kept)
    assert_array_equal(found, expected)


def test_a_grid(backend, estimator, kept):
    search = GridSearchCV(
        estimator, {"lam": [0.0, 1.0]}, cv=2, scoring=SCORERS, refit="dominant_share"
    )
    expected = search.fit(np.array(kept)).cv_results_
    with joblib.parallel_config(backend, n_jobs=-1):
        found = search.fit(kept).cv_results_
    for name in expected:
        if name.startswith("split"):
            assert_array_equal(found[name], expected[name])
    assert len(set(expected["mean_test_dominant_share"])) == 2


def test_errors_of_a_worker_are_clear(backend, fitted, X, tmp_path, short_chunks):
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    (tmp_path / "X.npy").unlink()
    with (
        joblib.parallel_config(backend, n_jobs=-1),
        pytest.raises(ValueError, match=r"X is a memory map of '.*X\.npy', which this"),
    ):
        interaction_scores(fitted, mapped, batch_size=32)
