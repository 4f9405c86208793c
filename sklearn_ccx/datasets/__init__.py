"""Data with known features, interactions and backdoors."""

from ._backdoor import make_backdoored_mlp
from ._interacting_features import make_interacting_features

__all__ = ["make_backdoored_mlp", "make_interacting_features"]
