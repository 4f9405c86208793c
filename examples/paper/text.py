"""English text that ships with Python, cut into tokens."""

import ast
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"

IdArray = npt.NDArray[np.int64]

# Directories of the standard library that hold little prose of their own.
_SKIPPED_DIRECTORIES = {"test", "tests", "idle_test", "site-packages", "lib2to3"}

# Shorter docstrings are mostly "See base class.".
_MIN_DOCSTRING_LENGTH = 200


def reference_topics() -> list[str]:
    """The chapters of Python's reference that `help()` shows."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def library_docstrings(directory: Path | None = None) -> list[str]:
    """Docstrings of the standard library, or `directory`, without importing it."""
    root = Path(sysconfig.get_paths()["stdlib"]) if directory is None else directory
    found = {}
    for path in sorted(root.rglob("*.py")):
        if _SKIPPED_DIRECTORIES.intersection(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        for node in ast.walk(tree):
            if isinstance(node, documented):
                docstring = ast.get_docstring(node) or ""
                if len(docstring) >= _MIN_DOCSTRING_LENGTH:
                    found[docstring] = None
    return list(found)


def split_documents(
    documents: Sequence[str], held_out: float, seed: int
) -> tuple[list[str], list[str]]:
    """Documents to train on, and others of about `held_out` of the text."""
    order = np.random.default_rng(seed).permutation(len(documents))
    lengths = np.array([len(documents[i]) for i in order])
    is_held_out = np.cumsum(lengths) <= held_out * lengths.sum()
    train = [documents[i] for i in order[~is_held_out]]
    return train, [documents[i] for i in order[is_held_out]]


def train_tokenizer(
    documents: Sequence[str], vocabulary_size: int
) -> PreTrainedTokenizerFast:
    """Byte-pair encoding of the documents."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT
    )


def token_stream(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[str]
) -> IdArray:
    """Tokens of all documents, each closed by the end-of-text token."""
    encoded = tokenizer(list(documents), add_special_tokens=False)["input_ids"]
    end = [tokenizer.eos_token_id]
    return np.concatenate([np.array(ids + end, dtype=np.int64) for ids in encoded])


def windows(stream: IdArray, length: int) -> IdArray:
    """The stream cut into rows of `length` tokens; a rest is dropped."""
    n_rows = len(stream) // length
    if n_rows == 0:
        raise ValueError(
            f"the text has {len(stream)} tokens, fewer than one window of {length}."
        )
    return stream[: n_rows * length].reshape(n_rows, length)
