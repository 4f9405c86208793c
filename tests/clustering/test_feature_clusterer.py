"""FeatureClusterer: its graph, its clusters and its contract with scikit-learn."""

import pickle
import tracemalloc

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.base import BaseEstimator, ClusterMixin, clone
from sklearn.cluster import (
    DBSCAN,
    AgglomerativeClustering,
    KMeans,
    SpectralClustering,
)
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_ccx import (
    FeatureClusterer,
    InteractionCrosscoder,
    InteractionSAE,
    interaction_matrix,
)
from sklearn_ccx._engine.neurons._nonlinearity import NONLINEARITIES
from sklearn_ccx.clustering._feature_graph import nearest_neighbors
from sklearn_ccx.datasets import make_interacting_features

METHODS = [
    "louvain",
    "greedy_modularity",
    "label_propagation",
    "affinity_propagation",
    "affinity_propagation_rows",
    SpectralClustering(4, affinity="precomputed"),
    AgglomerativeClustering(4, metric="precomputed", linkage="average"),
]


@pytest.fixture(scope="module")
def data():
    return make_interacting_features(
        1000, 32, n_neurons=80, n_groups=4, n_topics=4, n_active=6, random_state=0
    )


@pytest.fixture
def frozen(data):
    return FrozenEstimator(data.sae)


def small_sae(**kwargs):
    return InteractionSAE(
        **{"n_components": 16, "k": 3, "max_iter": 3, "random_state": 0} | kwargs
    )


def two_blocks(size=5, bridge=0.0):
    affinity = np.kron(np.eye(2), np.ones((size, size)))
    affinity[0, -1] = affinity[-1, 0] = bridge
    return affinity


# What is found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("params", "truth"),
    [
        ({}, "neuron_groups"),
        ({"normalize": "code_product"}, "neuron_groups"),
        ({"affinity": "weights"}, "neuron_groups"),
        ({"normalize": None}, "topic_groups"),
        ({"affinity": "coactivation"}, "topic_groups"),
    ],
    ids=str,
)
def test_neuron_groups_are_found_where_raw_interaction_finds_topics(
    seed, params, truth
):
    data = make_interacting_features(random_state=seed)
    clusterer = FeatureClusterer(FrozenEstimator(data.sae), random_state=0, **params)
    labels = clusterer.fit_predict(data.activations)
    for name in ("neuron_groups", "topic_groups"):
        agreement = adjusted_rand_score(data[name], labels)
        assert agreement > 0.95 if name == truth else agreement < 0.2, name


def test_learned_features_of_a_neuron_group_are_found():
    data = make_interacting_features(
        2000, 32, n_groups=4, n_topics=4, n_active=4, random_state=0
    )
    sae = InteractionSAE(32, k=4, lam=0, mlp=data.mlp, max_iter=60, random_state=0)
    clusterer = FeatureClusterer(sae, random_state=0).fit(data.activations)
    cosines = clusterer.estimator_.components_ @ data.components.T
    true_feature = np.abs(cosines).argmax(axis=1)
    agreement = adjusted_rand_score(data.neuron_groups[true_feature], clusterer.labels_)
    assert agreement > 0.9


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_finds_the_neuron_groups(data, frozen, method):
    clusterer = FeatureClusterer(frozen, method=method, random_state=0)
    labels = clusterer.fit_predict(data.activations)
    assert adjusted_rand_score(data.neuron_groups, labels) > 0.8
    repeated = clone(clusterer).fit_predict(data.activations)
    assert_array_equal(labels, repeated)


def test_resolution_makes_more_clusters(data, frozen):
    few, many = (
        FeatureClusterer(frozen, resolution=r, random_state=0).fit(data.activations)
        for r in (0.5, 4.0)
    )
    assert few.n_clusters_ < many.n_clusters_
    assert few.modularity_ > many.modularity_


def test_labels_are_in_order_of_size():
    affinity = np.zeros((10, 10))
    for block in ([0, 1], [2, 3, 4, 5], [6, 7, 8]):
        affinity[np.ix_(block, block)] = 1
    clusterer = FeatureClusterer(affinity="precomputed", random_state=0).fit(affinity)
    assert_array_equal(clusterer.labels_, [2, 2, 0, 0, 0, 0, 1, 1, 1, -1])
    assert clusterer.n_clusters_ == 3


