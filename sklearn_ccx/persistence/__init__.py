"""Fitted estimators on disk, without pickle."""

from ._estimator_file import load, save

__all__ = ["load", "save"]
