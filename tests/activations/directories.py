"""Directories as harvest writes them, without a language model."""

import numpy as np
import torch

from sklearn_ccx.activations._shard_directory import ShardDirectory

SITES = ("a", "b", "c")


def write_directory(path, array_NLD, lengths, dtype="float32", **settings):
    """Write activations in shards of some lengths; return them as they were stored."""
    n_tokens, n_sites, width = array_NLD.shape
    assert sum(lengths) == n_tokens
    settings = {"sites": list(SITES[:n_sites]), "width": width, **settings}
    settings["dtype"] = dtype
    directory = ShardDirectory.create(path, settings, list(lengths))
    stored = torch.from_numpy(np.ascontiguousarray(array_NLD)).to(getattr(torch, dtype))
    start = 0
    for number, length in enumerate(lengths):
        directory.write(number, tensors_of(stored[start : start + length], start))
        start += length
    return stored.float().numpy()


def tensors_of(stored, start):
    """A shard's tensors: rows of activations, and where they are from."""
    rows = torch.arange(start, start + len(stored))
    return {
        "activations": stored.contiguous(),
        "token_ids": rows % 7,
        "positions": rows % 5,
        "sequence_ids": rows // 5,
    }
