"""The identities by which formats become encoder, decoder, bias and threshold.

Each against the formula of the format, in float64, with sizes and numbers drawn.
"""

import json
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_ccx import InteractionSAE
from sklearn_ccx.pretrained import load_dictionary
from sklearn_ccx.pretrained._weights import (
    decoder_norms,
    with_unit_rows,
    without_input_bias,
)
from tests.pretrained.cases import jump, relu, top_k, write_safetensors

SIZES = st.tuples(st.integers(1, 7), st.integers(1, 12))
SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.sampled_from([1e-3, 1.0, 1e3])


def drawn(sizes, seed, scale=1.0):
    d, m = sizes
    rng = np.random.default_rng(seed)
    return (
        scale * rng.normal(size=(d, m)),
        rng.normal(size=(m, d)),
        rng.normal(size=m),
        scale * rng.normal(size=d),
        scale * rng.normal(size=(9, d)),
        rng,
    )


def assert_close(ours, theirs):
    size = max(1.0, float(np.abs(theirs).max()))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * size)


def is_near_a_kink(values, threshold):
    """Whether rounding decides if a feature is active."""
    size = max(1.0, float(np.abs(values).max()))
    return bool((np.abs(values - threshold) < 1e-9 * size).any())


def load_sae_lens(tmp_path_factory, tensors, **config):
    directory = tmp_path_factory.mktemp("sae")
    d, m = tensors["W_enc"].shape
    (directory / "cfg.json").write_text(json.dumps({"d_in": d, "d_sae": m, **config}))
    write_safetensors(tensors, directory / "sae_weights.safetensors")
    return load_dictionary(directory).estimator


@given(SIZES, SEEDS, SCALES)
def test_a_bias_taken_from_the_input_moves_into_the_encoder(sizes, seed, scale):
    W_enc, _, b_enc, b_dec, X, _ = drawn(sizes, seed, scale)
    ours = X @ W_enc + without_input_bias(b_enc, b_dec, W_enc)
    assert_close(ours, (X - b_dec) @ W_enc + b_enc)


def test_a_bias_moves_into_an_encoder_of_many_rows():
    rng = np.random.default_rng(0)
    W_enc, b_enc, b_dec = (
        rng.normal(size=(700, 5)).astype(np.float32),
        rng.normal(size=5).astype(np.float32),
        rng.normal(size=700).astype(np.float32),
    )
    moved = without_input_bias(b_enc, b_dec, W_enc)
    precise = b_enc.astype(np.float64) - b_dec.astype(np.float64) @ W_enc
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved, precise, rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(SIZES, SEEDS, st.booleans())
def test_a_gated_encoder_is_a_jumprelu(tmp_path_factory, sizes, seed, applies):
    W_enc, W_dec, b_mag, b_dec, X, rng = drawn(sizes, seed)
    m = sizes[1]
    r_mag, b_gate = rng.normal(size=m), rng.normal(size=m)
    tensors = {"W_enc": W_enc, "W_dec": W_dec, "b_dec": b_dec}
    tensors |= {"b_mag": b_mag, "b_gate": b_gate, "r_mag": r_mag}
    sae = load_sae_lens(
        tmp_path_factory, tensors, architecture="gated", apply_b_dec_to_input=applies
    )
    u = (X - applies * b_dec) @ W_enc
    magnitude = np.exp(r_mag) * u + b_mag
    if is_near_a_kink(u + b_gate, 0) or is_near_a_kink(magnitude, 0):
        return
    codes = (u + b_gate > 0) * relu(magnitude)
    assert_close(sae.transform(X), codes)
    assert_close(sae.inverse_transform(codes), codes @ W_dec + b_dec)


@given(SIZES, SEEDS, st.floats(0, 3))
def test_rows_of_the_decoder_get_unit_norm(sizes, seed, threshold):
    W_enc, W_dec, b_enc, _, X, _ = drawn(sizes, seed)
    norms = np.sqrt((W_dec**2).sum(axis=1))
    np.testing.assert_allclose(decoder_norms(W_dec), norms)
    scaled_enc, scaled_bias, unit_dec = with_unit_rows(W_enc, b_enc, W_dec)
    p, q = X @ W_enc + b_enc, X @ scaled_enc + scaled_bias
    np.testing.assert_allclose((unit_dec**2).sum(axis=1), 1.0)
    assert_close(q, p * norms)
    if not is_near_a_kink(p, threshold):
        ours = jump(q, threshold * norms) @ unit_dec
        assert_close(ours, jump(p, threshold) @ W_dec)


def test_a_row_of_zeros_has_no_norm_to_divide_by():
    W_enc, W_dec, b_enc, _, _, _ = drawn((3, 4), 0)
    W_dec[1] = 0
    scaled_enc, scaled_bias, unit_dec = with_unit_rows(W_enc, b_enc, W_dec)
    assert not scaled_enc[:, 1].any()
    assert scaled_bias[1] == 0
    assert not unit_dec[1].any()


