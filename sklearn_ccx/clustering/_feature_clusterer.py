"""FeatureClusterer: groups of features that interact."""

import math
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
    clone,
)
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import ShuffleSplit
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags, check_array, get_tags
from sklearn.utils.validation import (
    check_is_fitted,
    check_non_negative,
    validate_data,
)

from .._sklearn_compat import (
    HasMethods,
    Interval,
    StrOptions,
    fit_context,
    safe_indexing,
)
from .._validation import (
    as_array,
    as_float,
    as_numbers,
    check_int,
    check_n_rows,
    check_seed,
    errors_of_conversion,
)
from ..coders import (
    BaseInteractionCoder,
    check_holds_coder,
    find_coder,
    fitted_parts,
    unfrozen,
)
from ._affinities import sparse_codes
from ._feature_graph import feature_graph, modularity
from ._features import (
    Features,
    features_of_affinities,
    features_of_coder,
    features_of_codes,
)
from ._graph_clustering import METHODS, cluster_nodes, seeded_clone, takes_precomputed
from ._pooling import pool, unpool

FloatArray = npt.NDArray[np.floating]
Labels = npt.NDArray[np.intp]

_DTYPES = (np.float32, np.float64)

_MAX_SPLITS = 10_000


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
    estimator : estimator, default=None
        What turns activations into codes: an :class:`InteractionCrosscoder` or
        :class:`InteractionSAE`, a pipeline that ends in one, or a search over either.
        It is cloned and fitted; wrapped in :class:`sklearn.frozen.FrozenEstimator` it
        is used as it is. None takes codes for X.

    affinity : str, default="auto"
        What joins two features: one of "auto", "interaction", "weights",
        "coactivation" and "precomputed".

        - "interaction" is how much they interact at the neurons, on the samples of
          X (:func:`interaction_matrix`, the mean of both directions);
        - "weights" is the cosine of their
          :math:`\mathrm{Lip}(\varphi) \, |M_{hn}| \, \|W_{out}[n]\|`, with
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
        `estimator`, and of what is inside it, where that is None. Pass an int for
        reproducible results.

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

    estimator_ : estimator
        The fitted estimator, without the :class:`~sklearn.frozen.FrozenEstimator`: an
        InteractionCrosscoder or InteractionSAE, or the pipeline or search that holds
        it. Only with an `estimator`.

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
        "estimator": [
            BaseInteractionCoder,
            Pipeline,
            FrozenEstimator,
            MetaEstimatorMixin,
            None,
        ],
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
        estimator: BaseEstimator | None = None,
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
    @fit_context(prefer_skip_nested_validation=False)
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
        TypeError
            If `estimator` does not hold an InteractionCrosscoder or InteractionSAE.
        NotFittedError
            If `estimator` is frozen and not fitted.
        """
        affinity = self._resolved_affinity()
        random = check_seed(self.random_state)
        coder_seed, seed = map(int, random.randint(2**31 - 1, size=2))
        X = as_array(X, "X")
        if self.estimator is None:
            X, layout = self._validate_new_codes(X)
        else:
            layout = self._fit_estimator(X, coder_seed)
        estimator = layout.get("estimator_")
        features = self._features(affinity, estimator, X)
        labels = self._labels(features, seed)
        attributes: dict[str, Any] = {"cluster": labels, "alive": features.is_alive}
        if features.frequency is not None:
            attributes["activation_frequency"] = features.frequency
        if estimator is not None:
            coder, _ = fitted_parts(estimator)
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
        self._validate_params()
        check_is_fitted(self)
        return pool(self._codes(X), self.labels_, self.n_clusters_, self.pooling)

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
            are 0 for features without a cluster. The steps of a pipeline before the
            coder are inverted as well.

        Raises
        ------
        ValueError
            If X does not have one column for each cluster.
        AttributeError
            If a step before the coder has no ``inverse_transform``.
        NotFittedError
            If the clusterer is not fitted.
        """
        self._validate_params()
        check_is_fitted(self)
        with errors_of_conversion("X"):
            X = check_array(
                as_numbers(X, "X"), dtype=_DTYPES, ensure_min_features=0, input_name="X"
            )
        if X.shape[1] != self.n_clusters_:
            raise ValueError(
                f"X has {X.shape[1]} columns, but FeatureClusterer has "
                f"{self.n_clusters_} clusters; pass pooled codes as returned by "
                f"transform, of shape (n_samples, {self.n_clusters_})."
            )
        codes = unpool(X, self.labels_, self.pooling)
        if not hasattr(self, "estimator_"):
            return codes
        coder, steps = fitted_parts(self.estimator_)
        X = coder.inverse_transform(codes)
        for pipeline in reversed(steps):
            X = pipeline.inverse_transform(X)
        return X

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
        self._validate_params()
        check_is_fitted(self)
        estimator = getattr(self, "estimator_", None)
        X = self._validate_codes(X) if estimator is None else X
        return modularity(
            self._features(self.affinity_, estimator, X).affinity, self.labels_
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
        self._validate_params()
        check_is_fitted(self)
        n_splits = check_int(n_splits, "n_splits", maximum=_MAX_SPLITS)
        if self.affinity_ == "precomputed":
            raise ValueError(
                'stability splits samples, of which affinity="precomputed" has none; '
                "cluster the matrices of two halves of the data and compare."
            )
        estimator = getattr(self, "estimator_", None)
        X = self._validate_codes(X) if estimator is None else as_array(X, "X")
        n_samples = check_n_rows(X, "X")
        if n_samples < 4:
            raise ValueError(f"X has {n_samples} samples; two halves take at least 4.")
        random = check_seed(random_state)
        splits = ShuffleSplit(
            n_splits, test_size=0.5, random_state=random.randint(2**31 - 1)
        )
        agreement = []
        for halves in splits.split(np.empty(n_samples)):
            first, second = (
                self._labels(
                    self._features(self.affinity_, estimator, safe_indexing(X, rows)),
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

    def _fit_estimator(self, X: Any, seed: int) -> dict[str, Any]:
        """Fit the estimator, unless it is frozen: the attributes that it decides."""
        check_holds_coder(self.estimator)
        estimator = unfrozen(self.estimator)
        if estimator is None:
            estimator = seeded_clone(self.estimator, seed).fit(X)
        n_columns = math.prod(X.shape[1:])
        layout = {"estimator_": estimator, "n_features_in_": n_columns}
        if hasattr(estimator, "feature_names_in_"):
            layout["feature_names_in_"] = estimator.feature_names_in_
        return layout

    def _validate_new_codes(self, X: Any) -> tuple[Any, dict[str, Any]]:
        """Codes or affinities to fit, and the attributes that describe them."""
        # Nothing is set on the clusterer, so that a fit that fails leaves it as it was.
        probe = clone(self)
        X = self._validated(probe, X, reset=True)
        self._check_codes(X, self.affinity == "precomputed")
        names = ("n_features_in_", "feature_names_in_")
        return X, {name: getattr(probe, name) for name in names if hasattr(probe, name)}

    def _validate_codes(self, X: Any) -> Any:
        """Codes or affinities that match those of the fit."""
        X = self._validated(self, X, reset=False)
        self._check_codes(X, self.affinity_ == "precomputed")
        return X

    @staticmethod
    def _validated(estimator: BaseEstimator, X: Any, *, reset: bool) -> Any:
        X = as_numbers(X, "X")
        with errors_of_conversion("X"):
            return validate_data(
                estimator, X, dtype=_DTYPES, accept_sparse="csr", reset=reset
            )

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
            return sparse_codes(*find_coder(self.estimator_, X))
        X = self._validated(self, X, reset=False)
        self._check_codes(X, is_affinity=False)
        return sparse.csr_array(X)

    def _features(self, affinity: str, estimator: Any, X: Any) -> Features:
        """Graph and liveliness of the features; codes and affinities are validated."""
        if estimator is not None:
            coder, X = find_coder(estimator, X)
            return features_of_coder(
                coder, X, affinity, self.normalize, self.n_neighbors
            )
        if affinity == "precomputed":
            return features_of_affinities(X, self.n_neighbors)
        return features_of_codes(X, self.n_neighbors)

    def _labels(self, features: Features, seed: int) -> Labels:
        """Clusters of the features that are alive."""
        alive = np.flatnonzero(features.is_alive)
        labels = np.full(len(features.is_alive), -1, dtype=np.intp)
        labels[alive] = cluster_nodes(
            features.affinity[alive][:, alive],
            self.method,
            as_float(self.resolution, "resolution"),
            seed,
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
            input_tags = get_tags(self.estimator).input_tags
            tags.input_tags.three_d_array = input_tags.three_d_array
        return tags
