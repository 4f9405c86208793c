"""Activations in memory and on disk, readable without transformers."""

from ._harvest import Harvest, load_harvest
from ._row_range import RowRange
from ._sharded import ShardedActivations

__all__ = ["Harvest", "RowRange", "ShardedActivations", "load_harvest"]
