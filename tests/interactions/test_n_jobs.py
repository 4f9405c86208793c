"""Chunks of rows in parallel: the same bits, nothing encoded twice, nothing copied."""

import os
import pickle
import threading

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_ccx import (
    InteractionCrosscoder,
    MLPWeights,
    ablated_output,
    ablation_fidelity,
    dominant_share,
    interaction_matrix,
    interaction_scores,
)
from sklearn_ccx.activations._row_range import RowRange
from sklearn_ccx.coders import BaseInteractionCoder
from sklearn_ccx.interactions import NeuronReader, _row_tasks
from tests.conftest import make_mlp

READER = "sklearn_ccx.interactions._reader"


@pytest.fixture
def ccx(acts):
    W = np.random.default_rng(0).normal(size=(3, 6, 6))
    mlps = [
        make_mlp(6, 9, seed=1, site=2),
        MLPWeights(W[0], W[1], W_gate=W[2], activation="gelu"),
        MLPWeights(W[2], W[0], norm="layernorm", norm_weight=W[1, 0], site=1),
    ]
    ccx = InteractionCrosscoder(12, k=4, mlp=mlps, max_iter=4, random_state=0)
    return ccx.fit(acts)


@pytest.fixture(autouse=True)
def six_chunks(monkeypatch):
    monkeypatch.setattr(f"{READER}._DEFAULT_BATCH_SIZE", 7)
    monkeypatch.setattr(f"{READER}._CHUNK_ROWS", 20)


def loss(output, mlp_index):
    return float(np.square(output).mean()) + mlp_index


def values(fidelity):
    return np.array(list(fidelity.values()))


ANALYSES = {
    "scores": lambda *args, **kw: interaction_scores(*args, per_mlp=True, **kw),
    "matrix": lambda *args, **kw: interaction_matrix(*args, **kw).toarray(),
    "matrix per coactivation": lambda *args, **kw: interaction_matrix(
        *args, normalize="coactivation", **kw
    ).toarray(),
    "share": dominant_share,
    "fidelity": lambda *args, **kw: values(
        ablation_fidelity(*args, random_state=0, **kw)
    ),
    "fidelity of a loss": lambda *args, **kw: values(
        ablation_fidelity(*args, loss=loss, random_state=0, **kw)
    ),
}


@pytest.fixture
def n_over(monkeypatch):
    """Counts the rows of tasks, and sees which threads run them."""
    counts, threads = [], set()
    over = NeuronReader.over

    def spy(self, rows):
        counts.append(len(rows))
        threads.add(threading.get_ident())
        return over(self, rows)

    monkeypatch.setattr(NeuronReader, "threads", threads, raising=False)

    monkeypatch.setattr(NeuronReader, "over", spy)
    return counts


@pytest.mark.parametrize("analysis", ANALYSES)
@pytest.mark.parametrize("n_jobs", [2, 3, -1])
def test_threads_give_the_same_bits(ccx, acts, analysis, n_jobs, n_over):
    expected = ANALYSES[analysis](ccx, acts)
    assert NeuronReader.threads == {threading.get_ident()}
    NeuronReader.threads.clear()
    with joblib.parallel_config("threading"):
        found = ANALYSES[analysis](ccx, acts, n_jobs=n_jobs)
    assert_array_equal(found, expected)
    assert len(n_over) >= 6
    if n_jobs > 1:
        assert threading.get_ident() not in NeuronReader.threads


@pytest.mark.parametrize("analysis", ANALYSES)
def test_processes_give_the_same_bits(ccx, acts, analysis):
    expected = ANALYSES[analysis](ccx, acts)
    assert_array_equal(ANALYSES[analysis](ccx, acts, n_jobs=2), expected)


@pytest.mark.parametrize("analysis", ANALYSES)
def test_rows_are_encoded_once(ccx, acts, analysis, monkeypatch):
    n_rows = []
    encode = BaseInteractionCoder._encode_batches

    def spy(self, X, batch_size=None):
        for rows, codes in encode(self, X, batch_size):
            n_rows.append(rows.stop - rows.start)
            yield rows, codes

    monkeypatch.setattr(BaseInteractionCoder, "_encode_batches", spy)
    with joblib.parallel_config("threading"):
        ANALYSES[analysis](ccx, acts, n_jobs=2)
    assert sum(n_rows) == len(acts)


def test_the_context_decides_where_none_is_given(ccx, acts, n_over):
    interaction_scores(ccx, acts)
    assert n_over == [120]
    n_over.clear()
    with joblib.parallel_config("threading", n_jobs=2):
        interaction_scores(ccx, acts)
    assert sorted(n_over) == [15, 21, 21, 21, 21, 21]


