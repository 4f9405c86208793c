"""What the penalties buy on a real network."""

import pytest

from sklearn_ccx import InteractionSAE, ablated_output, dominant_share


@pytest.fixture(scope="module")
def results(digits):
    settings = {
        "no penalty": {"lam": 0.0},
        "bound": {"lam": 0.1},
        "fidelity": {"lam": 0.0, "lam_fidelity": 1.0},
        "lower k": {"lam": 0.0, "k": 4},
    }
    X, y = digits["X_test"], digits["y_test"]
    results = {}
    for name, kwargs in settings.items():
        sae = InteractionSAE(
            **{"n_components": 256, "k": 16, "mlp": digits["mlp"], "random_state": 0}
            | kwargs
        ).fit(digits["X_train"])
        one, every = (
            (ablated_output(sae, X, scheme).argmax(axis=1) == y).mean()
            for scheme in ("keep_largest", "none")
        )
        share = dominant_share(sae, X)
        results[name] = {"one": one, "all": every, "share": share, "r2": sae.score(X)}
    return results


def test_network_is_accurate(digits):
    assert digits["clf"].score(digits["X_test"], digits["y_test"]) > 0.97


def test_fidelity_term_keeps_the_network_with_one_feature_per_neuron(results):
    assert results["fidelity"]["one"] >= 0.93
    assert results["no penalty"]["one"] < 0.85


def test_bound_makes_neurons_less_shared(results):
    assert results["bound"]["share"] > results["no penalty"]["share"] + 0.1
    assert results["bound"]["one"] > results["no penalty"]["one"] + 0.05


def test_a_lower_k_alone_also_helps(results):
    assert results["lower k"]["one"] > results["no penalty"]["one"]
    assert results["lower k"]["r2"] < results["bound"]["r2"]


def test_all_features_keep_the_network(results):
    assert all(result["all"] > 0.9 for result in results.values())
