"""Activations in memory, on disk and in streams, readable without transformers."""

from ._harvest import Harvest, load_harvest
from ._joined import concatenate_sites
from ._sharded import ShardedActivations
from ._stream import ActivationStream

__all__ = [
    "ActivationStream",
    "Harvest",
    "ShardedActivations",
    "concatenate_sites",
    "load_harvest",
]