# The affinities


def naive_nearest_neighbors(affinity, n_neighbors):
    affinity = np.maximum(affinity, affinity.T)
    np.fill_diagonal(affinity, 0)
    near = np.zeros_like(affinity)
    for i, row in enumerate(affinity):
        for j in np.argsort(-row, kind="stable")[:n_neighbors]:
            near[i, j] = near[j, i] = affinity[i, j]
    return near


@pytest.mark.parametrize("n_neighbors", [1, 3, 50, None])
def test_nearest_neighbors_of_a_sparse_matrix(n_neighbors):
    rng = np.random.default_rng(0)
    affinity = rng.random((20, 20)) * (rng.random((20, 20)) < 0.4)
    affinity += affinity.T
    near = nearest_neighbors(sparse.csr_array(affinity), n_neighbors)
    expected = naive_nearest_neighbors(affinity, n_neighbors)
    assert_array_equal(near.toarray(), expected)
    assert (near.data > 0).all()


@pytest.mark.parametrize("n_neighbors", [3, None])
def test_interaction_affinities(data, frozen, n_neighbors):
    codes = data.codes
    raw = interaction_matrix(data.sae, data.activations).toarray()
    raw = (raw + raw.T) / 2
    coactive = (codes > 0).T.astype(float) @ (codes > 0) / len(codes)
    product = codes.T @ codes / len(codes)
    for normalize, divisor in [
        (None, 1.0),
        ("coactivation", coactive),
        ("code_product", product),
    ]:
        clusterer = FeatureClusterer(
            frozen, normalize=normalize, n_neighbors=n_neighbors
        ).fit(data.activations)
        expected = np.divide(raw, divisor, out=np.zeros_like(raw), where=raw > 0)
        expected = naive_nearest_neighbors(expected, n_neighbors)
        assert_allclose(clusterer.affinity_matrix_.toarray(), expected, rtol=1e-9)


@pytest.mark.parametrize("n_neighbors", [3, None])
def test_weights_affinity_at_the_sites_that_mlps_read(acts, mlps, n_neighbors):
    ccx = InteractionCrosscoder(12, k=4, mlp=mlps, max_iter=20, random_state=0)
    clusterer = FeatureClusterer(
        ccx, affinity="weights", n_neighbors=n_neighbors, random_state=0
    ).fit(acts)
    components = clusterer.estimator_.components_.reshape(12, 3, 6)
    writes = [
        NONLINEARITIES[mlp.activation].lipschitz
        * np.abs(components[:, mlp.site] @ mlp.W_in)
        * np.linalg.norm(mlp.W_out, axis=1)
        for mlp in mlps
    ]
    expected = cosine_similarity(np.hstack(writes))
    alive = clusterer.labels_ >= 0
    expected[~alive] = expected[:, ~alive] = 0
    expected = naive_nearest_neighbors(expected, n_neighbors)
    assert_allclose(clusterer.affinity_matrix_.toarray(), expected, atol=1e-12)


def test_weights_affinity_of_identity_neurons(acts):
    ccx = InteractionCrosscoder(12, k=4, max_iter=20, random_state=0).fit(acts)
    clusterer = FeatureClusterer(
        FrozenEstimator(ccx), affinity="weights", n_neighbors=None
    ).fit(acts)
    expected = cosine_similarity(np.abs(ccx.components_))
    edges = clusterer.affinity_matrix_.toarray()
    assert_allclose(edges[edges > 0], expected[edges > 0], atol=1e-12)
    assert (edges > 0).any()


def test_feature_that_writes_nothing_has_no_weights(data):
    sae = clone(data.sae)
    sae.__dict__.update(vars(data.sae))
    sae.components_ = data.components.copy()
    sae.components_[5] = 0
    clusterer = FeatureClusterer(FrozenEstimator(sae), affinity="weights")
    clusterer.fit(data.activations)
    assert np.isfinite(clusterer.affinity_matrix_.data).all()
    assert clusterer.graph_.degree[5] == 0
    assert np.sum(clusterer.labels_ == clusterer.labels_[5]) == 1


