"""Affinities block by block: exact, in little memory, and few passes over X."""

import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.frozen import FrozenEstimator
from sklearn.metrics.pairwise import cosine_similarity

from sklearn_ccx import FeatureClusterer, InteractionCrosscoder
from sklearn_ccx.clustering import _affinities
from sklearn_ccx.clustering._affinities import (
    coactivation_affinity,
    neuron_writes,
    per_code_product,
)
from sklearn_ccx.clustering._feature_graph import nearest_neighbors
from tests.conftest import make_mlp

MEBIBYTE = 2**20


def sparse_random_codes(n_samples=80, n_features=50, density=0.1, outlier=True):
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(n_samples, n_features))
    codes *= rng.random(codes.shape) < density
    if outlier:
        codes[7] = 1e4 * rng.exponential(size=n_features)
    codes[:, 3] = 0
    return codes


@pytest.mark.parametrize("max_pairs", [1, 130, 10**6])
@pytest.mark.parametrize("n_neighbors", [1, 5, None])
def test_coactivation_in_blocks_is_that_of_the_whole(
    monkeypatch, max_pairs, n_neighbors
):
    codes = sparse_random_codes()
    whole = cosine_similarity((codes > 0).T.astype(float))
    np.fill_diagonal(whole, 0)
    expected = nearest_neighbors(sparse.csr_array(whole), n_neighbors).toarray()
    monkeypatch.setattr(_affinities, "_MAX_PAIRS", max_pairs)
    blocks = coactivation_affinity(sparse.csr_array(codes), n_neighbors)
    near = nearest_neighbors(blocks, n_neighbors).toarray()
    # Which of equal neighbors is kept is open; how close they are is not.
    assert_allclose(np.sort(near, axis=1).max(axis=1), whole.max(axis=1))
    if n_neighbors is None:
        assert_allclose(near, expected, atol=1e-12)
    of_blocks, of_whole = (
        [np.sort(row[row > 0])[::-1][:n_neighbors] for row in matrix]
        for matrix in (near, expected)
    )
    for one, other in zip(of_blocks, of_whole, strict=True):
        assert_allclose(one, other)


def test_coactivation_does_not_depend_on_the_blocks(monkeypatch):
    codes = sparse.csr_array(sparse_random_codes())
    whole = coactivation_affinity(codes, 4)
    assert whole.shape == (50, 50)
    monkeypatch.setattr(_affinities, "_MAX_PAIRS", 1)
    blocks = coactivation_affinity(codes, 4)
    assert_array_equal(blocks.toarray(), whole.toarray())


@pytest.mark.parametrize("max_pairs", [1, 130, 10**6])
def test_code_product_in_blocks_is_that_of_the_whole(monkeypatch, max_pairs):
    codes = sparse_random_codes()
    product = codes.T @ codes / len(codes)
    rng = np.random.default_rng(1)
    is_stored = (product > 0) & (rng.random(product.shape) < 0.5)
    affinity = rng.random(product.shape) * is_stored
    expected = np.divide(
        affinity, product, out=np.zeros_like(product), where=affinity > 0
    )
    monkeypatch.setattr(_affinities, "_MAX_PAIRS", max_pairs)
    quotient = per_code_product(sparse.csr_array(affinity), sparse.csr_array(codes))
    assert_allclose(quotient.toarray(), expected)
    assert quotient.nnz == is_stored.sum()


def test_writes_are_those_of_the_mlps_of_the_fit(acts):
    mlps = [make_mlp(6, 9, seed=1, site=2)]
    ccx = InteractionCrosscoder(12, k=4, mlp=mlps, max_iter=2, random_state=0).fit(acts)
    expected = neuron_writes(ccx)
    assert_array_equal(neuron_writes(ccx.set_params(mlp=None)), expected)
    written = np.abs(ccx.components_[:, 12:] @ mlps[0].W_in)
    assert_allclose(expected, written * np.linalg.norm(mlps[0].W_out, axis=1))


# Passes over X


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"normalize": None},
        {"normalize": "code_product"},
        {"affinity": "coactivation"},
        {"affinity": "weights"},
    ],
    ids=str,
)
@pytest.mark.parametrize("n_mlps", [1, 4])
def test_fit_encodes_twice_at_most(monkeypatch, acts, params, n_mlps):
    mlps = [make_mlp(6, 5, seed=i, site=i % 3) for i in range(n_mlps)]
    ccx = InteractionCrosscoder(12, k=4, mlp=mlps, max_iter=2, random_state=0).fit(acts)
    encode, passes = InteractionCrosscoder._encode_batches, []

    def counted(self, X, *args, **kwargs):
        passes.append(len(X))
        return encode(self, X, *args, **kwargs)

    monkeypatch.setattr(InteractionCrosscoder, "_encode_batches", counted)
    FeatureClusterer(FrozenEstimator(ccx), random_state=0, **params).fit(acts)
    assert set(passes) == {len(acts)}
    assert len(passes) <= 2


def test_state_of_torch_does_not_matter(acts):
    ccx = InteractionCrosscoder(12, k=4, max_iter=2, random_state=0).fit(acts)
    for affinity in ("interaction", "weights", "coactivation"):
        clusterer = FeatureClusterer(
            FrozenEstimator(ccx), affinity=affinity, random_state=0
        ).fit(acts)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            inside = FeatureClusterer(
                FrozenEstimator(ccx), affinity=affinity, random_state=0
            ).fit(acts)
            assert_array_equal(inside.transform(acts), clusterer.transform(acts))
        assert_array_equal(
            inside.affinity_matrix_.toarray(), clusterer.affinity_matrix_.toarray()
        )


# Memory


def test_a_sample_that_activates_everything_costs_little_memory():
    n_features = 4096
    rng = np.random.default_rng(0)
    codes = sparse.lil_array((256, n_features))
    for row in range(256):
        codes[row, rng.choice(n_features, 8, replace=False)] = 1.0
    codes = sparse.csr_array(codes)
    outlier = sparse.csr_array(np.ones((1, n_features)))
    codes = sparse.csr_array(sparse.vstack([codes, outlier]))
    affinity = sparse.csr_array(sparse.eye_array(n_features, k=1))
    tracemalloc.start()
    coactivation_affinity(codes, 10)
    per_code_product(affinity, codes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All pairs take 192 MiB, and what is made of them as much again.
    assert peak < 160 * MEBIBYTE


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_outlier_costs_little_memory():
    script = """
    import warnings
    import numpy as np
    from sklearn.frozen import FrozenEstimator
    from sklearn_ccx import FeatureClusterer, InteractionSAE

    def peak():
        lines = open("/proc/self/status").read().splitlines()
        return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM"))

    warnings.simplefilter("ignore")
    X = np.random.default_rng(0).normal(size=(512, 32)).astype("f4")
    sae = InteractionSAE(8192, k=8, max_iter=1, random_state=0).fit(X)
    X[5] *= 1e4
    assert (sae.transform(X[5:6]) > 0).sum() > 3000
    for params in (
        {},
        {"normalize": "code_product"},
        {"affinity": "coactivation"},
        {"affinity": "weights"},
    ):
        clusterer = FeatureClusterer(FrozenEstimator(sae), random_state=0, **params)
        clusterer.fit(X[6:50])
        open("/proc/self/clear_refs", "w").write("5")
        before = peak()
        clusterer.fit(X)
        print((peak() - before) / 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    mebibytes = list(map(float, done.stdout.split()))
    assert len(mebibytes) == 4
    assert max(mebibytes) < 300
