"""The estimators that learn features, and the rule for which one is inside others."""

from ._base import BaseInteractionCoder
from ._crosscoder import InteractionCrosscoder
from ._inside import (
    check_holds_coder,
    find_coder,
    find_last_step,
    fitted_parts,
    holds_coder,
    last_step,
    unfrozen,
)
from ._sae import InteractionSAE

__all__ = [
    "BaseInteractionCoder",
    "InteractionCrosscoder",
    "InteractionSAE",
    "check_holds_coder",
    "find_coder",
    "find_last_step",
    "fitted_parts",
    "holds_coder",
    "last_step",
    "unfrozen",
]
