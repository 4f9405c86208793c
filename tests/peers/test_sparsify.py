"""eai-sparsify: what it saves is loaded here."""

import numpy as np
import pytest
import torch
from sparsify import SparseCoder, SparseCoderConfig

from sklearn_ccx.pretrained import load_dictionary

from .agreement import D, K, M, activations, assert_equal, fill, to_numpy


@pytest.mark.parametrize("sizes", [{"num_latents": M}, {"expansion_factor": 4}])
def test_theirs_is_loaded(sizes, tmp_path):
    theirs = fill(SparseCoder(D, SparseCoderConfig(k=K, **sizes)))
    directory = tmp_path / "layers.3"
    theirs.save_to_disk(directory)
    X = activations()
    with torch.no_grad():
        encoded = theirs.encode(torch.from_numpy(X))
        recon = theirs.decode(encoded.top_acts, encoded.top_indices)
    codes = np.zeros((len(X), theirs.num_latents), dtype=np.float32)
    acts, indices = to_numpy(encoded.top_acts), to_numpy(encoded.top_indices)
    np.put_along_axis(codes, indices, acts, axis=1)
    loaded = load_dictionary(directory)
    assert loaded.reads == "blocks.3.resid_post"
    assert_equal(loaded.estimator.transform(X), codes)
    assert_equal(loaded.reconstruct(X), to_numpy(recon))


@pytest.mark.parametrize("option", ["transcode", "skip_connection"])
def test_theirs_that_writes_elsewhere_is_refused(option, tmp_path):
    config = SparseCoderConfig(k=K, num_latents=M, **{option: True})
    SparseCoder(D, config).save_to_disk(tmp_path / "layers.3.mlp")
    with pytest.raises(ValueError, match="transcoder"):
        load_dictionary(tmp_path / "layers.3.mlp")