@pytest.mark.parametrize("as_input", [np.asarray, sparse.csr_array, sparse.coo_array])
def test_coactivation_affinity_of_codes(data, as_input):
    clusterer = FeatureClusterer(n_neighbors=None).fit(as_input(data.codes))
    expected = cosine_similarity((data.codes > 0).T.astype(float))
    np.fill_diagonal(expected, 0)
    assert clusterer.affinity_ == "coactivation"
    assert_allclose(clusterer.affinity_matrix_.toarray(), expected, atol=1e-12)


def test_precomputed_interaction_matrix_gives_the_same_clusters(data, frozen):
    from_data = FeatureClusterer(frozen, random_state=0).fit(data.activations)
    A = interaction_matrix(data.sae, data.activations, normalize="coactivation")
    for matrix in (A, A.toarray(), sparse.csc_array(A)):
        precomputed = FeatureClusterer(affinity="precomputed", random_state=0)
        precomputed.fit(matrix)
        assert_array_equal(precomputed.labels_, from_data.labels_)
        assert_allclose(precomputed.modularity_, from_data.modularity_)


def test_auto_affinity(data, frozen):
    clusterer = FeatureClusterer(frozen).fit(data.activations)
    assert clusterer.affinity_ == "interaction"
    assert FeatureClusterer().fit(data.codes).affinity_ == "coactivation"


# The attributes


def test_graph_has_the_edges_and_what_is_known_of_the_features(acts, mlps):
    ccx = InteractionCrosscoder(16, k=4, mlp=mlps, max_iter=20, random_state=0)
    clusterer = FeatureClusterer(ccx, random_state=0).fit(acts)
    graph = clusterer.graph_
    affinity = nx.to_numpy_array(graph, nodelist=range(16))
    assert_array_equal(affinity, clusterer.affinity_matrix_.toarray())
    assert_array_equal(affinity, affinity.T)
    assert np.diag(affinity).max() == 0
    codes = clusterer.estimator_.transform(acts)
    for feature, node in graph.nodes(data=True):
        assert node["cluster"] == clusterer.labels_[feature]
        assert node["activation_frequency"] == (codes[:, feature] > 0).mean()
        assert node["alive"] == (codes[:, feature] > 0).any()
        norms = [node[f"decoder_norm_{site}"] for site in range(3)]
        assert_allclose(norms, clusterer.estimator_.decoder_norms_[feature])
    list(nx.generate_graphml(graph))  # attributes are scalars that can be written


def test_modularity_is_networkx_of_the_clusters(data, frozen):
    clusterer = FeatureClusterer(frozen, random_state=0).fit(data.activations)
    communities = [
        set(np.flatnonzero(clusterer.labels_ == label))
        for label in range(clusterer.n_clusters_)
    ]
    expected = nx.community.modularity(clusterer.graph_, communities)
    assert clusterer.modularity_ == pytest.approx(expected)


def test_fitted_attributes_are_those_of_the_last_fit(data, frozen):
    clusterer = FeatureClusterer(frozen).fit(data.activations)
    clusterer.set_params(estimator=None).fit(data.codes)
    assert not hasattr(clusterer, "estimator_")
    assert clusterer.affinity_ == "coactivation"


def test_a_failed_fit_leaves_the_clusterer_as_it_was(data):
    clusterer = FeatureClusterer().fit(data.codes)
    before = dict(vars(clusterer))
    with pytest.raises(ValueError, match="NaN"):
        clusterer.fit(np.full((4, 3), np.nan))
    assert vars(clusterer) == before


def test_survives_a_pickle(data, frozen):
    clusterer = FeatureClusterer(frozen, random_state=0).fit(data.activations)
    copy = pickle.loads(pickle.dumps(clusterer))
    assert_array_equal(copy.labels_, clusterer.labels_)
    assert_array_equal(
        copy.transform(data.activations), clusterer.transform(data.activations)
    )


# Dead features, and graphs with nothing in them


