"""What the proofs read and hold: X is encoded once, and little is held beside it."""

import tracemalloc

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier, MLPRegressor

from sklearn_ccx import (
    FeatureClusterer,
    InteractionCrosscoder,
    MLPWeights,
    certify,
    certify_classifier,
    certify_regressor,
    certify_stack,
)
from sklearn_ccx.coders import BaseInteractionCoder
from tests.conftest import make_mlp
from tests.proofs.cases import fitted

LEVELS = ("sample", "group", "domain")


@pytest.fixture
def blocks():
    return [make_mlp(6, 9, "gelu", seed=site, site=site, d_out=6) for site in (0, 1)]


@pytest.fixture
def ccx(acts, blocks):
    return InteractionCrosscoder(24, k=3, mlp=blocks, max_iter=5, random_state=0).fit(
        acts
    )


@pytest.fixture
def encoded_rows(monkeypatch):
    """A list with the number of rows of each batch that is encoded."""
    rows = []
    encode = BaseInteractionCoder._encode_batches

    def counted(self, X, *args, **kwargs):
        for batch, codes in encode(self, X, *args, **kwargs):
            rows.append(len(codes))
            yield batch, codes

    monkeypatch.setattr(BaseInteractionCoder, "_encode_batches", counted)
    return rows


def group_options(level, kind, acts, ccx):
    if level != "group" or kind == "pattern":
        return {"level": level}
    if kind == "labels":
        return {"level": level, "groups": np.arange(len(acts)) % 7}
    clusterer = FeatureClusterer(ccx, affinity="weights").fit(acts)
    return {"level": level, "groups": clusterer}


@pytest.mark.parametrize("batch_size", [None, 50])
@pytest.mark.parametrize("output_site", [None, [1, 2]])
@pytest.mark.parametrize(
    ("level", "kind"),
    [(level, "pattern") for level in LEVELS]
    + [("group", "labels"), ("group", "clusterer")],
)
def test_certify(ccx, acts, encoded_rows, level, kind, output_site, batch_size):
    options = group_options(level, kind, acts, ccx)
    encoded_rows.clear()
    certify(ccx, acts, output_site=output_site, batch_size=batch_size, **options)
    assert sum(encoded_rows) == len(acts)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("function", "network_class"),
    [(certify_classifier, MLPClassifier), (certify_regressor, MLPRegressor)],
)
def test_predictions(acts, encoded_rows, function, network_class, level):
    X = acts[:, 0]
    network = network_class(
        hidden_layer_sizes=(9,), max_iter=2000, random_state=0, tol=1e-2
    )
    network.fit(X, (X[:, 0] > X[:, 0].mean()).astype(int))
    mlp = MLPWeights.from_sklearn(network)
    sae = InteractionCrosscoder(24, k=3, mlp=mlp, max_iter=5, random_state=0).fit(X)
    encoded_rows.clear()
    function(sae, network, X, level=level)
    assert sum(encoded_rows) == len(acts)


def test_stack(ccx, acts, encoded_rows):
    encoded_rows.clear()
    certify_stack(ccx, acts)
    assert sum(encoded_rows) == len(acts)


def large_case(dtype, gated=False):
    """A coder with random weights, and as many groups as samples."""
    rng = np.random.default_rng(0)
    components = rng.normal(size=(256, 64)).astype(dtype)
    coder = fitted(
        components, np.zeros(64, dtype), components, np.zeros(256, dtype), k=8
    )
    X = rng.normal(size=(20_000, 64)).astype(dtype)
    W_gate = rng.normal(size=(64, 64)).astype(dtype) if gated else None
    mlp = MLPWeights(
        rng.normal(size=(64, 64)).astype(dtype),
        rng.normal(size=(64, 8)).astype(dtype),
        W_gate=W_gate,
    )
    return coder, X, mlp


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_groups_of_one_sample_take_little_memory(dtype, gated):
    """Peak of what numpy and Python allocate, what is returned included."""
    coder, X, mlp = large_case(dtype, gated)
    certify(coder, X[:100], mlp=mlp, level="group")  # what is allocated but once
    tracemalloc.start()
    try:
        certificate = certify(coder, X, mlp=mlp, level="group")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert certificate.groups.max() > 0.99 * len(X)
    assert peak < 3 * X.nbytes


def test_predictions_of_groups_of_one_sample_take_little_memory():
    coder, X, mlp = large_case(np.float64)
    network = MLPClassifier((64,), random_state=0, max_iter=1)
    with pytest.warns(match="Maximum iterations"):
        network.fit(X[:100], np.arange(100) % 8)
    network.coefs_ = [mlp.W_in, mlp.W_out]
    certify_classifier(coder, network, X[:100], level="group")
    tracemalloc.start()
    try:
        certify_classifier(coder, network, X, level="group")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * X.nbytes


@pytest.mark.parametrize("n_dominant", [1, 5])
@pytest.mark.parametrize("level", ["sample", "domain"])
def test_memory_of_gated_mlps_does_not_grow_with_the_data(level, n_dominant):
    """Beside the codes and what is returned, both of one size with each sample."""
    peaks = {}
    for n_samples in (2000, 8000):
        coder, X, mlp = large_case(np.float64, gated=True)
        options = {"mlp": mlp, "level": level, "n_dominant": n_dominant}
        certify(coder, X[:100], batch_size=64, **options)
        tracemalloc.start()
        try:
            certify(coder, X[:n_samples], batch_size=64, **options)
            _, peaks[n_samples] = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peaks[8000] - peaks[2000] < 6000 * 8 * 64


def test_all_features_are_dominant(ccx, acts, mlps):
    """More than there are features is all of them, and takes no memory."""
    everything = certify(ccx, acts, mlp=mlps, n_dominant=24)
    for n_dominant in (10**7, 10**30):
        for level in LEVELS:
            certificate = certify(
                ccx, acts, mlp=mlps, level=level, n_dominant=n_dominant
            )
            assert not certificate.interaction_bound.any()
            np.testing.assert_allclose(certificate.error, everything.error)


def test_float16_is_read_as_float32(ccx, acts):
    half = acts.astype(np.float16)
    one, other = (certify(ccx, X) for X in (half, half.astype(np.float32)))
    np.testing.assert_array_equal(one.error_bound, other.error_bound)
