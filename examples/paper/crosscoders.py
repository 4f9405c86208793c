"""Crosscoders with and without penalties, and what is left of the model with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from activations import read_mlps, record
from joblib import Parallel, delayed
from settings import Settings
from text import IdArray
from transformers import PreTrainedModel

from sklearn_ccx import InteractionCrosscoder, ablation_fidelity, dominant_share
from sklearn_ccx.lm import patched_loss

SCHEMES = ("none", "drop_random", "drop_second", "drop_largest", "keep_largest")


@dataclass(frozen=True)
class Trained:
    """A crosscoder and what was measured of it on held-out text."""

    crosscoder: InteractionCrosscoder
    row: dict[str, Any]


def variants(settings: Settings) -> dict[str, dict[str, float]]:
    """What is varied, by name; everything else is the same."""
    named: dict[str, dict[str, float]] = {"no penalty": {}}
    named |= {f"lam={lam:g}": {"lam": lam} for lam in settings.lams}
    named |= {
        f"lam_fidelity={strength:g}": {"lam_fidelity": strength}
        for strength in settings.lam_fidelities
    }
    return named | {f"k={k}": {"k": k} for k in settings.lower_ks}


def new_crosscoder(
    settings: Settings, model: PreTrainedModel, seed: int, **kwargs: Any
) -> InteractionCrosscoder:
    """An unfitted crosscoder of this size, without penalty unless told otherwise."""
    parameters = {
        "n_components": settings.n_components,
        "k": settings.k,
        "lam": 0.0,
        "max_iter": settings.n_passes,
        "learning_rate_init": settings.learning_rate,
        "mlp": read_mlps(model),
        "random_state": seed,
    }
    return InteractionCrosscoder(**(parameters | kwargs))


def train_all(
    settings: Settings,
    model: PreTrainedModel,
    train_ids: IdArray,
    test_ids: IdArray,
    seeds: Sequence[int],
    n_jobs: int,
) -> list[Trained]:
    """Every variant with every seed, measured on the test rows."""
    train_acts = record(model, train_ids).activations
    test_acts = record(model, test_ids).activations
    jobs = (
        delayed(train_and_measure)(
            new_crosscoder(settings, model, seed, **kwargs),
            train_acts,
            test_acts,
            model,
            test_ids,
            {"variant": name, "seed": seed},
        )
        for name, kwargs in variants(settings).items()
        for seed in seeds
    )
    return Parallel(n_jobs)(jobs)


def train_and_measure(
    crosscoder: InteractionCrosscoder,
    train_acts: np.ndarray,
    test_acts: np.ndarray,
    model: PreTrainedModel,
    test_ids: IdArray,
    label: dict[str, Any],
) -> Trained:
    """Fit one crosscoder and measure it."""
    crosscoder.fit(train_acts)
    fidelity = ablation_fidelity(
        crosscoder,
        test_acts,
        schemes=["none", "keep_largest"],
        loss=patched_loss(model, list(test_ids), drop_special=False),
    )
    mlp_sites = [mlp.site for mlp in crosscoder.mlp]
    row = label | {
        "lam": crosscoder.lam,
        "lam_fidelity": crosscoder.lam_fidelity,
        "k": crosscoder.k,
        "fvu": 1 - crosscoder.score(test_acts),
        "mlp_input_fvu": float(crosscoder.site_fvu_[mlp_sites].mean()),
        "mlp_input_norm": float(crosscoder.site_norm_ratio_[mlp_sites].mean()),
        "share": dominant_share(crosscoder, test_acts),
        "l0": float(np.count_nonzero(crosscoder.transform(test_acts), axis=1).mean()),
        "dead": float((crosscoder.activation_frequency_ == 0).mean()),
        "phi_all": float(fidelity["none"].mean()),
        "phi_one": float(fidelity["keep_largest"].mean()),
    }
    row["ratio"] = row["phi_one"] / row["phi_all"]
    for block, (all_features, one) in enumerate(
        zip(fidelity["none"], fidelity["keep_largest"], strict=True)
    ):
        row |= {
            f"phi_all_block_{block}": float(all_features),
            f"phi_one_block_{block}": float(one),
        }
    return Trained(crosscoder, row)


def ablation_bars(
    trained: Sequence[Trained],
    model: PreTrainedModel,
    test_ids: IdArray,
    n_jobs: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Fidelity in cross-entropy of each block, by variant and scheme."""
    test_acts = record(model, test_ids).activations
    jobs = (
        delayed(_ablate)(one.crosscoder, test_acts, model, test_ids) for one in trained
    )
    names = [one.row["variant"] for one in trained]
    return dict(zip(names, Parallel(n_jobs)(jobs), strict=True))


def _ablate(
    crosscoder: InteractionCrosscoder,
    test_acts: np.ndarray,
    model: PreTrainedModel,
    test_ids: IdArray,
) -> dict[str, np.ndarray]:
    loss = patched_loss(model, list(test_ids), drop_special=False)
    return ablation_fidelity(
        crosscoder, test_acts, schemes=SCHEMES, loss=loss, random_state=0
    )
