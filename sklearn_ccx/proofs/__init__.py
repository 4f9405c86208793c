"""Compact proofs: what an explanation guarantees about the network."""

from ._certify import ErrorCertificate, certify
from ._certify_classifier import PredictionCertificate, certify_classifier
from ._certify_regressor import RegressionCertificate, certify_regressor
from ._certify_stack import StackCertificate, certify_stack

__all__ = [
    "ErrorCertificate",
    "PredictionCertificate",
    "RegressionCertificate",
    "StackCertificate",
    "certify",
    "certify_classifier",
    "certify_regressor",
    "certify_stack",
]
