"""The MLPs whose neurons the features share: their weights and their tensors."""

from ._activation_modules import activation_name
from ._linear_layers import linear_layer
from ._mlp_weights import MLPWeights
from ._norm_modules import NormWeights, norm_layer
from ._row_norms import row_norms
from ._site_mlps import (
    MLPs,
    check_mlps,
    check_provable,
    freeze_mlps,
    input_weights,
)

__all__ = [
    "MLPWeights",
    "MLPs",
    "NormWeights",
    "activation_name",
    "check_mlps",
    "check_provable",
    "freeze_mlps",
    "input_weights",
    "linear_layer",
    "norm_layer",
    "row_norms",
]
