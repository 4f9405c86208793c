import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from transformers import BertModel, PreTrainedTokenizerFast

from sklearn_ccx.lm import harvest, site_names

from .manual_forward import manual_sites
from .tiny_models import (
    CONTEXT,
    MIXTURES,
    MODELS,
    N_IDS,
    REFUSED_MIXTURES,
    make_model,
    random_ids,
)

LENGTHS = (9, 12, 5, 16, 7)


@pytest.fixture
def gpt2():
    return make_model("gpt2")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", [*MODELS, *MIXTURES, *REFUSED_MIXTURES])
def test_harvest_equals_manual_forward(name, no_network):
    model = make_model(name)
    ids = random_ids(*LENGTHS)
    result = harvest(model, ids, sites=site_names(model), batch_size=2)
    assert result.sites == tuple(site_names(model))
    for number, sequence in enumerate(ids):
        rows = result.sequence_ids == number
        with torch.no_grad():
            sites, final, last = manual_sites(model, torch.tensor([sequence]))
        assert_allclose(final, last, rtol=1e-4, atol=1e-4)
        assert set(sites) == set(result.sites)
        for site, activation in zip(
            result.sites, result.activations[rows].swapaxes(0, 1), strict=True
        ):
            scale = float(sites[site].abs().max())
            assert_allclose(
                activation, sites[site], rtol=1e-4, atol=1e-5 * scale, err_msg=site
            )


def test_tokens_positions_and_sequences(gpt2):
    ids = random_ids(*LENGTHS)
    result = harvest(gpt2, ids, batch_size=3)
    assert_array_equal(result.token_ids, np.concatenate(ids))
    assert_array_equal(
        result.positions, np.concatenate([np.arange(n) for n in LENGTHS])
    )
    assert_array_equal(result.sequence_ids, np.repeat(range(5), LENGTHS))
    assert result.activations.dtype == np.float32


def test_sites_come_in_order_of_computation_and_once(gpt2):
    sites = ["blocks.1.resid_post", "mlp_in", "blocks.1.mlp_in", "resid_pre"]
    result = harvest(gpt2, random_ids(4), sites=sites)
    assert result.sites == (
        "blocks.0.resid_pre",
        "blocks.0.mlp_in",
        "blocks.1.resid_pre",
        "blocks.1.mlp_in",
        "blocks.1.resid_post",
    )


def test_parallel_residual_has_no_resid_mid():
    model = make_model("pythia")
    assert "blocks.0.resid_mid" not in site_names(model)
    with pytest.raises(ValueError, match="no site 'resid_mid'"):
        harvest(model, random_ids(4), sites="resid_mid")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_inputs_of_every_form_give_the_same(gpt2, batch_size):
    ids = random_ids(6, 6, 6)
    padded = np.zeros((3, 9), dtype=np.int64)
    padded[:, 3:] = ids
    mask = np.zeros_like(padded)
    mask[:, 3:] = 1
    expected = harvest(gpt2, ids, batch_size=batch_size)
    forms = [
        np.array(ids),
        torch.tensor(ids),
        [np.array(row, dtype=np.int32) for row in ids],
        {"input_ids": torch.tensor(ids)},
        {"input_ids": padded, "attention_mask": mask},
        {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)},
    ]
    for form in forms:
        result = harvest(gpt2, form, batch_size=batch_size)
        assert_array_equal(result.activations, expected.activations)
        assert_array_equal(result.positions, expected.positions)


def test_token_type_ids_reach_the_model():
    model = make_model("bert")
    ids = random_ids(6, 4)
    types = [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1]]
    result = harvest(model, {"input_ids": ids, "token_type_ids": types})
    alone = model.bert(torch.tensor(ids[1:]), token_type_ids=torch.tensor(types[1:]))
    last = harvest(
        model, {"input_ids": ids, "token_type_ids": types}, sites="blocks.1.resid_post"
    )
    assert_allclose(last.activations[6:, 0], alone[0][0].detach(), rtol=1e-4, atol=1e-4)
    plain = harvest(model, ids)
    assert not np.allclose(result.activations, plain.activations)