def test_dead_features_form_no_cluster(data):
    codes = np.hstack([np.zeros((len(data.codes), 2)), data.codes])
    clusterer = FeatureClusterer(random_state=0).fit(codes)
    assert_array_equal(clusterer.labels_[:2], -1)
    assert clusterer.labels_[2:].min() == 0
    assert not clusterer.graph_.nodes[0]["alive"]
    assert clusterer.graph_.nodes[2]["alive"]
    assert clusterer.transform(codes).shape[1] == clusterer.n_clusters_
    assert_array_equal(
        clusterer.inverse_transform(clusterer.transform(codes))[:, :2], 0
    )


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("affinity", ["auto", "precomputed"])
def test_all_dead(method, affinity):
    X = np.zeros((6, 6))
    clusterer = FeatureClusterer(method=method, affinity=affinity).fit(X)
    assert_array_equal(clusterer.labels_, -1)
    assert clusterer.n_clusters_ == 0
    assert clusterer.modularity_ == 0.0
    assert clusterer.score(X) == 0.0
    for pooling in ("mean", "sum", "max"):
        clusterer.set_params(pooling=pooling)
        assert clusterer.transform(X).shape == (6, 0)
    assert_array_equal(clusterer.inverse_transform(np.zeros((6, 0))), X)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_features_that_are_never_active_together_are_clusters_of_their_own(method):
    clusterer = FeatureClusterer(method=method).fit(np.eye(6))
    assert_array_equal(clusterer.labels_, np.arange(6))
    assert clusterer.graph_.number_of_edges() == 0
    assert clusterer.modularity_ == 0.0


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_one_feature(method):
    clusterer = FeatureClusterer(method=method).fit(np.ones((5, 1)))
    assert_array_equal(clusterer.labels_, [0])
    assert clusterer.n_clusters_ == 1
    assert_array_equal(clusterer.transform(np.full((2, 1), 3.0)), [[3.0], [3.0]])


@pytest.mark.parametrize("affinity", ["interaction", "weights"])
def test_one_feature_of_an_estimator(affinity):
    data = make_interacting_features(20, 1, n_neurons=3, random_state=0)
    clusterer = FeatureClusterer(FrozenEstimator(data.sae), affinity=affinity)
    assert_array_equal(clusterer.fit_predict(data.activations), [0])


@pytest.mark.parametrize("method", METHODS[:4], ids=str)
def test_disconnected_components_are_not_joined(method):
    clusterer = FeatureClusterer(
        affinity="precomputed", method=method, random_state=0
    ).fit(two_blocks())
    assert_array_equal(clusterer.labels_, np.repeat([0, 1], 5))
    assert clusterer.modularity_ == pytest.approx(0.5)


def test_features_without_affinity_have_no_cluster():
    affinity = np.zeros((11, 11))
    affinity[:10, :10] = two_blocks(bridge=0.1)
    clusterer = FeatureClusterer(affinity="precomputed").fit(affinity)
    assert clusterer.labels_[10] == -1
    assert "activation_frequency" not in clusterer.graph_.nodes[0]


def test_noise_of_a_clusterer_is_no_cluster():
    affinity = two_blocks(bridge=0.01)
    affinity = np.pad(affinity, (0, 1))
    affinity[0, 10] = affinity[10, 0] = 0.01
    method = DBSCAN(eps=0.5, min_samples=3, metric="precomputed")
    clusterer = FeatureClusterer(affinity="precomputed", method=method).fit(affinity)
    assert_array_equal(clusterer.labels_, [*np.repeat([0, 1], 5), -1])


# transform, inverse_transform, score, stability


@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
def test_transform_pools_codes(data, frozen, pooling):
    clusterer = FeatureClusterer(frozen, pooling=pooling, random_state=0)
    pooled = clusterer.fit(data.activations).transform(data.activations)
    for label in range(clusterer.n_clusters_):
        members = data.codes[:, clusterer.labels_ == label]
        assert_allclose(pooled[:, label], getattr(members, pooling)(axis=1))
    codes = FeatureClusterer(pooling=pooling, random_state=0).fit(data.codes)
    restored = codes.inverse_transform(codes.transform(data.codes))
    assert_allclose(codes.transform(restored), codes.transform(data.codes))
    assert restored.shape == data.codes.shape
    recon = clusterer.inverse_transform(pooled)
    assert recon.shape == data.activations.shape


