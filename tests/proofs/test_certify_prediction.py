"""Certified predictions: soundness, order, and what they are compared with."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import nn

from sklearn_ccx import (
    InteractionCrosscoder,
    InteractionSAE,
    MLPWeights,
    certify,
    certify_classifier,
    certify_regressor,
)
from tests.proofs.cases import Case, cases

LEVELS = ("sample", "group", "domain")
MODULES = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "logistic": nn.Sigmoid,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
}


def torch_network(case: Case):
    modules = []
    for W, b in zip(case.weights, case.biases, strict=True):
        linear = nn.Linear(*W.shape, dtype=torch.float64)
        linear.weight.data = torch.from_numpy(W.T.copy())
        linear.bias.data = torch.from_numpy(b)
        modules += [linear, MODULES[case.activation]()]
    return nn.Sequential(*modules[:-1])


def margins(logits, index):
    """Least margin of a class over the others; of one logit, its distance from 0."""
    if logits.shape[1] == 1:
        return np.where(index == 1, logits[:, 0], -logits[:, 0])
    rows = np.arange(len(logits))
    others = logits.copy()
    others[rows, index] = -np.inf
    return logits[rows, index] - others.max(axis=1)


def check_case(case):
    kept, true = case.output(case.kept_input()), case.output(case.input())
    network = torch_network(case)
    arguments = {"X": case.X, "n_dominant": case.n_dominant}
    by_bound = {}
    for bound in ("interval", "lipschitz"):
        by_bound[bound] = []
        for level in LEVELS:
            options = {"level": level, "bound": bound} | arguments
            if level == "group":
                options["groups"] = case.groups
            classes = certify_classifier(case.estimator, network, **options)
            values = certify_regressor(case.estimator, network, **options)
            by_bound[bound].append((classes, values))

            explained = classes.explained_prediction
            assert (margins(true, explained) >= classes.margin_bound).all()
            if kept.shape[1] > 1:
                certified = classes.certified
                predicted = true.argmax(axis=1)
                assert (explained[certified] == predicted[certified]).all()
                assert (kept.argmax(axis=1)[certified] == explained[certified]).all()

            error = np.linalg.norm(true - kept, axis=1)
            assert (error <= values.error_bound).all()
            assert (values.lower <= true).all()
            assert (true <= values.upper).all()
        for looser, tighter in zip(by_bound[bound][1:], by_bound[bound], strict=False):
            assert (looser[0].margin_bound <= tighter[0].margin_bound).all()
            assert (looser[1].error_bound >= tighter[1].error_bound).all()
    for interval, lipschitz in zip(*by_bound.values(), strict=True):
        assert (lipschitz[0].margin_bound <= interval[0].margin_bound).all()
        assert (interval[1].error_bound <= lipschitz[1].error_bound).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(cases(max_layers=4))
def test_no_certified_sample_is_misclassified(case):
    check_case(case)


@pytest.mark.slow
@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(cases(max_layers=4))
def test_no_certified_sample_is_misclassified_in_10_000(case):
    check_case(case)


def network(network_class, hidden, X, y, activation="relu"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return network_class(
            hidden_layer_sizes=hidden,
            activation=activation,
            solver="lbfgs",
            alpha=0.1,
            max_iter=30,
            random_state=0,
        ).fit(X, y)


@pytest.fixture(scope="module")
def explained():
    """Points, their classes, and how to explain a network of them."""
    X, y = make_blobs(200, 6, centers=4, cluster_std=2.5, random_state=0)
    X = X.astype(np.float32)

    def explain(network):
        mlp = MLPWeights.from_sklearn(network)
        sae = InteractionSAE(
            32, k=1, lam=0, activation="topk", mlp=mlp, max_iter=40, random_state=0
        )
        return sae.fit(X)

    return X, y, explain


@pytest.fixture(scope="module")
def classifier(explained):
    X, y, _ = explained
    return network(MLPClassifier, (16,), X, y)


@pytest.fixture(scope="module")
def sae(explained, classifier):
    return explained[2](classifier)


@pytest.mark.parametrize("hidden", [(12,), (12, 8), (10, 8, 6)])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
def test_classifier(explained, hidden, activation):
    X, y, explain = explained
    clf = network(MLPClassifier, hidden, X, y, activation)
    sae = explain(clf)
    certificate = certify_classifier(sae, clf, X, y)
    predicted = clf.predict(X)
    np.testing.assert_array_equal(certificate.prediction, predicted)
    certified = certificate.certified
    np.testing.assert_array_equal(
        certificate.explained_prediction[certified], predicted[certified]
    )
    assert certificate.certified_agreement <= certificate.agreement
    assert certificate.certified_accuracy <= certificate.explained_accuracy
    if len(hidden) == 1:
        assert 0.05 < certificate.certified_agreement < 1


def test_explained_layer_and_site(explained):
    """The second hidden layer, read at the second of two sites."""
    X, y, _ = explained
    clf = network(MLPClassifier, (12, 8), X, y)
    hidden = np.maximum(X @ clf.coefs_[0] + clf.intercepts_[0], 0)
    acts = np.stack([hidden[:, ::-1], hidden], axis=1)
    mlp = MLPWeights.from_sklearn(clf, layer=1, site=1)
    ccx = InteractionCrosscoder(32, k=4, mlp=mlp, max_iter=40, random_state=0).fit(acts)
    certificate = certify_classifier(ccx, clf, acts, y, layer=1, site=1)
    np.testing.assert_array_equal(certificate.prediction, clf.predict(X))
    assert certificate.certified.any()
    wrong = certify_classifier(ccx, clf, acts, y, layer=1, site=0)
    assert (wrong.prediction != certificate.prediction).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_classifier(explained, dtype):
    X, _, explain = explained
    X, y = X.astype(dtype), np.where(X[:, 0] < np.median(X[:, 0]), "low", "high")
    clf = network(MLPClassifier, (12,), X, y)
    sae = explain(clf)
    certificate = certify_classifier(sae, clf, X, y)
    predicted = clf.predict(X)
    np.testing.assert_array_equal(certificate.prediction, predicted)
    certified = certificate.certified
    assert 0 < certified.mean() < 1
    explained_prediction = certificate.explained_prediction
    assert set(explained_prediction[certified]) == {"low", "high"}
    np.testing.assert_array_equal(explained_prediction[certified], predicted[certified])
    hidden = np.maximum(X @ clf.coefs_[0] + clf.intercepts_[0], 0)
    logit = (hidden @ clf.coefs_[1] + clf.intercepts_[1])[:, 0]
    margin = np.where(explained_prediction == "low", logit, -logit)
    assert (margin >= certificate.margin_bound).all()


def test_margin_direction_beats_separate_logits(sae, classifier, explained):
    """Intervals of two logits, each at its worst, prove less than their difference."""
    X = explained[0].astype(float)
    certificate = certify_classifier(sae, classifier, X)
    logits = certify_regressor(sae, torch_of(classifier), X)
    rows, index = np.arange(len(X)), logits.explained_prediction.argmax(axis=1)
    others = logits.upper.copy()
    others[rows, index] = -np.inf
    naive = logits.lower[rows, index] - others.max(axis=1)
    assert (naive <= certificate.margin_bound + 1e-6).all()
    assert (naive > 0).mean() < certificate.certified_agreement


def torch_of(network):
    modules = []
    for W, b in zip(network.coefs_, network.intercepts_, strict=True):
        linear = nn.Linear(*W.shape, dtype=torch.float64)
        linear.weight.data = torch.from_numpy(W.T.astype(float))
        linear.bias.data = torch.from_numpy(b.astype(float))
        modules += [linear, nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*modules[:-2])


def test_torch_network_is_the_same(sae, classifier, explained):
    X, y, _ = explained
    from_sklearn = certify_classifier(sae, classifier, X, y)
    from_torch = certify_classifier(sae, torch_of(classifier), X, y)
    np.testing.assert_allclose(
        from_torch.margin_bound, from_sklearn.margin_bound, atol=1e-2
    )
    np.testing.assert_array_equal(from_torch.prediction, from_sklearn.prediction)


def test_linear_layers_in_a_row(sae, classifier, explained):
    """Without a nonlinearity between them they are one."""
    modules = torch_of(classifier)
    identity = nn.Linear(4, 4, dtype=torch.float64)
    nn.init.eye_(identity.weight)
    nn.init.zeros_(identity.bias)
    modules.append(identity)
    certificate = certify_classifier(sae, modules, explained[0])
    expected = certify_classifier(sae, torch_of(classifier), explained[0])
    assert (certificate.margin_bound <= expected.margin_bound + 1e-9).all()
    np.testing.assert_array_equal(certificate.prediction, expected.prediction)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_regressor(explained, n_outputs):
    X, y, explain = explained
    target = np.column_stack([y, X[:, :3].sum(axis=1)])[:, :n_outputs]
    target = target if n_outputs == 2 else target[:, 0]
    regressor = network(MLPRegressor, (12, 8), X, target)
    sae = explain(regressor)
    certificate = certify_regressor(sae, regressor, X)
    predicted = regressor.predict(X).reshape(len(X), n_outputs)
    np.testing.assert_allclose(certificate.prediction, predicted, rtol=1e-3, atol=1e-3)
    assert (certificate.lower <= predicted).all()
    assert (predicted <= certificate.upper).all()
    assert (certificate.tightness <= 1).all()
    assert certificate.tightness.mean() > 0.02


def test_last_hidden_layer_agrees_with_certify(sae, classifier, explained):
    """With one hidden layer the outputs are those of the MLP that `certify` takes."""
    X = explained[0].astype(float)
    one = certify(sae, X)
    other = certify_regressor(sae, torch_of(classifier), X)
    np.testing.assert_allclose(one.error[:, 0], other.error, rtol=1e-6)
    assert (one.error_bound[:, 0] <= other.error_bound * (1 + 1e-6)).all()


def test_proof_lengths(sae, classifier, explained):
    X = explained[0]
    lengths = {}
    for level in LEVELS:
        certificate = certify_classifier(sae, classifier, X, level=level)
        lengths[level] = certificate.proof_flops
        assert (certificate.membership_flops > 0) == (level != "sample")
    assert lengths["domain"] < certificate.brute_force_flops < lengths["sample"]


def test_accuracy_needs_y(sae, classifier, explained):
    certificate = certify_classifier(sae, classifier, explained[0])
    with pytest.raises(ValueError, match="need y"):
        certificate.certified_accuracy  # noqa: B018


def test_multilabel(sae, explained):
    X, y, _ = explained
    clf = network(MLPClassifier, (4,), X, np.column_stack([y > 1, y > 2]))
    with pytest.raises(ValueError, match="multilabel"):
        certify_classifier(sae, clf, X)


def test_output_activation(sae, explained):
    X, y, _ = explained
    regressor = network(MLPRegressor, (4,), X, y.astype(float))
    regressor.out_activation_ = "exp"  # as with a Poisson loss
    with pytest.raises(ValueError, match="output activation 'exp'"):
        certify_regressor(sae, regressor, X)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([nn.Linear(6, 10)], "has 1 linear layers"),
        ([nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax()], "2 nonlin"),
    ],
)
def test_unsuitable_torch_networks(sae, explained, modules, message):
    with pytest.raises(ValueError, match=message):
        certify_classifier(sae, nn.Sequential(*modules), explained[0])


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([nn.LayerNorm(6), nn.Linear(6, 8)], "LayerNorm where"),
        ([nn.Linear(6, 8), nn.Softmax(dim=-1), nn.Linear(8, 2)], "Softmax"),
    ],
)
def test_unknown_torch_modules(sae, explained, modules, message):
    with pytest.raises(TypeError, match=message):
        certify_classifier(sae, nn.Sequential(*modules), explained[0])


def test_errors(sae, classifier, explained):
    X, y, _ = explained
    with pytest.raises(TypeError, match="clf must be an MLPClassifier"):
        certify_classifier(sae, "network", X)
    with pytest.raises(TypeError, match="regressor must be an MLPRegressor"):
        certify_regressor(sae, classifier, X)
    with pytest.raises(NotFittedError):
        certify_classifier(sae, MLPClassifier(), X)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        certify_classifier(sae, classifier, X, y[:5])
    with pytest.raises(ValueError, match=r"layer must be in 0..0"):
        certify_classifier(sae, classifier, X, layer=1)
    with pytest.raises(ValueError, match="reads site=1"):
        certify_classifier(sae, classifier, X, site=1)
    with pytest.raises(ValueError, match="level must be one of"):
        certify_classifier(sae, classifier, X, level="all")
