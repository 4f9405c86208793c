"""Interaction between the features of neural networks, as scikit-learn estimators."""

from ._ablation import ablated_output, ablation_fidelity
from ._crosscoder import InteractionCrosscoder, InteractionSAE
from ._interaction import dominant_share, interaction_matrix, interaction_scores
from ._mlp_weights import MLPWeights

__version__ = "0.1.0.dev0"

__all__ = [
    "InteractionCrosscoder",
    "InteractionSAE",
    "MLPWeights",
    "ablated_output",
    "ablation_fidelity",
    "dominant_share",
    "interaction_matrix",
    "interaction_scores",
]
