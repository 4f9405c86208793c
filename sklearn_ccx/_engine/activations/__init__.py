"""From pre-activations to sparse, non-negative codes; one activation a module."""

from ._base import CodeActivation, SelectingActivation
from ._batchtopk import BatchTopK
from ._jumprelu import JumpReLU
from ._keep import keep_above, keep_largest
from ._relu import ReLU
from ._start import fitting_code_scale, initial_threshold
from ._topk import TopK

__all__ = [
    "BatchTopK",
    "CodeActivation",
    "JumpReLU",
    "ReLU",
    "SelectingActivation",
    "TopK",
    "fitting_code_scale",
    "initial_threshold",
    "keep_above",
    "keep_largest",
]