@settings(deadline=None)
@given(SIZES, SEEDS, st.integers(1, 12), st.booleans())
def test_top_k_on_codes_times_norms(tmp_path_factory, sizes, seed, k, applies):
    W_enc, W_dec, b_enc, b_dec, X, _ = drawn(sizes, seed)
    k = min(k, sizes[1])
    tensors = {"W_enc": W_enc, "W_dec": W_dec, "b_dec": b_dec, "b_enc": b_enc}
    sae = load_sae_lens(
        tmp_path_factory,
        tensors,
        architecture="topk",
        k=k,
        rescale_acts_by_decoder_norm=True,
        apply_b_dec_to_input=applies,
    )
    norms = np.sqrt((W_dec**2).sum(axis=1))
    codes = top_k(((X - applies * b_dec) @ W_enc + b_enc) * norms, k)
    assert_close(sae.transform(X), codes)
    recon = (codes / norms) @ W_dec + b_dec
    assert_close(sae.inverse_transform(sae.transform(X)), recon)


@settings(deadline=None)
@given(SIZES, SEEDS, st.floats(1e-2, 1e2), st.booleans())
def test_a_scale_of_the_input_is_folded(tmp_path_factory, sizes, seed, s, applies):
    W_enc, W_dec, b_enc, b_dec, X, rng = drawn(sizes, seed)
    threshold = abs(rng.normal(size=sizes[1]))
    tensors = {"W_enc": W_enc, "W_dec": W_dec, "b_dec": b_dec, "b_enc": b_enc}
    directory = tmp_path_factory.mktemp("sae")
    config = {"d_in": sizes[0], "d_sae": sizes[1], "architecture": "jumprelu"}
    config |= {"normalize_activations": "expected_average_only_in"}
    config |= {"apply_b_dec_to_input": applies}
    (directory / "cfg.json").write_text(json.dumps(config))
    path = directory / "sae_weights.safetensors"
    write_safetensors(tensors | {"threshold": threshold}, path)
    sae = load_dictionary(directory, input_scale=s).estimator
    p = (s * X - applies * b_dec) @ W_enc + b_enc
    if is_near_a_kink(p, threshold):
        return
    codes = jump(p, threshold)
    assert_close(sae.transform(X), codes)
    assert_close(sae.inverse_transform(codes), (codes @ W_dec + b_dec) / s)
    if not applies:
        # What SAELens does to the weights when it folds the scale.
        folded = InteractionSAE.from_weights(
            W_enc * s,
            W_dec / s,
            b_enc=b_enc,
            b_dec=b_dec / s,
            activation="jumprelu",
            threshold=threshold,
        )
        assert_close(sae.components_, folded.components_)
        assert_close(sae.intercept_, folded.intercept_)
        assert_close(sae.encoder_components_, folded.encoder_components_)


@settings(deadline=None)
@given(SIZES, SEEDS, st.integers(2, 3), st.floats(0, 4))
def test_a_threshold_on_codes_times_summed_norms(
    tmp_path_factory, sizes, seed, n_sites, theta
):
    d, m = sizes
    rng = np.random.default_rng(seed)
    W_enc, W_dec = rng.normal(size=(n_sites, d, m)), rng.normal(size=(n_sites, m, d))
    b_enc, b_dec = rng.normal(size=m), rng.normal(size=(n_sites, d))
    tensors = {"encoder.weight": W_enc, "decoder.weight": W_dec}
    tensors |= {"encoder.bias": b_enc, "decoder.bias": b_dec}
    tensors |= {"threshold": np.array(theta), "k": np.array(1)}
    directory = tmp_path_factory.mktemp("crosscoder")
    write_safetensors(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text("{}")
    coder = load_dictionary(directory).estimator
    X = rng.normal(size=(9, n_sites, d))
    f = relu(np.einsum("nld,ldm->nm", X, W_enc) + b_enc)
    norms = np.sqrt((W_dec**2).sum(axis=2)).sum(axis=0)
    if is_near_a_kink(f * norms, theta):
        return
    codes = f * (f * norms > theta)
    assert_close(coder.transform(X), codes)
    recon = np.einsum("nm,lmd->nld", codes, W_dec) + b_dec
    assert_close(coder.inverse_transform(codes), recon)


@settings(deadline=None)
@given(SIZES, SEEDS, st.floats(0.1, 10), st.booleans())
def test_a_mean_norm_scales_the_input(tmp_path_factory, sizes, seed, mean_norm, weighs):
    W_enc, W_dec, b_enc, b_dec, X, rng = drawn(sizes, seed)
    d, m = sizes
    log_threshold = rng.normal(size=m)
    s = math.sqrt(d) / mean_norm
    directory = tmp_path_factory.mktemp("sae")
    hook = "blocks.0.hook_resid_mid"
    config = {"sae_type": "sae", "d_model": d, "d_sae": m, "act_fn": "jumprelu"}
    config |= {"norm_activation": "dataset-wise", "hook_point_in": hook}
    config["sparsity_include_decoder_norm"] = weighs
    (directory / "config.json").write_text(json.dumps(config))
    tensors = {"W_E": W_enc, "W_D": W_dec, "b_E": b_enc, "b_D": b_dec}
    tensors["activation_function.log_jumprelu_threshold"] = log_threshold
    tensors[f"dataset_average_activation_norm.{hook}"] = np.array(mean_norm)
    write_safetensors(tensors, directory / "sae_weights.safetensors")
    sae = load_dictionary(directory).estimator
    norms = np.sqrt((W_dec**2).sum(axis=1)) if weighs else np.ones(m)
    q = (s * X @ W_enc + b_enc) * norms
    if is_near_a_kink(q, np.exp(log_threshold)):
        return
    codes = jump(q, np.exp(log_threshold)) / norms
    assert_close(sae.transform(X), codes)
    assert_close(sae.inverse_transform(codes), (codes @ W_dec + b_dec) / s)
