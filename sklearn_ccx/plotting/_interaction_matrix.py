"""InteractionMatrixDisplay."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from .._validation import (
    as_array,
    check_bool,
    check_int,
    check_option,
    check_text,
    errors_about,
)
from ..clustering import FeatureClusterer
from ..coders import check_holds_coder, find_coder, last_step
from ..interactions import interaction_matrix
from ._axes import axes_or_new, check_matplotlib
from ._checks import check_colormap, check_labels, check_numbers

# Blocks below this share of the side are neither outlined nor labeled.
_MIN_OUTLINED, _MIN_LABELED = 0.01, 0.03

# The color scale ends this factor below the largest value.
_COLOR_RANGE = 1e4

# Below this ratio of its ends, the color scale has few powers of ten to label.
_SHORT_SCALE = 50.0

# What the affinities of a clusterer are, by how they are normalized.
_QUANTITIES = {
    ("interaction", None): "interaction (units of the MLP output)",
    ("interaction", "coactivation"): "interaction given that both are active",
    ("interaction", "code_product"): "interaction per unit of both codes",
    ("weights", None): "similarity of what is written to the neurons (cosine)",
    ("coactivation", None): "co-activation (cosine)",
    ("precomputed", None): "affinity",
}


class InteractionMatrixDisplay:
    """Interaction between features, ordered by cluster, on a logarithmic scale.

    Clusters stand in the order of their size, features within a cluster in that of
    their interaction. A large matrix is drawn as means over blocks of neighboring
    features, so that it is never made dense. Create it with :meth:`from_estimator`, or
    from a matrix and labels; all parameters are stored as attributes.

    Parameters
    ----------
    matrix : {array-like, sparse matrix} of shape (n_components, n_components)
        Interaction of every two features, not negative. The diagonal is left out.

    labels : array-like of int of shape (n_components,), default=None
        Cluster of each feature. Negative ones are in no cluster and are left out, as
        are features without any interaction if `labels` is None, which takes all
        others for one cluster.

    quantity : str, default="interaction"
        What the entries are, with their unit, for the color bar.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the image.

    figure_ : matplotlib Figure
        Figure that contains it.

    im_ : matplotlib QuadMesh
        The image. Its array is masked where features do not interact.

    boundaries_ : matplotlib LineCollection
        Outlines of the clusters that have at least a hundredth of the features.

    order_ : ndarray of int of shape (n_drawn,)
        The features along the axes, from the top left.

    colorbar_ : matplotlib Colorbar
        The color scale, if drawn.

    within_share_ : float
        Share of the sum of the drawn entries that lies within clusters. NaN if the
        sum is 0.

    Raises
    ------
    ValueError
        If the matrix is not square, not finite or negative somewhere, if `labels` does
        not fit it, or if no feature is left.

    See Also
    --------
    interaction_matrix : Computes the matrix.
    ClusterGraphDisplay : The same as a graph.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionMatrixDisplay
    >>> matrix = [[0, 3, 0.1], [2, 0, 0.1], [0.2, 0, 0]]
    >>> display = InteractionMatrixDisplay(matrix, [0, 0, 1]).plot()
    >>> display.order_
    array([0, 1, 2])
    """

    def __init__(
        self,
        matrix: Any,
        labels: npt.ArrayLike | None = None,
        *,
        quantity: str = "interaction",
    ) -> None:
        self.matrix = matrix
        self.labels = labels
        self.quantity = quantity

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: npt.ArrayLike | None = None,
        *,
        labels: npt.ArrayLike | None = None,
        normalize: str | None = None,
        max_size: int = 400,
        ax: Any = None,
    ) -> Self:
        """Draw the matrix of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted :class:`~sklearn_ccx.FeatureClusterer`, or with X also an
            :class:`~sklearn_ccx.InteractionCrosscoder` or
            :class:`~sklearn_ccx.InteractionSAE`; or a pipeline, search or other
            meta-estimator that holds one of them.

        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d), \
                default=None
            What `estimator` takes: the interaction on these samples is drawn. None
            draws the affinity that the clusterer was fitted with.

        labels : array-like of int of shape (n_components,), default=None
            Cluster of each feature. None takes the `labels_` of the clusterer.

        normalize : {None, "coactivation"}, default=None
            As in :func:`~sklearn_ccx.interaction_matrix`; needs X.

        max_size : int, default=400
            As in :meth:`plot`.

        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        Returns
        -------
        InteractionMatrixDisplay
            The display, drawn.
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        check_option(normalize, "normalize", (None, "coactivation"))
        clusterer = last_step(estimator)
        if labels is None:
            labels = getattr(clusterer, "labels_", None)
        if X is not None:
            coder, X = find_coder(estimator, X)
            matrix = interaction_matrix(coder, X, normalize=normalize)
            quantity = _QUANTITIES["interaction", normalize]
        elif normalize is not None:
            raise ValueError("normalize needs X; pass the samples to measure on.")
        elif isinstance(clusterer, FeatureClusterer):
            check_is_fitted(clusterer)
            matrix = clusterer.affinity_matrix_
            kind = clusterer.affinity_
            normalize = clusterer.normalize if kind == "interaction" else None
            quantity = _QUANTITIES[kind, normalize]
        else:
            check_is_fitted(check_holds_coder(estimator))
            raise ValueError(
                "X is needed to measure the interaction of a "
                f"{type(clusterer).__name__}; only a FeatureClusterer keeps a matrix."
            )
        return cls(matrix, labels, quantity=quantity).plot(ax, max_size=max_size)

    def plot(
        self,
        ax: Any = None,
        *,
        max_size: int = 400,
        cmap: Any = "viridis_r",
        colorbar: bool = True,
    ) -> Self:
        """Draw the matrix.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        max_size : int, default=400
            The most cells along a side. With more features than that, a cell shows the
            mean over a block of them. At most ``max_size ** 2`` numbers are held.

        cmap : str or matplotlib Colormap, default="viridis_r"
            Colors from weak to strong.

        colorbar : bool, default=True
            Whether to draw the color scale.

        Returns
        -------
        InteractionMatrixDisplay
            The display itself.
        """
        check_matplotlib(f"{type(self).__name__}.plot")
        max_size = check_int(max_size, "max_size")
        check_bool(colorbar, "colorbar")
        check_text(self.quantity, "quantity")
        check_colormap(cmap)
        from matplotlib.collections import LineCollection
        from matplotlib.colors import LogNorm
        from matplotlib.ticker import LogFormatter

        matrix, labels = self._validate()
        self.order_ = _order_by_cluster(matrix, labels)
        ordered = matrix[self.order_][:, self.order_].tocoo()
        labels = labels[self.order_]
        same = labels[ordered.row] == labels[ordered.col]
        total = ordered.data.sum()
        self.within_share_ = ordered.data[same].sum() / total if total else np.nan
        edges, mean_CC = _block_means(ordered, max_size)

        n_drawn = len(labels)
        ax = axes_or_new(ax, f"{type(self).__name__}.plot", (6.0, 5.2), "compressed")
        self.ax_, self.figure_ = ax, ax.figure
        image_CC = np.ma.masked_equal(mean_CC, 0.0)
        high = mean_CC.max() or 1.0
        low = max(image_CC.min() if image_CC.count() else 0.0, high / _COLOR_RANGE)
        norm = LogNorm(min(low, high / 10), high)
        self.im_ = ax.pcolormesh(
            edges, edges, image_CC, norm=norm, cmap=cmap, rasterized=True
        )
        ax.set_facecolor("white")
        starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
        ends = np.r_[starts[1:], n_drawn]
        sizes = ends - starts
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
        outlined = sizes >= _MIN_OUTLINED * n_drawn
        self.boundaries_ = LineCollection(
            [
                start + size * corners
                for start, size in zip(starts[outlined], sizes[outlined], strict=True)
            ],
            colors=["#D55E00"],
            linewidths=1.0,
        )
        ax.add_collection(self.boundaries_, autolim=False)
        labeled = sizes >= _MIN_LABELED * n_drawn
        centers = (starts + ends)[labeled] / 2
        names = labels[starts][labeled].astype(str) if self.labels is not None else []
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_ticks(centers if len(names) else [], names, fontsize="small")
            axis.set_tick_params(length=0)
        ax.set(aspect="equal", xlim=(0, n_drawn), ylim=(n_drawn, 0))
        self._write_labels(matrix, sizes)
        if colorbar:
            bar = ax.figure.colorbar(
                self.im_,
                ax=ax,
                extend="min" if low > image_CC.min() else "neither",
                fraction=0.046,
            )
            bar.set_label(self.quantity)
            if norm.vmax < _SHORT_SCALE * norm.vmin:
                # Plain numbers instead of multiples of powers of ten.
                bar.formatter = bar.minorformatter = LogFormatter(
                    minor_thresholds=(1.5, 0.5)
                )
            self.colorbar_ = bar
        return self

    def _validate(self) -> tuple[sparse.csr_array, npt.NDArray[np.intp]]:
        """The matrix without its diagonal, and a label for each feature."""
        given = as_array(self.matrix, "matrix")
        if not sparse.issparse(given):
            given = check_numbers(given, "matrix")
        with errors_about("matrix"):
            matrix = check_array(
                given, accept_sparse=True, dtype=np.float64, input_name="matrix"
            )
        n_features = matrix.shape[0]
        if matrix.shape[1] != n_features:
            raise ValueError(f"matrix must be square; got shape {matrix.shape}.")
        matrix = sparse.coo_array(matrix)
        if len(matrix.data) and matrix.data.min() < 0:
            raise ValueError("matrix has negative entries; pass their magnitudes.")
        rows, columns = matrix.row, matrix.col
        keep = (rows != columns) & (matrix.data > 0)
        coords = (rows[keep], columns[keep])
        matrix = sparse.coo_array((matrix.data[keep], coords), matrix.shape).tocsr()
        smallest = _COLOR_RANGE * np.finfo(np.float64).tiny
        if matrix.nnz and not smallest <= matrix.data.max() <= 1 / smallest:
            raise ValueError(
                "matrix has entries too large or too small for a scale of colors; "
                "multiply it by a constant."
            )
        if self.labels is None:
            interacts = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
            labels = np.where(interacts, 0, -1)
        else:
            labels = check_labels(self.labels, n_features)
        if not (labels >= 0).any():
            raise ValueError(
                "no feature is in a cluster, by labels or by the matrix; there is "
                "nothing to draw."
            )
        return matrix, labels

    def _write_labels(
        self, matrix: sparse.csr_array, sizes: npt.NDArray[np.intp]
    ) -> None:
        ax, n_drawn = self.ax_, int(sizes.sum())
        is_symmetric = abs(matrix - matrix.T).sum() <= 1e-9 * abs(matrix).sum()
        rows, columns = "feature", "feature"
        if not is_symmetric:
            rows, columns = "dominant feature", "other feature"
        by = ", by cluster" if self.labels is not None else ""
        ax.set_ylabel(rows + by)
        n_all = matrix.shape[0]
        count = f"{n_drawn:,}" + (f" of {n_all:,}" if n_all > n_drawn else "")
        ax.set_xlabel(f"{columns}{by} ({count} features)")
        if len(sizes) > 1 and not np.isnan(self.within_share_):
            by_chance = (sizes * (sizes - 1.0)).sum() / (n_drawn * (n_drawn - 1.0))
            ax.set_title(
                f"{self.within_share_:.0%} of the total lies within the "
                f"{len(sizes)} clusters ({by_chance:.0%} by chance)",
                fontsize="medium",
            )


def _order_by_cluster(
    matrix: sparse.csr_array, labels: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """Clustered features, large clusters first, strong features first in each."""
    (features,) = np.nonzero(labels >= 0)
    sizes = np.bincount(labels[features])[labels[features]]
    among = matrix[features][:, features]
    strength = among.sum(axis=0) + among.sum(axis=1)
    return features[np.lexsort((-strength, labels[features], -sizes))]


def _block_means(
    matrix: sparse.coo_array, max_size: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Edges of the blocks, and the means over the pairs of features in each."""
    n_features = matrix.shape[0]
    n_cells = min(n_features, max_size)
    edges = np.round(np.linspace(0.0, n_features, n_cells + 1)).astype(np.float64)
    widths = np.diff(edges)
    cell = np.repeat(np.arange(n_cells), widths.astype(int))
    rows, columns = cell[matrix.row], cell[matrix.col]
    total_CC = np.bincount(
        rows * n_cells + columns, weights=matrix.data, minlength=n_cells**2
    ).reshape(n_cells, n_cells)
    n_pairs_CC = np.outer(widths, widths) - np.diag(widths)
    return edges, total_CC / np.maximum(n_pairs_CC, 1.0)
