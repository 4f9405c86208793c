"""ClusterGraphDisplay."""

from collections.abc import Hashable, Sequence
from typing import Any, Self

import networkx as nx
import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from .._validation import check_int, check_seed, shown
from ..coders import last_step
from ._axes import COLORS, axes_or_new, check_matplotlib
from ._checks import check_labels, check_names

_LEGEND_FREQUENCIES = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)

# Radius of a cluster of one feature, and free space between clusters.
_NODE_RADIUS, _CLUSTER_GAP = 1.0, 1.6

# Areas of the nodes in points squared: of a feature that is never active, what the
# most frequent one has more, and where frequencies are not known.
_MIN_AREA, _AREA_RANGE, _DEFAULT_AREA = 12.0, 180.0, 60.0


class ClusterGraphDisplay:
    """The graph of the features, its clusters drawn apart.

    Nodes are features, their area grows with how often the feature is active, their
    color tells neighboring clusters apart. Lines are the strongest edges, thicker for
    larger weights; those between clusters are gray. Create it with
    :meth:`from_estimator`, or from a graph and labels; all parameters are stored as
    attributes.

    Parameters
    ----------
    graph : networkx.Graph
        Its edges have a ``"weight"``, 1 where missing; nodes may have an
        ``"activation_frequency"``, the share of samples they are active on.

    labels : array-like of int of shape (n_nodes,)
        Cluster of each node, in the order of the graph's nodes. Nodes with a negative
        label are in no cluster and are left out.

    feature_names : sequence of str of shape (n_nodes,), default=None
        What to call the nodes. None takes the nodes themselves.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the graph.

    figure_ : matplotlib Figure
        Figure that contains it.

    nodes_ : matplotlib PathCollection
        The nodes drawn, in the order of `drawn_nodes_`.

    edges_ : matplotlib LineCollection
        The edges drawn.

    drawn_nodes_ : list
        The nodes drawn, by cluster.

    positions_ : dict of node to ndarray of shape (2,)
        Where they are.

    texts_ : list of matplotlib Text
        Names of clusters and nodes. One that would cover another is left out.

    Raises
    ------
    ValueError
        If `labels` or `feature_names` do not fit the graph, or no node is in a cluster.

    See Also
    --------
    InteractionMatrixDisplay : The same as a matrix.

    Examples
    --------
    >>> import networkx as nx
    >>> from sklearn_ccx import ClusterGraphDisplay
    >>> graph = nx.barbell_graph(5, 0)
    >>> display = ClusterGraphDisplay(graph, [0] * 5 + [1] * 5).plot(random_state=0)
    >>> len(display.drawn_nodes_)
    10
    """

    def __init__(
        self,
        graph: nx.Graph,
        labels: npt.ArrayLike,
        *,
        feature_names: Sequence[str] | None = None,
    ) -> None:
        self.graph = graph
        self.labels = labels
        self.feature_names = feature_names

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        *,
        feature_names: Sequence[str] | None = None,
        max_nodes: int = 300,
        max_edges: int = 1500,
        n_top_labels: int = 2,
        random_state: int | np.random.RandomState | None = 0,
        ax: Any = None,
    ) -> Self:
        """Draw the graph of a fitted clusterer.

        Parameters
        ----------
        estimator : FeatureClusterer
            Fitted, or a pipeline that ends in one, or a search or
            :class:`~sklearn.frozen.FrozenEstimator` around it.

        feature_names : sequence of str of shape (n_components,), default=None
            What to call the features. None takes their numbers.

        max_nodes : int, default=300
            As in :meth:`plot`.

        max_edges : int, default=1500
            As in :meth:`plot`.

        n_top_labels : int, default=2
            As in :meth:`plot`.

        random_state : int, RandomState instance or None, default=0
            As in :meth:`plot`.

        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        Returns
        -------
        ClusterGraphDisplay
            The display, drawn.
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        clusterer = last_step(estimator)
        if isinstance(clusterer, type) or not hasattr(clusterer, "fit"):
            raise TypeError(
                f"estimator must be a fitted FeatureClusterer; got {shown(clusterer)}."
            )
        check_is_fitted(clusterer)
        if not hasattr(clusterer, "graph_") or not hasattr(clusterer, "labels_"):
            raise TypeError(
                "estimator must be a FeatureClusterer, which has a graph_ of the "
                f"features; {type(clusterer).__name__} has none."
            )
        display = cls(clusterer.graph_, clusterer.labels_, feature_names=feature_names)
        return display.plot(
            ax,
            max_nodes=max_nodes,
            max_edges=max_edges,
            n_top_labels=n_top_labels,
            random_state=random_state,
        )

    def plot(
        self,
        ax: Any = None,
        *,
        max_nodes: int = 300,
        max_edges: int = 1500,
        n_top_labels: int = 2,
        random_state: int | np.random.RandomState | None = 0,
    ) -> Self:
        """Draw the graph.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        max_nodes : int, default=300
            The most nodes to draw: of each cluster the same share, those with the
            largest sum of weights.

        max_edges : int, default=1500
            The most edges to draw: those with the largest weights.

        n_top_labels : int, default=2
            How many features to name in each cluster of at least 3: those with the
            largest sum of weights within it.

        random_state : int, RandomState instance or None, default=0
            Determines where the nodes of a cluster are.

        Returns
        -------
        ClusterGraphDisplay
            The display itself.
        """
        caller = f"{type(self).__name__}.plot"
        check_matplotlib(caller)
        max_nodes = check_int(max_nodes, "max_nodes")
        max_edges = check_int(max_edges, "max_edges", minimum=0)
        n_top_labels = check_int(n_top_labels, "n_top_labels", minimum=0)
        random = check_seed(random_state)
        cluster_of, n_clustered = self._strongest_nodes(max_nodes)
        subgraph = self.graph.subgraph(cluster_of)
        clusters = _members(cluster_of)
        self.drawn_nodes_ = [node for nodes in clusters.values() for node in nodes]
        self.positions_ = _cluster_layout(subgraph, cluster_of, clusters, random)

        ax = axes_or_new(ax, caller, (7.2, 5.6))
        self.ax_, self.figure_ = ax, ax.figure
        self.texts_: list[Any] = []
        colors = _cluster_colors(clusters, self.positions_)
        color_of = {node: colors[label] for node, label in cluster_of.items()}
        self._draw_edges(subgraph, cluster_of, color_of, max_edges)
        self._draw_nodes(color_of)
        ax.set(aspect="equal", xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.autoscale_view()
        ax.margins(0.06)
        ax.figure.canvas.draw()
        self._write_names(subgraph, clusters, n_top_labels)
        n_left_out = n_clustered - len(self.drawn_nodes_)
        note = f"{len(self.drawn_nodes_):,} features in {len(clusters)} clusters"
        if n_left_out:
            note += f"; {n_left_out:,} less connected ones are not drawn"
        ax.set_xlabel(note)
        return self

    def _strongest_nodes(self, max_nodes: int) -> tuple[dict[Hashable, int], int]:
        """Cluster of the nodes to draw, and how many nodes are in a cluster."""
        if not isinstance(self.graph, nx.Graph):
            raise TypeError(f"graph must be a networkx.Graph; got {shown(self.graph)}.")
        nodes = list(self.graph)
        labels = check_labels(self.labels, len(nodes))
        self._names = {node: str(node) for node in nodes}
        if self.feature_names is not None:
            names = check_names(
                self.feature_names, "feature_names", len(nodes), "node of the graph"
            )
            self._names = dict(zip(nodes, names, strict=True))
        cluster_of = {
            node: int(label)
            for node, label in zip(nodes, labels, strict=True)
            if label >= 0
        }
        if not cluster_of:
            raise ValueError("no node is in a cluster; there is nothing to draw.")
        degree = dict(self.graph.degree(weight="weight"))
        rank: dict[Hashable, float] = {}
        for members in _members(cluster_of).values():
            members.sort(key=lambda node: -degree[node])
            rank |= {node: (i + 0.5) / len(members) for i, node in enumerate(members)}
        strongest = set(sorted(cluster_of, key=rank.__getitem__)[:max_nodes])
        drawn = {node: cluster_of[node] for node in nodes if node in strongest}
        return drawn, len(cluster_of)

    def _draw_edges(
        self,
        subgraph: nx.Graph,
        cluster_of: dict[Hashable, int],
        color_of: dict[Hashable, str],
        max_edges: int,
    ) -> None:
        from matplotlib.collections import LineCollection

        edges = [
            (u, v, float(weight))
            for u, v, weight in subgraph.edges(data="weight", default=1.0)
            if u != v
        ]
        edges.sort(key=lambda edge: -edge[2])
        edges = edges[:max_edges]
        # Within clusters last, so that they lie on top.
        edges.sort(key=lambda edge: cluster_of[edge[0]] == cluster_of[edge[1]])
        largest = max((weight for *_, weight in edges), default=1.0)
        self.edges_ = LineCollection(
            [(self.positions_[u], self.positions_[v]) for u, v, _ in edges],
            colors=[
                (color_of[u], 0.45) if cluster_of[u] == cluster_of[v] else ("0.55", 0.2)
                for u, v, _ in edges
            ],
            linewidths=[0.4 + 1.6 * weight / largest for *_, weight in edges],
            zorder=1,
        )
        self.ax_.add_collection(self.edges_)

    def _draw_nodes(self, color_of: dict[Hashable, str]) -> None:
        frequency = [
            self.graph.nodes[node].get("activation_frequency", 0.0)
            for node in self.drawn_nodes_
        ]
        self._highest_frequency = max(frequency) or 1.0
        self.nodes_ = self.ax_.scatter(
            *np.array([self.positions_[node] for node in self.drawn_nodes_]).T,
            s=[self._area(node) for node in self.drawn_nodes_],
            c=[color_of[node] for node in self.drawn_nodes_],
            edgecolors="white",
            linewidths=0.6,
            zorder=2,
        )
        in_legend = [share for share in _LEGEND_FREQUENCIES if share <= max(frequency)]
        handles = [
            self.ax_.scatter(
                [],
                [],
                s=_MIN_AREA + _AREA_RANGE * share / self._highest_frequency,
                c="0.6",
                label=f"{100 * share:g}%",
            )
            for share in in_legend[-3:]
        ]
        if handles:
            self.ax_.legend(
                handles=handles,
                title="activation\nfrequency",
                loc="upper left",
                bbox_to_anchor=(1, 1),
                frameon=False,
                labelspacing=1.0,
            )

    def _area(self, node: Hashable) -> float:
        frequency = self.graph.nodes[node].get("activation_frequency")
        if frequency is None:
            return _DEFAULT_AREA
        return _MIN_AREA + _AREA_RANGE * frequency / self._highest_frequency

    def _write_names(
        self, subgraph: nx.Graph, clusters: dict[int, list[Hashable]], n_top_labels: int
    ) -> None:
        boxes: list[Any] = []
        for label, nodes in clusters.items():
            at = np.array([self.positions_[node] for node in nodes])
            top = (at[:, 0].mean(), at[:, 1].max())
            self._write(f"cluster {label}", top, 9, boxes, weight="bold", size="small")
        for nodes in clusters.values():
            if len(nodes) < 3:
                continue
            inside = subgraph.subgraph(nodes).degree(weight="weight")
            strongest = sorted(nodes, key=lambda node: -inside[node])
            for node in strongest[:n_top_labels]:
                above = 1.0 + np.sqrt(self._area(node) / np.pi)
                name, at = self._names[node], self.positions_[node]
                self._write(name, at, above, boxes, size="x-small")

    def _write(
        self, name: str, at: Any, above: float, boxes: list[Any], **style: Any
    ) -> None:
        """Write a name some points above a position, if it covers no other name."""
        from matplotlib.patheffects import withStroke

        text = self.ax_.annotate(
            name,
            at,
            xytext=(0, above),
            textcoords="offset points",
            ha="center",
            va="bottom",
            parse_math=False,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=3,
            **style,
        )
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in boxes):
            text.remove()
        else:
            self.texts_.append(text)
            boxes.append(box)


def _members(cluster_of: dict[Hashable, int]) -> dict[int, list[Hashable]]:
    """Nodes of each cluster, large clusters first."""
    members: dict[int, list[Hashable]] = {}
    for node, label in cluster_of.items():
        members.setdefault(label, []).append(node)
    return dict(sorted(members.items(), key=lambda item: (-len(item[1]), item[0])))


def _cluster_colors(
    clusters: dict[int, list[Hashable]],
    positions: dict[Hashable, npt.NDArray[np.float64]],
) -> dict[int, str]:
    """A color for each cluster, the same one only for clusters far apart."""
    centers = {
        label: np.mean([positions[node] for node in nodes], axis=0)
        for label, nodes in clusters.items()
    }
    color_of: dict[int, str] = {}
    for label in clusters:
        distance = dict.fromkeys(COLORS, np.inf)
        for other, color in color_of.items():
            apart = float(np.linalg.norm(centers[label] - centers[other]))
            distance[color] = min(distance[color], apart)
        color_of[label] = max(COLORS, key=distance.__getitem__)
    return color_of


def _cluster_layout(
    graph: nx.Graph,
    cluster_of: dict[Hashable, int],
    clusters: dict[int, list[Hashable]],
    random: np.random.RandomState,
) -> dict[Hashable, npt.NDArray[np.float64]]:
    """Positions: springs within a cluster, the clusters in discs side by side."""
    radius = [_NODE_RADIUS * np.sqrt(len(nodes)) for nodes in clusters.values()]
    index_of = {label: index for index, label in enumerate(clusters)}
    links = np.zeros((len(clusters), len(clusters)))
    for u, v, weight in graph.edges(data="weight", default=1.0):
        i, j = index_of[cluster_of[u]], index_of[cluster_of[v]]
        links[i, j] += weight
        links[j, i] += weight
    centers = _packed_discs(np.array(radius), links)
    positions: dict[Hashable, npt.NDArray[np.float64]] = {}
    for nodes, center, size in zip(clusters.values(), centers, radius, strict=True):
        inside = graph.subgraph(nodes)
        local = nx.spring_layout(inside, seed=random)
        at = np.array([local[node] for node in nodes])
        at -= at.mean(axis=0)
        reach = np.linalg.norm(at, axis=1).max()
        at *= size / reach if reach > 0 else 0.0
        positions.update(zip(nodes, center + at, strict=True))
    return positions


def _packed_discs(
    radius: npt.NDArray[np.float64], links: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Centers of discs that do not overlap, the strongly linked ones close."""
    reach = 2.0 * np.sqrt(np.square(radius + _CLUSTER_GAP).sum())
    side = np.linspace(-reach, reach, 81)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    # The figure is wider than high.
    eccentricity = np.hypot(grid[:, 0] / 1.3, grid[:, 1])
    distance = np.empty((len(radius), len(grid)))
    centers = np.zeros((len(radius), 2))
    for index in range(len(radius)):
        apart = radius[:index] + radius[index] + _CLUSTER_GAP
        is_free = (distance[:index] >= apart[:, None]).all(axis=0)
        pull = links[index, :index] / (links[index, :index].sum() or 1.0)
        cost = pull @ distance[:index] + 0.5 * eccentricity
        centers[index] = grid[np.where(is_free, cost, np.inf).argmin()]
        distance[index] = np.linalg.norm(grid - centers[index], axis=1)
    return centers
