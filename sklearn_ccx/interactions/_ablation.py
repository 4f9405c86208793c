"""How much of an MLP survives when its neurons keep only some features."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .._engine._torch_state import with_torch_state
from .._validation import check_int, check_list, check_n_jobs, check_seed, shown
from ..networks import MLPs
from ._ablated_outputs import (
    HeldChunks,
    RowDraws,
    ablated_outputs,
    fidelity_sums,
    network_outputs,
    output_shifts,
)
from ._reader import NeuronReader, refuse_overflow
from ._row_tasks import sum_over_chunks

FloatArray = npt.NDArray[np.floating]
Loss = Callable[[FloatArray, int], float]

SCHEMES = ("none", "drop_random", "drop_second", "drop_largest", "keep_largest")


@with_torch_state()
def ablation_fidelity(
    estimator: Any,
    X: npt.ArrayLike,
    *,
    schemes: str | Sequence[str] = SCHEMES,
    mlp: MLPs = None,
    loss: Loss | None = None,
    random_state: int | np.random.RandomState | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
) -> dict[str, npt.NDArray[np.float64]]:
    r"""How much of each MLP survives when its neurons keep only some features.

    The features' contributions that a scheme keeps go through the rest of the MLP.
    Without `loss` the fidelity :math:`\Phi` is the :math:`R^2` of the output so
    obtained, as an estimate of the output on the true activations. With `loss` it
    is the share of the network's loss that is recovered,

    .. math::

        \Phi = 1 - \frac{L_{scheme} - L_{model}}{L_{zero} - L_{model}},

    where :math:`L_{model}` is the loss of the true output and :math:`L_{zero}` that of
    the output without any feature, which leaves the biases.

    Parameters
    ----------
    estimator : estimator
        A fitted :class:`InteractionCrosscoder` or :class:`InteractionSAE`, or a
        pipeline, search or meta-estimator with one inside.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        What `estimator` takes: activations, for a coder.

    schemes : str or sequence of str
        What each neuron keeps on each sample: all contributions ("none"), all but that
        of a random active feature ("drop_random"), all but the second largest
        ("drop_second") or the largest ("drop_largest"), or the largest alone
        ("keep_largest"). These five are the default; "keep_top_2", "keep_top_3" ...
        keep so many.

    mlp : MLPWeights or list of MLPWeights, default=None
        The MLPs to ablate, one at a time; None takes those of the estimator.

    loss : callable, default=None
        ``loss(output, mlp_index)`` takes the patched output of one MLP for all
        samples, of shape `(n_samples, d_out)`, and returns the network's loss.

    random_state : int, RandomState instance or None, default=None
        Determines the features that "drop_random" drops: the same ones whatever
        `batch_size` and `n_jobs` are.

    batch_size : int, default=None
        Samples read at a time. None is 512.

    n_jobs : int, default=None
        Number of jobs that read chunks of samples in parallel. None means 1 unless in a
        :func:`joblib.parallel_config` context. -1 means using all processors. `loss`
        itself is called by the caller's process, one output after the other. See
        :ref:`fleets`.

    Returns
    -------
    fidelity : dict of str to ndarray of shape (n_mlps,), float64
        :math:`\Phi` of each MLP for each scheme: 1 if nothing is lost, negative if
        the ablated output is worse than the mean output (or, with `loss`, than no
        feature at all). NaN where the output (or `loss`) does not vary.

    Raises
    ------
    ValueError
        If a scheme is unknown or X or `mlp` does not fit the estimator.
    TypeError
        If there is no coder in `estimator`, or a parameter is of the wrong type.
    NotFittedError
        If the estimator is not fitted.

    See Also
    --------
    ablated_output : The outputs themselves.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn_ccx import InteractionSAE, MLPWeights, ablation_fidelity
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = MLPClassifier((32,), random_state=0, early_stopping=True).fit(X, y)
    >>> mlp = MLPWeights.from_sklearn(clf)
    >>> sae = InteractionSAE(128, k=16, mlp=mlp, max_iter=20, random_state=0).fit(X)
    >>> fidelity = ablation_fidelity(sae, X, random_state=0)
    >>> bool(fidelity["none"] > fidelity["keep_largest"])
    True
    """
    schemes = [schemes] if isinstance(schemes, str) else check_list(schemes, "schemes")
    if not schemes:
        raise ValueError(f"schemes is empty; name some of {list(SCHEMES)}.")
    ranks = {scheme: _largest_rank(scheme) for scheme in schemes}
    _check_loss(loss)
    n_jobs = check_n_jobs(n_jobs)
    reader = NeuronReader(estimator, X, mlp=mlp, batch_size=batch_size)
    draws = RowDraws.for_mlps(check_seed(random_state), len(reader.mlps))
    if loss is None:
        return _coefficients_of_determination(reader, ranks, draws, n_jobs)
    # Each loss takes an output for all samples, so that all codes have to be held.
    fidelity = {scheme: np.empty(len(reader.mlps)) for scheme in ranks}
    with HeldChunks.encoded(reader, n_jobs) as held:
        for index in range(len(reader.mlps)):
            recovered = _recovered_losses(held, index, ranks, draws[index], loss)
            for scheme, value in recovered.items():
                fidelity[scheme][index] = value
    return fidelity


@with_torch_state()
def ablated_output(
    estimator: Any,
    X: npt.ArrayLike,
    scheme: str = "keep_largest",
    *,
    mlp: MLPs = None,
    mlp_index: int = 0,
    random_state: int | np.random.RandomState | None = None,
    batch_size: int | None = None,
) -> FloatArray:
    """Output of an MLP whose neurons keep only some features' contributions.

    Parameters
    ----------
    estimator : estimator
        A fitted :class:`InteractionCrosscoder` or :class:`InteractionSAE`, or a
        pipeline, search or meta-estimator with one inside.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        What `estimator` takes: activations, for a coder.

    scheme : str, default="keep_largest"
        What each neuron keeps, as in :func:`ablation_fidelity`.

    mlp : MLPWeights or list of MLPWeights, default=None
        The MLPs; None takes those of the estimator.

    mlp_index : int, default=0
        Which of the MLPs.

    random_state : int, RandomState instance or None, default=None
        Determines the features that "drop_random" drops.

    batch_size : int, default=None
        Samples read at a time. None is 512.

    Returns
    -------
    output : ndarray of shape (n_samples, d_out)
        The MLP's output, its bias included.

    Raises
    ------
    ValueError
        If the scheme or the index is unknown or X or `mlp` does not fit the estimator.
    TypeError
        If there is no coder in `estimator`, or a parameter is of the wrong type.
    NotFittedError
        If the estimator is not fitted.

    See Also
    --------
    ablation_fidelity : How close the output comes to the true one.

    Examples
    --------
    The accuracy of a classifier that sees one feature per neuron:

    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn_ccx import InteractionSAE, MLPWeights, ablated_output
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = MLPClassifier((32,), random_state=0, early_stopping=True).fit(X, y)
    >>> sae = InteractionSAE(
    ...     k=16,
    ...     lam=0,
    ...     lam_fidelity=1,
    ...     mlp=MLPWeights.from_sklearn(clf),
    ...     max_iter=20,
    ...     random_state=0,
    ... ).fit(X)
    >>> logits = ablated_output(sae, X, "keep_largest")
    >>> logits.shape
    (1797, 10)
    >>> bool((logits.argmax(axis=1) == y).mean() > 0.8)
    True
    """
    rank = _largest_rank(scheme, "scheme")
    reader = NeuronReader(estimator, X, mlp=mlp, batch_size=batch_size)
    mlp_index = check_int(
        mlp_index, "mlp_index", minimum=0, maximum=len(reader.mlps) - 1
    )
    draws = RowDraws.for_mlps(check_seed(random_state), len(reader.mlps))[mlp_index]
    outputs = [
        ablated_outputs(chunk, mlp_index, scheme, rank, draws)
        for chunk in reader.chunks()
    ]
    output = np.concatenate(outputs)
    refuse_overflow(output, "the output")
    return output


def _largest_rank(scheme: Any, name: str = "schemes") -> int:
    """How many of the largest contributions a scheme has to know."""
    ranks = {"none": 1, "drop_random": 1, "drop_second": 2}
    ranks |= {"drop_largest": 1, "keep_largest": 1}
    if isinstance(scheme, str) and scheme in ranks:
        return ranks[scheme]
    match = re.fullmatch(r"keep_top_([1-9]\d*)", str(scheme))
    if match is None:
        raise ValueError(
            f"{name} must be among {list(SCHEMES)} and 'keep_top_2', 'keep_top_3', "
            f"...; got {shown(scheme)}."
        )
    return int(match[1])


def _coefficients_of_determination(
    reader: NeuronReader,
    ranks: dict[str, int],
    draws: list[RowDraws],
    n_jobs: int | None,
) -> dict[str, npt.NDArray[np.float64]]:
    shifts = output_shifts(reader)
    sums = sum_over_chunks(fidelity_sums, reader, n_jobs, ranks, draws, shifts)
    for scheme, error_P in sums.squared_error.items():
        refuse_overflow(error_P, f"the error of {scheme}")
    total_P = np.array(
        [
            one.data_scale(shift.unit).output_variance
            for one, shift in zip(sums.scales, shifts, strict=True)
        ]
    ) * len(reader.X)
    return {
        scheme: np.where(np.isinf(total_P), math.nan, 1.0 - error_P / total_P)
        for scheme, error_P in sums.squared_error.items()
    }


def _recovered_losses(
    held: HeldChunks,
    index: int,
    ranks: dict[str, int],
    draws: RowDraws,
    loss: Loss,
) -> dict[str, float]:
    def network_loss(output: FloatArray) -> float:
        refuse_overflow(output, "the output")
        value = loss(output, index)
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"loss must return a number; got {shown(value)}."
            ) from error
        if not math.isfinite(number):
            raise ValueError(
                f"loss returned {number} for the output of MLP {index}; it must be "
                "finite. X or the weights of mlp may be too large for it."
            )
        return number

    model = network_loss(held.outputs(network_outputs, index, True))
    zero = network_loss(held.outputs(network_outputs, index, False))
    if zero == model:
        return dict.fromkeys(ranks, math.nan)
    recovered = {}
    for scheme, rank in ranks.items():
        output = held.outputs(ablated_outputs, index, scheme, rank, draws)
        recovered[scheme] = 1.0 - (network_loss(output) - model) / (zero - model)
    return recovered


def _check_loss(loss: Any) -> None:
    if loss is not None and not callable(loss):
        raise TypeError(
            f"loss must be callable as loss(output, mlp_index); got {shown(loss)}."
        )
