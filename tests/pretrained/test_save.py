"""What is saved is whole, is read again as it was, and is refused where it must be."""

import json
import os

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sklearn_ccx.pretrained._save as save_module
from sklearn_ccx import InteractionCrosscoder, InteractionSAE
from sklearn_ccx.pretrained import load_dictionary, save_dictionary
from tests.pretrained.cases import CASES, activations
from tests.pretrained.test_formats import n_sites

D, M, K = 6, 20, 3
FORMATS = ("sae_lens", "dictionary_learning")
ACTIVATIONS = ("relu", "topk", "batchtopk", "jumprelu")


def trained(activation="batchtopk", dtype="float32"):
    X = activations().astype(dtype)
    sae = InteractionSAE(M, k=K, activation=activation, max_iter=20, random_state=0)
    return sae.fit(X), X


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_saved_is_read_again(format, activation, dtype, tmp_path):
    sae, X = trained(activation, dtype)
    save_dictionary(
        sae,
        tmp_path / "sae",
        format,
        model_name="gpt2",
        hook_name="blocks.3.hook_resid_mid",
    )
    loaded = load_dictionary(tmp_path / "sae", X=X)
    assert loaded.format == format
    assert (loaded.model_name, loaded.reads) == ("gpt2", "blocks.3.resid_mid")
    assert loaded.estimator.components_.dtype == dtype
    tolerance = 1e-4 if dtype == "float32" else 1e-6
    np.testing.assert_allclose(
        loaded.estimator.transform(X), sae.transform(X), rtol=tolerance, atol=tolerance
    )
    np.testing.assert_array_equal(loaded.estimator.components_, sae.components_)
    kept = {"relu": "relu", "topk": "topk", "jumprelu": "jumprelu"}
    in_sae_lens = kept | {"batchtopk": "jumprelu"}
    expected = (in_sae_lens if format == "sae_lens" else kept).get(
        activation, "batchtopk"
    )
    assert loaded.estimator.activation_ == expected
    if expected in ("topk", "batchtopk"):
        assert loaded.estimator.k_ == K


@pytest.mark.parametrize("name", [name for name in CASES if not n_sites(name)])
def test_what_was_loaded_is_saved(name, tmp_path):
    written = CASES[name](tmp_path, np.random.default_rng(0))
    first = load_dictionary(tmp_path, **written.arguments)
    steps = [step for step in (first.sample_norm, first.estimator) if step is not None]
    save_dictionary(make_pipeline(*steps), tmp_path / "again")
    again = load_dictionary(tmp_path / "again")
    X = activations()
    np.testing.assert_allclose(
        again.reconstruct(X), first.reconstruct(X), rtol=1e-12, atol=1e-12
    )


def test_files_are_as_the_formats_say(tmp_path):
    sae, _ = trained()
    save_dictionary(sae, tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]
    config = json.loads((tmp_path / "a/cfg.json").read_text())
    assert (config["architecture"], config["d_in"], config["d_sae"]) == (
        "jumprelu",
        D,
        M,
    )
    assert config["apply_b_dec_to_input"] is False
    save_dictionary(sae, tmp_path / "b", "dictionary_learning")
    held = torch.load(tmp_path / "b/ae.pt", weights_only=True)
    assert held["encoder.weight"].shape == (M, D)
    assert held["decoder.weight"].shape == (D, M)
    assert int(held["k"]) == K


def test_crosscoders(tmp_path):
    rng = np.random.default_rng(0)
    X = activations(2)
    weights = rng.normal(size=(2, D, M)), rng.normal(size=(M, 2, D))
    biases = {"b_enc": rng.normal(size=M), "b_dec": rng.normal(size=(2, D))}
    coder = InteractionCrosscoder.from_weights(*weights, **biases)
    save_dictionary(coder, tmp_path / "c", "dictionary_learning")
    loaded = load_dictionary(tmp_path / "c")
    assert loaded.config["trainer"]["dict_class"] == "CrossCoder"
    np.testing.assert_allclose(loaded.estimator.transform(X), coder.transform(X))
    np.testing.assert_allclose(
        loaded.reconstruct(X), coder.inverse_transform(coder.transform(X))
    )
    with pytest.raises(ValueError, match="SAELens has no crosscoders"):
        save_dictionary(coder, tmp_path / "d")
    for activation in ("topk", "batchtopk", "jumprelu"):
        threshold = {} if activation == "topk" else {"threshold": 0.5}
        coder = InteractionCrosscoder.from_weights(
            *weights, activation=activation, k=K, **threshold
        )
        with pytest.raises(ValueError, match=f'activation="{activation}"'):
            save_dictionary(coder, tmp_path / "d", "dictionary_learning")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]


