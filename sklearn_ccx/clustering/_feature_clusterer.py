"""FeatureClusterer: groups of features that interact."""

from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, Self

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
    clone,
)
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import ShuffleSplit
from sklearn.utils import Tags, _safe_indexing, check_array, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import (
    _num_samples,
    check_is_fitted,
    check_non_negative,
    check_scalar,
    validate_data,
)

from ..coders._base import BaseInteractionCoder, _as_array
from ._feature_graph import (
    activation_frequency,
    coactivation_affinity,
    feature_graph,
    interaction_affinity,
    membership,
    modularity,
    nearest_neighbors,
    sparse_codes,
    symmetrized,
    weights_affinity,
)
from ._graph_clustering import METHODS, cluster_nodes, seeded_clone, takes_precomputed

FloatArray = npt.NDArray[np.floating]
Labels = npt.NDArray[np.intp]

_DTYPES = (np.float32, np.float64)


class _Features(NamedTuple):
    """What some data say about the features."""

    affinity: sparse.csr_array
    is_alive: npt.NDArray[np.bool_]
    frequency: npt.NDArray[np.float64] | None


class FeatureClusterer(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    r"""Cluster features by how they interact, and pool their codes.

    Features are the nodes of a graph in which each is joined to those it has most
    to do with, and a community of the graph is a cluster. Like
    :class:`~sklearn.cluster.FeatureAgglomeration` it has a label for each *feature*
    and transforms samples.

    With an `estimator`, X is activations. Without one, X is codes, whose features
    can only be told apart by when they are active. With ``affinity="precomputed"``, X
    of ``fit`` is a matrix of pairs of features.

    Parameters
    ----------
    estimator : InteractionCrosscoder, InteractionSAE or FrozenEstimator, default=None
        What turns activations into codes. It is cloned and fitted; wrapped in
        :class:`sklearn.frozen.FrozenEstimator` it is used as it is. None takes codes
        for X.

    affinity : str, default="auto"
        What joins two features: one of "auto", "interaction", "weights",
        "coactivation" and "precomputed".

        - "interaction" is how much they interact at the neurons, on the samples of
          X (:func:`interaction_matrix`, the mean of both directions);
        - "weights" is the cosine of their :math:`|M_{hn}| \, \|W_{out}[n]\|`, with
          :math:`M = W_{dec} W_{in}` what a feature writes to the neurons. Of X only
          depends which features are alive;
        - "coactivation" is the cosine between the samples on which they are active;
        - "precomputed" takes X for the affinities, of which both directions are
          averaged and the diagonal is ignored;
        - "auto" is "interaction" with an `estimator`, else "coactivation".

        "interaction" and "weights" need an `estimator`.

    normalize : {"coactivation", "code_product"} or None, default="coactivation"
        What "interaction" is divided by. Raw (None), features that merely fire
        together interact more.

        - "coactivation" is the share of samples on which both are active, which
          leaves the mean interaction *given* that both are;
        - "code_product" is the mean product of their codes, which also takes out how
          strongly they are active. It needs fewer samples.

    method : str or clusterer, default="louvain"
        How the graph is clustered.

        - "louvain", "greedy_modularity" and "label_propagation" find communities
          with :mod:`networkx`;
        - "affinity_propagation" takes the affinities for similarities,
          "affinity_propagation_rows" the euclidean distance between the rows of the
          affinity matrix, as in [1]_;
        - an estimator of scikit-learn with ``affinity="precomputed"`` gets the
          affinities. With ``metric="precomputed"`` it gets distances,
          1 - affinity / largest affinity.

        Affinity propagation and clusterers that take no sparse input hold the matrix
        of all pairs.

    n_neighbors : int, default=10
        Pairs are joined if one is among the other's `n_neighbors` features of
        largest affinity. None joins every pair with an affinity above 0.

    resolution : float, default=1.0
        Of "louvain" and "greedy_modularity": more gives more clusters.

    pooling : {"mean", "sum", "max"}, default="mean"
        How ``transform`` combines the codes of a cluster.

    random_state : int, RandomState instance or None, default=None
        Determines the clustering where it is random, and the `random_state` of
        `estimator` where that is None. Pass an int for reproducible results.

    Attributes
    ----------
    labels_ : ndarray of shape (n_components,)
        Cluster of each feature, in order of decreasing size. -1 for features that are
        never active in X or, with ``affinity="precomputed"``, have no affinity at all.

    n_clusters_ : int
        Number of clusters.

    affinity_ : str
        The affinity in effect: "interaction", "weights", "coactivation" or
        "precomputed".

    affinity_matrix_ : csr_array of shape (n_components, n_components), float64
        Weights of the graph's edges: symmetric, 0 where features are not joined.

    graph_ : networkx.Graph
        The same as a graph over all features, with edges of attribute "weight" and
        nodes of attributes "cluster", "alive" and, where known,
        "activation_frequency" (share of the samples of X) and "decoder_norm_0",
        "decoder_norm_1", ... (norm at each site, see
        :attr:`InteractionCrosscoder.decoder_norms_`).

    modularity_ : float
        Modularity of the clusters, at a resolution of 1 whatever `resolution` is. 0
        if no features are joined.

    estimator_ : InteractionCrosscoder or InteractionSAE
        The fitted estimator, without the :class:`~sklearn.frozen.FrozenEstimator`.
        Only with an `estimator`.

    n_features_in_ : int
        Number of columns of X. With sites as an axis of their own, the number of
        sites times their width.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, if it had names.

    See Also
    --------
    interaction_matrix : The interactions themselves.
    sklearn.cluster.FeatureAgglomeration : Hierarchical clustering of columns.

    References
    ----------
    .. [1] `arXiv:2606.09940 <https://arxiv.org/abs/2606.09940>`_.

    Examples
    --------
    Features that write to the same neurons, found although they rarely fire together:

    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn.metrics import adjusted_rand_score
    >>> from sklearn_ccx import FeatureClusterer
    >>> from sklearn_ccx.datasets import make_interacting_features
    >>> data = make_interacting_features(random_state=0)
    >>> clusterer = FeatureClusterer(FrozenEstimator(data.sae), random_state=0)
    >>> labels = clusterer.fit_predict(data.activations)
    >>> round(adjusted_rand_score(data.neuron_groups, labels), 2)
    1.0
    >>> clusterer.transform(data.activations).shape
    (4000, 8)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "estimator": [BaseInteractionCoder, FrozenEstimator, None],
        "affinity": [
            StrOptions(
                {"auto", "interaction", "weights", "coactivation", "precomputed"}
            )
        ],
        "normalize": [StrOptions({"coactivation", "code_product"}), None],
        "method": [StrOptions(set(METHODS)), HasMethods(["fit_predict", "get_params"])],
        "n_neighbors": [Interval(Integral, 1, None, closed="left"), None],
        "resolution": [Interval(Real, 0, None, closed="neither")],
        "pooling": [StrOptions({"mean", "sum", "max"})],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: BaseInteractionCoder | FrozenEstimator | None = None,
        *,
        affinity: str = "auto",
        normalize: str | None = "coactivation",
        method: str | BaseEstimator = "louvain",
        n_neighbors: int | None = 10,
        resolution: float = 1.0,
        pooling: str = "mean",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.estimator = estimator
        self.affinity = affinity
        self.normalize = normalize
        self.method = method
        self.n_neighbors = n_neighbors
        self.resolution = resolution
        self.pooling = pooling
        self.random_state = random_state

    # The estimator validates its own parameters.
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: object = None) -> Self:
        """Cluster the features.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), \
                (n_samples, n_sites, d) or (n_components, n_components)
            Activations with an `estimator`, codes without, affinities with
            ``affinity="precomputed"``. Codes and affinities may be sparse.

        y : Ignored
            Present for the scikit-learn API.

        Returns
        -------
        self : object
            The fitted clusterer.

        Raises
        ------
        ValueError
            If X is empty, not finite or of the wrong shape, codes or affinities are
            negative, or a parameter does not fit the others.
        """
        affinity = self._resolved_affinity()
        random = check_random_state(self.random_state)
        coder_seed, seed = map(int, random.randint(2**31 - 1, size=2))
        coder, layout = self._fitted_coder(X, coder_seed)
        if coder is None:
            X, layout = self._validate_new_codes(X)
        features = self._features(affinity, coder, X)
        labels = self._labels(features, seed)
        attributes: dict[str, Any] = {"cluster": labels, "alive": features.is_alive}
        if features.frequency is not None:
            attributes["activation_frequency"] = features.frequency
        if coder is not None:
            for site, norms in enumerate(coder.decoder_norms_.T):
                attributes[f"decoder_norm_{site}"] = norms

        for name in ("estimator_", "feature_names_in_"):
            self.__dict__.pop(name, None)
        self.__dict__.update(layout)
        self.affinity_ = affinity
        self.affinity_matrix_ = features.affinity
        self.graph_: nx.Graph = feature_graph(features.affinity, attributes)
        self.labels_ = labels
        self.n_clusters_ = int(labels.max(initial=-1)) + 1
        self.modularity_ = modularity(features.affinity, labels)
        return self

    def fit_predict(self, X: Any, y: object = None) -> Labels:
        """Cluster the features and return their labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), \
                (n_samples, n_sites, d) or (n_components, n_components)
            As in :meth:`fit`.

        y : Ignored
            Present for the scikit-learn API.

        Returns
        -------
        labels : ndarray of shape (n_components,)
            ``labels_``: one for each feature, not for each sample.
        """
        return self.fit(X).labels_

    def transform(self, X: Any) -> FloatArray:
        """Pool the codes of each cluster.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features) or \
                (n_samples, n_sites, d)
            Activations with an `estimator`, else codes.

        Returns
        -------
        pooled : ndarray of shape (n_samples, n_clusters)
            Mean, sum or maximum of the codes of the features of each cluster.
            Features without a cluster do not count.

        Raises
        ------
        ValueError
            If the shape of X does not match that seen in ``fit``, or codes are
            negative.
        NotFittedError
            If the clusterer is not fitted.
        """
        check_is_fitted(self)
        codes = self._codes(X)
        if self.pooling == "max":
            columns = sparse.csc_array(codes)
            pooled = [
                columns[:, np.flatnonzero(self.labels_ == label)].max(axis=1)
                for label in range(self.n_clusters_)
            ]
            shape = (codes.shape[0], 0)
            if not pooled:
                return np.zeros(shape, dtype=codes.dtype)
            return np.column_stack([column.toarray() for column in pooled])
        members = membership(self.labels_, codes.dtype)
        pooled = (codes @ members).toarray()
        if self.pooling == "mean":
            pooled /= members.sum(axis=0)
        return pooled

    def inverse_transform(self, X: Any) -> FloatArray:
        """Give every feature of a cluster the same code.

        The codes are those that :meth:`transform` would pool to X: their mean or
        maximum is X, or their sum.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_clusters)
            Pooled codes.

        Returns
        -------
        X_original : ndarray of shape (n_samples, n_features) or \
                (n_samples, n_sites, d)
            The reconstructed activations with an `estimator`, else the codes, which
            are 0 for features without a cluster.

        Raises
        ------
        ValueError
            If X does not have one column for each cluster.
        NotFittedError
            If the clusterer is not fitted.
        """
        check_is_fitted(self)
        X = check_array(X, dtype=_DTYPES, ensure_min_features=0)
        if X.shape[1] != self.n_clusters_:
            raise ValueError(
                f"X has {X.shape[1]} columns, but FeatureClusterer has "
                f"{self.n_clusters_} clusters; pass pooled codes as returned by "
                f"transform, of shape (n_samples, {self.n_clusters_})."
            )
        members = membership(self.labels_, X.dtype)
        if self.pooling == "sum":
            X = X / members.sum(axis=0)
        codes = X @ members.T
        coder = getattr(self, "estimator_", None)
        return codes if coder is None else coder.inverse_transform(codes)

    def score(self, X: Any, y: object = None) -> float:
        """Modularity of the clusters on the graph of other data.

        The graph of X is made as in ``fit``, with the estimator fitted then.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), \
                (n_samples, n_sites, d) or (n_components, n_components)
            Activations with an `estimator`, codes without, affinities with
            ``affinity="precomputed"``.

        y : Ignored
            Present for the scikit-learn API.

        Returns
        -------
        float
            From -1/2 to 1, at a resolution of 1; 0 if no features are joined.
            Features without a cluster are left out. Compare it between clusterings
            of the same features with the same `affinity`, `normalize` and
            `n_neighbors` only: the graph depends on them.

        Raises
        ------
        ValueError
            If the shape of X does not match that seen in ``fit``.
        NotFittedError
            If the clusterer is not fitted.
        """
        check_is_fitted(self)
        coder = getattr(self, "estimator_", None)
        X = self._validate_codes(X) if coder is None else X
        return modularity(
            self._features(self.affinity_, coder, X).affinity, self.labels_
        )

    def stability(
        self,
        X: Any,
        *,
        n_splits: int = 5,
        random_state: int | np.random.RandomState | None = None,
    ) -> float:
        """Agreement between the clusters found on two halves of the data.

        Each half gets its own graph and clusters; the estimator stays the one
        fitted.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features) or \
                (n_samples, n_sites, d)
            Activations with an `estimator`, else codes.

        n_splits : int, default=5
            How many times X is split at random.

        random_state : int, RandomState instance or None, default=None
            Determines the splits and the clustering where it is random.

        Returns
        -------
        float
            Mean adjusted Rand index of the labels, over the features that have one
            in both halves: 1 if the clusters are the same, 0 on average if they are
            unrelated, NaN if there are fewer than two such features. With
            ``affinity="weights"`` the halves share one graph, so that less than 1 is
            due to the method.

        Raises
        ------
        ValueError
            If the clusterer was fitted with ``affinity="precomputed"``, or X does
            not match the X seen in ``fit`` or has fewer than 4 samples.
        NotFittedError
            If the clusterer is not fitted.
        """
        check_is_fitted(self)
        check_scalar(n_splits, "n_splits", Integral, min_val=1)
        if self.affinity_ == "precomputed":
            raise ValueError(
                'stability splits samples, of which affinity="precomputed" has none; '
                "cluster the matrices of two halves of the data and compare."
            )
        coder = getattr(self, "estimator_", None)
        X = _as_array(X) if coder is not None else self._validate_codes(X)
        if _num_samples(X) < 4:
            raise ValueError(
                f"X has {_num_samples(X)} samples; two halves take at least 4."
            )
        random = check_random_state(random_state)
        splits = ShuffleSplit(
            n_splits, test_size=0.5, random_state=random.randint(2**31 - 1)
        )
        agreement = []
        for halves in splits.split(np.empty(_num_samples(X))):
            first, second = (
                self._labels(
                    self._features(self.affinity_, coder, _safe_indexing(X, rows)),
                    int(random.randint(2**31 - 1)),
                )
                for rows in halves
            )
            in_both = (first >= 0) & (second >= 0)
            score = adjusted_rand_score(first[in_both], second[in_both])
            agreement.append(score if in_both.sum() > 1 else np.nan)
        return float(np.mean(agreement))

    def _resolved_affinity(self) -> str:
        """Name the affinity in effect; raises if parameters do not fit together."""
        if not isinstance(self.method, str) and takes_precomputed(self.method) is None:
            raise ValueError(
                f"method={self.method!r} does not take a precomputed matrix; pass a "
                'clusterer with affinity="precomputed" or metric="precomputed".'
            )
        if self.estimator is None:
            if self.affinity in ("interaction", "weights"):
                raise ValueError(
                    f'affinity="{self.affinity}" needs the features\' decoder and the '
                    "MLP; pass an InteractionCrosscoder or InteractionSAE as estimator "
                    '(a fitted one in FrozenEstimator), or use affinity="coactivation".'
                )
            return "coactivation" if self.affinity == "auto" else self.affinity
        if self.affinity == "precomputed":
            raise ValueError(
                'affinity="precomputed" takes the affinities as X and no estimator; '
                "set estimator=None."
            )
        return "interaction" if self.affinity == "auto" else self.affinity

    def _fitted_coder(
        self, X: Any, seed: int
    ) -> tuple[BaseInteractionCoder | None, dict[str, Any]]:
        """Fitted estimator, and the attributes that it decides."""
        if self.estimator is None:
            return None, {}
        if isinstance(self.estimator, FrozenEstimator):
            coder = self.estimator.estimator
            if not isinstance(coder, BaseInteractionCoder):
                raise TypeError(
                    "estimator must hold an InteractionCrosscoder or InteractionSAE; "
                    f"got FrozenEstimator of {type(coder).__name__}."
                )
            check_is_fitted(coder)
        else:
            coder = seeded_clone(self.estimator, seed).fit(X)
        layout = {"estimator_": coder, "n_features_in_": coder.n_features_in_}
        if hasattr(coder, "feature_names_in_"):
            layout["feature_names_in_"] = coder.feature_names_in_
        return coder, layout

    def _validate_new_codes(self, X: Any) -> tuple[Any, dict[str, Any]]:
        """Codes or affinities to fit, and the attributes that describe them."""
        probe = clone(self)
        X = validate_data(probe, X, dtype=_DTYPES, accept_sparse="csr")
        self._check_codes(X, self.affinity == "precomputed")
        names = ("n_features_in_", "feature_names_in_")
        return X, {name: getattr(probe, name) for name in names if hasattr(probe, name)}

    def _validate_codes(self, X: Any) -> Any:
        """Codes or affinities that match those of the fit."""
        X = validate_data(self, X, dtype=_DTYPES, accept_sparse="csr", reset=False)
        self._check_codes(X, self.affinity_ == "precomputed")
        return X

    def _check_codes(self, X: Any, is_affinity: bool) -> None:
        if is_affinity and X.shape[0] != X.shape[1]:
            raise ValueError(
                'affinity="precomputed" takes X of shape (n_components, n_components), '
                f"an affinity for each pair of features; got {X.shape}."
            )
        what = "affinities" if is_affinity else "codes; pass an estimator for others"
        check_non_negative(X, f"FeatureClusterer, which takes {what}")

    def _codes(self, X: Any) -> sparse.csr_array:
        """Codes to pool."""
        if hasattr(self, "estimator_"):
            return sparse_codes(self.estimator_, X)
        X = validate_data(self, X, dtype=_DTYPES, accept_sparse="csr", reset=False)
        self._check_codes(X, is_affinity=False)
        return sparse.csr_array(X)

    def _features(
        self, affinity: str, coder: BaseInteractionCoder | None, X: Any
    ) -> _Features:
        """Graph and liveliness of the features, from validated X."""
        if affinity == "precomputed":
            matrix = nearest_neighbors(
                symmetrized(sparse.csr_array(X)), self.n_neighbors
            )
            return _Features(matrix, np.diff(matrix.indptr) > 0, None)
        codes = sparse.csr_array(X) if coder is None else sparse_codes(coder, X)
        frequency = activation_frequency(codes)
        is_alive = frequency > 0
        if affinity == "coactivation":
            matrix = coactivation_affinity(codes)
        elif affinity == "weights":
            assert coder is not None
            matrix = weights_affinity(coder, is_alive, self.n_neighbors)
        else:
            assert coder is not None
            matrix = interaction_affinity(coder, X, codes, self.normalize)
        return _Features(
            nearest_neighbors(matrix, self.n_neighbors), is_alive, frequency
        )

    def _labels(self, features: _Features, seed: int) -> Labels:
        """Clusters of the features that are alive."""
        alive = np.flatnonzero(features.is_alive)
        labels = np.full(len(features.is_alive), -1, dtype=np.intp)
        labels[alive] = cluster_nodes(
            features.affinity[alive][:, alive], self.method, self.resolution, seed
        )
        return labels

    @property
    def _n_features_out(self) -> int:
        return self.n_clusters_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        if self.estimator is None:
            tags.input_tags.sparse = True
            tags.input_tags.positive_only = True
        else:
            tags.input_tags.three_d_array = (
                self.estimator.__sklearn_tags__().input_tags.three_d_array
            )
        return tags
