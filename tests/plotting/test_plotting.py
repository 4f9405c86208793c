"""What the displays draw: data, labels, limits and colors of the artists."""

import sys

import networkx as nx
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_ccx import (
    AblationDisplay,
    ClusterGraphDisplay,
    FeatureClusterer,
    InteractionCrosscoder,
    InteractionMatrixDisplay,
    InteractionSAE,
    InteractionTraceDisplay,
    PenaltyPathDisplay,
    ablation_fidelity,
    interaction_matrix,
    interaction_scores,
)
from sklearn_ccx.model_selection import SCORERS, StrongestPenalty
from tests.conftest import make_mlp

mpl = pytest.importorskip("matplotlib")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close_figures():
    with mpl.rc_context({"backend": "Agg"}):
        yield
        plt.close("all")


@pytest.fixture
def fitted(acts, mlps):
    return InteractionCrosscoder(k=4, mlp=mlps, max_iter=10, random_state=0).fit(acts)


def tick_texts(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def boxes_of(texts):
    return [text.get_window_extent() for text in texts if text.get_text()]


def assert_no_overlap(texts):
    boxes = boxes_of(texts)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def assert_all_inside(display):
    """Nothing that is drawn is cut off by the border of the figure."""
    figure = display.figure_
    figure.draw_without_rendering()
    border = figure.bbox.padded(1)
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert border.x0 <= box.x0 < box.x1 <= border.x1
    assert border.y0 <= box.y0 < box.y1 <= border.y1


EXAMPLES = {
    "path": lambda: PenaltyPathDisplay(
        param_range=[0, 0.03, 0.1, 0.3, 1],
        dominant_share=[0.2, 0.25, 0.3, 0.5, 0.8],
        fvu=[0.1, 0.1, 0.12, 0.2, 0.4],
        one_feature_fidelity=[0.4, 0.4, 0.5, 0.6, 0.41],
        chosen=0.1,
    ),
    "ablation": lambda: AblationDisplay({"none": [0.9, 0.8], "keep_top_2": [0.5, -1]}),
    "matrix": lambda: InteractionMatrixDisplay(*planted()),
    "graph": lambda: ClusterGraphDisplay(*planted_graph()),
    "trace": lambda: InteractionTraceDisplay(
        np.random.default_rng(0).random((30, 2)), ["a token"] * 30
    ),
    "trace_rows": lambda: InteractionTraceDisplay(
        np.random.default_rng(0).normal(size=(60, 6)), ["a token"] * 60
    ),
}


def planted(n_features=60, n_clusters=4, seed=0):
    """Random matrix, ten times as strong within clusters, which are interleaved."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_features) % n_clusters
    matrix = rng.random((n_features, n_features))
    matrix[labels[:, None] != labels] /= 10
    return matrix, labels


def planted_graph():
    matrix, labels = planted()
    graph = nx.from_numpy_array(np.triu(matrix, 1))
    nx.set_node_attributes(graph, 0.05, "activation_frequency")
    return graph, labels


@pytest.mark.parametrize("name", EXAMPLES)
def test_common(name):
    display = EXAMPLES[name]()
    assert display.plot() is display
    assert display.figure_ is display.ax_.figure
    assert_all_inside(display)
    assert_no_overlap(display.ax_.get_xticklabels())
    assert_no_overlap(display.ax_.get_yticklabels())
    assert display.ax_.get_xlabel()
    legend = display.ax_.get_legend()
    if legend is not None:
        assert not legend.get_window_extent().overlaps(
            display.ax_.get_window_extent().padded(-2)
        )

    _, ax = plt.subplots()
    assert display.plot(ax).ax_ is ax
    n_figures = len(plt.get_fignums())
    display.plot(ax)
    assert len(plt.get_fignums()) == n_figures


@pytest.mark.parametrize("name", EXAMPLES)
def test_missing_matplotlib(name, monkeypatch):
    display = EXAMPLES[name]()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = rf"{type(display).__name__}.plot needs .* 'sklearn-ccx\[plot\]'"
    with pytest.raises(ImportError, match=message):
        display.plot()


def test_missing_matplotlib_is_noticed_before_computing(fitted, acts, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (
        lambda: PenaltyPathDisplay.from_estimator(fitted, None, param_range=[0]),
        lambda: PenaltyPathDisplay.from_search(None),
        lambda: AblationDisplay.from_estimator(fitted, None),
        lambda: InteractionMatrixDisplay.from_estimator(fitted, None),
        lambda: ClusterGraphDisplay.from_estimator(None),
        lambda: InteractionTraceDisplay.from_estimator(fitted, None, None),
    ):
        with pytest.raises(ImportError, match=r"sklearn-ccx\[plot\]"):
            call()


# PenaltyPathDisplay


def searched(acts, mlps, grid, **kwargs):
    ccx = InteractionCrosscoder(k=4, mlp=mlps, max_iter=5, random_state=0)
    cv = ShuffleSplit(2, random_state=0)
    return GridSearchCV(ccx, grid, cv=cv, **{"scoring": SCORERS, **kwargs}).fit(acts)


def test_path_of_a_search(acts, mlps):
    search = searched(
        acts, mlps, {"lam": [1, 0, 0.1]}, refit=StrongestPenalty(max_loss=10)
    )
    display = PenaltyPathDisplay.from_search(search)
    share, fvu, fidelity = display.lines_
    results = search.cv_results_
    for line, name, sign in [
        (share, "dominant_share", 1),
        (fvu, "explained_variance", -1),
        (fidelity, "one_feature_fidelity", 1),
    ]:
        assert_array_equal(line.get_xdata(), [0, 0.1, 1])
        expected = np.array(results[f"mean_test_{name}"])[[1, 2, 0]]
        assert_allclose(line.get_ydata(), (1 - expected) if sign < 0 else expected)
    band = display.fill_between_[0].get_paths()[0].vertices
    deviation = np.array(results["std_test_dominant_share"])[[1, 2, 0]]
    top = [band[band[:, 0] == x, 1].max() for x in (0, 0.1, 1)]
    assert_allclose(top, share.get_ydata() + deviation)
    assert display.chosen == 1
    assert "chosen" in [text.get_text() for text in display.ax_.texts]
    assert tick_texts(display.ax_.xaxis) == ["0", "0.1", "1"]
    assert "lam" in display.ax_.get_xlabel()
    low, high = display.ax_.get_ylim()
    assert low <= min(0, fidelity.get_ydata().min())
    assert high >= 1


def test_path_of_a_search_over_more(acts, mlps):
    search = searched(acts, mlps, {"lam": [0, 1], "k": [2, 4]}, refit=False)
    with pytest.raises(ValueError, match=r"same 'lam'.*\['k'\] with fixed_params"):
        PenaltyPathDisplay.from_search(search)
    display = PenaltyPathDisplay.from_search(search, fixed_params={"k": 4})
    rows = [i for i, p in enumerate(search.cv_results_["params"]) if p["k"] == 4]
    expected = search.cv_results_["mean_test_dominant_share"][rows]
    assert_allclose(display.lines_[0].get_ydata(), expected)
    assert display.chosen is None
    with pytest.raises(ValueError, match=r"'lam' and \{'k': 3\}"):
        PenaltyPathDisplay.from_search(search, fixed_params={"k": 3})


def test_path_of_an_estimator(acts):
    flat = acts.reshape(len(acts), -1)
    sae = InteractionSAE(max_iter=3, random_state=0)
    pipeline = make_pipeline(FunctionTransformer(), sae)
    display = PenaltyPathDisplay.from_estimator(
        pipeline, flat, param_name="interactionsae__k", param_range=[8, 2], cv=2
    )
    assert_array_equal(display.lines_[0].get_xdata(), [2, 8])
    assert display.ax_.get_xlabel() == "active features per sample, k"
    assert display.ax_.get_xscale() == "log"


def test_path_needs_the_scores(acts, mlps):
    search = searched(acts, mlps, {"lam": [0]}, scoring=None)
    with pytest.raises(ValueError, match="no 'dominant_share'; pass scoring"):
        PenaltyPathDisplay.from_search(search)
    search = searched(acts, mlps, {"k": [2]}, refit=False)
    with pytest.raises(ValueError, match=r"has 'lam'; its parameters are \['k'\]"):
        PenaltyPathDisplay.from_search(search)


def test_path_leaves_out_ticks_that_would_overlap():
    values = np.r_[0, np.linspace(0.9, 1, 20)]
    display = PenaltyPathDisplay(
        param_range=values, dominant_share=values, fvu=values
    ).plot()
    assert tick_texts(display.ax_.xaxis)[0] == "0"
    assert_no_overlap(display.ax_.get_xticklabels())


def test_path_labels_do_not_overlap():
    display = PenaltyPathDisplay(
        param_range=[0, 1],
        dominant_share=[0.2, 0.5],
        fvu=[0.1, 0.5],
        one_feature_fidelity=[0.4, 0.5],
    ).plot()
    assert len(display.ax_.texts) == 3
    assert_no_overlap(display.ax_.texts)


@pytest.mark.parametrize(
    ("values", "share", "message"),
    [
        ([], [], "param_range must be a list"),
        ([0, -1], [0, 0], "not negative"),
        ([0, np.nan], [0, 0], "finite"),
        ([0, 1], [0], "dominant_share must have shape"),
    ],
)
def test_path_rejects(values, share, message):
    with pytest.raises(ValueError, match=message):
        PenaltyPathDisplay(param_range=values, dominant_share=share, fvu=share).plot()


# AblationDisplay


def test_ablation_bars(fitted, acts):
    display = AblationDisplay.from_estimator(fitted, acts, random_state=0)
    fidelity = ablation_fidelity(fitted, acts, random_state=0)
    assert len(display.bars_) == 2
    for index, bars in enumerate(display.bars_):
        widths = [bar.get_width() for bar in bars]
        assert_allclose(widths, [value[index] for value in fidelity.values()])
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend == ["MLP 0", "MLP 1"]
    labels = tick_texts(display.ax_.yaxis)
    assert labels[0] == "keep all features"
    assert labels[-1] == "keep the largest alone"
    # The first scheme stands at the top.
    assert display.ax_.yaxis_inverted()
    assert "$R^2$" in display.ax_.get_xlabel()
    texts = {text.get_text() for text in display.ax_.texts}
    assert f"{fidelity['keep_largest'][1]:.2f}" in texts


def test_ablation_with_a_loss_and_in_a_pipeline(fitted, acts):
    pipeline = make_pipeline(FunctionTransformer(), fitted)

    def loss(output, index):
        return np.square(output).sum()

    display = AblationDisplay.from_estimator(
        pipeline, acts, schemes="keep_top_2", loss=loss, labels=["first", "last"]
    )
    expected = ablation_fidelity(fitted, acts, schemes="keep_top_2", loss=loss)
    widths = [bars[0].get_width() for bars in display.bars_]
    assert_allclose(widths, expected["keep_top_2"])
    assert "loss recovered" in display.ax_.get_xlabel()
    assert tick_texts(display.ax_.yaxis) == ["keep the 2 largest"]


def test_ablation_shows_negative_and_undefined_values():
    display = AblationDisplay({"none": [np.nan], "keep_largest": [-3.0]}).plot()
    assert display.ax_.get_xlim()[0] < -3
    assert display.ax_.get_legend() is None
    assert {text.get_text() for text in display.ax_.texts} == {"undefined", "-3.00"}
    own = AblationDisplay({"my scheme": [0.5]}).plot()
    assert tick_texts(own.ax_.yaxis) == ["my scheme"]


@pytest.mark.parametrize("n_columns", [2, 4, 9])
def test_ablation_colors_differ(n_columns):
    for labels in (None, [str(i) for i in range(n_columns)]):
        display = AblationDisplay({"none": np.ones(n_columns)}, labels=labels).plot()
        colors = {bars[0].get_facecolor() for bars in display.bars_}
        assert len(colors) == n_columns


@pytest.mark.parametrize(
    ("fidelity", "labels", "message"),
    [
        ({}, None, "fidelity is empty"),
        ({"none": [1], "keep_largest": [1, 2]}, None, "same number of values"),
        ({"none": []}, None, "same number of values"),
        ({"none": [1, 2]}, ["a"], "labels must have 2 entries"),
    ],
)
def test_ablation_rejects(fidelity, labels, message):
    with pytest.raises(ValueError, match=message):
        AblationDisplay(fidelity, labels=labels).plot()


# InteractionMatrixDisplay


@pytest.mark.parametrize("to_matrix", [np.asarray, sparse.csr_array, sparse.coo_matrix])
def test_matrix_is_ordered_by_cluster(to_matrix):
    dense = np.array(
        [
            [9, 1, 5, 0, 4],
            [1, 9, 0, 0, 3],
            [4, 0, 9, 0, 0],
            [7, 7, 7, 9, 7],
            [0, 6, 0, 0, 9],
        ],
        dtype=float,
    )
    display = InteractionMatrixDisplay(to_matrix(dense), [5, 2, 5, -1, 2]).plot()
    # Equal sizes: by label. Within: by interaction, rows and columns, itself excluded.
    assert_array_equal(display.order_, [4, 1, 0, 2])
    expected = dense[np.ix_(display.order_, display.order_)]
    np.fill_diagonal(expected, 0)
    image = display.im_.get_array()
    assert_allclose(image.filled(0), expected)
    assert_array_equal(image.mask, expected == 0)
    assert display.within_share_ == (3 + 6 + 5 + 4) / expected.sum()
    assert tick_texts(display.ax_.xaxis) == ["2", "5"]
    assert_array_equal(display.ax_.get_yticks(), [1, 3])
    corners = [path.vertices for path in display.boundaries_.get_paths()]
    assert_array_equal([c.min(axis=0) for c in corners], [[0, 0], [2, 2]])
    assert_array_equal([c.max(axis=0) for c in corners], [[2, 2], [4, 4]])
    assert "(4 of 5 features)" in display.ax_.get_xlabel()
    assert display.ax_.get_ylabel() == "dominant feature, by cluster"
    # 2 clusters of 2: 4 of 12 pairs.
    assert "(33% by chance)" in display.ax_.get_title()
    assert isinstance(display.im_.norm, mpl.colors.LogNorm)
    assert display.ax_.get_ylim() == (4, 0)


def test_matrix_block_means():
    matrix, labels = planted(n_features=23)
    display = InteractionMatrixDisplay(matrix, labels).plot(max_size=7)
    image = display.im_.get_array()
    assert image.shape == (7, 7)
    ordered = matrix[np.ix_(display.order_, display.order_)]
    np.fill_diagonal(ordered, np.nan)
    edges = display.im_.get_coordinates()[0, :, 0].astype(int)
    assert edges[0] == 0
    assert edges[-1] == 23
    for i, j in np.ndindex(7, 7):
        block = ordered[edges[i] : edges[i + 1], edges[j] : edges[j + 1]]
        assert_allclose(image[i, j], np.nanmean(block))


def test_matrix_of_many_features_stays_small():
    rng = np.random.default_rng(0)
    n_features = 65_536
    rows, columns = rng.integers(n_features, size=(2, 200_000))
    matrix = sparse.coo_array(
        (rng.random(len(rows)), (rows, columns)), shape=(n_features, n_features)
    )
    labels = rng.integers(1000, size=n_features)
    display = InteractionMatrixDisplay(matrix, labels).plot(max_size=100)
    assert display.im_.get_array().shape == (100, 100)
    assert len(display.order_) == n_features
    # A thousand clusters of equal size: none has a hundredth of the features.
    assert len(display.boundaries_.get_paths()) == 0
    assert tick_texts(display.ax_.xaxis) == []


def test_matrix_without_labels_leaves_out_what_does_not_interact():
    matrix = np.zeros((5, 5))
    matrix[1, 3] = 2
    display = InteractionMatrixDisplay(matrix).plot()
    assert_array_equal(display.order_, [1, 3])
    assert display.ax_.get_title() == ""
    assert display.ax_.get_xlabel() == "other feature (2 of 5 features)"


def test_matrix_without_any_interaction():
    display = InteractionMatrixDisplay(np.zeros((3, 3)), [0, 0, 1]).plot()
    assert display.im_.get_array().mask.all()
    assert np.isnan(display.within_share_)


def test_matrix_color_scale_says_where_it_ends():
    matrix = np.array([[0, 1e-9], [1, 0]])
    display = InteractionMatrixDisplay(matrix, [0, 0], quantity="strength").plot()
    assert display.im_.norm.vmin == pytest.approx(1e-4)
    assert display.colorbar_.extend == "min"
    assert display.colorbar_.ax.get_ylabel() == "strength"


def test_matrix_of_an_estimator(fitted, acts):
    display = InteractionMatrixDisplay.from_estimator(
        fitted, acts, normalize="coactivation"
    )
    A = interaction_matrix(fitted, acts, normalize="coactivation").toarray()
    expected = A[np.ix_(display.order_, display.order_)]
    assert_allclose(display.im_.get_array().filled(0), expected)
    assert "given that both" in display.colorbar_.ax.get_ylabel()
    with pytest.raises(ValueError, match="X is needed"):
        InteractionMatrixDisplay.from_estimator(fitted)
    with pytest.raises(ValueError, match="normalize needs X"):
        InteractionMatrixDisplay.from_estimator(fitted, normalize="coactivation")


def test_matrix_color_scale_has_plain_numbers_if_short():
    for strongest, label in [(8, "4"), (1e4, "$\\mathdefault{10^{3}}$")]:
        matrix = np.array([[0, 1], [strongest, 0]])
        display = InteractionMatrixDisplay(matrix, [0, 0]).plot()
        display.figure_.draw_without_rendering()
        axis = display.colorbar_.ax.yaxis
        texts = tick_texts(axis)
        texts += [text.get_text() for text in axis.get_ticklabels(minor=True)]
        assert label in texts


@pytest.mark.parametrize(
    ("parameters", "label"),
    [
        ({}, "interaction given that both are active"),
        ({"normalize": None}, "interaction (units of the MLP output)"),
        ({"normalize": "code_product"}, "interaction per unit of both codes"),
        ({"affinity": "weights"}, "similarity of what is written to the neurons"),
        ({"affinity": "coactivation"}, "co-activation (cosine)"),
    ],
)
def test_matrix_of_a_clusterer(fitted, acts, parameters, label):
    clusterer = FeatureClusterer(FrozenEstimator(fitted), random_state=0, **parameters)
    with pytest.raises(NotFittedError):
        InteractionMatrixDisplay.from_estimator(clusterer)
    pipeline = make_pipeline(FunctionTransformer(), clusterer).fit(acts)
    for estimator in (clusterer, pipeline):
        display = InteractionMatrixDisplay.from_estimator(estimator)
        assert display.colorbar_.ax.get_ylabel().startswith(label)
        assert_array_equal(np.sort(display.order_), np.flatnonzero(display.labels >= 0))
        expected = clusterer.affinity_matrix_.toarray()
        expected = expected[np.ix_(display.order_, display.order_)]
        assert_allclose(display.im_.get_array().filled(0), expected)
        assert display.ax_.get_ylabel() == "feature, by cluster"

    display = InteractionMatrixDisplay.from_estimator(pipeline, acts)
    A = interaction_matrix(fitted, acts).toarray()
    expected = A[np.ix_(display.order_, display.order_)]
    assert_allclose(display.im_.get_array().filled(0), expected)
    assert_array_equal(display.labels, clusterer.labels_)


def test_matrix_of_precomputed_affinities():
    matrix, _ = planted()
    clusterer = FeatureClusterer(affinity="precomputed", random_state=0).fit(matrix)
    display = InteractionMatrixDisplay.from_estimator(clusterer)
    assert display.colorbar_.ax.get_ylabel() == "affinity"


@pytest.mark.parametrize(
    ("matrix", "labels", "message"),
    [
        (np.ones((2, 3)), [0, 0], "must be square"),
        (-np.ones((2, 2)), [0, 0], "negative entries"),
        (np.full((2, 2), np.nan), [0, 0], "matrix contains NaN"),
        (np.ones((2, 2)), [0, 0, 0], r"labels must have shape \(2,\)"),
        (np.ones((2, 2)), [-1, -1], "no feature is in a cluster"),
        (np.zeros((2, 2)), None, "no feature is in a cluster"),
    ],
)
def test_matrix_rejects(matrix, labels, message):
    with pytest.raises(ValueError, match=message):
        InteractionMatrixDisplay(matrix, labels).plot()


# ClusterGraphDisplay


def test_graph_clusters_are_apart():
    graph, labels = planted_graph()
    display = ClusterGraphDisplay(graph, labels).plot()
    assert_array_equal(
        display.nodes_.get_offsets(),
        [display.positions_[node] for node in display.drawn_nodes_],
    )
    at = np.array([display.positions_[node] for node in range(60)])
    centers = np.array([at[labels == label].mean(axis=0) for label in range(4)])
    radius = [
        np.linalg.norm(at[labels == label] - centers[label], axis=1).max()
        for label in range(4)
    ]
    for i in range(4):
        for j in range(i):
            assert np.linalg.norm(centers[i] - centers[j]) > radius[i] + radius[j]
    colors = dict(
        zip(
            display.drawn_nodes_,
            map(tuple, display.nodes_.get_facecolors()),
            strict=True,
        )
    )
    assert len(set(colors.values())) == 4
    for node in graph:
        assert colors[node] == colors[labels[node]]


def test_graph_neighboring_clusters_have_different_colors():
    graph = nx.empty_graph(200)
    labels = np.arange(200) % 20
    display = ClusterGraphDisplay(graph, labels).plot()
    at = np.array([display.positions_[node] for node in display.drawn_nodes_])
    centers = at.reshape(20, 10, 2).mean(axis=1)
    colors = display.nodes_.get_facecolors()[::10]
    distance = np.linalg.norm(centers[:, None] - centers, axis=2)
    same = (colors[:, None] == colors).all(axis=2) & ~np.eye(20, dtype=bool)
    nearest = np.sort(distance, axis=1)[:, 1]
    assert same.any()
    assert distance[same].min() > 1.5 * nearest.max()


def test_graph_sizes_and_names():
    graph = nx.Graph()
    graph.add_weighted_edges_from(
        [("a", "b", 3.0), ("b", "c", 2.0), ("d", "e", 1.0), ("a", "d", 0.5)]
    )
    frequency = {"a": 0.5, "b": 0.1, "c": 0.0, "d": 0.02, "e": 0.5}
    nx.set_node_attributes(graph, frequency, "activation_frequency")
    display = ClusterGraphDisplay(
        graph, [0, 0, 0, 7, -1], feature_names=["A", "$B", "C", "D", "E"]
    ).plot(n_top_labels=1)
    assert display.drawn_nodes_ == ["a", "b", "c", "d"]
    areas = dict(zip(display.drawn_nodes_, display.nodes_.get_sizes(), strict=True))
    assert areas["a"] - areas["c"] == pytest.approx(5 * (areas["b"] - areas["c"]))
    names = {text.get_text() for text in display.texts_}
    # b has the largest sum of weights within the cluster.
    assert names == {"cluster 0", "cluster 7", "$B"}
    # The edge to the unclustered node is not drawn.
    widths = display.edges_.get_linewidths()
    assert len(widths) == 3
    assert max(widths) / min(widths) > 2
    legend = display.ax_.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["3%", "10%", "30%"]
    assert display.ax_.get_xlabel() == "4 features in 2 clusters"


def test_graph_of_a_clusterer(fitted, acts):
    clusterer = FeatureClusterer(FrozenEstimator(fitted), random_state=0)
    with pytest.raises(NotFittedError):
        ClusterGraphDisplay.from_estimator(clusterer)
    pipeline = make_pipeline(FunctionTransformer(), clusterer).fit(acts)
    display = ClusterGraphDisplay.from_estimator(
        pipeline, feature_names=[f"f{i}" for i in range(24)], n_top_labels=1
    )
    (clustered,) = np.nonzero(clusterer.labels_ >= 0)
    assert sorted(display.drawn_nodes_) == clustered.tolist()
    frequency = nx.get_node_attributes(clusterer.graph_, "activation_frequency")
    frequency = np.array([frequency[node] for node in display.drawn_nodes_])
    areas = display.nodes_.get_sizes()
    smallest = areas.max() - (areas.max() - areas.min()) * frequency.max() / np.ptp(
        frequency
    )
    assert_allclose(
        (areas - smallest) / (areas.max() - smallest), frequency / frequency.max()
    )
    names = {text.get_text() for text in display.texts_}
    assert {"cluster 0", "cluster 1"} <= names
    assert any(name.startswith("f") for name in names)


def test_graph_draws_the_strongest_only():
    graph, labels = planted_graph()
    display = ClusterGraphDisplay(graph, labels).plot(max_nodes=12, max_edges=5)
    degree = dict(graph.degree(weight="weight"))
    for label in range(4):
        members = [node for node in graph if labels[node] == label]
        strongest = sorted(members, key=degree.get)[-3:]
        drawn = [node for node in display.drawn_nodes_ if labels[node] == label]
        assert set(drawn) == set(strongest)
    weights = sorted(
        graph.subgraph(display.drawn_nodes_).edges(data="weight"),
        key=lambda edge: -edge[2],
    )
    segments = {
        frozenset(map(tuple, segment)) for segment in display.edges_.get_segments()
    }
    assert segments == {
        frozenset((tuple(display.positions_[u]), tuple(display.positions_[v])))
        for u, v, _ in weights[:5]
    }
    assert "48 less connected" in display.ax_.get_xlabel()


def test_graph_names_do_not_overlap():
    rng = np.random.default_rng(0)
    graph = nx.gnp_random_graph(200, 0.1, seed=0)
    display = ClusterGraphDisplay(graph, rng.integers(20, size=200)).plot(
        n_top_labels=5
    )
    assert len(display.texts_) > 20
    assert_no_overlap(display.texts_)


def test_graph_is_reproducible():
    graph, labels = planted_graph()
    one = ClusterGraphDisplay(graph, labels).plot().nodes_.get_offsets()
    two = ClusterGraphDisplay(graph, labels).plot().nodes_.get_offsets()
    other = ClusterGraphDisplay(graph, labels).plot(random_state=1)
    assert_array_equal(one, two)
    assert not np.array_equal(one, other.nodes_.get_offsets())


def test_graph_of_single_nodes():
    graph = nx.empty_graph(3)
    display = ClusterGraphDisplay(graph, [0, 1, 2]).plot()
    assert len(np.unique(display.nodes_.get_offsets(), axis=0)) == 3
    assert display.ax_.get_legend() is None


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 0], None, r"labels must have shape \(3,\), one entry for each"),
        ([0, 0, 0], ["a"], "feature_names must have 3 entries, one for each node"),
        ([-1, -1, -1], None, "no node is in a cluster"),
    ],
)
def test_graph_rejects(labels, names, message):
    graph = nx.path_graph(3)
    with pytest.raises(ValueError, match=message):
        ClusterGraphDisplay(graph, labels, feature_names=names).plot()


# InteractionTraceDisplay


def test_trace_lines():
    scores = np.array([[1.0, 2], [3, 0], [5, 5], [0, 1]])
    display = InteractionTraceDisplay(
        scores, ["a", " $b$", "\n", "d"], flagged=[False, True, True, False]
    ).plot()
    assert_array_equal([line.get_ydata() for line in display.lines_], scores.T)
    assert display.im_ is None
    labels = display.ax_.get_xticklabels()
    assert [label.get_text() for label in labels] == ["a", "␣$b$", "↵", "d"]
    assert not labels[1].get_parse_math()
    weights = [label.get_fontweight() for label in labels]
    assert weights == ["normal", "bold", "bold", "normal"]
    assert labels[0].get_rotation() == 90
    (span,) = display.spans_
    box = span.get_extents().transformed(display.ax_.transData.inverted())
    assert_allclose([box.x0, box.x1], [0.5, 2.5])
    assert display.ax_.get_xlim() == (-0.5, 3.5)
    assert display.ax_.get_ylim()[0] == 0
    assert "units of the MLP output" in display.ax_.get_ylabel()


def test_trace_of_characters_is_upright():
    display = InteractionTraceDisplay([1.0, 2.0], ["a", "("]).plot()
    assert [text.get_rotation() for text in display.ax_.get_xticklabels()] == [0, 0]


def test_trace_threshold():
    display = InteractionTraceDisplay([1.0, 9.0], ["a", "b"], threshold=3.5).plot()
    (line,) = set(display.ax_.lines) - set(display.lines_)
    assert_array_equal(line.get_ydata(), [3.5, 3.5])
    assert [text.get_text() for text in display.ax_.texts] == ["threshold"]
    assert_all_inside(display)


@pytest.mark.parametrize("signed", [False, True])
def test_trace_rows(signed):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(7, 5)) if signed else rng.random((7, 5))
    names = [f"block {i}" for i in range(5)]
    display = InteractionTraceDisplay(scores, list("abcdefg"), mlp_names=names).plot()
    assert_array_equal(display.im_.get_array(), scores.T)
    assert tick_texts(display.ax_.yaxis) == names
    low, high = display.im_.get_clim()
    assert high == pytest.approx(np.abs(scores).max())
    assert low == (-high if signed else 0)
    assert display.lines_ == []
    assert len(display.plot(kind="lines").lines_) == 5


def test_trace_labels_as_many_tokens_as_fit():
    n_tokens = 400
    flagged = np.zeros(n_tokens, dtype=bool)
    flagged[[7, 201]] = True
    tokens = [f"t{i}" for i in range(n_tokens)]
    display = InteractionTraceDisplay(np.arange(400.0), tokens, flagged=flagged).plot()
    texts = tick_texts(display.ax_.xaxis)
    assert {"t7", "t201"} < set(texts)
    assert 40 < len(texts) < 100
    display.figure_.draw_without_rendering()
    assert_no_overlap(display.ax_.get_xticklabels())
    assert "is labeled" in display.ax_.get_xlabel()


def test_trace_of_an_estimator(fitted, acts):
    text, tokens = acts[:6], list("abcdef")
    expected = interaction_scores(fitted, text, per_mlp=True)
    display = InteractionTraceDisplay.from_estimator(fitted, text, tokens)
    assert_allclose([line.get_ydata() for line in display.lines_], expected.T)

    pipeline = make_pipeline(FunctionTransformer(), fitted)
    display = InteractionTraceDisplay.from_estimator(
        pipeline, text, tokens, reference=acts, kind="rows"
    )
    ordinary = interaction_scores(fitted, acts, per_mlp=True)
    expected = (expected - ordinary.mean(axis=0)) / ordinary.std(axis=0)
    assert_allclose(display.im_.get_array(), expected.T)
    assert "standard deviations" in display.colorbar_.ax.get_ylabel()

    other = make_mlp(6, 5, seed=3, site=1)
    display = InteractionTraceDisplay.from_estimator(
        fitted, text, tokens, mlp=other, n_dominant=2
    )
    expected = interaction_scores(fitted, text, mlp=other, n_dominant=2)
    assert_allclose(display.lines_[0].get_ydata(), expected)
    with pytest.raises(ValueError, match="does not vary over reference"):
        InteractionTraceDisplay.from_estimator(fitted, text, tokens, reference=text[:1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": ["a"]}, "tokens must have 2 entries"),
        ({"flagged": [True]}, "flagged must have 2 entries"),
        ({"flagged": [1, -1]}, "predictions == -1"),
        ({"mlp_names": ["x", "y"]}, "mlp_names must have 1 entries"),
        ({"scores": [np.nan, 1]}, "scores contains NaN"),
    ],
)
def test_trace_rejects(arguments, message):
    arguments = {"scores": [1.0, 2.0], "tokens": ["a", "b"], **arguments}
    with pytest.raises(ValueError, match=message):
        InteractionTraceDisplay(**arguments).plot()


def test_trace_rejects_kind():
    with pytest.raises(ValueError, match="kind must be"):
        InteractionTraceDisplay([1.0], ["a"]).plot(kind="bars")


# Hostile values


def hostile(make, valid, arguments):
    return [
        pytest.param(make, valid | {name: value}, name, id=f"{name}={value!r}"[:40])
        for name, values in arguments.items()
        for value in values
    ]


def plotted(display, options):
    """Make a display of some of the arguments, and plot it with the others."""

    def plot(**arguments):
        given = {name: arguments.pop(name) for name in options if name in arguments}
        return display(**arguments).plot(**given)

    return plot


NO_NAMES = [5, None, "ab", ["a"] * 9]
NO_COUNTS = [True, 0, -1, 1.5, "a", None, [], 10**18 + 0.5]
NO_NUMBERS = ["a", {}, [{}], [["x"]], np.ones(2) * 1j, [[1], [1, 2]]]


@pytest.mark.parametrize(
    ("make", "arguments", "name"),
    [
        *hostile(
            plotted(AblationDisplay, ["ax"]),
            {"fidelity": {"none": [1, 2]}},
            {
                "fidelity": [3, None, [1], {"none": "a"}, {"none": [{}]}],
                "labels": [5, "ab", ["a"], [1, 2, 3]],
                "quantity": [None, 3, "\ud800"],
                "ax": [3, "ax", plt],
            },
        ),
        *hostile(
            plotted(InteractionMatrixDisplay, ["ax", "max_size", "cmap", "colorbar"]),
            {"matrix": np.ones((2, 2)), "labels": [0, 1]},
            {
                "matrix": [*NO_NUMBERS, 3, None, [], np.ones((2, 2, 2))],
                "labels": [5, "ab", ["a", "b"], [0.5, 1], [np.nan, 0], [[0, 1]]],
                "max_size": NO_COUNTS,
                "cmap": [3, "no such map", [], None],
                "colorbar": ["yes", None, 2],
                "quantity": [3, None],
                "ax": [3],
            },
        ),
        *hostile(
            plotted(
                ClusterGraphDisplay,
                ["ax", "max_nodes", "max_edges", "n_top_labels", "random_state"],
            ),
            {"graph": nx.path_graph(3), "labels": [0, 0, 1]},
            {
                "graph": [3, None, np.ones((3, 3))],
                "labels": [5, None, "abc", ["a", "b", "c"], [0.5, 1, 1], [0, 1]],
                "feature_names": [5, "abc", ["a"]],
                "max_nodes": NO_COUNTS,
                "max_edges": [True, -1, 1.5, "a", None],
                "n_top_labels": [True, -1, 1.5, "a", None],
                "random_state": [-1, 2**32, 1.5, "a", []],
                "ax": [3],
            },
        ),
        *hostile(
            plotted(InteractionTraceDisplay, ["ax", "kind"]),
            {"scores": [1.0, 2.0], "tokens": ["a", "b"]},
            {
                "scores": [*NO_NUMBERS, 3, None, [], np.ones((2, 2, 2))],
                "tokens": NO_NAMES,
                "flagged": ["ab", [0, 1], [[True, False]], [True] * 3, 5],
                "mlp_names": [5, "a", ["a", "b"]],
                "threshold": ["a", np.nan, [], True],
                "quantity": [3, None, []],
                "kind": [None, 3, [], "bars"],
                "ax": [3],
            },
        ),
        *hostile(
            plotted(PenaltyPathDisplay, ["ax"]),
            {"param_range": [0, 1], "dominant_share": [0, 1], "fvu": [0, 1]},
            {
                "param_range": [*NO_NUMBERS, 3, None, [], [0, np.inf]],
                "dominant_share": [*NO_NUMBERS, 3, None, []],
                "fvu": [*NO_NUMBERS, 3, []],
                "one_feature_fidelity": [*NO_NUMBERS, 3, []],
                "param_name": [3, None, [], "\ud800"],
                "chosen": ["a", np.nan, [], True],
                "ax": [3],
            },
        ),
    ],
)
def test_hostile_arguments_are_named(make, arguments, name):
    with pytest.raises((TypeError, ValueError), match=name):
        make(**arguments)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"normalize": []}, "normalize"),
        ({"normalize": "code_product"}, "normalize"),
        ({"max_size": True}, "max_size"),
        ({"labels": "a"}, "labels"),
        ({"estimator": 3}, "estimator"),
        ({"estimator": InteractionSAE}, "estimator"),
    ],
)
def test_hostile_arguments_of_the_matrix_of_an_estimator(fitted, acts, arguments, name):
    arguments = {"estimator": fitted, "X": acts} | arguments
    with pytest.raises((TypeError, ValueError), match=name):
        InteractionMatrixDisplay.from_estimator(**arguments)


@pytest.mark.parametrize("estimator", [3, None, InteractionSAE, InteractionSAE()])
def test_graph_of_what_has_none(estimator):
    with pytest.raises((TypeError, ValueError), match=r"estimator|InteractionSAE"):
        ClusterGraphDisplay.from_estimator(estimator)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"param_range": "a"}, "param_range"),
        ({"param_range": []}, "param_range"),
        ({"param_range": [-1]}, "param_range"),
        ({"param_name": "lambda"}, "param_name"),
        ({"param_name": 3}, "param_name"),
        ({"groups": [1, 2]}, "groups"),
        ({"y": [1, 2]}, "y must"),
        ({"X": 3}, "X must"),
        ({"cv": b"x"}, "cv must"),
        ({"cv": "a"}, "cv must"),
        ({"cv": [[]]}, "cv cannot"),
        ({"cv": 10**18}, "cv cannot"),
        ({"cv": 1}, "cv cannot"),
        ({"n_jobs": 10**18}, "n_jobs"),
        ({"n_jobs": True}, "n_jobs"),
        ({"estimator": 3}, "estimator"),
        ({"estimator": FunctionTransformer()}, "estimator"),
    ],
)
def test_hostile_arguments_of_the_path_of_an_estimator(acts, arguments, name):
    sae = InteractionSAE(4, k=2, max_iter=1)
    valid = {"estimator": sae, "X": acts[:, 0], "param_range": [0.1], "cv": 2}
    with pytest.raises((TypeError, ValueError), match=name):
        PenaltyPathDisplay.from_estimator(**valid | arguments)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"search": 3}, "search must"),
        ({"search": FunctionTransformer().fit([[1]])}, "search must"),
        ({"fixed_params": 3}, "fixed_params"),
        ({"param_name": []}, "param_name"),
    ],
)
def test_hostile_arguments_of_the_path_of_a_search(acts, mlps, arguments, name):
    search = searched(acts, mlps, {"lam": [0]}, refit=False)
    with pytest.raises(TypeError, match=name):
        PenaltyPathDisplay.from_search(**{"search": search} | arguments)


def test_range_of_whole_numbers_stays_one(acts):
    display = PenaltyPathDisplay.from_estimator(
        InteractionSAE(4, max_iter=1), acts[:, 0], param_name="k", param_range=(2, 1)
    )
    assert_array_equal(display.param_range, [2, 1])


def test_halves_of_characters_are_drawn():
    display = InteractionTraceDisplay([1.0, 2.0], ["\ud83d", "b"]).plot()
    assert tick_texts(display.ax_.xaxis) == ["\\ud83d", "b"]


def test_errors_name_the_reference(fitted, acts):
    for bad in (acts[:, :2], np.full_like(acts, np.nan), acts * 1j):
        with pytest.raises(ValueError, match="reference"):
            InteractionTraceDisplay.from_estimator(
                fitted, acts[:2], ["a", "b"], reference=bad
            )
