"""Interaction between every two features."""

from typing import Any

import numpy.typing as npt
from scipy import sparse

from .._engine._torch_state import with_torch_state
from .._engine.neurons import PairAccumulator
from .._validation import check_option
from ..networks import MLPs
from ._coactivation import CoactivationCounts
from ._reader import NeuronReader, refuse_overflow


@with_torch_state()
def interaction_matrix(
    estimator: Any,
    X: npt.ArrayLike,
    *,
    mlp: MLPs = None,
    normalize: str | None = None,
    batch_size: int | None = None,
) -> sparse.csr_array:
    r"""Interaction between every two features.

    .. math::

        A_{ij} = E_b \, \mathrm{Lip}(\varphi) \sum_n \|W_{out}[n]\| \,
             1[i \text{ dominant at } n] \, |p_{bnj}|, \qquad i \ne j,

    summed over the MLPs: how much feature `j` sends to the neurons that feature `i`
    dominates, in units of the MLPs' outputs. With one dominant feature a neuron,
    ``A.sum()`` is the mean of :func:`interaction_scores`. The contributions to gated
    MLPs are the sizes of :ref:`gated-mlps`.

    Parameters
    ----------
    estimator : estimator
        A fitted :class:`InteractionCrosscoder` or :class:`InteractionSAE`, or a
        pipeline, search or meta-estimator with one inside.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        What `estimator` takes: activations, for a coder.

    mlp : MLPWeights or list of MLPWeights, default=None
        The MLPs to look at; None takes those of the estimator.

    normalize : {None, "coactivation"}, default=None
        "coactivation" divides by the share of samples on which both features are
        active: the mean interaction *given* that both are. Raw, features that
        merely fire together interact more.

    batch_size : int, default=None
        Samples read at a time. None is 512.

    Returns
    -------
    A : csr_array of shape (n_components, n_components), float64
        Rows are the dominant features, columns the others; the diagonal is empty.
        Each neuron has one dominant feature, whatever the estimator's `n_dominant`.

    Raises
    ------
    ValueError
        If X or `mlp` does not fit the estimator, or `normalize` is unknown.
    TypeError
        If there is no coder in `estimator`, or a parameter is of the wrong type.
    NotFittedError
        If the estimator is not fitted.

    See Also
    --------
    interaction_scores : The same by samples.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionSAE, interaction_matrix, interaction_scores
    >>> X = np.random.default_rng(0).normal(size=(100, 6))
    >>> sae = InteractionSAE(k=2, max_iter=5, random_state=0).fit(X)
    >>> A = interaction_matrix(sae, X)
    >>> A.shape
    (24, 24)
    >>> bool(np.isclose(A.sum(), interaction_scores(sae, X).mean()))
    True
    """
    check_option(normalize, "normalize", [None, "coactivation"])
    reader = NeuronReader(estimator, X, mlp=mlp, batch_size=batch_size)
    sums = PairAccumulator(reader.n_components, reader.device)
    counts = CoactivationCounts(reader.n_components, reader.device)
    for chunk in reader.chunks():
        for index in range(len(reader.mlps)):
            for _, _, batch in chunk.contributions(index, n_dominant=1):
                for pairs in batch.pair_sums():
                    sums.add(*pairs)
        if normalize is not None:
            for _, codes in chunk.batches:
                counts.add(codes)
    total = sums.total()
    refuse_overflow(total.data, "the interaction")
    if normalize is None:
        return total / len(reader.X)
    n_both_active = counts.at(total)
    n_both_active.data = 1.0 / n_both_active.data
    return total.multiply(n_both_active).tocsr()
