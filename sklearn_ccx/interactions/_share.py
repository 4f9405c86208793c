"""How much of what a neuron receives comes from its dominant feature."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .._engine._torch_state import with_torch_state
from ..networks import MLPs
from ._reader import NeuronReader, refuse_overflow


@with_torch_state()
def dominant_share(
    estimator: Any,
    X: npt.ArrayLike,
    *,
    mlp: MLPs = None,
    n_dominant: int | None = None,
    batch_size: int | None = None,
) -> float:
    r"""Share of what a neuron receives that comes from its dominant feature.

    The mean over samples and neurons of :math:`\max_h |p_{bnh}| / \sum_h |p_{bnh}|`.
    Neurons that receive nothing on a sample have no dominant feature and are left
    out.

    Parameters
    ----------
    estimator : estimator
        A fitted :class:`InteractionCrosscoder` or :class:`InteractionSAE`, or a
        pipeline, search or meta-estimator with one inside.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        What `estimator` takes: activations, for a coder.

    mlp : MLPWeights or list of MLPWeights, default=None
        The MLPs to look at; None takes those of the estimator.

    n_dominant : int, default=None
        How many of the largest contributions count as dominant. None takes the
        estimator's.

    batch_size : int, default=None
        Samples read at a time. None is 512.

    Returns
    -------
    share : float
        From 0 to 1; 1 if no neuron receives more than `n_dominant` features, NaN if
        no neuron receives any.

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
    interaction_scores : The interaction of each sample.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionSAE, dominant_share
    >>> X = np.random.default_rng(0).normal(size=(100, 6))
    >>> sae = InteractionSAE(k=2, max_iter=5, random_state=0).fit(X)
    >>> 0 < dominant_share(sae, X) <= 1
    True
    """
    reader = NeuronReader(
        estimator, X, mlp=mlp, n_dominant=n_dominant, batch_size=batch_size
    )
    totals, counts = np.zeros((2, len(reader.mlps)))
    for chunk in reader.chunks():
        for index in range(len(reader.mlps)):
            for _, _, batch in chunk.contributions(index, reader.n_dominant):
                share_sum, n_reached = batch.share_sum()
                totals[index] += float(share_sum)
                counts[index] += float(n_reached)
    refuse_overflow(totals, "the dominant share")
    return float(totals.sum() / counts.sum()) if counts.any() else math.nan
