"""Predictions of a classifier that its explanation proves."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.neural_network import MLPClassifier
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .._engine._torch_state import with_torch_state
from .._validation import as_numpy, shown
from ._dense_network import DenseNetwork, explained_network
from ._deviation import least_margins
from ._overflow import refuses_overflow
from ._prediction_run import PredictionRun
from ._premises import Premises

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PredictionCertificate:
    """Which predictions of a classifier its explanation proves.

    Returned by :func:`certify_classifier`.

    Attributes
    ----------
    level : str
        "sample", "group" or "domain".

    bound : str
        "interval" or "lipschitz".

    groups : ndarray of shape (n_samples,), int64
        The group of each sample, from 0.

    certified : ndarray of shape (n_samples,), bool
        Where the network's prediction is proved to be that of the explanation.

    margin_bound : ndarray of shape (n_samples,)
        Proved least margin of the network, in logits, of the class that the
        explanation predicts over every other class. `certified` is where it is
        positive.

    explained_prediction : ndarray of shape (n_samples,)
        The class that the explanation predicts.

    prediction : ndarray of shape (n_samples,)
        The class that the network predicts, computed in float64.

    y : ndarray of shape (n_samples,) or None
        The true classes, if they were given.

    proof_flops : int
        Operations that check the bounds. In a group or a domain they include the
        explanation's own prediction on every sample.

    membership_flops : int
        Operations that encode the samples and check that each is in its group or
        domain. 0 at ``level="sample"``.

    brute_force_flops : int
        Operations that run network and explanation on every sample instead.

    Examples
    --------
    What is certified is where network and explanation agree:

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn_ccx import InteractionSAE, MLPWeights, certify_classifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier((8,), solver="lbfgs", random_state=0).fit(X, y)
    >>> sae = InteractionSAE(8, k=1, mlp=MLPWeights.from_sklearn(clf), random_state=0)
    >>> certificate = certify_classifier(sae.set_params(max_iter=50).fit(X), clf, X, y)
    >>> certificate.certified.shape
    (150,)
    >>> certificate.certified_accuracy <= certificate.explained_accuracy
    True
    """

    level: str
    bound: str
    groups: npt.NDArray[np.int64]
    certified: BoolArray
    margin_bound: FloatArray
    explained_prediction: npt.NDArray[Any]
    prediction: npt.NDArray[Any]
    y: npt.NDArray[Any] | None
    proof_flops: int
    membership_flops: int
    brute_force_flops: int

    @property
    def certified_agreement(self) -> float:
        """Share of the samples that are certified.

        Returns
        -------
        share : float
            From 0 to 1.
        """
        return float(self.certified.mean())

    @property
    def agreement(self) -> float:
        """Share of the samples on which network and explanation agree.

        Returns
        -------
        share : float
            From 0 to 1.
        """
        return float(np.mean(self.explained_prediction == self.prediction))

    @property
    def certified_accuracy(self) -> float:
        """Share of the samples proved to be classified correctly; needs `y`.

        Returns
        -------
        share : float
            From 0 to 1.
        """
        return float(np.mean(self.certified & self._is_correct))

    @property
    def explained_accuracy(self) -> float:
        """Accuracy of the explanation; needs `y`.

        Returns
        -------
        share : float
            From 0 to 1.
        """
        return float(self._is_correct.mean())

    @property
    def _is_correct(self) -> BoolArray:
        if self.y is None:
            raise ValueError("accuracies need y; pass it to certify_classifier.")
        is_correct: BoolArray = self.explained_prediction == self.y
        return is_correct


@with_torch_state()
@refuses_overflow
def certify_classifier(
    estimator: Any,
    clf: MLPClassifier | nn.Sequential,
    X: npt.ArrayLike,
    y: npt.ArrayLike | None = None,
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
) -> PredictionCertificate:
    r"""Prove that a classifier predicts what the one-feature explanation predicts.

    In the explanation each neuron of one hidden layer receives its dominant feature
    alone; the layers after it are those of the network. The intervals of
    :func:`certify` go through these layers. A sample is certified if the explanation's
    margin over every other class exceeds the worst the intervals allow.

    Parameters
    ----------
    estimator : InteractionCrosscoder or InteractionSAE
        A fitted estimator, or a pipeline, search or other meta-estimator around one.

    clf : MLPClassifier or torch.nn.Sequential
        The network: fitted, or linear layers with a nonlinearity between every two,
        of which the output is the logits.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        Activations: the input of the explained hidden layer, at `site`.

    y : array-like of shape (n_samples,), default=None
        True classes, for `certified_accuracy`.

    layer : int, default=0
        The explained hidden layer of an MLPClassifier. A torch network reads the
        site with its first layer, which is 0.

    site : int, default=0
        The site of the activations that the layer reads.

    level : {"sample", "group", "domain"}, default="sample"
        What the bound on the network's deviation holds for, as in :func:`certify`.

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
    certificate : PredictionCertificate
        Which predictions are proved.

    Raises
    ------
    ValueError
        If a parameter is unknown or does not fit, the classifier is multilabel, or the
        bounds are too large for float64.
    TypeError
        If `clf` is not such a network, there is no coder in `estimator`, or a parameter
        is of the wrong type.
    NotFittedError
        If the estimator, `clf` or the clusterer in `groups` is not fitted.

    See Also
    --------
    certify : Bounds on the output of an MLP.
    certify_regressor : The same for regression.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn_ccx import InteractionSAE, MLPWeights, certify_classifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = MLPClassifier((32,), random_state=0, early_stopping=True).fit(X, y)
    >>> mlp = MLPWeights.from_sklearn(clf)
    >>> sae = InteractionSAE(64, k=2, mlp=mlp, max_iter=20, random_state=0).fit(X)
    >>> certificate = certify_classifier(sae, clf, X, y)
    >>> certificate.certified_agreement <= certificate.agreement
    True
    """
    network = _classifier_network(clf, layer, site)
    premises = Premises(level, bound, groups, code_max, max_active)
    run = PredictionRun(estimator, X, network, premises, n_dominant, batch_size)
    n_samples = len(run.samples)
    n_classes = max(network.last.W_out.shape[1], 2)
    classes = np.asarray(getattr(clf, "classes_", np.arange(n_classes)))
    labels = None if y is None else _check_labels(y, n_samples, classes)
    margin_bound = np.empty(n_samples)
    explained_index, true_index = np.empty((2, n_samples), dtype=np.int64)
    for batch in run.batches():
        explained_B = _class_index(batch.kept_BO)
        explained_index[batch.rows] = explained_B
        true_index[batch.rows] = _class_index(batch.true_BO)
        for class_index in np.unique(explained_B):
            members = np.flatnonzero(explained_B == class_index)
            groups_U, group_B = np.unique(batch.group_B[members], return_inverse=True)
            deviation = batch.deviation.rows(groups_U)
            least_UO = least_margins(network, deviation, class_index, run.rounding)
            margin_BO = _margins(batch.kept_BO[members], class_index)
            margin_BO += least_UO[group_B]
            if margin_BO.shape[1] > 1:
                margin_BO[:, class_index] = np.inf
            margin_bound[batch.rows[members]] = margin_BO.min(axis=1)
    margins = run.partition.labels * n_classes + explained_index
    length = run.length(n_margins=len(np.unique(margins)))
    return PredictionCertificate(
        level=level,
        bound=bound,
        groups=run.partition.labels,
        certified=margin_bound > 0,
        margin_bound=margin_bound,
        explained_prediction=classes[explained_index],
        prediction=classes[true_index],
        y=labels,
        proof_flops=length.proof,
        membership_flops=length.membership,
        brute_force_flops=length.brute_force,
    )


def _classifier_network(
    clf: MLPClassifier | nn.Sequential, layer: int, site: int
) -> DenseNetwork:
    if isinstance(clf, MLPClassifier):
        check_is_fitted(clf)
        if clf.out_activation_ == "logistic" and clf.n_outputs_ > 1:
            raise ValueError(
                "clf is a multilabel classifier, which has no single prediction to "
                "certify; fit one classifier for each label."
            )
    return explained_network(clf, MLPClassifier, layer, site, name="clf")


def _check_labels(
    y: npt.ArrayLike, n_samples: int, classes: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """One label for each sample, of the kind that the classes are of."""
    labels = as_numpy(y, "y")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"y must hold one label for each sample; got {shown(labels)}.")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError("y contains NaN or infinity; give each sample a label.")
    if len(labels) != n_samples:
        raise ValueError(
            f"X and y have inconsistent numbers of samples: {n_samples} and "
            f"{len(labels)}."
        )
    kinds = {array.dtype.kind in "biuf" for array in (labels, classes)}
    if len(kinds) > 1 and "O" not in (labels.dtype.kind, classes.dtype.kind):
        raise ValueError(
            f"y has labels of dtype {labels.dtype}, but the classes have dtype "
            f"{classes.dtype}; pass the labels that clf was fitted with."
        )
    return labels


def _class_index(logits_BO: FloatArray) -> npt.NDArray[np.int64]:
    if logits_BO.shape[1] == 1:
        return (logits_BO[:, 0] > 0).astype(np.int64)
    return logits_BO.argmax(axis=1)


def _margins(logits_BO: FloatArray, class_index: int) -> FloatArray:
    """Margins of a class over each class; of a single logit, its distance from 0."""
    if logits_BO.shape[1] == 1:
        return logits_BO if class_index == 1 else -logits_BO
    return logits_BO[:, [class_index]] - logits_BO
