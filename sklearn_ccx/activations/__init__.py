"""Activations in memory and on disk, readable without transformers."""

from ._harvest import Harvest, load_harvest
from ._sharded import ShardedActivations

__all__ = ["Harvest", "ShardedActivations", "load_harvest"]
