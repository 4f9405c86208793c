"""Activations in memory, on disk and in streams, readable without transformers."""

from ._harvest import Harvest, load_harvest
from ._joined import concatenate_sites
from ._npy_files import open_npy
from ._sharded import ShardedActivations
from ._stream import ActivationStream

__all__ = [
    "ActivationStream",
    "Harvest",
    "ShardedActivations",
    "concatenate_sites",
    "load_harvest",
    "open_npy",
]
