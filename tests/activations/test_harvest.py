import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sklearn_ccx import activations
from sklearn_ccx.activations import Harvest, ShardedActivations, load_harvest
from sklearn_ccx.activations._shard_directory import ShardDirectory


@pytest.fixture
def directory(tmp_path):
    """A directory as harvest writes it, of 5 tokens at 2 sites of width 3."""
    settings = {"sites": ["a", "b"], "width": 3, "dtype": "float32"}
    shards = ShardDirectory.create(tmp_path / "acts", settings, [3, 2])
    for number, n in enumerate((3, 2)):
        numbers = {"token_ids": 7, "positions": 8, "sequence_ids": number}
        tensors = {
            "activations": torch.arange(n * 6.0).reshape(n, 2, 3),
            **{name: torch.full((n,), value) for name, value in numbers.items()},
        }
        shards.write(number, tensors)
    return tmp_path / "acts"


def test_load_harvest(directory):
    for given in (directory, str(directory)):
        harvest = load_harvest(given)
        assert isinstance(harvest, Harvest)
        assert isinstance(harvest.activations, ShardedActivations)
        assert harvest.sites == ("a", "b")
        assert_array_equal(harvest.sequence_ids, [0, 0, 0, 1, 1])
        assert_array_equal(harvest.activations[3], np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("directory", [3, None, b"acts", ["acts"]])
def test_other_paths_are_refused(directory):
    with pytest.raises(TypeError, match="directory must be the path of a directory"):
        load_harvest(directory)


def test_public_face():
    assert activations.__doc__
    assert sorted(activations.__all__) == [
        "ActivationStream",
        "Harvest",
        "ShardedActivations",
        "concatenate_sites",
        "load_harvest",
        "open_npy",
    ]


def test_lm_has_the_same_objects():
    lm = pytest.importorskip("sklearn_ccx.lm")
    for name in activations.__all__:
        assert getattr(lm, name) is getattr(activations, name)


@pytest.mark.slow
def test_reading_needs_no_transformers(directory):
    code = (
        "import sys; sys.modules['transformers'] = None; "
        "from sklearn_ccx.activations import load_harvest; "
        f"X = load_harvest({str(directory)!r}).activations; "
        "assert X[:].shape == (5, 2, 3); "
        "assert not [m for m in sys.modules if m.startswith('transformers.')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
