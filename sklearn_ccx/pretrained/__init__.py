"""Dictionaries in the formats of other packages, read and written."""

from ._load import load_dictionary
from ._result import PretrainedDictionary
from ._save import save_dictionary

__all__ = ["PretrainedDictionary", "load_dictionary", "save_dictionary"]
