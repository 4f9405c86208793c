"""How much of what a neuron receives comes from its dominant feature."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .._engine._torch_state import with_torch_state
from .._validation import check_n_jobs
from ..networks import MLPs
from ._reader import EncodedChunk, NeuronReader, refuse_overflow
from ._row_tasks import sum_over_chunks


@with_torch_state()
def dominant_share(
    estimator: Any,
    X: npt.ArrayLike,
    *,
    mlp: MLPs = None,
    n_dominant: int | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
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

    n_jobs : int, default=None
        Number of jobs that read chunks of samples in parallel. None means 1 unless in a
        :func:`joblib.parallel_config` context. -1 means using all processors. See
        :ref:`fleets`.

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
    n_jobs = check_n_jobs(n_jobs)
    reader = NeuronReader(
        estimator, X, mlp=mlp, n_dominant=n_dominant, batch_size=batch_size
    )
    totals, counts = sum_over_chunks(_share_sums, reader, n_jobs)
    refuse_overflow(totals, "the dominant share")
    return float(totals.sum() / counts.sum()) if counts.any() else math.nan


def _share_sums(chunk: EncodedChunk) -> npt.NDArray[np.float64]:
    """Sums of the shares at each MLP, and how many they are, (2, P)."""
    reader = chunk.reader
    sums_2P = np.zeros((2, len(reader.mlps)))
    for index in range(len(reader.mlps)):
        for _, _, batch in chunk.contributions(index, reader.n_dominant):
            share_sum, n_reached = batch.share_sum()
            sums_2P[:, index] += float(share_sum), float(n_reached)
    return sums_2P
