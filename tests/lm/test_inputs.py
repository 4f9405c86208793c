"""Inputs of every kind, padding without a mask, and which tokens are kept."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_ccx import MLPWeights
from sklearn_ccx.lm import (
    harvest,
    load_harvest,
    mlp_weights,
    patched_loss,
    site_names,
)

from .test_harvest import tokenizer  # noqa: F401
from .test_patched_loss import mlp_output
from .tiny_models import D, make_model, random_ids


@pytest.fixture
def gpt2():
    return make_model("gpt2")


@pytest.fixture
def bert():
    return make_model("bert")


TEXTS = ["the cat sat", "on a mat", "the mat"]


@pytest.mark.parametrize(
    "texts",
    [
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        pd.Series(TEXTS, index=[7, 3, 11]),
        pd.Series(TEXTS, index=["a", "b", "c"], dtype="string"),
        pl.Series(TEXTS),
        iter(TEXTS),
        (text for text in TEXTS),
        dict.fromkeys(TEXTS).keys(),
    ],
)
def test_texts_in_every_container(bert, tokenizer, texts):  # noqa: F811
    expected = harvest(bert, TEXTS, tokenizer=tokenizer)
    result = harvest(bert, texts, tokenizer=tokenizer)
    assert_array_equal(result.token_ids, expected.token_ids)
    assert_array_equal(result.activations, expected.activations)


@pytest.mark.parametrize(
    "convert",
    [
        lambda ids: pd.Series(ids, index=[5, 2, 9]),
        lambda ids: (row for row in ids),
        lambda ids: iter(map(np.array, ids)),
        lambda ids: np.array(ids, dtype=object),
        lambda ids: {"input_ids": pd.Series(ids, index=[5, 2, 9])},
        lambda ids: {"input_ids": (row for row in ids)},
        lambda ids: np.array(ids, dtype=np.uint16),
        lambda ids: [torch.tensor(row) for row in ids],
    ],
)
def test_ids_in_every_container(gpt2, convert):
    ids = random_ids(6, 6, 6)
    if convert(ids).__class__ is np.ndarray and convert(ids).dtype == object:
        ids = random_ids(6, 5, 4)
    expected = harvest(gpt2, ids)
    assert_array_equal(harvest(gpt2, convert(ids)).activations, expected.activations)
    loss = patched_loss(gpt2, convert(ids))
    assert loss(None) == patched_loss(gpt2, ids)(None)


def test_a_generator_of_ids_of_different_length():
    ids = random_ids(6, 2, 4)
    model = make_model("llama")
    assert_array_equal(
        harvest(model, (row for row in ids)).activations,
        harvest(model, ids).activations,
    )


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (5, TypeError, r"inputs must be a list; got 5"),
        (None, TypeError, "inputs must be a list; got None"),
        (b"the cat", TypeError, "inputs must be a list"),
        (np.array(3), TypeError, "inputs must be a list"),
        (torch.tensor(3), TypeError, "inputs must be a list"),
        ({"input_ids": 3}, TypeError, "inputs must be a list"),
        ({"input_ids": [[3]], "labels": 3}, TypeError, r"inputs\['labels'\] must be"),
        (pd.DataFrame({"text": TEXTS}), TypeError, "pass one of its columns"),
        (pl.DataFrame({"text": TEXTS}), TypeError, "pass one of its columns"),
        (["the cat", None], ValueError, r"inputs\[1\] is None"),
        (["the cat", float("nan")], ValueError, r"inputs\[1\] is nan"),
        ([[3], "the cat"], ValueError, r"inputs\[0\] is \[3\]"),
        ([None], ValueError, "sequences of integers"),
        ([{"a": 1}], ValueError, "sequences of integers"),
        ([b"the cat"], ValueError, "sequences of integers"),
        ([[[3, 4]]], ValueError, "sequences of integers"),
        ([[3, "4"]], ValueError, "sequences of integers"),
        ([[2**63]], ValueError, "sequences of integers|token id"),
        ([[3 + 1j]], ValueError, "Complex"),
        ({}, ValueError, "must hold 'input_ids'"),
        ({3: [[3]]}, ValueError, "must hold 'input_ids'"),
    ],
)
def test_other_inputs_are_refused(bert, tokenizer, inputs, error, message):  # noqa: F811
    with pytest.raises(error, match=message):
        harvest(bert, inputs, tokenizer=tokenizer)


# --- Padding without a mask


def assert_same(result, expected):
    for name in ("token_ids", "positions", "sequence_ids"):
        assert_array_equal(getattr(result, name), getattr(expected, name))
    assert_allclose(result.activations, expected.activations, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "roberta", "llama"])
@pytest.mark.parametrize("drop_special", [True, False])
def test_pads_at_either_end_are_padding(name, drop_special):
    changes = {"pad_token_id": 2} if name == "llama" else {}
    model = make_model(name, **changes)
    pad = model.config.pad_token_id
    options = {"sites": site_names(model), "drop_special": drop_special}
    expected = harvest(model, [[5, 6], [7, 8, 9], [4]], **options)
    padded = [[5, 6, pad, pad, pad], [pad, 7, 8, 9, pad], [pad, pad, pad, pad, 4]]
    for inputs in (
        padded,
        torch.tensor(padded),
        np.array(padded),
        {"input_ids": padded},
    ):
        assert_same(harvest(model, inputs, **options), expected)
    mask = (np.array(padded) != pad).astype(int)
    masked = {"input_ids": padded, "attention_mask": mask}
    assert_same(harvest(model, masked, **options), expected)


def test_a_mask_has_the_last_word(bert):
    ids = [[5, 6, 0, 0]]
    attended = {"input_ids": ids, "attention_mask": [[1, 1, 1, 0]]}
    result = harvest(bert, attended, drop_special=False)
    assert_array_equal(result.token_ids, [5, 6, 0])


def test_pads_between_tokens_are_tokens(bert):
    result = harvest(bert, [[0, 5, 0, 6, 0]], drop_special=False)
    assert_array_equal(result.token_ids, [5, 0, 6])


def test_labels_and_token_types_follow(bert):
    padded = {
        "input_ids": [[0, 5, 6, 7, 0, 0]],
        "labels": [[-100, -100, 6, 7, -100, -100]],
        "token_type_ids": [[0, 0, 1, 1, 0, 0]],
    }
    plain = {
        "input_ids": [[5, 6, 7]],
        "labels": [[-100, 6, 7]],
        "token_type_ids": [[0, 1, 1]],
    }
    assert_same(harvest(bert, padded), harvest(bert, plain))
    losses = [patched_loss(bert, inputs)(None) for inputs in (padded, plain)]
    assert_allclose(*losses, rtol=1e-6)


@pytest.mark.parametrize("border", ["bos_token_id", "eos_token_id"])
def test_one_of_a_run_stays_where_the_pad_also_begins_or_ends_texts(border):
    model = make_model("gpt2", **{"pad_token_id": 3, border: 3})
    padded = [[3, 3, 3, 5, 6], [5, 6, 3, 3], [3, 5, 6, 3], [5, 6], [3, 3]]
    expected = [[3, 5, 6], [5, 6, 3], [3, 5, 6, 3], [5, 6], [3]]
    options = {"drop_special": False}
    result = harvest(model, padded, **options)
    assert_array_equal(result.token_ids, np.concatenate(expected))
    assert_same(result, harvest(model, expected, **options))
    assert_array_equal(harvest(model, padded).token_ids, [5, 6] * 4)


def test_the_tokenizer_s_padding_token_counts(gpt2, tokenizer):  # noqa: F811
    assert gpt2.config.pad_token_id is None
    result = harvest(gpt2, [[0, 0, 5, 6, 0]], tokenizer=tokenizer, drop_special=False)
    assert_array_equal(result.token_ids, [5, 6])
    without = harvest(gpt2, [[0, 0, 5, 6, 0]], drop_special=False)
    assert_array_equal(without.token_ids, [0, 0, 5, 6, 0])


def test_max_length_counts_tokens_and_not_pads(bert):
    result = harvest(bert, [[0, 0, 5, 6, 7]], max_length=2)
    assert_array_equal(result.token_ids, [5, 6])


def test_a_padding_id_that_is_no_token_is_not_used():
    model = make_model("gpt2", pad_token_id=-1)
    ids = random_ids(5, 3)
    expected = harvest(make_model("gpt2"), ids)
    assert_same(harvest(model, ids), expected)


# --- drop_positions


@pytest.mark.parametrize("n", [0, 1, 3])
def test_first_positions_are_attended_to_and_left_out(gpt2, n):
    ids = random_ids(6, 2, 9)
    everything = harvest(gpt2, ids, sites=["resid_post", "mlp_in"])
    result = harvest(gpt2, ids, sites=["resid_post", "mlp_in"], drop_positions=n)
    kept = everything.positions >= n
    assert_array_equal(result.positions, everything.positions[kept])
    assert_array_equal(result.sequence_ids, everything.sequence_ids[kept])
    assert_allclose(result.activations, everything.activations[kept], rtol=1e-5)


def test_special_tokens_count_as_positions(bert, tokenizer):  # noqa: F811
    result = harvest(bert, TEXTS[:1], tokenizer=tokenizer, drop_positions=2)
    assert_array_equal(result.token_ids, [4, 5])
    assert_array_equal(result.positions, [2, 3])


def test_max_tokens_counts_what_is_kept(gpt2):
    result = harvest(gpt2, random_ids(6, 6), drop_positions=4, max_tokens=3)
    assert_array_equal(result.positions, [4, 5, 4])


def test_patched_loss_patches_the_same_tokens(gpt2):
    ids = random_ids(6, 2, 9)
    options = {"drop_positions": 2}
    X = harvest(gpt2, ids, **options).activations
    loss = patched_loss(gpt2, ids, 1, **options)
    output = mlp_output(mlp_weights(gpt2)[1], X[:, 1])
    assert_allclose(loss(output), loss(None), rtol=1e-5)
    with pytest.raises(ValueError, match=r"need \(11, 16\)"):
        loss(np.zeros((17, D)))
    # The predictions made at the first two positions do not count.
    with torch.no_grad():
        logits = [gpt2(torch.tensor([row])).logits[0, 2:-1] for row in ids]
    targets = torch.cat([torch.tensor(row[3:]) for row in ids])
    expected = torch.nn.functional.cross_entropy(torch.cat(logits), targets.long())
    assert_allclose(loss(None), float(expected), rtol=1e-5)


def test_dropped_positions_are_in_the_settings_of_shards(gpt2, tmp_path):
    ids = random_ids(6, 9)
    written = harvest(gpt2, ids, out=tmp_path, drop_positions=np.int64(2))
    again = harvest(gpt2, ids, out=tmp_path, drop_positions=2)
    assert_array_equal(written.positions, again.positions)
    assert_array_equal(load_harvest(tmp_path).positions, written.positions)
    with pytest.raises(ValueError, match=r"drop_positions \(2 there, 0 here\)"):
        harvest(gpt2, ids, out=tmp_path)


def test_dropping_everything_is_refused(gpt2):
    with pytest.raises(ValueError, match=r"longest sequence has 4 .*drop_positions=4"):
        harvest(gpt2, random_ids(4, 3), drop_positions=4)


# --- Parameters

INTEGERS = {
    "max_length": 1,
    "max_tokens": 1,
    "drop_positions": 0,
    "batch_size": 1,
    "shard_size": 1,
}


@pytest.mark.parametrize("name", INTEGERS)
def test_sizes_are_integers(gpt2, name):
    ids = random_ids(5, 5)
    expected = harvest(gpt2, ids, **{name: 3}).activations
    result = harvest(gpt2, ids, **{name: np.int64(3)}).activations
    assert_array_equal(result, expected)
    calls = [harvest]
    if name != "shard_size":
        calls.append(patched_loss)
    for call in calls:
        for bad in (True, np.bool_(True), 2.0, "3", [3], 1j):
            with pytest.raises(TypeError, match=f"{name} must be an integer"):
                call(gpt2, ids, **{name: bad})
        with pytest.raises(ValueError, match=f"{name} must be at least"):
            call(gpt2, ids, **{name: INTEGERS[name] - 1})


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"sites": 3}, TypeError, "sites must be a list; got 3"),
        ({"sites": None}, TypeError, "sites must be a list; got None"),
        ({"sites": [3]}, TypeError, "sites must be names of sites; got 3"),
        ({"tokenizer": 3}, TypeError, "tokenizer must be a tokenizer"),
        ({"tokenizer": "gpt2"}, TypeError, "tokenizer must be a tokenizer"),
        ({"tokenizer": len}, TypeError, "tokenizer must be a tokenizer"),
        ({"dtype": []}, ValueError, "dtype must be one of"),
        ({"dtype": np.float32}, ValueError, "dtype must be one of"),
        ({"dtype": None}, ValueError, "dtype must be one of"),
        ({"out": 3}, TypeError, "out must be the path of a directory"),
        ({"out": b"acts"}, TypeError, "out must be the path of a directory"),
        ({"out": ["acts"]}, TypeError, "out must be the path of a directory"),
        ({"drop_special": "no"}, TypeError, "drop_special must be True or False"),
        ({"verbose": "no"}, TypeError, "verbose must be True or False"),
    ],
)
def test_other_parameters_are_refused(gpt2, parameters, error, message):
    with pytest.raises(error, match=message):
        harvest(gpt2, [[7, 8]], **parameters)


def test_blocks_are_integers(gpt2):
    both = mlp_weights(gpt2)
    for blocks in (np.array([0, 1]), range(2), (i for i in range(2)), [np.int64(0), 1]):
        assert mlp_weights(gpt2, blocks) == both
    assert mlp_weights(gpt2, np.int64(1)) == both[1:]
    for bad in ("0", True, 0.0, ["0"], [True], np.array([0.0]), b"0", 1j, {"a": 1}):
        with pytest.raises(TypeError, match="blocks must be an integer or a list"):
            mlp_weights(gpt2, bad)
        with pytest.raises(TypeError, match="block must be an integer or a list"):
            patched_loss(gpt2, [[7, 8]], bad)
    with pytest.raises(ValueError, match=r"blocks must be among 0\.\.1"):
        mlp_weights(gpt2, [])
    with pytest.raises(TypeError, match="fold_norm must be True or False"):
        mlp_weights(gpt2, fold_norm="yes")
    with pytest.raises(TypeError, match="sites must be a list"):
        mlp_weights(gpt2, sites=3)


def test_arguments_of_the_loss(gpt2):
    loss = patched_loss(gpt2, [[7, 8, 9]])
    output = np.ones((3, D), dtype=np.float32)
    expected = loss(output, 1)
    for form in (torch.from_numpy(output).requires_grad_(), output.tolist()):
        assert loss(form, np.int64(1)) == expected
    for bad in (True, 0.0, "0", None):
        with pytest.raises(TypeError, match="mlp_index must be an integer"):
            loss(output, bad)
    for bad in (np.full((3, D), np.nan), np.full((3, D), "x")):
        with pytest.raises(ValueError, match="must be finite numbers"):
            loss(bad)
    with pytest.raises(ValueError, match="Complex"):
        loss(output + 1j)


@pytest.mark.parametrize("model", [None, 3, "gpt2", MLPWeights([[1]], [[1]])])
def test_models_are_models(model):
    for call in (site_names, mlp_weights, lambda m: harvest(m, [[1]])):
        with pytest.raises(TypeError, match="model must be a transformers"):
            call(model)
    with pytest.raises(TypeError, match="model must be a transformers"):
        patched_loss(model, [[1]])


@pytest.mark.parametrize("verify", [0, "yes", None])
def test_parameters_of_load_harvest(tmp_path, verify):
    with pytest.raises(TypeError, match="verify must be True or False"):
        load_harvest(tmp_path, verify=verify)
    with pytest.raises(TypeError, match="directory must be the path of a directory"):
        load_harvest(3)


# --- torch's modes


@pytest.mark.parametrize(
    "mode",
    [
        torch.no_grad,
        torch.enable_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
    ],
)
def test_the_caller_s_modes_do_not_matter(gpt2, mode):
    ids = random_ids(6, 4)
    expected = harvest(gpt2, ids).activations
    loss = patched_loss(gpt2, ids)
    output = np.ones((10, D), dtype=np.float32)
    value = loss(output)
    with mode():
        assert_array_equal(harvest(gpt2, ids).activations, expected)
        assert patched_loss(gpt2, ids)(output) == value
        assert loss(output) == value
        assert mlp_weights(gpt2) == mlp_weights(gpt2, [0, 1])
        assert site_names(gpt2)
