"""Samples certified in parallel: the same bits, and nothing encoded twice."""

import pickle
from dataclasses import fields

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sklearn_ccx import InteractionCrosscoder, MLPWeights, certify
from sklearn_ccx.coders import BaseInteractionCoder
from sklearn_ccx.proofs._explained_samples import ExplainedSamples
from tests.conftest import make_mlp


@pytest.fixture
def X(acts):
    return np.concatenate([acts, acts[::-1] * 0.9])[:230]


@pytest.fixture
def ccx(acts):
    W = np.random.default_rng(0).normal(size=(3, 6, 6))
    mlps = [
        make_mlp(6, 9, seed=1, site=2, d_out=6),
        MLPWeights(W[0], W[1], W_gate=W[2], activation="gelu"),
        MLPWeights(W[2], W[0], norm="layernorm", norm_weight=W[1, 0], site=1),
    ]
    ccx = InteractionCrosscoder(24, k=4, mlp=mlps, max_iter=4, random_state=0)
    return ccx.fit(acts)


def assert_same(found, expected):
    for field in fields(expected):
        assert_array_equal(getattr(found, field.name), getattr(expected, field.name))


OPTIONS = [
    {},
    {"bound": "lipschitz"},
    {"output_site": [0, 1, 2], "residual": True},
    {"batch_size": 7},
    {"batch_size": 1000},
    {"n_dominant": 2},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("n_jobs", [2, 3])
def test_threads_give_the_same_bits(ccx, X, options, n_jobs):
    expected = certify(ccx, X, **options)
    with joblib.parallel_config("threading"):
        assert_same(certify(ccx, X, n_jobs=n_jobs, **options), expected)


@pytest.mark.parametrize("options", [{}, {"output_site": [0, 1, 2]}])
def test_processes_give_the_same_bits(ccx, X, options):
    assert_same(certify(ccx, X, n_jobs=2, **options), certify(ccx, X, **options))


@pytest.mark.parametrize("level", ["group", "domain"])
def test_other_levels_take_one_job(ccx, X, level):
    mlp = ccx.mlp_[:2]
    expected = certify(ccx, X, mlp=mlp, level=level)
    assert_same(certify(ccx, X, mlp=mlp, level=level, n_jobs=2), expected)


def test_rows_are_encoded_once(ccx, X, monkeypatch):
    n_rows = []
    encode = BaseInteractionCoder._encode_batches

    def spy(self, X, batch_size=None):
        for rows, codes in encode(self, X, batch_size):
            n_rows.append(len(codes))
            yield rows, codes

    monkeypatch.setattr(BaseInteractionCoder, "_encode_batches", spy)
    with joblib.parallel_config("threading"):
        certify(ccx, X, n_jobs=2, batch_size=10)
    assert sum(n_rows) == len(X)
    assert len(n_rows) == 23


def test_memory_maps_are_read_by_the_workers(ccx, X, tmp_path):
    np.save(tmp_path / "X.npy", X.astype(np.float16))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    expected = certify(ccx, np.array(mapped))
    assert_same(certify(ccx, mapped, n_jobs=2), expected)


def test_samples_are_sent_without_activations(ccx, X):
    samples = ExplainedSamples(
        ccx, np.repeat(X, 50, axis=0), None, None, None, with_norms=True
    )
    assert len(samples._codes) == len(samples)
    assert len(pickle.dumps(samples)) < 4 * ccx.components_.nbytes + 20_000
    part = samples.parts(3)[1]
    sent = pickle.loads(pickle.dumps(samples)).over(part)
    assert len(sent) == len(part)
    assert_array_equal(
        sent.n_active, samples.n_active[part.first : part.first + len(part)]
    )


@pytest.mark.parametrize("batch_size", [None, 1, 7, 1000])
def test_parts_are_whole_batches(ccx, X, batch_size):
    samples = ExplainedSamples(ccx, X, None, None, batch_size, with_norms=True)
    for n_parts in (1, 2, 3, 500):
        parts = samples.parts(n_parts)
        assert len(parts) <= n_parts
        assert sum(map(len, parts)) == len(X)
        batch = max(samples._batch_size, samples._encoded_at_once)
        assert all(part.first % batch == 0 for part in parts)
        assert batch % samples._batch_size == batch % samples._encoded_at_once == 0


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_errors_are_those_of_the_caller(ccx, X, n_jobs):
    with pytest.raises(ValueError, match="output_site has 1 entries for 3 MLP"):
        certify(ccx, X, output_site=1, n_jobs=n_jobs)
    with pytest.raises(ValueError, match="is not finite: X or the weights"):
        certify(ccx, X * 1e200, n_jobs=n_jobs)


@pytest.mark.parametrize(
    ("n_jobs", "error", "message"),
    [(0, ValueError, "n_jobs must not be 0"), ("a", TypeError, "n_jobs must be an")],
)
@pytest.mark.parametrize("level", ["sample", "group"])
def test_wrong_n_jobs(ccx, X, level, n_jobs, error, message):
    with pytest.raises(error, match=message):
        certify(ccx, X, mlp=ccx.mlp_[:1], level=level, n_jobs=n_jobs)