def test_models_without_token_types_are_not_given_any(gpt2):
    """GPT-2 would add the embedding of token 0."""
    ids = random_ids(6, 4)
    types = [[0] * len(row) for row in ids]
    result = harvest(gpt2, {"input_ids": ids, "token_type_ids": types})
    assert_array_equal(result.activations, harvest(gpt2, ids).activations)


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat", "[UNK]"]
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    )


def test_texts_and_special_tokens(tokenizer, no_network):
    model = make_model("bert")
    texts = ["the cat sat on the mat", "a mat"]
    result = harvest(model, texts, tokenizer=tokenizer, sites="resid_post")
    assert_array_equal(result.token_ids, [3, 4, 5, 6, 3, 8, 7, 8])
    assert_array_equal(result.positions, [1, 2, 3, 4, 5, 6, 1, 2])
    everything = harvest(
        model, texts, tokenizer=tokenizer, sites="resid_post", drop_special=False
    )
    assert_array_equal(everything.token_ids, [1, 3, 4, 5, 6, 3, 8, 2, 1, 7, 8, 2])
    kept = ~np.isin(everything.token_ids, [1, 2])
    assert_array_equal(result.activations, everything.activations[kept])


def test_max_length_keeps_the_tokenizer_s_special_tokens(tokenizer):
    model = make_model("bert")
    result = harvest(
        model,
        ["the cat sat on the mat"],
        tokenizer=tokenizer,
        max_length=5,
        drop_special=False,
    )
    assert_array_equal(result.token_ids, [1, 3, 4, 5, 2])


def test_ids_of_the_configuration_are_special():
    model = make_model("gpt2", eos_token_id=5)
    result = harvest(model, [[5, 7, 8, 5], [9, 5]])
    assert_array_equal(result.token_ids, [7, 8, 9])
    assert_array_equal(result.positions, [1, 2, 0])


@pytest.mark.parametrize("max_tokens", [1, 9, 10, 21, 30, 1000])
def test_max_tokens_takes_the_first(gpt2, max_tokens):
    ids = random_ids(*LENGTHS)
    everything = harvest(gpt2, ids, batch_size=2)
    result = harvest(gpt2, ids, batch_size=2, max_tokens=max_tokens)
    assert_allclose(
        result.activations, everything.activations[:max_tokens], rtol=1e-5, atol=1e-5
    )
    assert_array_equal(result.token_ids, everything.token_ids[:max_tokens])


def test_empty_texts_are_passed_over(gpt2):
    result = harvest(gpt2, [[], [7, 8], [], [9]])
    assert_array_equal(result.sequence_ids, [1, 1, 3])


def test_model_is_left_as_it_was(gpt2):
    gpt2.train()
    gpt2.transformer.h[0].eval()
    modes = [module.training for module in gpt2.modules()]
    result = harvest(gpt2, random_ids(8))
    assert [module.training for module in gpt2.modules()] == modes
    assert_array_equal(result.activations, harvest(gpt2, random_ids(8)).activations)
    assert _n_hooks(gpt2) == 0
    assert all(parameter.grad is None for parameter in gpt2.parameters())


