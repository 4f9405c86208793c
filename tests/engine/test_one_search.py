"""A training step looks for the dominant entries once for each MLP."""

import numpy as np
import pytest
import torch

from sklearn_ccx import InteractionCrosscoder
from sklearn_ccx._engine import _trainer
from sklearn_ccx._engine.kernels import kernels_for
from sklearn_ccx._engine.neurons import FrozenMLP
from tests.conftest import make_mlp

STRENGTHS = {
    "lam": 0.1,
    "lam_fidelity": 0.1,
    "lam_margin": 0.1,
    "lam_interval": 0.1,
}


@pytest.mark.parametrize("n_dominant", [1, 2])
@pytest.mark.parametrize("strengths", [STRENGTHS, *({k: 0.1} for k in STRENGTHS)])
def test_one_search_and_one_product_per_mlp_and_step(
    acts, kernels, n_dominant, strengths, monkeypatch
):
    counts = {"search": 0, "M": 0, "steps": 0}
    n_features = 12
    mlps = [make_mlp(6, 5, seed=site, site=site) for site in range(3)]
    implementation = kernels_for(torch.device("cpu"))
    search = implementation.dominant_entries
    product = FrozenMLP.neuron_inputs
    step = _trainer.Trainer.step

    def counting_search(*args):
        counts["search"] += 1
        return search(*args)

    def counting_product(self, rows_F):
        counts["M"] += len(rows_F) == n_features
        return product(self, rows_F)

    def counting_step(*args):
        counts["steps"] += 1
        before = dict(counts)
        result = step(*args)
        counts["in steps"] = counts.get("in steps", 0) + counts["search"]
        counts["in steps"] -= before["search"]
        counts["M in steps"] = counts.get("M in steps", 0) + counts["M"] - before["M"]
        return result

    monkeypatch.setattr(implementation, "dominant_entries", counting_search)
    monkeypatch.setattr(FrozenMLP, "neuron_inputs", counting_product)
    monkeypatch.setattr(_trainer.Trainer, "step", counting_step)
    strengths = dict.fromkeys(STRENGTHS, 0.0) | strengths
    InteractionCrosscoder(
        n_features, k=3, n_dominant=n_dominant, mlp=mlps, batch_size=40, max_iter=2,
        random_state=0, **strengths,
    ).fit(acts)  # fmt: skip
    assert counts["steps"] == 6
    assert counts["in steps"] == counts["M in steps"] == 3 * counts["steps"]


def test_losses_together_are_the_sum_of_each_alone(acts, kernels):
    """The gradients of all terms add up, whichever are trained on together."""
    mlps = [make_mlp(6, 5, "gelu", seed=site, site=site) for site in (0, 2)]

    def history(**strengths):
        ccx = InteractionCrosscoder(
            12, k=3, mlp=mlps, max_iter=1, aux_k=0, random_state=0,
            **dict.fromkeys(STRENGTHS, 0.0) | strengths,
        )  # fmt: skip
        return ccx.fit(acts).history_

    together = history(**STRENGTHS)
    loss = together["fvu"] + 0.1 * sum(
        together[name] for name in ("interaction", "infidelity", "margin", "interval")
    )
    np.testing.assert_allclose(together["loss"], loss)
