import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network import MLPClassifier
from torch import nn

from sklearn_ccx import MLPWeights, networks
from sklearn_ccx.networks import check_mlps, freeze_mlps
from sklearn_ccx.networks._row_norms import row_norms
from tests.conftest import make_mlp

ON_CPU = {"device": torch.device("cpu")}


def test_lists_of_every_kind():
    mlp = make_mlp(4, 5)
    for value in (mlp, [mlp], (mlp,), np.array([mlp], dtype=object)):
        assert check_mlps(value, 1, 4) == [mlp]
    assert check_mlps(None, 1, 4) is None


@pytest.mark.parametrize(
    "value",
    [
        3,
        0,
        True,
        "relu",
        b"relu",
        "",
        {"mlp": 1},
        {1},
        iter([make_mlp(4, 5)]),
        (mlp for mlp in [make_mlp(4, 5)]),
        np.ones((4, 5)),
        np.array(3),
        nn.Linear(2, 2),
        MLPClassifier(),
    ],
)
def test_other_objects_are_refused(value):
    with pytest.raises(TypeError, match="mlp must be an MLPWeights, a list of them"):
        check_mlps(value, 1, 4)


def test_items_are_named():
    with pytest.raises(TypeError, match=r"mlp\[1\] must be an MLPWeights; got 3"):
        check_mlps([make_mlp(4, 5), 3], 1, 4)
    with pytest.raises(ValueError, match="empty list"):
        check_mlps([], 1, 4)
    with pytest.raises(ValueError, match=r"mlp\[0\] reads site=1"):
        check_mlps([make_mlp(4, 5, site=1)], 1, 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms_have_the_usual_bits(dtype):
    rows = np.random.default_rng(0).normal(size=(200, 33)).astype(dtype)
    assert_array_equal(row_norms(rows), np.linalg.norm(rows, axis=1))


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-30, 1.0, 1e30, 1e38])
def test_norms_of_huge_and_tiny_rows(size):
    rows = np.random.default_rng(0).normal(size=(20, 5)) * size
    rows = np.clip(rows, -3e38, 3e38).astype(np.float32)
    rows[3] = 0
    expected = np.linalg.norm(rows.astype(np.float64), axis=1)
    assert_allclose(row_norms(rows), expected, rtol=1e-6)


def test_norms_of_rows_of_different_size():
    rows = np.array([[3e-30, 4e-30], [3e30, 4e30], [0, 0]], dtype=np.float32)
    assert_allclose(row_norms(rows), [5e-30, 5e30, 0], rtol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_output_norms_do_not_vanish(size):
    rng = np.random.default_rng(0)
    W_in = rng.normal(size=(4, 6)).astype(np.float32)
    W_out = (size * rng.normal(size=(6, 3))).astype(np.float32)
    (frozen,) = freeze_mlps(
        [MLPWeights(W_in, W_out)], np.zeros(4), 1, dtype=torch.float32, **ON_CPU
    )
    expected = np.linalg.norm(W_out.astype(np.float64), axis=1)
    assert_allclose(frozen.output_norm_N.numpy(), expected, rtol=1e-6)


def test_public_face():
    assert networks.__doc__
    assert sorted(networks.__all__) == [
        "MLPWeights",
        "MLPs",
        "NormWeights",
        "activation_name",
        "check_mlps",
        "check_provable",
        "freeze_mlps",
        "input_weights",
        "linear_layer",
        "norm_layer",
        "row_norms",
    ]
    assert all(hasattr(networks, name) for name in networks.__all__)
