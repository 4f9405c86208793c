"""Where files come from: directories, files, and the hub."""

import shutil
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from sklearn_ccx.pretrained import load_dictionary
from tests.pretrained.cases import (
    activations,
    ckkissane,
    gemma_scope,
    openai,
    qwen_scope,
    sae_lens,
)


def rng():
    return np.random.default_rng(0)


def test_a_directory_or_one_of_its_files(tmp_path):
    written = sae_lens(tmp_path / "sae", rng())
    X = activations()
    for path in (
        tmp_path / "sae",
        str(tmp_path / "sae"),
        tmp_path / "sae" / "cfg.json",
        tmp_path / "sae" / "sae_weights.safetensors",
    ):
        loaded = load_dictionary(path)
        np.testing.assert_allclose(loaded.estimator.transform(X), written.encode(X))
    assert load_dictionary(tmp_path, subfolder="sae").format == "sae_lens"
    one = load_dictionary(tmp_path, filename="sae/sae_weights.safetensors")
    assert one.format == "sae_lens"


def test_weights_of_another_name_are_read_when_named(tmp_path):
    sae_lens(tmp_path, rng())
    weights = tmp_path / "sae_weights.safetensors"
    weights.rename(tmp_path / "mine.safetensors")
    assert load_dictionary(tmp_path / "mine.safetensors", "sae_lens").reads


def test_a_relative_path(tmp_path, monkeypatch):
    sae_lens(tmp_path / "org", rng())
    monkeypatch.chdir(tmp_path)
    assert load_dictionary("org").format == "sae_lens"
    # What is on disk is never looked for on the hub, even if it looks like an id.
    (tmp_path / "a").mkdir()
    shutil.copytree(tmp_path / "org", tmp_path / "a/b")
    monkeypatch.setattr(huggingface_hub, "list_repo_files", None)
    assert load_dictionary("a/b").format == "sae_lens"


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("nowhere", ValueError, "does not exist on disk, and is no id"),
        ("./a/b", ValueError, "does not exist on disk, and is no id"),
        ("a/b/c", ValueError, "does not exist on disk, and is no id"),
        (Path("a/b"), ValueError, "does not exist on disk, and is no id"),
        ("", ValueError, "path must be no empty text"),
        ("a\0b", ValueError, "path must be no empty text"),
        ("a" * 10_000, ValueError, "does not exist on disk"),
        (3, TypeError, "path must be a directory"),
        (None, TypeError, "path must be a directory"),
        (b"x", TypeError, "path must be a directory"),
    ],
)
def test_paths_that_lead_nowhere(path, error, message):
    with pytest.raises(error, match=message):
        load_dictionary(path)


@pytest.mark.parametrize("value", ["", "..", "/etc", "a/../..", "a\0b"])
@pytest.mark.parametrize("name", ["subfolder", "filename"])
def test_what_is_inside_stays_inside(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"{name} must be a path inside"):
        load_dictionary(tmp_path, **{name: value})


def test_what_is_missing_inside_is_named(tmp_path):
    sae_lens(tmp_path, rng())
    with pytest.raises(ValueError, match=r"exists, but has no 'deeper/ae\.pt'"):
        load_dictionary(tmp_path, subfolder="deeper", filename="ae.pt")
    with pytest.raises(TypeError, match="subfolder must be a string"):
        load_dictionary(tmp_path, subfolder=3)
    with pytest.raises(ValueError, match="revision='main' is for repositories"):
        load_dictionary(tmp_path, revision="main")


def test_a_folder_that_is_no_dictionary(tmp_path):
    with pytest.raises(ValueError, match=r"it has no file.*sae_lens"):
        load_dictionary(tmp_path)
    (tmp_path / "model.onnx").write_text("")
    with pytest.raises(ValueError, match=r"it has model\.onnx"):
        load_dictionary(tmp_path)
    with pytest.raises(ValueError, match="format must be one of"):
        load_dictionary(tmp_path, "foo")


def test_a_folder_of_dictionaries_names_them(tmp_path):
    gemma_scope(tmp_path, rng())
    with pytest.raises(ValueError, match="layer_5/width_16k; name one with subfolder"):
        load_dictionary(tmp_path / "gemma-scope-2b-pt-res")


def test_several_files_are_asked_for(tmp_path):
    written = qwen_scope(tmp_path, rng())
    del written.arguments["filename"]
    for format in ("auto", "qwen_scope"):
        with pytest.raises(ValueError, match=r"layer13.sae.pt, .*; name one with file"):
            load_dictionary(tmp_path, format, **written.arguments)


def test_a_format_whose_files_are_missing(tmp_path):
    sae_lens(tmp_path / "sae", rng())
    formats = ("openai", "qwen_scope", "goodfire", "dictionary_learning")
    for format in (*formats, "gemma_scope", "sparsify", "ckkissane", "llama_scope"):
        with pytest.raises(ValueError, match="has no"):
            load_dictionary(tmp_path / "sae", format)


# The hub


