"""From Hugging Face language models to activations and MLP weights.

Needs the extra ``lm``: ``pip install 'sklearn-ccx[lm]'``.
"""

try:
    import transformers as _transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        "sklearn_ccx.lm needs transformers; pip install 'sklearn-ccx[lm]'."
    ) from error

from ..activations import (
    ActivationStream,
    Harvest,
    ShardedActivations,
    concatenate_sites,
    load_harvest,
    open_npy,
)
from ._harvest import harvest
from ._harvest_stream import harvest_stream
from ._mlp_weights import mlp_weights
from ._patched_loss import patched_loss
from ._routed_experts import routed_experts
from ._sites import site_names

__all__ = [
    "ActivationStream",
    "Harvest",
    "ShardedActivations",
    "concatenate_sites",
    "harvest",
    "harvest_stream",
    "load_harvest",
    "mlp_weights",
    "open_npy",
    "patched_loss",
    "routed_experts",
    "site_names",
]
