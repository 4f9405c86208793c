import pickle

import joblib
import numpy as np
import pytest
import torch
from tests.conftest import make_mlp
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import nn

from sklearn_ccx import InteractionSAE, MLPWeights
from sklearn_ccx._engine.neurons._nonlinearity import NONLINEARITIES


def output(mlp, x):
    phi = NONLINEARITIES[mlp.activation].function
    hidden = phi(torch.from_numpy(x @ mlp.W_in + mlp.b_in)).numpy()
    return hidden @ mlp.W_out + mlp.b_out


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_from_sklearn_reproduces_a_regressor(activation):
    X, y = load_diabetes(return_X_y=True)
    network = MLPRegressor(
        hidden_layer_sizes=(7,), activation=activation, max_iter=50, tol=1e9
    )
    network.fit(X, y)
    mlp = MLPWeights.from_sklearn(network)
    np.testing.assert_allclose(output(mlp, X)[:, 0], network.predict(X))


def test_from_sklearn_takes_later_hidden_layers(digits):
    X = digits["X_train"]
    network = MLPClassifier((12, 9), max_iter=3, tol=1e3, n_iter_no_change=1)
    network.fit(X, np.arange(len(X)) % 4)
    first = MLPWeights.from_sklearn(network, layer=0)
    second = MLPWeights.from_sklearn(network, layer=1, site=2)
    hidden = np.maximum(X @ first.W_in + first.b_in, 0)
    logits = output(second, hidden)
    np.testing.assert_allclose(output(first, X), hidden @ second.W_in + second.b_in)
    np.testing.assert_array_equal(
        network.classes_[logits.argmax(axis=1)], network.predict(X)
    )
    assert (first.site, second.site) == (0, 2)
    with pytest.raises(ValueError, match=r"layer must be in 0\.\.1"):
        MLPWeights.from_sklearn(network, layer=2)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.ReLU(), "relu"),
        (nn.GELU(), "gelu"),
        (nn.GELU(approximate="tanh"), "gelu_tanh"),
        (nn.SiLU(), "silu"),
        (nn.Tanh(), "tanh"),
        (nn.Sigmoid(), "logistic"),
        (nn.Identity(), "identity"),
    ],
)
def test_from_torch_reproduces_the_module(module, name):
    network = nn.Sequential(nn.Linear(5, 8), module, nn.Linear(8, 3, bias=False))
    mlp = MLPWeights.from_torch(network[0], network[2], module)
    assert mlp.activation == name
    x = torch.randn(11, 5)
    expected = network(x).detach().numpy()
    np.testing.assert_allclose(output(mlp, x.numpy()), expected, atol=1e-5)


def test_from_torch_copies_half_precision_weights():
    linear = nn.Linear(3, 3).to(torch.bfloat16)
    mlp = MLPWeights.from_torch(linear, linear, "relu")
    assert mlp.W_in.dtype == np.float32
    with torch.no_grad():
        linear.weight.zero_()
    assert np.abs(mlp.W_in).min() > 0


def test_is_an_immutable_value():
    W_in, W_out = np.ones((3, 4)), np.ones((4, 2))
    mlp = MLPWeights(W_in, W_out)
    W_in[:] = 0
    assert (mlp.W_in == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        mlp.W_in[0, 0] = 2
    with pytest.raises(AttributeError, match="immutable"):
        mlp.site = 1
    with pytest.raises(AttributeError, match="immutable"):
        del mlp.site
    assert clone(mlp) is mlp
    assert clone(InteractionSAE(mlp=mlp)).mlp is mlp


def test_equality_and_hash_go_by_content():
    mlp, same = make_mlp(3, 4), make_mlp(3, 4)
    assert mlp == same
    assert hash(mlp) == hash(same)
    assert mlp != make_mlp(3, 4, site=1)
    assert mlp != make_mlp(3, 4, seed=1)
    assert mlp != "mlp"


def test_pickled_and_memory_mapped_copies_stay_read_only(tmp_path):
    mlp = make_mlp(3, 4, "silu", site=2)
    joblib.dump(mlp, tmp_path / "mlp.joblib")
    for copy in (
        pickle.loads(pickle.dumps(mlp)),
        joblib.load(tmp_path / "mlp.joblib", mmap_mode="r"),
    ):
        assert copy == mlp
        assert not copy.W_out.flags.writeable


def test_keeps_float32_and_reports_lipschitz():
    single = MLPWeights(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))
    assert single.W_in.dtype == single.b_in.dtype == np.float32
    assert MLPWeights([[1]], [[1]]).W_in.dtype == np.float64
    assert MLPWeights([[1]], [[1]], activation="logistic").lipschitz == 0.25


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"W_in": np.ones((3, 5))}, r"W_in \(3, 5\) and W_out \(4, 2\).*from_torch"),
        ({"W_in": np.ones(3)}, "W_in must have shape"),
        ({"W_in": np.ones((0, 4))}, "must not be empty"),
        ({"W_out": np.full((4, 2), np.nan)}, "W_out contains NaN"),
        ({"b_in": np.ones(3)}, r"b_in must have shape \(4,\)"),
        ({"b_out": np.ones((2, 1))}, r"b_out must have shape \(2,\)"),
        ({"activation": "gelu_new"}, "activation must be one of"),
        ({"site": -1}, "site must be an integer from 0"),
        ({"site": 0.0}, "site must be an integer from 0"),
    ],
)
def test_bad_weights_raise(kwargs, message):
    good = {"W_in": np.ones((3, 4)), "W_out": np.ones((4, 2))}
    with pytest.raises(ValueError, match=message):
        MLPWeights(**good | kwargs)


def test_wrong_sources_raise():
    with pytest.raises(TypeError, match="MLPClassifier or MLPRegressor"):
        MLPWeights.from_sklearn(LogisticRegression())
    with pytest.raises(NotFittedError):
        MLPWeights.from_sklearn(MLPClassifier())
    linear = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"linear_out must be a torch\.nn\.Linear"):
        MLPWeights.from_torch(linear, nn.Conv1d(2, 2, 1), "relu")
    with pytest.raises(TypeError, match="ELU is not known"):
        MLPWeights.from_torch(linear, linear, nn.ELU())


def test_repr_is_one_short_line():
    text = repr(make_mlp(3, 4, "gelu", site=1))
    assert text == "MLPWeights(d=3, n_neurons=4, d_out=4, activation='gelu', site=1)"
