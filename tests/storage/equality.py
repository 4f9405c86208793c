"""Whether two values are the same down to types, bits and shared objects."""

import struct

import networkx as nx
import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator

from sklearn_ccx import MLPWeights
from sklearn_ccx.sleepers import ProfileCalibration

_SHARED = (np.ndarray, BaseEstimator, MLPWeights, np.random.RandomState)


def assert_same(found, expected, where="value", seen=None):
    """Walk through both; what is one object in one must be one in the other."""
    seen = {} if seen is None else seen
    assert type(found) is type(expected), where
    if isinstance(expected, _SHARED):
        if id(expected) in seen:
            assert found is seen[id(expected)][1], f"{where} is no longer shared"
            return
        seen[id(expected)] = expected, found
    if isinstance(expected, np.ndarray):
        assert_same_array(found, expected, where)
    elif isinstance(expected, np.generic):
        assert found.dtype == expected.dtype, where
        assert found.tobytes() == expected.tobytes(), where
    elif isinstance(expected, float):
        if np.isnan(expected):
            assert np.isnan(found), where
        else:
            assert struct.pack("d", found) == struct.pack("d", expected), where
    else:
        parts, others = parts_of(found), parts_of(expected)
        if others is None:
            assert found == expected, where
            return
        assert list(parts) == list(others), where
        for name in others:
            assert_same(parts[name], others[name], f"{where}.{name}", seen)


def assert_same_array(found, expected, where):
    assert found.dtype == expected.dtype, where
    assert found.dtype.str == expected.dtype.str, where
    assert found.shape == expected.shape, where
    for flag in ("C_CONTIGUOUS", "F_CONTIGUOUS"):
        # Only what is neither becomes the former.
        if expected.flags[flag]:
            assert found.flags[flag], where
    if expected.dtype == object:
        assert [type(x) for x in found.flat] == [type(x) for x in expected.flat], where
        assert found.tolist() == expected.tolist(), where
    else:
        assert found.tobytes() == expected.tobytes(), where


def parts_of(value):
    """What a value is made of, None if it is one piece."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if isinstance(value, BaseEstimator | ProfileCalibration):
        return dict(sorted(vars(value).items()))
    if isinstance(value, MLPWeights):
        return {name: getattr(value, name) for name in MLPWeights.__slots__}
    if sparse.issparse(value):
        names = ("shape", "data", "indices", "indptr")
        return {name: getattr(value, name) for name in names}
    if isinstance(value, nx.Graph):
        numbers = {node: number for number, node in enumerate(value)}
        # The order of nodes and neighbours decides what algorithms do, that of
        # attributes does not.
        return {
            "graph": value.graph,
            "nodes": [(node, ordered(data)) for node, data in value.nodes(data=True)],
            "adjacency": [
                [(numbers[n], ordered(data)) for n, data in value.adj[node].items()]
                for node in value
            ],
        }
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    return None


def ordered(attributes):
    return dict(sorted(attributes.items()))
