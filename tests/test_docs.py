"""The code in the README, the guides and the examples runs, without warnings."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs").glob("**/*.rst"), key=str)
GUIDES = [path for path in GUIDES if ">>> " in path.read_text(encoding="utf-8")]


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    """What the documentation says holds after a short training too."""
    monkeypatch.setattr("sklearn_ccx.coders._parameters._DEFAULT_N_STEPS", 30)


def test_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_guide(path):
    failed, attempted = doctest.testfile(
        str(path),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
        encoding="utf-8",
    )
    assert attempted
    assert not failed


def test_links_of_readme_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    missing = [
        target
        for target in targets
        if not target.startswith("https://") and not (ROOT / target).exists()
    ]
    assert not missing


def test_tables_are_the_same():
    """The README and the guide show one and the same output."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    guide = (ROOT / "docs/getting_started.rst").read_text(encoding="utf-8")
    (table,) = re.findall(r"^```text\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    for line in table.splitlines():
        assert f"   {line}".rstrip() in guide.splitlines()
