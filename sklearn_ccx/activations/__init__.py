"""Activations in memory and on disk, readable without transformers."""

from ._harvest import Harvest, load_harvest
from ._joined import concatenate_sites
from ._sharded import ShardedActivations

__all__ = ["Harvest", "ShardedActivations", "concatenate_sites", "load_harvest"]
