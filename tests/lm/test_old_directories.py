"""Directories of earlier versions are gone on with."""

import json

from sklearn_ccx.lm import harvest
from tests.lm.tiny_models import make_model, random_ids


def test_a_directory_without_drop_positions_had_dropped_none(tmp_path):
    model, ids = make_model("gpt2"), random_ids(5, 4)
    harvest(model, ids, out=tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["settings"]["drop_positions"]
    path.write_text(json.dumps(manifest))
    assert len(harvest(model, ids, out=tmp_path).activations) == 9
