"""MLPs as frozen tensors, and what the features write to their neurons."""

from ._contributions import Contributions, at_most_all, find_contributions, written
from ._frozen_gated_mlp import FrozenGatedMLP
from ._frozen_mlp import FrozenMLP
from ._frozen_norm import FrozenNorm
from ._gated_contributions import GatedContributions
from ._measure import DataScale, measure_data_scale
from ._nonlinearity import NONLINEARITIES, Nonlinearity
from ._pair_accumulator import PairAccumulator

__all__ = [
    "NONLINEARITIES",
    "Contributions",
    "DataScale",
    "FrozenGatedMLP",
    "FrozenMLP",
    "FrozenNorm",
    "GatedContributions",
    "Nonlinearity",
    "PairAccumulator",
    "at_most_all",
    "find_contributions",
    "measure_data_scale",
    "written",
]
