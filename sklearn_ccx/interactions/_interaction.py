"""How the features of a fitted estimator interact at the neurons of its MLPs."""

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from ..coders._base import BaseInteractionCoder
from .._engine.neurons._contributions import Contributions
from .._engine.neurons._pair_accumulator import PairAccumulator
from ._reader import MLPs, NeuronReader, check_n_dominant


def interaction_scores(
    estimator: BaseInteractionCoder,
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
    its own; see :ref:`gated-mlps`.

    Parameters
    ----------
    estimator : InteractionCrosscoder or InteractionSAE
        A fitted estimator.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        Activations.

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
    reader = NeuronReader(estimator, X, mlp, batch_size)
    n_dominant = check_n_dominant(n_dominant, estimator)
    scores = np.empty((len(reader.X), len(reader.mlps)))
    for index, frozen in enumerate(reader.mlps):
        for rows, contributions in reader.batches(index, n_dominant):
            bound_B = contributions.bound().clamp(min=0.0) * frozen.bound_factor
            scores[rows, index] = bound_B.cpu().numpy()
    return scores if per_mlp else scores.sum(axis=1)


def dominant_share(
    estimator: BaseInteractionCoder,
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
    estimator : InteractionCrosscoder or InteractionSAE
        A fitted estimator.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        Activations.

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
    reader = NeuronReader(estimator, X, mlp, batch_size)
    n_dominant = check_n_dominant(n_dominant, estimator)
    total = count = 0.0
    for index in range(len(reader.mlps)):
        for _, contributions in reader.batches(index, n_dominant):
            share_sum, n_reached = contributions.share_sum()
            total, count = total + float(share_sum), count + float(n_reached)
    return total / count if count else math.nan


def interaction_matrix(
    estimator: BaseInteractionCoder,
    X: npt.ArrayLike,
    *,
    mlp: MLPs = None,
    normalize: str | None = None,
    batch_size: int | None = None,
) -> sparse.csr_array:
    r"""Interaction between every two features.

    .. math::

        A_{ij} = E_b \sum_n \|W_{out}[n]\| \, 1[i \text{ dominant at } n] \,
                 |p_{bnj}|, \qquad i \ne j,

    summed over the MLPs: how much feature `j` sends to the neurons that feature `i`
    dominates. ``A.sum()`` is the mean of :func:`interaction_scores` up to the
    Lipschitz constant of the nonlinearity, which is left out here (but is part of the
    contributions to gated MLPs; see :ref:`gated-mlps`).

    Parameters
    ----------
    estimator : InteractionCrosscoder or InteractionSAE
        A fitted estimator.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        Activations.

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
    if normalize not in (None, "coactivation"):
        raise ValueError(
            f'normalize must be None or "coactivation"; got {normalize!r}.'
        )
    reader = NeuronReader(estimator, X, mlp, batch_size)
    n_components = len(estimator.components_)
    sums = PairAccumulator(n_components, reader.device)
    for index in range(len(reader.mlps)):
        for _, contributions in reader.batches(index, n_dominant=1):
            sums.add(*_pair_sums(contributions))
    if normalize is None:
        return sums.total() / len(reader.X)
    counts = PairAccumulator(n_components, reader.device)
    for codes in reader.codes():
        rows_P, columns_P, _ = codes.pairs()
        counts.add(rows_P, columns_P, torch.ones_like(rows_P))
    n_both_active = counts.total()
    n_both_active.data = 1.0 / n_both_active.data
    return sums.total().multiply(n_both_active).tocsr()


def _pair_sums(contributions: Contributions) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of features of each sample of a batch, and their interaction."""
    sums_BSS = contributions.pair_sums()
    dominant_P, other_P, slots_P = contributions.codes.pairs()
    values_P = sums_BSS.flatten()[slots_P]
    interacts_P = (values_P != 0) & (dominant_P != other_P)
    return dominant_P[interacts_P], other_P[interacts_P], values_P[interacts_P]
