"""Callbacks of scikit-learn's protocol for the coders; they need scikit-learn 1.9."""

from ._checkpoint import Checkpoint
from ._metrics_logger import MetricsLogger

__all__ = ["Checkpoint", "MetricsLogger"]
