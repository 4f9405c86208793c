"""Activations as the training reads them: batch by batch, in training units."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ._site_scaling import SiteScaling
from ._tensors import to_tensor

Rows = npt.NDArray[np.int64]


def spread(rows: Rows, n_kept: int) -> Rows:
    """At most ``n_kept`` of the rows, evenly spaced."""
    n_kept = min(len(rows), n_kept)
    return rows[np.linspace(0, len(rows) - 1, n_kept).astype(np.int64)]


class TrainingData:
    """Activations, read in training units.

    Parameters
    ----------
    X : array of shape (n_samples, F)
        Activations in the user's units. It is indexed by arrays of rows only.
    scaling : SiteScaling
        Between the user's units and those of training.
    dtype, device
        Of the batches.
    """

    def __init__(
        self, X: Any, scaling: SiteScaling, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.dtype, self.device = dtype, device
        self.scaling = scaling
        self._X = X
        self._offset_F = self.tensor(scaling.offset_F)
        self._scale_F = self.tensor(scaling.scale_F)

    @property
    def n_columns(self) -> int:
        """Number of columns, ``F``."""
        return len(self.scaling.offset_F)

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """Tensor of the data's dtype on its device."""
        return to_tensor(array, self.dtype, self.device)

    def load(self, rows: Rows) -> Tensor:
        """The given rows, (B, F)."""
        return (self.tensor(self._X[rows]) - self._offset_F) * self._scale_F

    def batches(self, rows: Rows, batch_size: int) -> Iterator[Tensor]:
        """The given rows in their order, batch by batch."""
        for start in range(0, len(rows), batch_size):
            yield self.load(rows[start : start + batch_size])
