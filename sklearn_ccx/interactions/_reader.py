"""A fitted estimator's features at the neurons of its MLPs, batch by batch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted, check_scalar
from torch import Tensor

from ..coders._base import BaseInteractionCoder
from .._engine.neurons._contributions import Contributions
from .._engine.neurons._frozen_mlp import FrozenMLP
from .._engine._sparse_codes import SparseCodes
from .._engine._tensors import to_tensor, torch_dtype
from ..networks._mlp_weights import MLPWeights
from ..networks._site_mlps import check_mlps, freeze_mlps

MLPs = MLPWeights | Sequence[MLPWeights] | None

# Samples read at a time: their contributions are held for every neuron.
_DEFAULT_BATCH_SIZE = 512


class NeuronReader:
    """Reads validated activations through a fitted estimator and its MLPs.

    Parameters
    ----------
    estimator : InteractionCrosscoder or InteractionSAE
        A fitted estimator.
    X : array-like
        Activations as in the estimator's ``transform``.
    mlp : MLPWeights, list of MLPWeights or None
        The MLPs; None takes those of the estimator.
    batch_size : int or None
        Samples read at a time.

    Attributes
    ----------
    X : ndarray of shape (n_samples, F)
        The validated activations.
    weights : list of MLPWeights or None
        The MLPs, None for identity neurons.
    mlps : list of FrozenMLP
        The same as tensors, in the user's units.
    device : torch.device
        Where they are.
    """

    def __init__(
        self,
        estimator: BaseInteractionCoder,
        X: npt.ArrayLike,
        mlp: MLPs,
        batch_size: int | None,
    ) -> None:
        if not isinstance(estimator, BaseInteractionCoder):
            raise TypeError(
                "estimator must be a fitted InteractionCrosscoder or InteractionSAE; "
                f"got {type(estimator).__name__}."
            )
        check_is_fitted(estimator)
        if batch_size is not None:
            check_scalar(batch_size, "batch_size", int, min_val=1)
        self._estimator = estimator
        self._batch_size = batch_size or _DEFAULT_BATCH_SIZE
        self.X = estimator._validate_activations(X)
        n_sites = estimator.n_sites_
        width = self.X.shape[1] // n_sites
        mlp = estimator.mlp if mlp is None else mlp
        self.weights = check_mlps(mlp, n_sites, width)
        self._dtype = torch_dtype(estimator._output_dtype(self.X))
        self.device = estimator._torch_device()
        self.mlps: list[FrozenMLP] = freeze_mlps(
            self.weights,
            estimator.intercept_,
            n_sites,
            dtype=self._dtype,
            device=self.device,
        )

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """Tensor in the precision and on the device of the computation."""
        return to_tensor(array, self._dtype, self.device)

    def output_bias(self, mlp_index: int) -> Tensor:
        """Output bias of an MLP, (O,)."""
        if self.weights is None:
            return torch.zeros((), dtype=self._dtype, device=self.device)
        return self.tensor(self.weights[mlp_index].b_out)

    def centred_batches(self) -> Iterator[Tensor]:
        """The activations without the decoder's bias, (B, F)."""
        intercept_F = self.tensor(self._estimator.intercept_)
        for start in range(0, len(self.X), self._batch_size):
            yield self.tensor(self.X[start : start + self._batch_size]) - intercept_F

    def codes(self) -> Iterator[SparseCodes]:
        """The samples' codes, batch by batch."""
        for _, codes_BM in self._estimator._encode_batches(self.X, self._batch_size):
            yield SparseCodes.from_dense(codes_BM)

    def batches(
        self, mlp_index: int, n_dominant: int
    ) -> Iterator[tuple[slice, Contributions]]:
        """What the features write to the neurons of one MLP, batch by batch."""
        mlp = self.mlps[mlp_index]
        M_MN = mlp.neuron_inputs(self.tensor(self._estimator.components_))
        encoded = self._estimator._encode_batches(self.X, self._batch_size)
        for rows, codes_BM in encoded:
            codes = SparseCodes.from_dense(codes_BM)
            yield rows, mlp.contributions(codes, M_MN, n_dominant)


def check_n_dominant(n_dominant: int | None, estimator: BaseInteractionCoder) -> int:
    """Validate ``n_dominant``; None takes the estimator's."""
    if n_dominant is None:
        return estimator.n_dominant
    check_scalar(n_dominant, "n_dominant", (int, np.integer), min_val=1)
    return int(n_dominant)
