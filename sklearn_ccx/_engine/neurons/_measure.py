"""How much data send through an MLP: the constants that make losses dimensionless."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from .._tensors import power_of_two_near
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
    n_samples, mass = 0, 0.0
    mean_1F = mean_F.unsqueeze(0)
    shift_O: Tensor | None = None
    unit = 1.0
    sum_O = sum_of_squares_O = mlp.bias_N.new_zeros((), dtype=torch.float64)
    for x_BF in batches:
        n_samples += len(x_BF)
        on_batch = mlp.on(x_BF)
        input_BN = on_batch.received(x_BF - mean_F)
        sent_B = on_batch.sent_mass(input_BN, on_batch.received(mean_1F))
        mass += float(sent_B.double().sum())
        output_BO = on_batch.output(on_batch.received(x_BF)).double()
        if shift_O is None:  # a shift near the mean keeps the sums from cancelling
            shift_O = output_BO.mean(dim=0)
            unit = power_of_two_near(float(output_BO.abs().max()))
        output_BO = (output_BO - shift_O) / unit
        sum_O = sum_O + output_BO.sum(dim=0)
        sum_of_squares_O = sum_of_squares_O + output_BO.square().sum(dim=0)
    variance_O = sum_of_squares_O / n_samples - (sum_O / n_samples).square()
    variance = float(variance_O.sum())
    return DataScale(mass / n_samples or math.inf, variance or math.inf, unit)