def test_transform_of_sparse_and_dense_codes_is_the_same(data):
    clusterer = FeatureClusterer(random_state=0).fit(data.codes)
    dense = clusterer.transform(data.codes)
    assert_array_equal(clusterer.transform(sparse.csr_array(data.codes)), dense)
    assert clusterer.transform(data.codes.astype(np.float32)).dtype == np.float32


def test_score_is_modularity_of_the_labels_on_other_data(data, frozen):
    train, test = data.activations[:500], data.activations[500:]
    clusterer = FeatureClusterer(frozen, random_state=0).fit(train)
    assert clusterer.score(train) == pytest.approx(clusterer.modularity_)
    other = clone(clusterer).fit(test)
    communities = [
        set(np.flatnonzero(clusterer.labels_ == label))
        for label in range(clusterer.n_clusters_)
    ]
    expected = nx.community.modularity(other.graph_, communities)
    assert clusterer.score(test) == pytest.approx(expected)


def test_features_that_come_alive_later_do_not_count_in_the_score():
    codes = np.kron(np.eye(2), np.ones((4, 3)))
    clusterer = FeatureClusterer().fit(np.hstack([codes, np.zeros((8, 1))]))
    later = np.hstack([codes, np.ones((8, 1))])
    assert clusterer.score(later) == pytest.approx(0.5)


def test_stability_tells_groups_from_noise(data, frozen):
    clusterer = FeatureClusterer(frozen, random_state=0).fit(data.activations)
    assert clusterer.stability(data.activations, random_state=0) > 0.9
    rng = np.random.default_rng(0)
    noise = (rng.random((400, 40)) < 0.1).astype(float)
    unstable = FeatureClusterer(random_state=0).fit(noise)
    assert unstable.stability(noise, random_state=0) < 0.2
    first, second = (unstable.stability(noise, random_state=3) for _ in range(2))
    assert first == second


def test_stability_needs_samples(data):
    clusterer = FeatureClusterer().fit(data.codes)
    with pytest.raises(ValueError, match="at least 4"):
        clusterer.stability(data.codes[:3])
    assert np.isnan(clusterer.stability(np.zeros_like(data.codes)))
    with pytest.raises(ValueError, match=r"n_splits must be in 1\.\.10000; got 0"):
        clusterer.stability(data.codes, n_splits=0)
    precomputed = FeatureClusterer(affinity="precomputed").fit(two_blocks())
    with pytest.raises(ValueError, match="splits samples"):
        precomputed.stability(two_blocks())


# With scikit-learn


def test_estimator_is_cloned_and_fitted_or_frozen(data):
    sae = small_sae()
    clusterer = FeatureClusterer(sae, random_state=0).fit(data.activations)
    assert not hasattr(sae, "components_")
    fitted = small_sae().fit(data.activations)
    frozen = FeatureClusterer(FrozenEstimator(fitted), random_state=0)
    frozen.fit(data.activations)
    assert frozen.estimator_ is fitted
    assert_array_equal(frozen.labels_, clusterer.labels_)
    assert_array_equal(fitted.components_, clusterer.estimator_.components_)


def test_random_state_reaches_an_estimator_without_one(data):
    X = data.activations[:300]
    first, second = (
        FeatureClusterer(small_sae(random_state=None), random_state=1).fit(X)
        for _ in range(2)
    )
    assert_array_equal(first.estimator_.components_, second.estimator_.components_)
    assert first.estimator.random_state is None
    seeded = FeatureClusterer(small_sae(), random_state=1).fit(X)
    assert seeded.estimator_.random_state == 0