def test_hooks_and_mode_are_restored_after_an_error(gpt2, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    gpt2.train()
    monkeypatch.setattr(gpt2.transformer.h[1].mlp, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        harvest(gpt2, random_ids(8))
    assert _n_hooks(gpt2) == 0
    assert gpt2.training


def _n_hooks(model):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in model.modules()
    )


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dtype_in_memory(gpt2, dtype):
    ids = random_ids(*LENGTHS)
    result = harvest(gpt2, ids, dtype=dtype).activations
    assert result.dtype == dtype
    assert_array_equal(result, harvest(gpt2, ids).activations.astype(dtype))


def test_model_in_half_precision(gpt2):
    ids = random_ids(6, 3)
    half = harvest(gpt2.bfloat16(), ids).activations
    assert half.dtype == np.float32
    assert_array_equal(half, torch.from_numpy(half).bfloat16().float())


def test_encoder_without_head():
    model = make_model("bert")
    alone = BertModel(model.config, add_pooling_layer=False).eval()
    alone.load_state_dict(model.bert.state_dict())
    ids = random_ids(5)
    assert_array_equal(harvest(alone, ids).activations, harvest(model, ids).activations)


def test_adapter_is_looked_through(gpt2):
    wrapper = SimpleNamespace(get_base_model=lambda: gpt2)
    ids = random_ids(5)
    assert_array_equal(
        harvest(wrapper, ids).activations, harvest(gpt2, ids).activations
    )


@pytest.mark.parametrize(
    ("inputs", "parameters", "message"),
    [
        ([[7, 8]], {"sites": "mlp"}, "no site 'mlp'"),
        ([[7, 8]], {"sites": []}, "sites is empty"),
        ([[7, 8]], {"sites": "blocks.2.mlp_in"}, "no site 'blocks.2.mlp_in'"),
        ([[7, N_IDS]], {}, f"token id {N_IDS}"),
        ([[-1, 7]], {}, "token id -1"),
        ([[7] * (CONTEXT + 1)], {}, f"pass max_length={CONTEXT}"),
        ([], {}, "no token to harvest"),
        ([[]], {}, "no token to harvest"),
        ([[1.5, 2.5]], {}, "sequences of integers"),
        ([7, 8], {}, "sequences of integers"),
        ("the cat", {}, "list of texts"),
        (["the cat"], {}, "pass the model's tokenizer"),
        ({"ids": [[7]]}, {}, "must hold 'input_ids'"),
        ({"input_ids": [[7]], "position_ids": [[0]]}, {}, "position_ids"),
        ({"input_ids": [[7]], "attention_mask": [[1, 1]]}, {}, "must have the shape"),
        ({"input_ids": [[7] * 3], "attention_mask": [[1, 0, 1]]}, {}, "has a gap"),
        ([[7]], {"dtype": "float64"}, "dtype must be one of"),
        ([[7]], {"dtype": "bfloat16"}, "name a directory"),
        ([[7]], {"batch_size": 0}, "batch_size"),
        ([[7]], {"max_tokens": 0}, "max_tokens"),
    ],
)
def test_bad_input(gpt2, inputs, parameters, message):
    with pytest.raises(ValueError, match=message):
        harvest(gpt2, inputs, **parameters)


def test_unknown_architecture_is_named():
    from transformers import CTRLConfig, CTRLModel

    model = CTRLModel(CTRLConfig(vocab_size=8, n_embd=4, n_layer=1, n_head=1, dff=4))
    for call in (lambda: harvest(model, [[1]]), lambda: site_names(model)):
        with pytest.raises(ValueError, match=r"'ctrl'.*MLPWeights\.from_torch"):
            call()


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="got Linear"):
        harvest(torch.nn.Linear(2, 2), [[1]])


def test_roberta_reads_as_many_tokens_as_it_has_positions():
    model = make_model("roberta")
    assert len(harvest(model, random_ids(CONTEXT)).activations) == CONTEXT
    with pytest.raises(ValueError, match=f"at most {CONTEXT}"):
        harvest(model, random_ids(CONTEXT + 1))


@pytest.mark.parametrize("value", [np.nan, 1e6])
def test_activations_that_do_not_fit_are_refused(gpt2, value):
    with torch.no_grad():
        gpt2.transformer.h[1].mlp.c_proj.bias[0] = value
    with pytest.raises(ValueError, match=r"blocks\.1\.resid_post are not finite"):
        harvest(gpt2, random_ids(4), sites="resid_post", dtype="float16")


@pytest.mark.slow
def test_package_does_not_import_transformers():
    code = "import sys, sklearn_ccx; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in [name for name in sys.modules if name.startswith("sklearn_ccx.lm")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"pip install 'sklearn-ccx\[lm\]'"):
        import sklearn_ccx.lm  # noqa: F401
