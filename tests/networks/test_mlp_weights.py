import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import nn

from sklearn_ccx import InteractionSAE, MLPWeights, interaction_scores
from sklearn_ccx._engine.neurons._nonlinearity import NONLINEARITIES
from tests.conftest import make_mlp


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
    for loaded in (
        pickle.loads(pickle.dumps(mlp)),
        joblib.load(tmp_path / "mlp.joblib", mmap_mode="r"),
    ):
        assert loaded == mlp
        assert not loaded.W_out.flags.writeable


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
        ({"site": -1}, "site must be at least 0"),
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


@pytest.mark.parametrize(
    "convert",
    [
        np.ndarray.tolist,
        torch.from_numpy,
        lambda a: torch.from_numpy(a).requires_grad_(),
        lambda a: nn.Parameter(torch.from_numpy(a)),
        lambda a: nn.Parameter(torch.from_numpy(a).to(torch.bfloat16)),
        lambda a: torch.from_numpy(a).to_sparse(),
        lambda a: [torch.tensor(row) for row in a],
        np.asfortranarray,
        np.ma.masked_array,
        lambda a: a.astype(np.longdouble),
        lambda a: a.astype(np.float16),
        lambda a: a.astype(object),
        lambda a: pd.DataFrame(a) if a.ndim == 2 else pd.Series(a),
        lambda a: pl.DataFrame(a) if a.ndim == 2 else pl.Series(a),
        lambda a: sparse.csr_array(a) if a.ndim == 2 else a,
    ],
)
def test_arrays_of_every_kind(convert):
    """Small integers, which each dtype holds."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(-4, 5, size=shape).astype(float)
        for name, shape in {
            "W_in": (3, 4),
            "W_out": (4, 2),
            "b_in": 4,
            "b_out": 2,
            "W_gate": (3, 4),
            "b_gate": 4,
        }.items()
    }
    given = {name: convert(array) for name, array in arrays.items()}
    assert MLPWeights(**given) == MLPWeights(**arrays)


ARRAYS = ["W_in", "W_out", "b_in", "b_out", "W_gate", "b_gate"]


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: a + 1j, "Complex data not supported: {}"),
        (lambda a: torch.from_numpy(a + 1j), "Complex data not supported: {}"),
        (lambda a: np.ma.masked_less(a, 1.0), "{} has masked entries"),
        (lambda a: np.full(a.shape, "x"), "{} must be an array of numbers"),
        (lambda a: np.full(a.shape, None), "{} (must be an array|contains NaN)"),
        (lambda a: np.full(a.shape, object()), "{} must be an array of numbers"),
        (lambda a: a.astype("M8[s]"), "{} must be an array of numbers"),
        (lambda a: torch.from_numpy(a).to("meta"), "{} is a tensor on the meta device"),
        (lambda a: torch.from_numpy(a).to(torch.int8), "{} is a tensor of torch.int8"),
        (
            lambda a: torch.from_numpy(a).to(torch.float8_e5m2),
            "{} is a tensor of torch.float8_e5m2",
        ),
        (lambda a: np.full(a.shape, np.inf), "{} contains NaN or infinity"),
        (lambda a: [[1.0], [1.0, 2.0]], "{} cannot be made an array"),
    ],
)
def test_what_is_not_numbers_is_refused(name, spoil, message):
    good = {name: np.zeros(4) for name in ("b_in", "b_gate")}
    good |= {"W_in": np.zeros((3, 4)), "W_gate": np.zeros((3, 4))}
    good |= {"W_out": np.zeros((4, 2)), "b_out": np.zeros(2)}
    bad = spoil(good[name])
    with pytest.raises(ValueError, match=message.replace("{}", name)):
        MLPWeights(**good | {name: bad})


def test_float64_that_does_not_fit_float32_is_refused():
    single = np.eye(2, dtype=np.float32)
    with pytest.raises(ValueError, match="b_in contains NaN or infinity in float32"):
        MLPWeights(single, single, b_in=[1e300, 0])


@pytest.mark.parametrize("site", [0.0, True, "0", None, [0], np.bool_(True), 1j])
def test_site_is_an_integer(site):
    with pytest.raises(TypeError, match="site must be an integer"):
        MLPWeights([[1]], [[1]], site=site)


def test_integers_of_numpy_are_sites():
    mlp = MLPWeights([[1]], [[1]], site=np.int64(2))
    assert type(mlp.site) is int
    assert mlp.site == 2


@pytest.mark.parametrize(
    "activation", ["elu", None, 3, ["relu"], {}, np.array(["relu"])]
)
def test_activation_is_a_known_name(activation):
    with pytest.raises(ValueError, match="activation must be one of"):
        MLPWeights([[1]], [[1]], activation=activation)


def test_layer_of_a_network_is_an_integer(digits):
    for layer in ("0", 0.0, None, True, [0]):
        with pytest.raises(TypeError, match="layer must be an integer"):
            MLPWeights.from_sklearn(digits["clf"], layer=layer)
    with pytest.raises(ValueError, match="layer must be at least 0"):
        MLPWeights.from_sklearn(digits["clf"], layer=-1)
    assert MLPWeights.from_sklearn(digits["clf"], layer=np.int64(0)) == digits["mlp"]
    for clf in (3, None, "clf", MLPClassifier):
        with pytest.raises(TypeError, match="mlp must be a fitted MLPClassifier"):
            MLPWeights.from_sklearn(clf)


def test_state_cannot_be_replaced():
    mlp = make_mlp(3, 4)
    with pytest.raises(AttributeError, match="immutable"):
        mlp.__setstate__(make_mlp(3, 4, seed=1).__getstate__())


def test_copies_stay_read_only():
    mlp = MLPWeights(np.eye(3), np.eye(3), W_gate=np.eye(3), activation="silu")
    for duplicate in (copy.copy(mlp), copy.deepcopy(mlp)):
        assert duplicate == mlp
        assert not duplicate.W_gate.flags.writeable
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        loaded = pickle.loads(pickle.dumps(mlp, protocol=protocol))
        assert loaded == mlp
        assert loaded.lipschitz == mlp.lipschitz


@pytest.mark.parametrize("is_list", [False, True])
def test_skops_stores_and_loads(tmp_path, is_list):
    skops_io = pytest.importorskip("skops.io")
    X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    mlp = make_mlp(4, 5, "gelu")
    sae = InteractionSAE(
        8, k=2, mlp=[mlp, mlp] if is_list else mlp, max_iter=2, random_state=0
    ).fit(X)
    file = tmp_path / "sae.skops"
    skops_io.dump(sae, file)
    loaded = skops_io.load(file, trusted=skops_io.get_untrusted_types(file=file))
    assert loaded.mlp == sae.mlp
    np.testing.assert_array_equal(loaded.transform(X), sae.transform(X))
    np.testing.assert_allclose(
        interaction_scores(loaded, X), interaction_scores(sae, X), rtol=1e-6
    )


@pytest.mark.parametrize("options", [{}, {"activation": "gelu"}])
def test_at_another_site(options):
    mlp = make_mlp(3, 4, **options)
    moved = mlp.at_site(2)
    assert (moved.site, mlp.site) == (2, 0)
    assert moved.at_site(0) == mlp
    assert moved != mlp
    with pytest.raises(ValueError, match="site must be at least 0"):
        mlp.at_site(-1)
    with pytest.raises(TypeError, match="site must be an integer"):
        mlp.at_site(0.5)
