"""Interaction of the features active on each sample."""

from typing import Any

import numpy as np
import numpy.typing as npt

from .._engine._torch_state import with_torch_state
from .._validation import check_bool
from ..networks import MLPs
from ._reader import NeuronReader, refuse_overflow


@with_torch_state()
def interaction_scores(
    estimator: Any,
    X: npt.ArrayLike,
    *,
    mlp: MLPs = None,
    n_dominant: int | None = None,
    per_mlp: bool = False,
    batch_size: int | None = None,
) -> npt.NDArray[np.float64]:
    r"""Interaction of the features active on each sample.

    .. math::

        I(b) = \mathrm{Lip}(\varphi) \sum_n \|W_{out}[n]\|
               \Bigl(\sum_h |p_{bnh}| - \max_h |p_{bnh}|\Bigr)

    bounds how far the output of the MLP on the reconstruction is from its output if
    every neuron kept only the feature that contributes most. A gated MLP has a bound of
    its own; see :ref:`gated-mlps`. Behind a norm the contributions of a sample are
    divided by its scale; see :ref:`norms`.

    Parameters
    ----------
    estimator : estimator
        A fitted :class:`InteractionCrosscoder` or :class:`InteractionSAE`, or a
        pipeline, search or meta-estimator with one inside.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        What `estimator` takes: activations, for a coder.

    mlp : MLPWeights or list of MLPWeights, default=None
        The MLPs to look at. None takes those of the estimator; an estimator without
        any has identity neurons, one for each coordinate.

    n_dominant : int, default=None
        How many of the largest contributions a neuron keeps. None takes the
        estimator's.

    per_mlp : bool, default=False
        Whether to keep the MLPs apart instead of adding them up.

    batch_size : int, default=None
        Samples read at a time. None is 512.

    Returns
    -------
    scores : ndarray of shape (n_samples,) or (n_samples, n_mlps), float64
        In units of the MLP's output; 0 where at most `n_dominant` features reach
        each neuron.

    Raises
    ------
    ValueError
        If X or `mlp` does not fit the estimator.
    TypeError
        If there is no coder in `estimator`.
    NotFittedError
        If the estimator is not fitted.

    See Also
    --------
    interaction_matrix : The same by pairs of features.
    dominant_share : Without unit, averaged over samples and neurons.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionSAE, interaction_scores
    >>> X = np.random.default_rng(0).normal(size=(100, 6))
    >>> sae = InteractionSAE(k=2, max_iter=5, random_state=0).fit(X)
    >>> interaction_scores(sae, X).shape
    (100,)
    """
    per_mlp = check_bool(per_mlp, "per_mlp")
    reader = NeuronReader(
        estimator, X, mlp=mlp, n_dominant=n_dominant, batch_size=batch_size
    )
    scores = np.empty((len(reader.X), len(reader.mlps)))
    for chunk in reader.chunks():
        for index in range(len(reader.mlps)):
            for rows, _, batch in chunk.contributions(index, reader.n_dominant):
                bound_B = batch.bound().clamp(min=0.0)
                scores[rows, index] = bound_B.cpu().numpy()
    refuse_overflow(scores, "the interaction")
    return scores if per_mlp else scores.sum(axis=1)
