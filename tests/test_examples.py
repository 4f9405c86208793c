"""The examples run, with fewer passes over the data than they have."""

from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_plot_digits(tmp_path, monkeypatch, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    source = (EXAMPLES / "plot_digits.py").read_text(encoding="utf-8")
    for full, reduced in [
        ("max_iter=100", "max_iter=2"),
        ("max_iter=500", "max_iter=500, early_stopping=True"),
        ("n_jobs=2", "n_jobs=1"),
    ]:
        assert full in source
        source = source.replace(full, reduced)

    namespace = {"__name__": "__main__"}
    exec(compile(source, "plot_digits.py", "exec"), namespace)

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
    matplotlib.pyplot.close("all")
