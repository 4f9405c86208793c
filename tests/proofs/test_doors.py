"""What the proofs accept and refuse, and numbers at the ends of the range."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklearn_ccx import (
    FeatureClusterer,
    InteractionCrosscoder,
    InteractionSAE,
    MLPWeights,
    certify,
    certify_classifier,
    certify_regressor,
    certify_stack,
)
from sklearn_ccx.networks import row_norms
from sklearn_ccx.proofs._certify import ErrorCertificate
from tests.conftest import make_mlp
from tests.proofs.cases import NONLINEARITIES, fitted


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(90, 10)) * (rng.random((90, 10)) < 0.3)
    return codes @ rng.normal(size=(10, 6))


@pytest.fixture(scope="module")
def sae(X):
    mlp = make_mlp(6, 8)
    return InteractionSAE(16, k=3, mlp=mlp, max_iter=5, random_state=0).fit(X)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()


@pytest.fixture(scope="module")
def stack(X):
    """A crosscoder of two sites, what it reads, and the block between them."""
    block = make_mlp(6, 8, d_out=6)
    sites = np.stack([X, X + np.maximum(X @ block.W_in + block.b_in, 0) @ block.W_out],
                     axis=1)  # fmt: skip
    ccx = InteractionCrosscoder(16, k=3, mlp=block, max_iter=5, random_state=0)
    return ccx.fit(sites), sites


def run_all(estimator, X, network, stack=None):
    yield certify(estimator, X).error_bound
    yield certify(estimator, X, level="group").error_bound
    yield certify_classifier(estimator, network, X).margin_bound
    yield certify_regressor(estimator, network, X).error_bound
    if stack is not None:
        yield certify_stack(*stack).site_bound


@pytest.mark.parametrize(
    "wrap",
    [
        FrozenEstimator,
        make_pipeline,
        lambda sae: FrozenEstimator(make_pipeline(FrozenEstimator(sae))),
    ],
)
def test_whatever_holds_a_coder(sae, X, network, wrap):
    for one, other in zip(
        run_all(sae, X, network), run_all(wrap(sae), X, network), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_steps_before_the_coder_are_applied(X, network):
    sae = InteractionSAE(16, k=3, max_iter=5, random_state=0)
    pipeline = make_pipeline(StandardScaler(), sae).fit(X)
    scaled = pipeline[0].transform(X)
    for one, other in zip(
        run_all(pipeline, X, network), run_all(sae, scaled, network), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_search(X):
    sae = InteractionSAE(16, k=3, max_iter=5, random_state=0)
    search = GridSearchCV(sae, {"lam": [0.0, 0.1]}, cv=2).fit(X)
    np.testing.assert_array_equal(
        certify(search, X).error_bound, certify(search.best_estimator_, X).error_bound
    )


@pytest.mark.parametrize("function", [certify, certify_stack])
def test_no_coder_inside(function, X):
    with pytest.raises(TypeError, match="estimator must be"):
        function(PCA().fit(X), X)
    with pytest.raises(NotFittedError):
        function(make_pipeline(InteractionSAE()), X)


def test_fitted_state_decides(sae, X):
    expected = certify(sae, X).error_bound
    try:
        sae.set_params(n_dominant=3, activation="relu", mlp=None)
        np.testing.assert_array_equal(certify(sae, X).error_bound, expected)
    finally:
        sae.set_params(n_dominant=1, activation="batchtopk", mlp=sae.mlp_[0])


def test_state_of_torch_does_not_matter(sae, X, network, stack):
    expected = list(run_all(sae, X, network, stack))
    for mode in (
        torch.no_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
        torch.enable_grad(),
    ):
        with mode:
            results = list(run_all(sae, X, network, stack))
        for one, other in zip(results, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_tensors_and_numpy_integers(stack):
    ccx, sites = stack
    expected = certify(ccx, sites, output_site=1).transition_bound
    for output_site in ([1], np.array([1]), np.int64(1), (np.int32(1),), torch.ones(
        1, dtype=torch.int64
    )):  # fmt: skip
        certificate = certify(
            ccx,
            torch.from_numpy(sites),
            output_site=output_site,
            residual=np.bool_(False),
            n_dominant=np.int64(1),
            batch_size=np.int32(512),
        )
        np.testing.assert_array_equal(certificate.transition_bound, expected)
    certify_stack(ccx, sites, output_site=np.int64(1))
    certify(ccx, sites, level="domain", max_active=np.int64(16))


CODE_MAX = np.full(16, 100.0)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"level": None}, ValueError, "level must be one of"),
        ({"level": ["sample"]}, ValueError, "level must be one of"),
        ({"level": np.array(["sample", "group"])}, ValueError, "level must be one of"),
        ({"bound": 3}, ValueError, "bound must be one of"),
        ({"n_dominant": True}, TypeError, "n_dominant must be an integer"),
        ({"n_dominant": 1.5}, TypeError, "n_dominant must be an integer"),
        ({"batch_size": "all"}, TypeError, "batch_size must be an integer"),
        ({"batch_size": -1}, ValueError, "batch_size must be at least 1"),
        ({"mlp": 3}, TypeError, "mlp"),
        ({"mlp": []}, ValueError, "mlp"),
        ({"mlp": ["relu"]}, TypeError, "mlp"),
        ({"groups": 3}, ValueError, "groups must have one dimension"),
        ({"groups": np.zeros((90, 2))}, ValueError, "groups must have one dimension"),
        ({"groups": np.full(90, np.nan)}, ValueError, "groups contains NaN"),
        ({"groups": [None, *range(89)]}, TypeError, "groups must hold labels"),
        ({"groups": [1] * 10}, ValueError, "groups has 10 entries"),
        ({"groups": [1 + 2j] * 90}, ValueError, "groups"),
        ({"groups": FeatureClusterer()}, NotFittedError, "not fitted"),
        ({"groups": make_pipeline(FeatureClusterer())}, NotFittedError, "not fitted"),
        (
            {"groups": LinearRegression().fit([[0]], [0])},
            TypeError,
            "groups is a LinearRegression, which has no labels_",
        ),
        (
            {"groups": KMeans(2, n_init=1).fit([[0.0], [1.0]])},
            ValueError,
            r"groups.labels_ has shape \(2,\)",
        ),
        ({"code_max": 3.0}, ValueError, r"code_max has shape \(\)"),
        ({"code_max": "large"}, ValueError, r"code_max has shape \(\)"),
        ({"code_max": ["a"] * 16}, ValueError, "code_max must hold numbers"),
        ({"code_max": CODE_MAX * np.nan}, ValueError, "code_max must hold finite"),
        ({"code_max": CODE_MAX * np.inf}, ValueError, "code_max must hold finite"),
        ({"code_max": -CODE_MAX}, ValueError, "code_max must hold finite numbers from"),
        ({"code_max": CODE_MAX + 1j}, ValueError, "code_max"),
        ({"max_active": True}, TypeError, "max_active must be an integer"),
        ({"max_active": 2.5}, TypeError, "max_active must be an integer"),
        ({"max_active": -1}, ValueError, "max_active must be at least 0"),
    ],
)
def test_hostile_values(sae, X, network, kwargs, error, message):
    levels = {"groups": "group", "code_max": "domain", "max_active": "domain"}
    level = next((levels[name] for name in kwargs if name in levels), "sample")
    kwargs = {"level": level, **kwargs}
    with pytest.raises(error, match=message):
        certify(sae, X, **kwargs)
    if "mlp" not in kwargs:
        with pytest.raises(error, match=message):
            certify_classifier(sae, network, X, **kwargs)
        with pytest.raises(error, match=message):
            certify_regressor(sae, network, X, **kwargs)


@pytest.mark.parametrize(
    ("output_site", "error", "message"),
    [
        (True, TypeError, "output_site must be an integer"),
        ([True], TypeError, "output_site must be an integer"),
        ("1", TypeError, "output_site must be an integer"),
        ([1.0], TypeError, "output_site must be an integer"),
        ([[1], [1, 2]], ValueError, "output_site"),
        ({"site": 1}, TypeError, "output_site must be an integer"),
        (-1, ValueError, "output_site must be at least 0"),
        ([2], ValueError, "output_site=2"),
        ([1, 1], ValueError, "2 entries for 1 MLP"),
        ([], ValueError, "0 entries for 1 MLP"),
    ],
)
def test_hostile_output_sites(stack, output_site, error, message):
    ccx, sites = stack
    with pytest.raises(error, match=message):
        certify(ccx, sites, output_site=output_site)


@pytest.mark.parametrize("output_site", [True, "1", [1], 1.0, -1, 2])
def test_hostile_output_sites_of_a_stack(stack, output_site):
    with pytest.raises((TypeError, ValueError), match="output_site"):
        certify_stack(*stack, output_site=output_site)


def test_hostile_residual(stack):
    with pytest.raises(TypeError, match="residual must be True or False"):
        certify(*stack, output_site=1, residual="no")


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"layer": True}, TypeError, "layer must be an integer"),
        ({"layer": "0"}, TypeError, "layer must be an integer"),
        ({"layer": -1}, ValueError, "layer must be at least 0"),
        ({"layer": 1}, ValueError, "layer=1, but clf is a torch.nn.Sequential"),
        ({"site": 0.0}, TypeError, "site must be an integer"),
        ({"site": -1}, ValueError, "site must be at least 0"),
        ({"y": 3}, ValueError, "y must hold one label for each sample"),
        ({"y": np.zeros((90, 3))}, ValueError, "y must hold one label for each sample"),
        ({"y": [0] * 5}, ValueError, "X and y have inconsistent numbers"),
        ({"y": ["a"] * 90}, ValueError, "y has labels of dtype"),
        ({"y": [[0], [1, 2]]}, ValueError, "y cannot be made an array"),
    ],
)
def test_hostile_values_of_a_classifier(sae, X, network, kwargs, error, message):
    with pytest.raises(error, match=message):
        certify_classifier(sae, network, X, **kwargs)


def test_networks_inside_others(sae, X):
    clf = MLPClassifier((8,), max_iter=500, random_state=0, tol=1e-2)
    pipeline = make_pipeline(StandardScaler(), clf).fit(X, X[:, 0] > 0)
    for network in (pipeline, FrozenEstimator(pipeline[-1]), MLPClassifier, None):
        with pytest.raises(TypeError, match=r"clf must be an MLPClassifier.*inside"):
            certify_classifier(sae, network, X)
        with pytest.raises(TypeError, match=r"regressor must be an MLPReg.*inside"):
            certify_regressor(sae, network, X)


def test_column_of_labels(sae, X, network):
    y = np.zeros(90)
    one, other = (certify_classifier(sae, network, X, z) for z in (y, y[:, None]))
    assert one.explained_accuracy == other.explained_accuracy


def test_clusterer_at_the_end_of_a_pipeline(sae, X):
    clusterer = FeatureClusterer(sae, affinity="weights").fit(X)
    one, other = (
        certify(sae, X, level="group", groups=groups)
        for groups in (clusterer, make_pipeline(clusterer))
    )
    np.testing.assert_array_equal(one.groups, other.groups)


def test_labels_of_strings(sae, X):
    labels = np.arange(len(X)) % 4
    one = certify(sae, X, level="group", groups=labels)
    other = certify(
        sae, X, level="group", groups=np.array(["b", "c", "e", "z"])[labels]
    )
    np.testing.assert_array_equal(one.groups, other.groups)
    np.testing.assert_array_equal(one.error_bound, other.error_bound)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("scale", [1e-150, 1e150])
@pytest.mark.parametrize("activation", sorted(NONLINEARITIES))
@pytest.mark.parametrize("level", ["sample", "group", "domain"])
def test_large_and_small_activations(scale, activation, level, gated):
    """Scaled data have scaled bounds, where the nonlinearity is homogeneous."""
    rng = np.random.default_rng(0)
    components = rng.normal(size=(8, 12))
    mlp = make_mlp(6, 7, activation, d_out=6)
    X = rng.normal(size=(40, 2, 6))
    W_gate = rng.normal(size=(6, 7)) if gated else None
    # A gated neuron squares its input, and a bound on a stack once more.
    scale = scale ** (1 / 4) if gated else scale
    mlp = MLPWeights(mlp.W_in, mlp.W_out, W_gate=W_gate, activation=activation)
    results = {}
    for size in (1.0, scale):
        coder = fitted(components, np.zeros(12), components, np.zeros(8), n_sites=2)
        results[size] = certify(coder, X * size, mlp=mlp, level=level, output_site=1)
        certify_stack(coder, X * size, mlp=mlp)
    for name in ("error_bound", "error", "transition_bound", "transition_error",
                 "reconstruction_error", "interaction_error"):  # fmt: skip
        value = getattr(results[scale], name)
        assert np.isfinite(value).all()
        assert (value >= 0).all()
        # A transition subtracts the reconstruction, which scales once.
        if activation in ("relu", "identity") and not (gated and "trans" in name):
            unit, expected = scale ** (1 + gated), getattr(results[1.0], name)
            np.testing.assert_allclose(value / unit, expected, rtol=1e-9, atol=1e-12)
    assert (results[scale].error <= results[scale].error_bound).all()
    assert np.isfinite(results[scale].tightness).all()


@pytest.mark.parametrize("bound", ["interval", "lipschitz"])
def test_numbers_beyond_float64_are_an_error(bound):
    coder = fitted(np.eye(3), np.zeros(3), np.eye(3), np.zeros(3))
    X = np.full((4, 3), 1e200)
    mlp = MLPWeights(np.full((3, 2), 1e100), np.full((2, 2), 1e100))
    with pytest.raises(ValueError, match="is not finite: X or the weights"):
        certify(coder, X, mlp=mlp, bound=bound)
    network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    for parameter in network.parameters():
        nn.init.constant_(parameter, 1e100)
    for function in (certify_classifier, certify_regressor):
        with pytest.raises(ValueError, match="is not finite: X or the weights"):
            function(coder, network, X, bound=bound)


def test_tightness_of_a_bound_of_zero():
    values = dict.fromkeys(ErrorCertificate.__dataclass_fields__)
    values |= {"error": np.array([[0.0, 1.0]]), "error_bound": np.array([[0.0, 2.0]])}
    np.testing.assert_array_equal(ErrorCertificate(**values).tightness, [[1.0, 0.5]])


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-160, 1.0, 1e160, 1e307])
def test_row_norms(scale):
    rows = np.array([[3.0, -4.0], [0.0, 0.0], [0.0, 1.0]]) * scale
    np.testing.assert_allclose(row_norms(rows), np.array([5, 0, 1]) * scale, rtol=1e-3)


def test_row_norms_of_what_is_not_finite():
    norms = row_norms(np.array([[np.inf, 1.0], [np.nan, 1.0], [3.0, 4.0]]))
    assert norms[0] == np.inf
    assert np.isnan(norms[1])
    assert norms[2] == 5.0
