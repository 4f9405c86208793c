"""What X may be, and in which precision it is computed."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_ccx import InteractionCrosscoder, InteractionSAE, interaction_scores
from sklearn_ccx._engine import _data


@pytest.fixture
def X(acts):
    return acts[:, 0]


@pytest.fixture
def sae():
    return InteractionSAE(12, k=3, max_iter=3, random_state=0)


AS_FLOAT64 = {
    "list": lambda X: X.tolist(),
    "polars": lambda X: pl.DataFrame(X),
    "pandas": lambda X: pd.DataFrame(X).add_prefix("c"),
    "pandas Float64": lambda X: pd.DataFrame(X).add_prefix("c").astype("Float64"),
    "longdouble": lambda X: X.astype(np.longdouble),
    "tensor": lambda X: torch.from_numpy(X),
    "tensor with gradient": lambda X: torch.from_numpy(X).requires_grad_(),
    "parameter": lambda X: torch.nn.Parameter(torch.from_numpy(X)),
    "list of tensors": lambda X: list(torch.from_numpy(X).requires_grad_()),
    "masked, nothing hidden": lambda X: np.ma.masked_array(X),
}


@pytest.mark.parametrize("container", AS_FLOAT64)
def test_what_is_not_float32_is_computed_in_float64(X, sae, container):
    expected = sae.fit(X).transform(X)
    data = AS_FLOAT64[container](X)
    codes = sae.fit(data).transform(data)
    assert sae.components_.dtype == np.float64
    assert_array_equal(np.asarray(codes), expected)


def test_integers_are_computed_in_float64(X, sae):
    assert sae.fit(X.round().astype(int)).components_.dtype == np.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tensors_are_computed_in_float32(X, sae, dtype):
    assert sae.fit(torch.from_numpy(X).to(dtype)).components_.dtype == np.float32


def test_sparse_tensors(X, sae):
    expected = sae.fit(X).transform(X)
    assert_array_equal(sae.transform(torch.from_numpy(X).to_sparse()), expected)


def test_codes_may_be_tensors_that_need_a_gradient(X, sae):
    codes = sae.fit(X).transform(X)
    given = torch.from_numpy(codes).requires_grad_()
    assert_array_equal(sae.inverse_transform(given), sae.inverse_transform(codes))


@pytest.mark.parametrize("n_sites", [1, 3])
def test_float16_arrays_are_converted_batch_by_batch(
    acts, n_sites, tmp_path, monkeypatch
):
    half = acts[:, :n_sites].astype(np.float16)
    ccx = InteractionCrosscoder(12, k=3, max_iter=3, random_state=0)
    expected = ccx.fit(half.astype(np.float32)).components_
    codes, score = ccx.transform(half.astype(np.float32)), ccx.score(half)
    np.save(tmp_path / "acts.npy", half)
    mapped = np.load(tmp_path / "acts.npy", mmap_mode="r")
    read = []
    load = _data.TrainingData.load

    def spy(self, rows):
        read.append(self._X.dtype)
        return load(self, rows)

    monkeypatch.setattr(_data.TrainingData, "load", spy)
    assert_array_equal(ccx.fit(mapped).components_, expected)
    assert set(read) == {np.dtype(np.float16)}
    assert_array_equal(ccx.transform(mapped), codes)
    assert ccx.score(mapped) == score
    assert ccx.components_.dtype == np.float32
    assert interaction_scores(ccx, mapped).shape == (120,)


def test_float16_arrays_are_validated(acts):
    half = acts.astype(np.float16)
    ccx = InteractionCrosscoder(12, k=3, max_iter=1, random_state=0).fit(half)
    half[70, 1, 2] = np.inf
    for method in (ccx.fit, ccx.transform, ccx.partial_fit):
        with pytest.raises(ValueError, match="contains NaN or infinity in rows"):
            method(half)
    with pytest.raises(ValueError, match="0 sample"):
        ccx.fit(half[:0])


def test_masked_entries_are_refused(X, sae):
    masked = np.ma.masked_greater(X, 1.0)
    with pytest.raises(ValueError, match=r"X has masked entries; pass X\.filled"):
        sae.fit(masked)


def test_complex_numbers_are_refused(X, sae):
    for data in (X + 1j, torch.from_numpy(X + 1j)):
        with pytest.raises(ValueError, match="Complex data not supported"):
            sae.fit(data)


def test_tensors_without_data_are_refused(X, sae):
    with pytest.raises(ValueError, match="X is a tensor on the meta device"):
        sae.fit(torch.empty(20, 6, device="meta"))


def test_ragged_lists_are_refused(sae):
    with pytest.raises(ValueError, match="X cannot be made an array"):
        sae.fit([[1.0, 2.0], [3.0]])


def test_batches_of_sequences_are_sent_to_rows(sae, X):
    sequences = np.random.default_rng(0).normal(size=(4, 30, 6))
    with pytest.raises(ValueError, match=r"X\.reshape\(-1, X\.shape\[-1\]\)"):
        sae.fit(sequences)
    ccx = InteractionCrosscoder(12, k=3, max_iter=1, random_state=0)
    with pytest.warns(UserWarning, match=r"30 sites but 4 samples.*X\.reshape\(-1, "):
        ccx.fit(sequences)
    # What the message recommends runs, without a word.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sae.fit(sequences.reshape(-1, sequences.shape[-1]))


def test_transform_of_float16_equals_that_of_float32(X, sae):
    sae.fit(X.astype(np.float32))
    half = X.astype(np.float16)
    assert_allclose(sae.transform(half), sae.transform(half.astype(np.float32)))
