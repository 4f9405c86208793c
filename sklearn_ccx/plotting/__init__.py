"""Displays in the style of scikit-learn."""

from ._ablation import AblationDisplay
from ._cluster_graph import ClusterGraphDisplay
from ._interaction_matrix import InteractionMatrixDisplay
from ._interaction_trace import InteractionTraceDisplay
from ._penalty_path import PenaltyPathDisplay

__all__ = [
    "AblationDisplay",
    "ClusterGraphDisplay",
    "InteractionMatrixDisplay",
    "InteractionTraceDisplay",
    "PenaltyPathDisplay",
]
