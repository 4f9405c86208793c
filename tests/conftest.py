import os

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from sklearn_ccx import MLPWeights

if not torch.cuda.is_available():  # Triton reads it when it is first imported.
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def digits():
    """Digits, split, and the network that reads them."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.3, random_state=0, stratify=y
    )
    clf = MLPClassifier((128,), max_iter=300, random_state=0).fit(X_train, y_train)
    return {
        "X_train": X_train,
        "X_test": X_test,
        "y_test": y_test,
        "clf": clf,
        "mlp": MLPWeights.from_sklearn(clf),
    }


@pytest.fixture(params=["torch", "numba"])
def kernels(request, monkeypatch):
    """Every implementation of the kernels that is installed."""
    if request.param == "numba":
        pytest.importorskip("numba")
    monkeypatch.setenv("SKLEARN_CCX_KERNELS", request.param)


@pytest.fixture
def acts():
    """Activations at 3 sites of width 6, sparse sums of 10 directions, float64."""
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(120, 10)) * (rng.random((120, 10)) < 0.3)
    directions = rng.normal(size=(10, 3 * 6))
    return (codes @ directions + rng.normal(size=18)).reshape(120, 3, 6)


@pytest.fixture
def mlps():
    """Two MLPs on the sites of ``acts``."""
    return [make_mlp(6, 9, seed=1, site=2), make_mlp(6, 7, "gelu", seed=2, site=0)]


def make_mlp(width, n_neurons, activation="relu", *, seed=0, site=0, d_out=4):
    rng = np.random.default_rng(seed)
    return MLPWeights(
        rng.normal(size=(width, n_neurons)),
        rng.normal(size=(n_neurons, d_out)),
        b_in=rng.normal(size=n_neurons),
        b_out=rng.normal(size=d_out),
        activation=activation,
        site=site,
    )
