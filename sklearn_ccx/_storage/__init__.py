"""Files that are complete or not there: trees of values, without pickle.

:func:`replacing` writes any file so that a kill leaves the old one or the new one.
:func:`write_tree` and :func:`read_tree` keep dictionaries, lists, numbers, strings and
arrays, and what a :class:`Registry` knows, in one safetensors file.
"""

from ._errors import RefusedError
from ._replacing import replacing, sync_directory
from ._tree import Codec, Parts, Registry
from ._tree_file import read_tree, write_tree

__all__ = [
    "Codec",
    "Parts",
    "RefusedError",
    "Registry",
    "read_tree",
    "replacing",
    "sync_directory",
    "write_tree",
]