def test_one_chunk_takes_no_worker(ccx, acts, monkeypatch):
    monkeypatch.setattr(_row_tasks, "Parallel", None)
    interaction_scores(ccx, acts[:20], n_jobs=2)
    ablation_fidelity(ccx, acts[:20], loss=loss, n_jobs=2)


@given(
    numbers=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
    exponent=st.integers(0, 6),
)
def test_sums_do_not_depend_on_how_neighbours_are_grouped(numbers, exponent):
    total = _row_tasks.pairwise_sum(numbers)
    size = 2**exponent
    groups = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    assert _row_tasks.pairwise_sum(map(_row_tasks.pairwise_sum, groups)) == total
    assert total == pytest.approx(np.sum(numbers), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("n_workers", [2, 3, 5])
@pytest.mark.parametrize("n_samples", [1, 21, 22, 500, 1111])
def test_tasks_cover_all_rows_in_powers_of_two(ccx, n_workers, n_samples):
    X = np.random.default_rng(0).normal(size=(n_samples, 3, 6))
    reader = NeuronReader(ccx, X)
    with joblib.parallel_config("threading"):
        tasks = _row_tasks._task_rows(reader, n_workers)
    assert [rows.first for rows in tasks] == np.cumsum(
        [0, *(len(rows) for rows in tasks[:-1])]
    ).tolist()
    assert sum(map(len, tasks)) == n_samples
    n_chunks = {-(-len(rows) // reader.chunk_length) for rows in tasks[:-1]}
    assert len(n_chunks) <= 1
    assert all(n & (n - 1) == 0 for n in n_chunks)
    assert len(tasks) < 8 * n_workers + 1


# What is dropped at random


def test_drop_random_depends_on_sample_and_neuron_only(ccx, acts):
    options = {"schemes": "drop_random", "random_state": 3}
    expected = ablation_fidelity(ccx, acts, **options)["drop_random"]
    for batch_size in (1, 13, 120):
        found = ablation_fidelity(ccx, acts, batch_size=batch_size, **options)
        np.testing.assert_allclose(found["drop_random"], expected, rtol=1e-12)


def test_the_fidelity_is_that_of_the_ablated_output(ccx, acts):
    seen = []

    def remember(output, mlp_index):
        seen.append(output)
        return float(len(seen))

    ablation_fidelity(
        ccx, acts, schemes="drop_random", loss=remember, random_state=3, n_jobs=1
    )
    for index, output in enumerate(seen[2::3]):
        alone = ablated_output(
            ccx, acts, "drop_random", mlp_index=index, random_state=3
        )
        assert_array_equal(alone, output)


# What is sent


def test_the_reader_is_sent_without_activations_and_training_state(ccx, acts):
    ccx.partial_fit(acts)
    reader = NeuronReader(ccx, np.repeat(acts, 100, axis=0))
    weights = [
        ccx.components_,
        ccx.intercept_,
        ccx.encoder_components_,
        ccx.encoder_intercept_,
        ccx.decoder_norms_,
        ccx.activation_frequency_,
        *(
            array
            for mlp in ccx.mlp_
            for array in mlp.__getstate__().values()
            if isinstance(array, np.ndarray)
        ),
    ]
    n_bytes = sum(array.nbytes for array in weights)
    assert len(pickle.dumps(reader)) < n_bytes + 6000
    assert len(pickle.dumps(ccx)) > 2 * n_bytes
    assert n_bytes / 2 < reader.__sizeof__() < 2 * n_bytes  # as dask asks
    sent = pickle.loads(pickle.dumps(reader)).over(RowRange(reader.X, 3, 9))
    assert sent.first_row == 3
    (rows, codes), *_ = sent.codes()
    assert_array_equal(codes.dense().numpy(), ccx.transform(acts)[[0] * 6])
    assert rows == slice(0, 6)


def test_codes_are_sent_without_the_codes_around_them(ccx, acts):
    (_, codes), *_ = NeuronReader(ccx, acts, batch_size=120).codes()
    part, _ = codes.rows(slice(5, 8))
    sent = pickle.loads(pickle.dumps(part))
    assert_array_equal(sent.dense().numpy(), codes.dense().numpy()[5:8])
    assert len(pickle.dumps(part)) < len(pickle.dumps(codes)) / 4


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_memory_maps_are_read_by_the_workers(ccx, acts, dtype, tmp_path):
    np.save(tmp_path / "X.npy", acts.astype(dtype))
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    expected = interaction_scores(ccx, np.array(X))
    for mapped, rows in ((X, slice(None)), (X[4:100], slice(4, 100))):
        found = interaction_scores(ccx, mapped, n_jobs=2)
        assert_array_equal(found, interaction_scores(ccx, np.array(mapped)))
        np.testing.assert_allclose(found, expected[rows], rtol=1e-3)
    reader = NeuronReader(ccx, X)
    (task, *_) = _row_tasks.chunk_rows(reader)
    assert len(pickle.dumps(task)) < 1000
    assert len(task) * task.shape[1] * X.itemsize > 750


def test_a_file_that_a_worker_does_not_find(ccx, acts, tmp_path):
    np.save(tmp_path / "X.npy", acts)
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    os.unlink(tmp_path / "X.npy")
    with pytest.raises(ValueError, match=r"X is a memory map of '.*X\.npy', which"):
        interaction_scores(ccx, X, n_jobs=2)


# Where tasks run


def test_threads_are_shared_out(ccx, acts, monkeypatch):
    before, seen = torch.get_num_threads(), set()
    encode = BaseInteractionCoder._encode_batches

    def spy(self, X, batch_size=None):
        seen.add((torch.get_num_threads(), threading.get_ident()))
        return encode(self, X, batch_size)

    monkeypatch.setattr(BaseInteractionCoder, "_encode_batches", spy)
    torch.set_num_threads(6)
    try:
        with joblib.parallel_config("threading"):
            interaction_scores(ccx, acts, n_jobs=3)
        assert {n_threads for n_threads, _ in seen} == {2}
        assert threading.get_ident() not in {thread for _, thread in seen}
        assert torch.get_num_threads() == 6
        seen.clear()
        interaction_scores(ccx, acts)
        assert seen == {(6, threading.get_ident())}
    finally:
        torch.set_num_threads(before)


def threads_of_workers_of_workers(ccx, acts):
    """In a worker: how many workers it gets, the threads they have, and a result."""
    return (
        joblib.effective_n_jobs(None),
        interaction_scores(ccx, acts, n_jobs=2, batch_size=7),
    )


def test_a_worker_starts_no_processes(ccx, acts):
    expected = interaction_scores(ccx, acts)
    results = joblib.Parallel(n_jobs=2)(
        joblib.delayed(threads_of_workers_of_workers)(ccx, acts) for _ in range(2)
    )
    for n_workers, found in results:
        assert n_workers == 1
        assert_array_equal(found, expected)


def test_modes_of_the_caller_do_not_matter(ccx, acts):
    expected = interaction_scores(ccx, acts)
    with torch.inference_mode(), joblib.parallel_config("threading", n_jobs=2):
        found = interaction_scores(ccx, acts)
    assert_array_equal(found, expected)


def test_errors_of_a_worker_are_those_of_the_caller(ccx, acts):
    huge = MLPWeights(np.full((6, 9), 1e200), np.full((9, 2), 1e200))
    messages = []
    for n_jobs in (None, 2):
        with pytest.raises(ValueError, match="the interaction is not finite") as error:
            interaction_scores(ccx, acts, mlp=huge, n_jobs=n_jobs)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_errors_of_the_loss_are_those_of_the_caller(ccx, acts):
    with pytest.raises(TypeError, match="loss must return a number; got 'a'"):
        ablation_fidelity(ccx, acts, loss=lambda output, index: "a", n_jobs=2)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda ccx, acts: make_pipeline(FunctionTransformer(), ccx).fit(acts),
        lambda ccx, acts: FrozenEstimator(ccx),
        lambda ccx, acts: FrozenEstimator(
            make_pipeline(FunctionTransformer(), ccx).fit(acts)
        ),
        lambda ccx, acts: GridSearchCV(ccx, {"lam": [0.0]}, cv=2).fit(acts),
    ],
)
def test_whatever_holds_a_coder(ccx, acts, wrap):
    estimator = wrap(ccx, acts)
    expected = interaction_scores(estimator, acts)
    assert_array_equal(interaction_scores(estimator, acts, n_jobs=2), expected)


@pytest.mark.parametrize("analysis", ANALYSES)
@pytest.mark.parametrize(
    ("n_jobs", "error", "message"),
    [
        (0, ValueError, "n_jobs must not be 0"),
        (10**30, ValueError, "n_jobs must be in"),
        (1.5, TypeError, r"n_jobs must be an integer; got 1\.5"),
        (True, TypeError, "n_jobs must be an integer; got True"),
        ("2", TypeError, "n_jobs must be an integer; got '2'"),
    ],
)
def test_wrong_n_jobs(ccx, acts, analysis, n_jobs, error, message):
    with pytest.raises(error, match=message):
        ANALYSES[analysis](ccx, acts, n_jobs=n_jobs)