def test_three_dimensional_activations(acts, mlps):
    ccx = InteractionCrosscoder(16, k=4, mlp=mlps, max_iter=5, random_state=0)
    clusterer = FeatureClusterer(ccx, random_state=0).fit(acts)
    flat = acts.reshape(len(acts), -1)
    assert clusterer.n_features_in_ == 18
    pooled = clusterer.transform(acts)
    assert pooled.shape == (len(acts), clusterer.n_clusters_)
    assert_array_equal(clusterer.transform(flat), pooled)
    assert clusterer.inverse_transform(pooled).shape == acts.shape
    assert np.isfinite(clusterer.score(acts))
    assert clusterer.stability(acts, n_splits=1, random_state=0) <= 1
    with pytest.raises(ValueError, match=r"3 site\(s\) of width 6"):
        clusterer.transform(acts.transpose(0, 2, 1))


def test_sparse_output_of_the_estimator_and_its_own_output_format(data):
    X = data.activations
    expected = FeatureClusterer(small_sae(), random_state=0).fit(X)
    pandas = small_sae().set_output(transform="pandas")
    for sae in (small_sae(sparse_output=True), pandas):
        clusterer = FeatureClusterer(sae, random_state=0).fit(X)
        assert_array_equal(clusterer.labels_, expected.labels_)
        assert_array_equal(clusterer.transform(X), expected.transform(X))
    frame = FeatureClusterer(FrozenEstimator(pandas.fit(X)), random_state=0).fit(X)
    frame.set_output(transform="pandas")
    assert_array_equal(frame.transform(X).columns, frame.get_feature_names_out())
    assert isinstance(pandas.transform(X), pd.DataFrame)
    assert not pandas.sparse_output


def test_feature_names(data):
    frame = pd.DataFrame(data.codes).add_prefix("f")
    clusterer = FeatureClusterer().set_output(transform="pandas").fit(frame)
    assert_array_equal(clusterer.feature_names_in_, frame.columns)
    pooled = clusterer.transform(frame)
    assert pooled.columns[0] == "featureclusterer0"
    activations = pd.DataFrame(data.activations).add_prefix("a")
    clusterer = FeatureClusterer(small_sae(), random_state=0).fit(activations)
    assert_array_equal(clusterer.feature_names_in_, activations.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        clusterer.transform(activations.iloc[:, ::-1])


@pytest.mark.parametrize("sparse_output", [False, True])
def test_both_levels_in_a_grid_search_give_equal_labels(data, tmp_path, sparse_output):
    X = data.activations[:400]
    nested = make_pipeline(
        StandardScaler(),
        FeatureClusterer(small_sae(), affinity="coactivation", random_state=0),
    )
    steps = Pipeline(
        [
            ("scale", StandardScaler()),
            ("sae", small_sae(sparse_output=sparse_output)),
            ("cluster", FeatureClusterer(random_state=0)),
        ]
    )
    labels = []
    for pipeline, coder, cluster in [
        (nested, "featureclusterer__estimator", "featureclusterer"),
        (steps, "sae", "cluster"),
    ]:
        for memory in (None, str(tmp_path)):
            search = GridSearchCV(
                clone(pipeline).set_params(memory=memory),
                {f"{coder}__k": [2, 3], f"{cluster}__resolution": [0.5, 1.0, 2.0]},
                cv=2,
                error_score="raise",
            ).fit(X)
            assert np.isfinite(search.cv_results_["mean_test_score"]).all()
            labels.append(search.best_estimator_[-1].labels_)
    for other in labels[1:]:
        assert_array_equal(other, labels[0])
    assert len(labels) == 4


def test_interaction_in_a_grid_search_with_and_without_memory(data, tmp_path):
    X = data.activations[:400]
    labels = []
    for memory in (None, str(tmp_path)):
        pipeline = make_pipeline(
            StandardScaler(), FeatureClusterer(small_sae()), memory=memory
        )
        search = GridSearchCV(
            pipeline.set_params(featureclusterer__random_state=0),
            {
                "featureclusterer__estimator__lam": [0.0, 0.3],
                "featureclusterer__n_neighbors": [3, 6],
            },
            cv=2,
            error_score="raise",
        ).fit(X)
        labels.append(search.best_estimator_[-1].labels_)
    assert_array_equal(labels[0], labels[1])


# Size


class ConnectedComponents(ClusterMixin, BaseEstimator):
    """A clusterer that takes a sparse matrix, and is quick."""

    def __init__(self, affinity="precomputed"):
        self.affinity = affinity

    def fit(self, X, y=None):
        _, self.labels_ = connected_components(X, directed=False)
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def test_many_features_without_a_dense_matrix(monkeypatch):
    n_features, n_samples = 65_536, 1_000
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(n_samples), 8)
    features = rng.integers(n_features, size=8 * n_samples)
    codes = sparse.csr_array(
        (np.ones(len(rows)), (rows, features)), shape=(n_samples, n_features)
    )

    def never(*args, **kwargs):
        raise AssertionError("made dense")

    for method in ("toarray", "todense"):
        for kind in (sparse.csr_array, sparse.csc_array, sparse.coo_array):
            monkeypatch.setattr(kind, method, never)
    clusterer = FeatureClusterer(method=ConnectedComponents(), n_neighbors=4)
    tracemalloc.start()
    clusterer.fit(codes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**29  # a dense matrix of pairs takes 32 GiB
    assert clusterer.affinity_matrix_.shape == (n_features, n_features)
    n_alive = np.count_nonzero(codes.sum(axis=0))
    assert 0 < clusterer.affinity_matrix_.nnz <= 2 * 4 * n_alive
    assert_array_equal(clusterer.labels_ == -1, codes.sum(axis=0) == 0)


def test_thousands_of_features():
    n_groups, size = 128, 48
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(n_groups), size)
    codes = np.zeros((4000, n_groups * size), dtype=np.float32)
    for row in codes:
        members = size * rng.integers(n_groups) + rng.choice(size, 16, replace=False)
        row[members] = 1
        row[rng.integers(codes.shape[1], size=4)] = 1
    clusterer = FeatureClusterer(random_state=0).fit(sparse.csr_array(codes))
    assert adjusted_rand_score(groups, clusterer.labels_) > 0.95


