"""What features and clusters mean, shown by the tokens they are active on."""

from ._report import cluster_report
from ._top_activations import TopActivation, top_activations, top_tokens

__all__ = ["TopActivation", "cluster_report", "top_activations", "top_tokens"]
