"""How much of an MLP survives when its neurons keep only some features."""

import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from ..coders._base import BaseInteractionCoder
from .._engine.neurons._contributions import Contributions
from .._engine.neurons._frozen_mlp import measure_data_scale
from ._reader import MLPs, NeuronReader

FloatArray = npt.NDArray[np.floating]
Loss = Callable[[FloatArray, int], float]

_SCHEMES = ("none", "drop_random", "drop_second", "drop_largest", "keep_largest")


def ablation_fidelity(
    estimator: BaseInteractionCoder,
    X: npt.ArrayLike,
    *,
    schemes: str | Sequence[str] = _SCHEMES,
    mlp: MLPs = None,
    loss: Loss | None = None,
    random_state: int | np.random.RandomState | None = None,
    batch_size: int | None = None,
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
    estimator : InteractionCrosscoder or InteractionSAE
        A fitted estimator.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        Activations.

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
        Determines the features that "drop_random" drops.

    batch_size : int, default=None
        Samples read at a time. None is 512.

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
    schemes = [schemes] if isinstance(schemes, str) else list(schemes)
    ranks = {scheme: _largest_rank(scheme) for scheme in schemes}
    reader = NeuronReader(estimator, X, mlp, batch_size)
    random = check_random_state(random_state)
    fidelity = {scheme: np.empty(len(reader.mlps)) for scheme in ranks}
    for index in range(len(reader.mlps)):
        if loss is None:
            values = _coefficients_of_determination(reader, index, ranks, random)
        else:
            values = _recovered_losses(reader, index, ranks, random, loss)
        for scheme, value in values.items():
            fidelity[scheme][index] = value
    return fidelity


def ablated_output(
    estimator: BaseInteractionCoder,
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
    estimator : InteractionCrosscoder or InteractionSAE
        A fitted estimator.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        Activations.

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
    rank = _largest_rank(scheme)
    reader = NeuronReader(estimator, X, mlp, batch_size)
    if not 0 <= mlp_index < len(reader.mlps):
        raise ValueError(
            f"mlp_index must be in 0..{len(reader.mlps) - 1}; got {mlp_index}."
        )
    random = check_random_state(random_state)
    outputs = [
        reader.mlps[mlp_index].output(_kept_input(batch, scheme, random))
        for _, batch in reader.batches(mlp_index, rank)
    ]
    output = torch.cat(outputs) + reader.output_bias(mlp_index)
    return output.cpu().numpy()


def _largest_rank(scheme: str) -> int:
    """How many of the largest contributions a scheme has to know."""
    ranks = {"none": 1, "drop_random": 1, "drop_second": 2}
    ranks |= {"drop_largest": 1, "keep_largest": 1}
    if scheme in ranks:
        return ranks[scheme]
    match = re.fullmatch(r"keep_top_([1-9]\d*)", str(scheme))
    if match is None:
        raise ValueError(
            f"schemes must be among {list(_SCHEMES)} and 'keep_top_2', 'keep_top_3', "
            f"...; got {scheme!r}."
        )
    return int(match[1])


def _kept_input(
    contributions: Contributions, scheme: str, random: np.random.RandomState
) -> Tensor:
    """What the neurons receive from the features that a scheme keeps, (B, N)."""
    dominant_RBN = contributions.dominant_RBN
    if scheme == "keep_largest":
        return dominant_RBN[0]
    if scheme.startswith("keep_top_"):
        return dominant_RBN[: _largest_rank(scheme)].sum(dim=0)
    all_BN = contributions.all_inputs()
    if scheme == "drop_largest":
        return all_BN - dominant_RBN[0]
    if scheme == "drop_second":
        return all_BN - dominant_RBN[1]
    if scheme == "drop_random":
        entry_BN = _random_entries(contributions, random)
        return all_BN - contributions.inputs_of(entry_BN[None])[0]
    return all_BN


def _random_entries(
    contributions: Contributions, random: np.random.RandomState
) -> Tensor:
    """A random active entry for each neuron, (B, N), -1 where there is none."""
    codes, shape_BN = contributions.codes, contributions.entry_RBN[0].shape
    device = contributions.M_MN.device
    draws_BN = torch.from_numpy(random.random_sample(shape_BN)).to(device)
    n_entries_B1 = codes.n_entries().unsqueeze(1)
    slot_BN = (draws_BN * n_entries_B1).long()
    return (codes.first_entry_B.unsqueeze(1) + slot_BN).where(n_entries_B1 > 0, -1)


def _coefficients_of_determination(
    reader: NeuronReader,
    index: int,
    ranks: dict[str, int],
    random: np.random.RandomState,
) -> dict[str, float]:
    mlp = reader.mlps[index]
    squared_error = dict.fromkeys(ranks, 0.0)
    batches = reader.batches(index, max(ranks.values(), default=1))
    for (_, batch), x_BF in zip(batches, reader.centred_batches(), strict=True):
        true_BO = mlp.output(mlp.neuron_inputs(x_BF))
        for scheme in ranks:
            error_BO = mlp.output(_kept_input(batch, scheme, random)) - true_BO
            squared_error[scheme] += float(error_BO.square().sum(dtype=torch.float64))
    mean_F = reader.tensor(np.zeros(reader.X.shape[1]))
    _, variance = measure_data_scale(mlp, reader.centred_batches(), mean_F)
    if math.isinf(variance):
        return dict.fromkeys(ranks, math.nan)
    total = variance * len(reader.X)
    return {scheme: 1.0 - error / total for scheme, error in squared_error.items()}


def _recovered_losses(
    reader: NeuronReader,
    index: int,
    ranks: dict[str, int],
    random: np.random.RandomState,
    loss: Loss,
) -> dict[str, float]:
    mlp = reader.mlps[index]
    bias_O = reader.output_bias(index)

    def network_loss(outputs: list[Tensor]) -> float:
        return float(loss((torch.cat(outputs) + bias_O).cpu().numpy(), index))

    inputs = [mlp.neuron_inputs(x_BF) for x_BF in reader.centred_batches()]
    model = network_loss([mlp.output(input_BN) for input_BN in inputs])
    zero = network_loss([mlp.output(torch.zeros_like(u_BN)) for u_BN in inputs])
    if zero == model:
        return dict.fromkeys(ranks, math.nan)
    recovered = {}
    for scheme, rank in ranks.items():
        scheme_loss = network_loss(
            [
                mlp.output(_kept_input(batch, scheme, random))
                for _, batch in reader.batches(index, rank)
            ]
        )
        recovered[scheme] = 1.0 - (scheme_loss - model) / (zero - model)
    return recovered