def test_nearest_neighbors_by_weights_are_exact_for_many_features():
    rng = np.random.default_rng(0)
    sae = InteractionSAE(2000, k=8, lam=0, max_iter=1, random_state=0)
    X = rng.normal(size=(512, 16)).astype(np.float32)
    clusterer = FeatureClusterer(
        sae, affinity="weights", method=ConnectedComponents(), random_state=0
    ).fit(X)
    alive = np.flatnonzero(clusterer.labels_ >= 0)
    assert len(alive) > 100
    cosines = cosine_similarity(np.abs(clusterer.estimator_.components_[alive]))
    expected = naive_nearest_neighbors(cosines.astype(np.float64), 10)
    edges = clusterer.affinity_matrix_[alive][:, alive].toarray()
    assert_allclose(edges, expected, atol=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.array([[0.0, np.nan], [1.0, 0.0]]), "NaN"),
        (np.array([[0.0, np.inf], [1.0, 0.0]]), "infinity"),
        (np.array([[0.0, -1.0], [1.0, 0.0]]), "Negative values .* affinities"),
        (np.ones((3, 2)), r"shape \(n_components, n_components\).*got \(3, 2\)"),
        (np.ones(4), "2D array"),
        (np.empty((0, 0)), "0 sample"),
    ],
)
@pytest.mark.parametrize("as_sparse", [False, True])
def test_bad_affinities(X, message, as_sparse):
    if as_sparse and X.ndim == 2 and X.size:
        X = sparse.csr_array(X)
    with pytest.raises(ValueError, match=message):
        FeatureClusterer(affinity="precomputed").fit(X)


def test_negative_codes(data):
    with pytest.raises(ValueError, match="takes codes; pass an estimator"):
        FeatureClusterer().fit(-data.codes)
    clusterer = FeatureClusterer().fit(data.codes)
    with pytest.raises(ValueError, match="Negative values"):
        clusterer.transform(-data.codes)


def test_wrong_width_names_both(data, frozen):
    clusterer = FeatureClusterer().fit(data.codes)
    with pytest.raises(ValueError, match="X has 3 features, but FeatureClusterer"):
        clusterer.transform(data.codes[:, :3])
    with pytest.raises(ValueError, match="of shape"):
        clusterer.inverse_transform(np.ones((2, clusterer.n_clusters_ + 1)))
    with pytest.raises(ValueError, match="X has 3 features"):
        FeatureClusterer(frozen).fit(data.activations[:, :3])