class Hub:
    """A hub of directories on disk, which records what is downloaded."""

    def __init__(self, root):
        self.root, self.asked = root, []

    def list_repo_files(self, repo_id, revision=None):
        if not (self.root / repo_id).is_dir():
            raise LookupError(f"no {repo_id}")
        self.asked.append(("list", repo_id, revision))
        found = (self.root / repo_id).rglob("*")
        return [str(p.relative_to(self.root / repo_id)) for p in found if p.is_file()]

    def hf_hub_download(self, repo_id, filename, revision=None):
        self.asked.append((filename, revision))
        return str(self.root / repo_id / filename)

    def snapshot_download(self, repo_id, revision=None, local_files_only=False):
        assert local_files_only
        if not (self.root / repo_id).is_dir():
            raise FileNotFoundError(f"{repo_id} is not in the cache")
        return str(self.root / repo_id)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    made = Hub(tmp_path / "hub")
    for name in ("list_repo_files", "hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, getattr(made, name))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    return made


def test_only_the_files_of_the_dictionary_are_downloaded(hub):
    place = hub.root / "org/repo/layer.3"
    place.parent.mkdir(parents=True)
    written = sae_lens(place, rng())
    (place / "sparsity.safetensors").write_bytes(b"1")
    (place / "optimizer.pt").write_bytes(b"1")
    loaded = load_dictionary("org/repo", subfolder="layer.3", revision="v1")
    assert hub.asked[0] == ("list", "org/repo", "v1")
    downloaded = [name for name, _ in hub.asked[1:]]
    assert downloaded[0] == "layer.3/cfg.json"  # before the weights
    assert set(downloaded) == {"layer.3/cfg.json", "layer.3/sae_weights.safetensors"}
    assert {revision for _, revision in hub.asked[1:]} == {"v1"}
    X = activations()
    np.testing.assert_allclose(loaded.estimator.transform(X), written.encode(X))


def test_what_is_refused_is_not_downloaded(hub):
    place = hub.root / "org/repo"
    place.mkdir(parents=True)
    sae_lens(place, rng(), architecture="transcoder")
    with pytest.raises(ValueError, match="transcoder"):
        load_dictionary("org/repo")
    assert ("sae_weights.safetensors", None) not in hub.asked


def test_one_of_several_files_is_downloaded(hub):
    place = hub.root / "Qwen"
    place.mkdir(parents=True)
    qwen_scope(place, rng())
    loaded = load_dictionary("Qwen/SAE-Res-W32K-L0_3", filename="layer13.sae.pt")
    assert loaded.reads == "blocks.13.resid_post"
    assert loaded.estimator.k_ == 3  # from the name of the repository
    assert hub.asked[1:] == [("layer13.sae.pt", None)]
    hub.asked.clear()
    with pytest.raises(ValueError, match="name one with filename="):
        load_dictionary("Qwen/SAE-Res-W32K-L0_3")
    assert len(hub.asked) == 1


def test_repositories_tell_where_they_read(hub):
    place = hub.root / "google"
    place.mkdir(parents=True)
    gemma_scope(place, rng())
    loaded = load_dictionary(
        "google/gemma-scope-2b-pt-res", subfolder="layer_5/width_16k"
    )
    assert (loaded.reads, loaded.model_name) == (
        "blocks.5.resid_post",
        "google/gemma-2-2b",
    )
    with pytest.raises(ValueError, match="layer_5/width_16k; name one with subfolder"):
        load_dictionary("google/gemma-scope-2b-pt-res")
    with pytest.raises(ValueError, match="nothing at 'layer_6'; it has layer_5/width"):
        load_dictionary("google/gemma-scope-2b-pt-res", subfolder="layer_6")


def test_nested_files_of_a_repository(hub):
    place = hub.root / "org/repo"
    place.mkdir(parents=True)
    written = ckkissane(place, rng())
    loaded = load_dictionary("org/repo", **written.arguments)
    assert loaded.reads == "blocks.14.resid_pre"
    openai(place, rng())
    where = "resid_post_attn_v5_32k/autoencoders"
    assert load_dictionary("org/repo", subfolder=where).format == "openai"


def test_without_a_network_the_cache_is_read(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (hub.root / "org").mkdir(parents=True)
    sae_lens(hub.root / "org/repo", rng())
    assert load_dictionary("org/repo").format == "sae_lens"
    with pytest.raises(OSError, match="is not in the cache"):
        load_dictionary("org/other")


def test_a_repository_that_is_not_there(hub):
    with pytest.raises(
        OSError, match=r"'org/none' does not exist on disk.*no org/none"
    ):
        load_dictionary("org/none")


def test_a_file_that_cannot_be_downloaded(hub, monkeypatch):
    (hub.root / "org").mkdir(parents=True)
    sae_lens(hub.root / "org/repo", rng())

    def fail(repo_id, filename, revision=None):
        raise ConnectionError("the line is cut\nand more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(OSError, match=r"cfg.json could not be had from the hub: Conn"):
        load_dictionary("org/repo")


def test_the_hub_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'sklearn-ccx\[hub\]'"):
        load_dictionary("org/repo")


def test_the_hub_is_imported_only_when_it_is_asked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    sae_lens(tmp_path / "sae", rng())
    assert load_dictionary(tmp_path / "sae").format == "sae_lens"
