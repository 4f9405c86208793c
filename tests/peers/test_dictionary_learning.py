"""dictionary_learning: what it saves is loaded here, and the other way round."""

import json

import numpy as np
import pytest
import torch
from dictionary_learning.dictionary import (
    AutoEncoder,
    AutoEncoderNew,
    GatedAutoEncoder,
    JumpReluAutoEncoder,
)
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary as load_theirs

from sklearn_ccx import InteractionSAE
from sklearn_ccx.pretrained import load_dictionary, save_dictionary

from .agreement import D, K, M, activations, assert_equal, fill, to_numpy
from .test_sae_lens import our_sae

CLASSES = {
    "AutoEncoder": lambda: AutoEncoder(D, M),
    "AutoEncoderNew": lambda: AutoEncoderNew(D, M),
    "GatedAutoEncoder": lambda: GatedAutoEncoder(D, M),
    "JumpReluAutoEncoder": lambda: JumpReluAutoEncoder(D, M),
    "AutoEncoderTopK": lambda: AutoEncoderTopK(D, M, K),
    "BatchTopKSAE": lambda: BatchTopKSAE(D, M, K),
    "MatryoshkaBatchTopKSAE": lambda: MatryoshkaBatchTopKSAE(D, M, K, [10, M - 10]),
}


def save_theirs(theirs, name, directory):
    """As its trainings save: the state, and the configuration of the trainer."""
    torch.save(theirs.state_dict(), directory / "ae.pt")
    trainer = {"dict_class": name, "activation_dim": D, "dict_size": M, "k": K}
    trainer |= {"layer": 4, "lm_name": "gpt2", "submodule_name": "resid_post_layer_4"}
    config = {"trainer": trainer, "buffer": {"ctx_len": 128}}
    (directory / "config.json").write_text(json.dumps(config))


def compare(sae, theirs, X):
    with torch.no_grad():
        x = torch.from_numpy(X)
        codes = theirs.encode(x)
        recon = theirs.decode(codes)
    assert_equal(sae.transform(X), to_numpy(codes))
    assert_equal(sae.inverse_transform(sae.transform(X)), to_numpy(recon))


@pytest.mark.parametrize("name", CLASSES)
def test_theirs_is_loaded(name, tmp_path):
    theirs = fill(CLASSES[name]())
    if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        theirs.threshold.fill_(1.1)
    save_theirs(theirs, name, tmp_path)
    compare(load_dictionary(tmp_path).estimator, theirs, activations())


@pytest.mark.parametrize("name", set(CLASSES) - {"AutoEncoder"})
def test_theirs_as_its_own_loader_reads_it(name, tmp_path):
    # That of AutoEncoder scales the rows of the decoder, and the codes with them.
    theirs = fill(CLASSES[name]())
    if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        theirs.threshold.fill_(1.1)
    save_theirs(theirs, name, tmp_path)
    read, _ = load_theirs(str(tmp_path), "cpu")
    compare(load_dictionary(tmp_path).estimator, read, activations())


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu"])
def test_ours_is_loaded(activation, tmp_path):
    sae = our_sae(activation)
    save_dictionary(sae, tmp_path / "sae", "dictionary_learning", model_name="gpt2")
    theirs, config = load_theirs(str(tmp_path / "sae"), "cpu")
    compare(sae, theirs, activations())
    assert config["trainer"]["lm_name"] == "gpt2"


@pytest.mark.parametrize("activation", ["batchtopk", "topk", "relu", "jumprelu"])
def test_ours_that_was_trained_is_loaded(activation, tmp_path):
    X = activations()
    sae = InteractionSAE(M, k=K, activation=activation, max_iter=30, random_state=0)
    sae.fit(X)
    save_dictionary(sae, tmp_path / "sae", "dictionary_learning")
    theirs, _ = load_theirs(str(tmp_path / "sae"), "cpu")
    x = torch.from_numpy(X)
    with torch.no_grad():
        recon = to_numpy(theirs.decode(theirs.encode(x)))
    assert_equal(sae.inverse_transform(sae.transform(X)), recon)
    assert np.isfinite(recon).all()
