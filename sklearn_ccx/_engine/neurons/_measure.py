"""How much data send through an MLP: the constants that make losses dimensionless."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._tensors import power_of_two_near, to_numpy
from ._frozen_mlp import DataScale, FrozenMLP


@torch.no_grad()
def measure_data_scale(
    mlp: FrozenMLP, batches: Iterable[Tensor], mean_F: Tensor
) -> DataScale:
    """Measure the constants of :meth:`FrozenMLP.with_data_scale` on data.

    Parameters
    ----------
    mlp : FrozenMLP
        The MLP.
    batches : iterable of Tensor of shape (B, F)
        The data in training units.
    mean_F : Tensor of shape (F,)
        Its mean. What the mean writes to a neuron does not count as mass.

    Returns
    -------
    DataScale
        Mass and variance are infinite where the data send nothing, so that the terms
        vanish.
    """
    shift: OutputShift | None = None
    sums = ScaleSums.of_nothing()
    for x_BF in batches:
        on_batch = mlp.on(x_BF)
        if shift is None:
            shift = OutputShift.near(on_batch, x_BF)
        sums += ScaleSums.of_batch(on_batch, x_BF, mean_F, shift)
    return sums.data_scale(1.0 if shift is None else shift.unit)


@dataclass(frozen=True)
class OutputShift:
    """What is subtracted from outputs, and what they are divided by, before squaring.

    A shift near the mean keeps the sums from cancelling.
    """

    shift_O: Tensor
    unit: float

    @classmethod
    def near(cls, mlp: FrozenMLP, x_BF: Tensor) -> Self:
        """A shift for outputs like those of a batch that the MLP is on."""
        output_BO = mlp.output(mlp.received(x_BF)).double()
        unit = power_of_two_near(float(output_BO.abs().max()))
        return cls(output_BO.mean(dim=0), unit)

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return replace(self, shift_O=self.shift_O.to(device))


@dataclass(frozen=True)
class ScaleSums:
    """Sums over samples from which a :class:`DataScale` comes."""

    n_samples: int
    mass: float
    sum_O: Tensor
    sum_of_squares_O: Tensor

    @classmethod
    def of_nothing(cls) -> Self:
        """The sums over no samples."""
        nothing = torch.zeros((), dtype=torch.float64)
        return cls(0, 0.0, nothing, nothing)

    @classmethod
    def of_batch(
        cls, mlp: FrozenMLP, x_BF: Tensor, mean_F: Tensor, shift: OutputShift
    ) -> Self:
        """The sums over a batch that the MLP is on."""
        input_BN = mlp.received(x_BF - mean_F)
        sent_B = mlp.sent_mass(input_BN, mlp.received(mean_F.unsqueeze(0)))
        output_BO = mlp.output(mlp.received(x_BF)).double()
        output_BO = (output_BO - shift.shift_O) / shift.unit
        return cls(
            len(x_BF),
            float(sent_B.double().sum()),
            output_BO.sum(dim=0),
            output_BO.square().sum(dim=0),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # As arrays: before 2.6 torch warns of the pickles that it makes itself.
        arrays = (to_numpy(sums) for sums in (self.sum_O, self.sum_of_squares_O))
        return self._from_arrays, (self.n_samples, self.mass, *arrays)

    @classmethod
    def _from_arrays(
        cls, n_samples: int, mass: float, *arrays: npt.NDArray[np.float64]
    ) -> Self:
        sum_O, sum_of_squares_O = (torch.from_numpy(np.array(a)) for a in arrays)
        return cls(n_samples, mass, sum_O, sum_of_squares_O)

    def __add__(self, other: "ScaleSums") -> "ScaleSums":
        return ScaleSums(
            self.n_samples + other.n_samples,
            self.mass + other.mass,
            self.sum_O + other.sum_O,
            self.sum_of_squares_O + other.sum_of_squares_O,
        )

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        sum_O, sum_of_squares_O = self.sum_O, self.sum_of_squares_O
        return replace(
            self,
            sum_O=sum_O.to(device),
            sum_of_squares_O=sum_of_squares_O.to(device),
        )

    def data_scale(self, unit: float) -> DataScale:
        """Mass and variance of the samples, of outputs in such units."""
        mean_O = self.sum_O / self.n_samples
        variance_O = self.sum_of_squares_O / self.n_samples - mean_O.square()
        variance = float(variance_O.sum())
        return DataScale(
            self.mass / self.n_samples or math.inf, variance or math.inf, unit
        )