@pytest.mark.parametrize("affinity", ["interaction", "weights"])
def test_codes_alone_have_no_interaction(data, affinity):
    with pytest.raises(ValueError, match="pass an InteractionCrosscoder"):
        FeatureClusterer(affinity=affinity).fit(data.codes)


def test_precomputed_takes_no_estimator(frozen):
    with pytest.raises(ValueError, match="set estimator=None"):
        FeatureClusterer(frozen, affinity="precomputed").fit(two_blocks())


@pytest.mark.parametrize("method", [KMeans(), SpectralClustering(), "leiden"], ids=str)
def test_method_that_takes_no_precomputed_matrix(data, method):
    with pytest.raises(ValueError, match=r"precomputed|'method' parameter"):
        FeatureClusterer(method=method).fit(data.codes)


def test_estimator_must_be_a_coder(data):
    with pytest.raises(ValueError, match="'estimator' parameter"):
        FeatureClusterer(PCA()).fit(data.activations)
    with pytest.raises(TypeError, match="FrozenEstimator of PCA"):
        FeatureClusterer(FrozenEstimator(PCA())).fit(data.activations)
    with pytest.raises(NotFittedError):
        FeatureClusterer(FrozenEstimator(small_sae())).fit(data.activations)


def test_not_fitted(data):
    clusterer = FeatureClusterer()
    for call in (clusterer.transform, clusterer.score, clusterer.stability):
        with pytest.raises(NotFittedError):
            call(data.codes)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ma.masked_array(np.ones((5, 3)), np.eye(5, 3)), "X has masked entries"),
        (np.ones((5, 3)) * 1j, "Complex data not supported: X"),
        (sparse.csr_array(np.ones((5, 3)) * 1j), "Complex data not supported"),
        (torch.ones(5, 3, device="meta"), "X is a tensor on the meta device"),
        ([[1, 2], [3]], "X cannot be made an array"),
    ],
)
def test_hostile_codes(X, message):
    with pytest.raises(ValueError, match=message):
        FeatureClusterer().fit(X)
    clusterer = FeatureClusterer().fit(np.ones((5, 3)))
    for call in (
        clusterer.transform,
        clusterer.score,
        clusterer.stability,
        clusterer.inverse_transform,
    ):
        with pytest.raises(ValueError, match=message):
            call(X)


def test_tensors_are_taken(data, frozen):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        X = torch.from_numpy(data.activations).to(dtype).requires_grad_()
        codes = torch.from_numpy(data.codes).to(dtype)
        clusterer = FeatureClusterer(frozen, random_state=0).fit(X)
        pooled = clusterer.transform(X)
        recon = clusterer.inverse_transform(torch.from_numpy(pooled))
        assert recon.shape == data.activations.shape
        of_codes = FeatureClusterer(random_state=0).fit(codes)
        assert of_codes.transform(codes).shape == (len(codes), of_codes.n_clusters_)
    assert_array_equal(
        clusterer.labels_, clone(clusterer).fit(data.activations).labels_
    )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_splits": True}, "n_splits must be an integer"),
        ({"n_splits": 10**18}, "n_splits must be in 1"),
        ({"random_state": -1}, "random_state must be an int from 0"),
        ({"random_state": "a"}, "random_state must be an int"),
        ({"X": 3}, "X"),
    ],
)
def test_hostile_arguments_of_stability(data, frozen, kwargs, message):
    clusterer = FeatureClusterer(frozen, random_state=0).fit(data.activations)
    with pytest.raises((TypeError, ValueError), match=message):
        clusterer.stability(**{"X": data.activations} | kwargs)


@pytest.mark.parametrize(
    "estimator",
    [3, "sae", InteractionSAE, make_pipeline(StandardScaler(), PCA()), [small_sae()]],
)
def test_hostile_estimators(data, estimator):
    with pytest.raises((TypeError, ValueError), match="estimator"):
        FeatureClusterer(estimator).fit(data.activations)
