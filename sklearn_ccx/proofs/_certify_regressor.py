"""Bounds on the predictions of a regression network."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.neural_network import MLPRegressor
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .._engine._torch_state import with_torch_state
from ..networks import row_norms
from ._dense_network import explained_network
from ._intervals import times_weights
from ._overflow import refuses_overflow
from ._prediction_run import PredictionRun
from ._premises import Premises
from ._tightness import tightness

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RegressionCertificate:
    r"""Proved bounds on the outputs of a regression network.

    Returned by :func:`certify_regressor`.

    Attributes
    ----------
    level : str
        "sample", "group" or "domain".

    bound : str
        "interval" or "lipschitz".

    groups : ndarray of shape (n_samples,), int64
        The group of each sample, from 0.

    explained_prediction : ndarray of shape (n_samples, n_outputs)
        What the explanation predicts.

    lower, upper : ndarray of shape (n_samples, n_outputs)
        Interval that is proved to hold the network's prediction.

    prediction : ndarray of shape (n_samples, n_outputs)
        What the network predicts, computed in float64.

    error_bound : ndarray of shape (n_samples,)
        Bound on the distance between the two predictions.

    error : ndarray of shape (n_samples,)
        That distance itself.

    proof_flops, membership_flops, brute_force_flops : int
        As in :class:`PredictionCertificate`.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn_ccx import InteractionSAE, MLPWeights, certify_regressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> regressor = MLPRegressor(
    ...     hidden_layer_sizes=(8,), solver="lbfgs", tol=10, random_state=0
    ... ).fit(X, y)
    >>> mlp = MLPWeights.from_sklearn(regressor)
    >>> sae = InteractionSAE(10, k=2, mlp=mlp, max_iter=10, random_state=0).fit(X)
    >>> certificate = certify_regressor(sae, regressor, X)
    >>> bool((certificate.lower <= certificate.prediction).all())
    True
    """

    level: str
    bound: str
    groups: npt.NDArray[np.int64]
    explained_prediction: FloatArray
    lower: FloatArray
    upper: FloatArray
    prediction: FloatArray
    error_bound: FloatArray
    error: FloatArray
    proof_flops: int
    membership_flops: int
    brute_force_flops: int

    @property
    def tightness(self) -> FloatArray:
        """Error over its bound.

        Returns
        -------
        tightness : ndarray of shape (n_samples,)
            At most 1.
        """
        return tightness(self.error, self.error_bound)


@with_torch_state()
@refuses_overflow
def certify_regressor(
    estimator: Any,
    regressor: MLPRegressor | nn.Sequential,
    X: npt.ArrayLike,
    *,
    layer: int = 0,
    site: int = 0,
    level: str = "sample",
    bound: str = "interval",
    groups: object = None,
    code_max: npt.ArrayLike | None = None,
    max_active: int | None = None,
    n_dominant: int | None = None,
    batch_size: int | None = None,
) -> RegressionCertificate:
    """Bound how far a network's predictions are from those of the explanation.

    As :func:`certify_classifier`, for a network that predicts numbers: where that asks
    whether the intervals can change the class, this gives the intervals.

    Parameters
    ----------
    estimator : InteractionCrosscoder or InteractionSAE
        A fitted estimator, or a pipeline, search or other meta-estimator around one.

    regressor : MLPRegressor or torch.nn.Sequential
        The network.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        Activations: the input of the explained hidden layer, at `site`.

    layer : int, default=0
        The explained hidden layer of an MLPRegressor. A torch network reads the site
        with its first layer, which is 0.

    site : int, default=0
        The site of the activations that the layer reads.

    level : {"sample", "group", "domain"}, default="sample"
        As in :func:`certify`.

    bound : {"interval", "lipschitz"}, default="interval"
        As in :func:`certify`.

    groups : array-like of shape (n_samples,) or FeatureClusterer, default=None
        As in :func:`certify`.

    code_max : array-like of shape (n_components,), default=None
        As in :func:`certify`.

    max_active : int, default=None
        As in :func:`certify`.

    n_dominant : int, default=None
        How many contributions a neuron keeps. None takes the estimator's.

    batch_size : int, default=None
        Samples read at a time. None is as many as take little memory beside X, 512 at
        most.

    Returns
    -------
    certificate : RegressionCertificate
        Bounds on the predictions.

    Raises
    ------
    ValueError
        If a parameter is unknown or does not fit, the output of `regressor` goes
        through a nonlinearity, or the bounds are too large for float64.
    TypeError
        If `regressor` is not such a network, there is no coder in `estimator`, or a
        parameter is of the wrong type.
    NotFittedError
        If the estimator, `regressor` or the clusterer in `groups` is not fitted.

    See Also
    --------
    certify_classifier : The same for classification.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn_ccx import InteractionSAE, MLPWeights, certify_regressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> regressor = MLPRegressor(
    ...     hidden_layer_sizes=(16,), solver="lbfgs", tol=10, random_state=0
    ... ).fit(X, y)
    >>> mlp = MLPWeights.from_sklearn(regressor)
    >>> sae = InteractionSAE(20, k=2, mlp=mlp, max_iter=20, random_state=0).fit(X)
    >>> certificate = certify_regressor(sae, regressor, X)
    >>> bool((certificate.error <= certificate.error_bound).all())
    True
    """
    if isinstance(regressor, MLPRegressor):
        check_is_fitted(regressor)
        if regressor.out_activation_ != "identity":
            raise ValueError(
                f"regressor has the output activation {regressor.out_activation_!r}; "
                'only "identity" is covered, as with loss="squared_error".'
            )
    network = explained_network(regressor, MLPRegressor, layer, site, name="regressor")
    premises = Premises(level, bound, groups, code_max, max_active)
    run = PredictionRun(estimator, X, network, premises, n_dominant, batch_size)
    W_NO = network.last.W_out.astype(np.float64)
    shape = len(run.samples), W_NO.shape[1]
    kept, true, lower, upper = (np.empty(shape) for _ in range(4))
    error_bound = np.empty(len(run.samples))
    norm_N = row_norms(W_NO)
    for batch in run.batches():
        groups_U, group_B = np.unique(batch.group_B, return_inverse=True)
        unique = batch.deviation.rows(groups_U)
        lower_UO, upper_UO = times_weights(unique.lower_GN, unique.upper_GN, W_NO)
        size_UO = unique.size_GN @ np.abs(W_NO) + np.abs(network.last.b_out)
        rounding_UO = unique.rounding_GN @ np.abs(W_NO)
        rounding_UO += run.rounding.of_sums(size_UO, sum(W_NO.shape))
        box_UO = np.maximum(np.abs(lower_UO), np.abs(upper_UO))
        triangle_U = np.maximum(-unique.lower_GN, unique.upper_GN) @ norm_N
        bound_U = np.minimum(row_norms(box_UO), triangle_U) + row_norms(rounding_UO)
        rows, kept_BO = batch.rows, batch.kept_BO
        error_bound[rows] = bound_U[group_B]
        lower[rows] = kept_BO + (lower_UO - rounding_UO)[group_B]
        upper[rows] = kept_BO + (upper_UO + rounding_UO)[group_B]
        kept[rows], true[rows] = kept_BO, batch.true_BO
    length = run.length(n_margins=len(run.partition))
    return RegressionCertificate(
        level=level,
        bound=bound,
        groups=run.partition.labels,
        explained_prediction=kept,
        lower=lower,
        upper=upper,
        prediction=true,
        error_bound=error_bound,
        error=row_norms(true - kept),
        proof_flops=length.proof,
        membership_flops=length.membership,
        brute_force_flops=length.brute_force,
    )