def test_a_crosscoder_of_one_site_is_an_autoencoder(tmp_path):
    X = activations()
    coder = InteractionCrosscoder(M, k=K, max_iter=5, random_state=0).fit(X)
    save_dictionary(coder, tmp_path / "c")
    loaded = load_dictionary(tmp_path / "c").estimator
    assert type(loaded) is InteractionSAE
    np.testing.assert_allclose(loaded.transform(X), coder.transform(X))


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    sae, _ = trained()

    def fail(values, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(save_module, "_write_json", fail)
    for format in FORMATS:
        with pytest.raises(OSError, match="No space left"):
            save_dictionary(sae, tmp_path / "sae", format)
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "sae").mkdir()
    with pytest.raises(OSError, match="No space left"):
        save_dictionary(sae, tmp_path / "sae")
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]


def test_what_is_there_is_not_overwritten(tmp_path):
    sae, _ = trained()
    save_dictionary(sae, tmp_path / "a/b/sae")
    before = (tmp_path / "a/b/sae/cfg.json").read_bytes()
    with pytest.raises(FileExistsError, match="is no empty directory"):
        save_dictionary(sae, tmp_path / "a/b/sae", "dictionary_learning")
    assert (tmp_path / "a/b/sae/cfg.json").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is no empty directory"):
        save_dictionary(sae, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    save_dictionary(sae, tmp_path / "empty")
    assert load_dictionary(tmp_path / "empty").format == "sae_lens"


def test_the_directory_has_the_usual_permissions(tmp_path):
    sae, _ = trained()
    save_dictionary(sae, tmp_path / "sae")
    (tmp_path / "other").mkdir()
    assert os.stat(tmp_path / "sae").st_mode == os.stat(tmp_path / "other").st_mode


def test_what_holds_a_coder_can_be_saved(tmp_path):
    sae, X = trained()
    for number, holder in enumerate((FrozenEstimator(sae), make_pipeline(sae))):
        save_dictionary(holder, tmp_path / str(number))
        loaded = load_dictionary(tmp_path / str(number)).estimator
        np.testing.assert_allclose(loaded.transform(X), sae.transform(X))
    scaled = make_pipeline(StandardScaler(), InteractionSAE(8, max_iter=1)).fit(X)
    with pytest.raises(ValueError, match=r"steps before the coder \(StandardScaler\)"):
        save_dictionary(scaled, tmp_path / "scaled")


def test_sample_norms_are_saved_where_the_format_has_them(tmp_path):
    CASES["openai"](tmp_path, np.random.default_rng(0))
    loaded = load_dictionary(tmp_path / "resid_post_attn_v5_32k/autoencoders")
    whole = make_pipeline(loaded.sample_norm, loaded.estimator)
    save_dictionary(whole, tmp_path / "sae")
    config = json.loads((tmp_path / "sae/cfg.json").read_text())
    assert config["normalize_activations"] == "layer_norm"
    with pytest.raises(ValueError, match="normalises each sample"):
        save_dictionary(whole, tmp_path / "b", "dictionary_learning")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"estimator": 3}, TypeError, "estimator must be"),
        ({"estimator": InteractionSAE()}, NotFittedError, "not fitted"),
        ({"format": "gguf"}, ValueError, "format must be one of"),
        ({"path": 3}, TypeError, "path must be a directory"),
        ({"path": ""}, ValueError, "path must be no empty text"),
        ({"path": "a\0"}, ValueError, "path must be no empty text"),
        ({"model_name": 3}, TypeError, "model_name must be a string"),
        ({"hook_name": 3}, TypeError, "hook_name must be a string"),
    ],
)
def test_arguments_are_checked(arguments, error, message, tmp_path):
    sae, _ = trained()
    valid = {"estimator": sae, "path": tmp_path / "sae"}
    with pytest.raises(error, match=message):
        save_dictionary(**valid | arguments)
    assert list(tmp_path.iterdir()) == []
