"""Clusters of features that interact."""

from ._feature_clusterer import FeatureClusterer

__all__ = ["FeatureClusterer"]
