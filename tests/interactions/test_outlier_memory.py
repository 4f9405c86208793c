"""A row on which thousands of features are active costs no memory."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sklearn_ccx import InteractionSAE, interaction_matrix
from sklearn_ccx.interactions import _coactivation

PROGRAM = """
import resource
import sys
import warnings

import numpy as np
from sklearn.frozen import FrozenEstimator

from sklearn_ccx import FeatureClusterer, InteractionSAE, interaction_matrix

warnings.simplefilter("ignore")
X = np.random.default_rng(0).normal(size=(512, 8)).astype("f4")
sae = InteractionSAE(8192, k=3, max_iter=2, random_state=0).fit(X)
Y = X.copy()
Y[5] *= 1e4
assert (sae.transform(Y[5:6]) > 0).sum() > 2000


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


interaction_matrix(sae, X[:20])
before = peak()
if sys.argv[1] == "clusterer":
    FeatureClusterer(FrozenEstimator(sae), random_state=0).fit(Y)
else:
    interaction_matrix(sae, Y, normalize={"none": None}.get(sys.argv[1], sys.argv[1]))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["none", "coactivation", "clusterer"])
def test_one_outlier_takes_less_than_300_mib(what):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, what],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(result.stdout) < 300


@pytest.mark.parametrize("max_active", [0, 3, 10**6])
@pytest.mark.parametrize("is_dense", [True, False])
@pytest.mark.parametrize("max_pairs", [1, 40, 10**6])
def test_matrix_is_the_same_in_any_pieces(max_active, is_dense, max_pairs, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5))
    sae = InteractionSAE(30, k=4, max_iter=3, random_state=0).fit(X)
    X[7] *= 30
    expected = {
        normalize: interaction_matrix(sae, X, normalize=normalize).toarray()
        for normalize in (None, "coactivation")
    }
    if not is_dense:
        name = "sklearn_ccx._engine.neurons._pair_accumulator._MAX_DENSE"
        monkeypatch.setattr(name, 0)
    monkeypatch.setattr(_coactivation, "_MAX_ACTIVE", max_active)
    monkeypatch.setattr(_coactivation, "_MAX_PAIRS", max_pairs)
    monkeypatch.setattr(_coactivation, "_BLOCK", 7)
    name = "sklearn_ccx._engine.neurons._contributions._MAX_PAIRS"
    monkeypatch.setattr(name, max_pairs)
    for normalize, matrix in expected.items():
        A = interaction_matrix(sae, X, normalize=normalize)
        assert_allclose(A.toarray(), matrix, rtol=1e-10)
