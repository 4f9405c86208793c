"""What X says of a dictionary, where it reads, and what it does to samples."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from sklearn_ccx import InteractionSAE, MLPWeights, interaction_scores
from sklearn_ccx.pretrained import _measure, load_dictionary, save_dictionary
from sklearn_ccx.pretrained._places import place_of
from tests.conftest import make_mlp
from tests.pretrained.cases import (
    CASES,
    D,
    M,
    activations,
    ckkissane,
    dictionary_learning,
    gemma_scope,
    llamascopium,
    normalized,
    openai,
    sae_lens,
    sparsify,
)
from tests.pretrained.test_formats import n_sites


def rng():
    return np.random.default_rng(0)


def sparse_rows(n_samples=200, d=8, m=32, k=2, offset=5.0):
    """Rows that a dictionary explains exactly, and the dictionary."""
    generator = np.random.default_rng(1)
    W_dec = generator.normal(size=(m, d))
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    codes = np.zeros((n_samples, m))
    for row in codes:
        row[generator.choice(m, k, replace=False)] = 1 + generator.random(k)
    return codes @ W_dec + offset, W_dec, np.full(d, offset)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("batch_bytes", [1, 2**27])
@pytest.mark.parametrize("name", CASES)
def test_what_is_measured_is_what_it_says(name, batch_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(_measure, "_BATCH_BYTES", batch_bytes)
    written = CASES[name](tmp_path, rng())
    X = activations(n_sites(name))
    X.flags.writeable = False
    loaded = load_dictionary(tmp_path, **written.arguments, X=X)
    rows = X if loaded.sample_norm is None else loaded.sample_norm.transform(X)
    codes = loaded.estimator.transform(rows)
    recon = loaded.estimator.inverse_transform(codes)
    fvu = ((rows - recon) ** 2).sum() / ((rows - rows.mean(axis=0)) ** 2).sum()
    assert loaded.fvu == pytest.approx(fvu, rel=1e-9)
    assert loaded.l0 == pytest.approx((codes > 0).sum(axis=1).mean())


def test_nothing_is_measured_without_X(tmp_path):
    sae_lens(tmp_path, rng())
    loaded = load_dictionary(tmp_path)
    assert loaded.fvu is None
    assert loaded.l0 is None


def test_codes_are_made_of_a_bounded_number_of_rows(tmp_path, monkeypatch):
    sae_lens(tmp_path, rng())
    seen = []
    transform = InteractionSAE.transform

    def watched(self, X):
        seen.append(len(X))
        return transform(self, X)

    monkeypatch.setattr(InteractionSAE, "transform", watched)
    monkeypatch.setattr(_measure, "_BATCH_BYTES", 8 * M * 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_dictionary(tmp_path, X=activations())
    loaded.reconstruct(activations())
    assert max(seen) == 7
    assert sum(seen) == 2 * len(activations())


def test_a_dictionary_that_belongs_to_X_is_not_warned_of(tmp_path):
    X, W_dec, b_dec = sparse_rows()
    sae = InteractionSAE.from_weights(
        W_dec.T, W_dec, b_enc=-b_dec @ W_dec.T, b_dec=b_dec, activation="topk", k=2
    )
    save_dictionary(sae, tmp_path / "sae")
    loaded = load_dictionary(tmp_path / "sae", X=X)
    assert loaded.fvu < 1
    assert loaded.l0 == 2
    # Every memory layout, and half precision.
    for same in (X.tolist(), np.asfortranarray(X), X.astype(np.float16)):
        again = load_dictionary(tmp_path / "sae", X=same)
        assert again.fvu == pytest.approx(loaded.fvu, rel=1e-2)
    sparse = load_dictionary(tmp_path / "sae", X=X, sparse_output=True)
    assert (sparse.fvu, sparse.l0) == (loaded.fvu, loaded.l0)


def test_a_square_encoder_that_is_transposed_is_shown_by_X(tmp_path):
    generator = np.random.default_rng(2)
    d = 12
    codes = generator.exponential(size=(300, d)) * (generator.random((300, d)) < 0.2)
    W_dec = np.linalg.qr(generator.normal(size=(d, d)))[0] * 2
    X = codes @ W_dec
    jump = {"activation": "jumprelu", "threshold": 1e-9}
    right = InteractionSAE.from_weights(np.linalg.inv(W_dec), W_dec, **jump)
    wrong = InteractionSAE.from_weights(np.linalg.inv(W_dec).T, W_dec, **jump)
    save_dictionary(right, tmp_path / "right")
    save_dictionary(wrong, tmp_path / "wrong")
    assert load_dictionary(tmp_path / "right", X=X).fvu < 1e-9
    with pytest.warns(UserWarning, match="where the mean of X leaves 1"):
        load_dictionary(tmp_path / "wrong", X=X)


def test_warnings_name_the_place_the_model_and_the_notes(tmp_path):
    sae_lens(tmp_path, rng(), normalize_activations="expected_average_only_in")
    with pytest.warns(UserWarning, match="reads blocks.4.resid_mid of gpt2") as caught:
        loaded = load_dictionary(tmp_path, X=activations())
    (note,) = loaded.notes
    assert "input_scale" in note
    assert note in str(caught[0].message)
    assert caught[0].filename == __file__


def test_dead_and_crowded_codes_are_warned_of(tmp_path):
    X, W_dec, b_dec = sparse_rows()
    m = len(W_dec)

    def saved(name, **values):
        sae = InteractionSAE.from_weights(W_dec.T, W_dec, b_dec=b_dec, **values)
        save_dictionary(sae, tmp_path / name, "dictionary_learning")
        return tmp_path / name

    with pytest.warns(UserWarning, match="none of its features is active on X"):
        load_dictionary(saved("dead", b_enc=np.full(m, -1e3)), X=X)
    with pytest.warns(UserWarning, match="32 of its 32 features are active on average"):
        load_dictionary(saved("crowded", b_enc=np.full(m, 1e3)), X=X)
    low = {"activation": "batchtopk", "threshold": 0.0, "k": 2}
    with pytest.warns(UserWarning, match="32 features are active on average, and k is"):
        load_dictionary(saved("low", b_enc=np.full(m, 1e3), **low), X=X)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((3, D + 1)), "features"),
        (np.full((3, D), np.nan), "NaN"),
        (np.zeros((0, D)), "0 sample"),
        (np.zeros(D), "Expected 2D array"),
        (np.zeros((3, 2, D)), "InteractionSAE takes X of shape"),
        ([["a"] * D], "X must hold numbers"),
    ],
)
def test_X_that_does_not_fit(X, message, tmp_path):
    sae_lens(tmp_path, rng())
    with pytest.raises(ValueError, match=message):
        load_dictionary(tmp_path, X=X)
    with pytest.raises(ValueError, match=message):
        load_dictionary(tmp_path).reconstruct(X)


@pytest.mark.parametrize("unit", [1e-200, 1e-20, 1e20, 1e150])
def test_what_is_measured_does_not_depend_on_the_unit(unit, tmp_path):
    X, W_dec, b_dec = sparse_rows()
    b_enc = -b_dec @ W_dec.T
    for name, scale in {"a": 1.0, "b": unit}.items():
        sae = InteractionSAE.from_weights(
            W_dec.T,
            W_dec,
            b_enc=b_enc,
            b_dec=b_dec,
            activation="topk",
            k=2,
            input_scale=1 / scale,
        )
        save_dictionary(sae, tmp_path / name)
    expected = load_dictionary(tmp_path / "a", X=X)
    loaded = load_dictionary(tmp_path / "b", X=X * unit)
    assert loaded.fvu == pytest.approx(expected.fvu, rel=1e-6)


def test_X_that_is_too_large_is_refused(tmp_path):
    sae_lens(tmp_path, rng(), normalize_activations="layer_norm")
    with pytest.raises(ValueError, match="X has rows too large to be normalised"):
        load_dictionary(tmp_path, X=activations() * 1e300)


def test_X_that_does_not_vary_has_no_fvu(tmp_path):
    sae_lens(tmp_path, rng(), "topk")
    assert np.isnan(load_dictionary(tmp_path, X=np.ones((4, D))).fvu)


# What is done to each sample


@pytest.mark.parametrize("kind", ["layer_norm", "constant_norm_rescale"])
def test_samples_are_normalised_before_the_estimator(kind, tmp_path):
    sae_lens(tmp_path, rng(), normalize_activations=kind)
    loaded = load_dictionary(tmp_path)
    X = activations()
    normed = loaded.sample_norm.transform(X)
    np.testing.assert_allclose(normed, normalized(X, kind), rtol=1e-12)
    assert loaded.sample_norm.transform(X.astype(np.float32)).dtype == np.float32
    assert loaded.sample_norm.transform(X.astype(np.float16)).dtype == np.float32
    whole = make_pipeline(loaded.sample_norm, loaded.estimator)
    # Whatever takes a fitted estimator takes the pipeline.
    mlp = make_mlp(D, 5)
    np.testing.assert_allclose(
        interaction_scores(whole, X, mlp=mlp),
        interaction_scores(loaded.estimator, normed, mlp=mlp),
    )
    clone(whole)
    with pytest.raises(ValueError, match="2D array"):
        loaded.sample_norm.transform(X[0])


def test_a_row_of_zeros_is_no_row_of_nan(tmp_path):
    for kind in ("layer_norm", "constant_norm_rescale"):
        sae_lens(tmp_path, rng(), normalize_activations=kind)
        loaded = load_dictionary(tmp_path)
        assert not loaded.sample_norm.transform(np.zeros((2, D))).any()
        assert np.isfinite(loaded.reconstruct(np.zeros((2, D)))).all()


# Where it reads


@pytest.mark.parametrize(
    ("hook_name", "reads"),
    [
        ("blocks.8.hook_resid_pre", "blocks.8.resid_pre"),
        ("blocks.8.hook_resid_mid", "blocks.8.resid_mid"),
        ("blocks.8.hook_resid_post", "blocks.8.resid_post"),
        ("blocks.8.mlp.hook_in", "blocks.8.mlp_in"),
        ("blocks.8.mlp_in", "blocks.8.mlp_in"),
        ("blocks.8.ln2.hook_normalized", "blocks.8.ln2.hook_normalized"),
        ("layers.12", "blocks.12.resid_post"),
        ("model.layers.12.output", "blocks.12.resid_post"),
        ("transformer.h.3", "blocks.3.resid_post"),
        ("gpt_neox.layers.3.input", "blocks.3.resid_pre"),
        ("model.layers.12.pre_feedforward_layernorm.output", "blocks.12.mlp_in"),
        ("model.layers.12.mlp.input", "blocks.12.mlp_in"),
        ("resid_post_layer_4", "blocks.4.resid_post"),
        ("hook_embed", "blocks.0.resid_pre"),
        ("decoder.of.something", "decoder.of.something"),
        (None, None),
    ],
)
def test_names_of_hooks_in_our_words(hook_name, reads):
    place = place_of(hook_name)
    assert place.reads == reads
    assert place.hook_name == hook_name
    assert not place.is_output


@pytest.mark.parametrize(
    "hook_name",
    [
        "blocks.8.hook_mlp_out",
        "blocks.8.attn.hook_z",
        "blocks.8.hook_attn_out",
        "blocks.8.mlp.hook_post",
        "layers.3.mlp",
        "model.layers.3.mlp.output",
        "model.layers.3.self_attn",
        "model.layers.3.self_attn.o_proj.input",
        "mlp_out_layer_3",
        "attn_out_layer_3",
    ],
)
def test_outputs_are_refused_unless_codes_are_all(hook_name, tmp_path):
    sae_lens(tmp_path, rng(), metadata={"hook_name": hook_name})
    with pytest.raises(ValueError, match="does not write to the input of an MLP"):
        load_dictionary(tmp_path)
    loaded = load_dictionary(tmp_path, codes_only=True)
    assert loaded.reads == hook_name
    assert loaded.interaction.startswith("nowhere: it reads")


def test_the_same_by_other_ways_of_the_formats(tmp_path):
    refused = "does not write to the input of an MLP"
    written = openai(tmp_path / "a", rng(), location="resid_delta_mlp")
    with pytest.raises(ValueError, match=refused):
        load_dictionary(tmp_path / "a", **written.arguments)
    place = tmp_path / "b"
    written = gemma_scope(place, rng())
    (place / "gemma-scope-2b-pt-res").rename(place / "gemma-scope-2b-pt-mlp")
    with pytest.raises(ValueError, match=refused):
        load_dictionary(place / "gemma-scope-2b-pt-mlp/layer_5/width_16k")
    sae_lens(tmp_path / "c", rng(), reshape_activations="hook_z")
    with pytest.raises(ValueError, match=refused):
        load_dictionary(tmp_path / "c")
    sparsify(tmp_path / "d", rng())
    (tmp_path / "d/layers.9").rename(tmp_path / "d/layers.9.mlp")
    with pytest.raises(ValueError, match=refused):
        load_dictionary(tmp_path / "d/layers.9.mlp")


@pytest.mark.parametrize(
    ("site", "model", "phrase"),
    [
        ("mlp.hook_in", "gpt2", "at the MLP of block 4, as it is"),
        ("ln2.hook_normalized", "gpt2", "the scale of its norm folded into W_in"),
        ("hook_resid_mid", "gpt2", "at the MLP of block 4, behind its norm"),
        ("hook_resid_pre", "gpt2", "direct path to the MLP of block 4 only"),
        ("hook_resid_post", "gpt2", "direct path to the MLP of block 5 only"),
        ("hook_resid_pre", "EleutherAI/pythia-70m", "at the MLP of block 4, which"),
        ("hook_resid_post", "EleutherAI/gpt-j-6b", "at the MLP of block 5, which"),
        ("hook_new", "gpt2", "not known"),
    ],
)
def test_where_interaction_can_be_measured(site, model, phrase, tmp_path):
    metadata = {"hook_name": f"blocks.4.{site}", "model_name": model}
    sae_lens(tmp_path, rng(), metadata=metadata)
    assert phrase in load_dictionary(tmp_path).interaction


@pytest.mark.parametrize(
    ("norm", "site", "phrase"),
    [
        ("layer_norm", "hook_resid_mid", "an RMSNorm does not"),
        ("constant_norm_rescale", "hook_resid_mid", "as for X"),
        ("layer_norm", "mlp.hook_in", "not exactly"),
        ("layer_norm", "hook_new", "not known"),
    ],
)
def test_where_it_can_be_with_normalised_samples(norm, site, phrase, tmp_path):
    metadata = {"hook_name": f"blocks.4.{site}"}
    sae_lens(tmp_path, rng(), metadata=metadata, normalize_activations=norm)
    assert phrase in load_dictionary(tmp_path).interaction


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("kind", ["layer_norm", "constant_norm_rescale"])
def test_an_mlp_behind_its_norm_reads_normalised_samples(kind, norm, tmp_path):
    """Scores of a pipeline on the stream, against contributions computed by hand."""
    sae_lens(tmp_path, rng(), "topk", normalize_activations=kind)
    loaded = load_dictionary(tmp_path)
    X, generator = activations(), np.random.default_rng(4)
    W_in, W_out = generator.normal(size=(D, 5)), generator.normal(size=(5, 3))
    gamma, beta = generator.normal(size=(2, D))
    mlp = MLPWeights(
        W_in, W_out, norm=norm, norm_weight=gamma, norm_bias=beta, eps=1e-12
    )
    whole = make_pipeline(loaded.sample_norm, loaded.estimator)
    scores = interaction_scores(whole, X, mlp=mlp).ravel()
    # What the network's norm divides X by, and what the dictionary multiplies X by.
    centred = X - X.mean(axis=1, keepdims=True) if norm == "layernorm" else X
    divisor = np.sqrt((centred**2).mean(axis=1))
    factor = np.sqrt(D) / np.linalg.norm(X, axis=1)
    if kind == "layer_norm":
        factor = 1 / (X.std(axis=1, ddof=1) + 1e-5)
    codes = loaded.estimator.transform(normalized(X, kind))
    written = loaded.estimator.components_
    if norm == "layernorm":
        written = written - written.mean(axis=1, keepdims=True)
    M = (written * gamma) @ W_in
    sizes = np.linalg.norm(W_out, axis=1)
    by_hand = []
    for row, by, times in zip(codes, divisor, factor, strict=True):
        # In the units of X a feature writes its code divided by the factor.
        p = np.abs((row / times / by)[:, None] * M)
        by_hand.append((p.sum(axis=0) - p.max(axis=0)) @ sizes)
    differs = (norm, kind) == ("rmsnorm", "layer_norm")
    assert np.allclose(scores, by_hand, rtol=1e-4) != differs


def test_configurations_and_notes_are_kept(tmp_path):
    sae_lens(tmp_path / "a", rng())
    assert load_dictionary(tmp_path / "a").config["d_sae"] == M
    (tmp_path / "b").mkdir()
    written = ckkissane(tmp_path / "b", rng())
    assert "two models" in load_dictionary(tmp_path / "b", **written.arguments).notes[0]
    (tmp_path / "c").mkdir()
    llamascopium(tmp_path / "c", rng())
    loaded = load_dictionary(tmp_path / "c")
    assert loaded.hook_name == "blocks.3.ln2.hook_normalized"
    (tmp_path / "d").mkdir()
    dictionary_learning(tmp_path / "d", rng(), "AutoEncoder")
    loaded = load_dictionary(tmp_path / "d")
    assert loaded.config["trainer"]["dict_class"] == "AutoEncoder"
    assert loaded.hook_name == "resid_post_layer_8"
