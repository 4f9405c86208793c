"""SAELens: what it saves is loaded here, and what is saved here is loaded there."""

import json

import numpy as np
import pytest
import sae_lens
import torch
from safetensors.numpy import save_file
from sklearn.pipeline import make_pipeline

from sklearn_ccx import InteractionSAE
from sklearn_ccx.pretrained import load_dictionary, save_dictionary

from .agreement import D, K, M, activations, assert_equal, fill, to_numpy

NORMALIZATIONS = (
    "none",
    "expected_average_only_in",
    "covariance_whitening",
    "constant_norm_rescale",
    "layer_norm",
)
ARCHITECTURES = {
    "standard": (sae_lens.StandardSAE, sae_lens.StandardSAEConfig, {}),
    "topk": (
        sae_lens.TopKSAE,
        sae_lens.TopKSAEConfig,
        {"k": K, "rescale_acts_by_decoder_norm": False},
    ),
    "topk rescaled": (
        sae_lens.TopKSAE,
        sae_lens.TopKSAEConfig,
        {"k": K, "rescale_acts_by_decoder_norm": True},
    ),
    "jumprelu": (sae_lens.JumpReLUSAE, sae_lens.JumpReLUSAEConfig, {}),
    "gated": (sae_lens.GatedSAE, sae_lens.GatedSAEConfig, {}),
}
TRAININGS = {
    "batchtopk": (
        sae_lens.BatchTopKTrainingSAE,
        sae_lens.BatchTopKTrainingSAEConfig,
        {},
    ),
    "matryoshka": (
        sae_lens.MatryoshkaBatchTopKTrainingSAE,
        sae_lens.MatryoshkaBatchTopKTrainingSAEConfig,
        {"matryoshka_widths": [M // 2, M]},
    ),
    "jumprelu": (
        sae_lens.JumpReLUTrainingSAE,
        sae_lens.JumpReLUTrainingSAEConfig,
        {},
    ),
    "gated": (sae_lens.GatedTrainingSAE, sae_lens.GatedTrainingSAEConfig, {}),
    "standard": (
        sae_lens.StandardTrainingSAE,
        sae_lens.StandardTrainingSAEConfig,
        {},
    ),
    "topk": (sae_lens.TopKTrainingSAE, sae_lens.TopKTrainingSAEConfig, {"k": K}),
}


def compare(loaded, theirs, X):
    with torch.no_grad():
        codes = to_numpy(theirs.encode(torch.from_numpy(X)))
        recon = to_numpy(theirs(torch.from_numpy(X)))
    rows = X if loaded.sample_norm is None else loaded.sample_norm.transform(X)
    assert_equal(loaded.estimator.transform(rows), codes)
    assert_equal(loaded.reconstruct(X), recon)


@pytest.mark.parametrize("apply_b_dec", [True, False])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_theirs_is_loaded(architecture, normalization, apply_b_dec, tmp_path):
    cls, config_cls, options = ARCHITECTURES[architecture]
    config = config_cls(
        d_in=D,
        d_sae=M,
        normalize_activations=normalization,
        apply_b_dec_to_input=apply_b_dec,
        **options,
    )
    theirs = fill(cls(config))
    theirs.save_model(tmp_path)
    compare(load_dictionary(tmp_path), theirs, activations())


@pytest.mark.parametrize("rescales", [True, False])
@pytest.mark.parametrize("name", ["batchtopk", "matryoshka"])
def test_theirs_of_a_training_is_loaded(name, rescales, tmp_path):
    cls, config_cls, options = TRAININGS[name]
    config = config_cls(
        d_in=D, d_sae=M, k=K, rescale_acts_by_decoder_norm=rescales, **options
    )
    training = fill(cls(config))
    training.topk_threshold.fill_(1.7)
    training.save_inference_model(tmp_path / "inference")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "inference")
    compare(load_dictionary(tmp_path / "inference"), theirs, activations())
    # The weights of the training itself hold the same dictionary.
    training.save_model(tmp_path / "training")
    compare(load_dictionary(tmp_path / "training"), theirs, activations())


@pytest.mark.parametrize("name", TRAININGS)
def test_theirs_that_was_trained_is_loaded(name, tmp_path):
    cls, config_cls, options = TRAININGS[name]
    torch.manual_seed(0)
    options = options | ({"k": K} if "topk" in name or name == "matryoshka" else {})
    training = cls(config_cls(d_in=D, d_sae=M, **options))
    optimizer = torch.optim.Adam(training.parameters(), lr=1e-2)
    x = torch.from_numpy(activations())
    for _ in range(30):
        codes = training.encode(x)
        loss = (training.decode(codes) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if "topk_threshold" in dict(training.named_buffers()):
        training.topk_threshold.fill_(0.5)
    training.save_inference_model(tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    compare(load_dictionary(tmp_path), theirs, activations())


def test_theirs_with_folded_scale_is_loaded(tmp_path):
    config = sae_lens.JumpReLUSAEConfig(
        d_in=D, d_sae=M, normalize_activations="expected_average_only_in"
    )
    raw = fill(sae_lens.JumpReLUSAE(config))
    raw.save_model(tmp_path / "raw")
    folded = fill(sae_lens.JumpReLUSAE(config))
    folded.fold_activation_norm_scaling_factor(0.7)
    folded.save_model(tmp_path / "folded")
    compare(load_dictionary(tmp_path / "folded"), folded, activations())
    compare(load_dictionary(tmp_path / "raw", input_scale=0.7), folded, activations())


FLAT = {
    "relu": {},
    "no defaults": {
        "architecture": None,
        "activation_fn_str": None,
        "apply_b_dec_to_input": None,
        "normalize_activations": None,
    },
    "topk": {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}},
    "topk by name": {
        "architecture": "topk",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
    },
    "jumprelu": {"architecture": "jumprelu"},
    "gated": {"architecture": "gated"},
    "layer_norm": {"normalize_activations": "layer_norm"},
    "constant_norm_rescale": {"normalize_activations": "constant_norm_rescale"},
}


@pytest.mark.parametrize("name", FLAT)
def test_files_from_before_version_6_are_read_alike(name, tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"W_enc": (D, M), "W_dec": (M, D), "b_enc": (M,), "b_dec": (D,)}
    if name == "gated":
        del tensors["b_enc"]
        tensors |= dict.fromkeys(("b_gate", "b_mag", "r_mag"), (M,))
    drawn = {k: rng.normal(size=v).astype(np.float32) for k, v in tensors.items()}
    if name == "jumprelu":
        drawn["threshold"] = np.abs(rng.normal(size=M)).astype(np.float32)
    config = {
        "architecture": "standard",
        "d_in": D,
        "d_sae": M,
        "activation_fn_str": "relu",
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        "context_size": 128,
        "model_name": "gpt2-small",
        "hook_name": "blocks.8.hook_resid_mid",
        "hook_layer": 8,
        "hook_head_index": None,
        "prepend_bos": True,
        "dataset_path": "any",
        "normalize_activations": "none",
        "dtype": "torch.float32",
        "device": "cpu",
        "sae_lens_training_version": "3.0.0",
        **FLAT[name],
    }
    said = {key: value for key, value in config.items() if value is not None}
    (tmp_path / "cfg.json").write_text(json.dumps(said))
    save_file(drawn, tmp_path / "sae_weights.safetensors")
    loaded = load_dictionary(tmp_path)
    assert (loaded.model_name, loaded.reads) == ("gpt2-small", "blocks.8.resid_mid")
    compare(loaded, sae_lens.SAE.load_from_disk(tmp_path), activations())


def our_sae(activation):
    rng = np.random.default_rng(5)
    threshold = {
        "jumprelu": np.abs(rng.normal(size=M)).astype(np.float32),
        "batchtopk": 1.3,
    }
    return InteractionSAE.from_weights(
        rng.normal(size=(D, M)).astype(np.float32),
        rng.normal(size=(M, D)).astype(np.float32),
        b_enc=rng.normal(size=M).astype(np.float32),
        b_dec=rng.normal(size=D).astype(np.float32),
        activation=activation,
        k=K if activation in ("topk", "batchtopk") else None,
        threshold=threshold.get(activation),
    )


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu"])
def test_ours_is_loaded(activation, tmp_path):
    sae, X = our_sae(activation), activations()
    save_dictionary(
        sae, tmp_path / "sae", model_name="gpt2", hook_name="blocks.1.hook_resid_mid"
    )
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "sae")
    with torch.no_grad():
        codes = to_numpy(theirs.encode(torch.from_numpy(X)))
        recon = to_numpy(theirs(torch.from_numpy(X)))
    assert_equal(sae.transform(X), codes)
    assert_equal(sae.inverse_transform(sae.transform(X)), recon)
    assert theirs.cfg.metadata.hook_name == "blocks.1.hook_resid_mid"
    assert theirs.cfg.metadata.model_name == "gpt2"


@pytest.mark.parametrize("activation", ["batchtopk", "topk", "relu", "jumprelu"])
def test_ours_that_was_trained_is_loaded(activation, tmp_path):
    X = activations()
    sae = InteractionSAE(M, k=K, activation=activation, max_iter=30, random_state=0)
    sae.fit(X)
    save_dictionary(sae, tmp_path / "sae")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "sae")
    with torch.no_grad():
        assert_equal(
            sae.inverse_transform(sae.transform(X)),
            to_numpy(theirs(torch.from_numpy(X))),
        )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_theirs_goes_through_ours_and_back(normalization, tmp_path):
    config = sae_lens.TopKSAEConfig(
        d_in=D, d_sae=M, k=K, normalize_activations=normalization
    )
    theirs = fill(sae_lens.TopKSAE(config))
    theirs.save_model(tmp_path / "theirs")
    loaded = load_dictionary(tmp_path / "theirs")
    steps = [step for step in (loaded.sample_norm, loaded.estimator) if step]
    save_dictionary(make_pipeline(*steps), tmp_path / "ours")
    again = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    x = torch.from_numpy(activations())
    with torch.no_grad():
        assert_equal(to_numpy(again(x)), to_numpy(theirs(x)))
