"""Values of other packages that estimators keep, as trees of arrays."""

from typing import Any

import networkx as nx
import numpy as np
import torch
from scipy import sparse

from .._storage import Codec, Parts, RefusedError

# Compressed matrices: the class's own name is the tag.
_COMPRESSED = (
    sparse.csr_array,
    sparse.csc_array,
    sparse.csr_matrix,
    sparse.csc_matrix,
)

# Types of which a column of values is kept as an array, and which array.
_COLUMNS = {bool: np.dtype(bool), int: np.dtype(np.int64), float: np.dtype(float)}


def _matrix_to_parts(matrix: Any) -> Parts:
    names = ("data", "indices", "indptr", "shape")
    return {"": {name: getattr(matrix, name) for name in names}}


def _matrix_from_parts(kind: type, parts: Parts) -> Any:
    kept = parts[""]
    n_rows, n_columns = kept["shape"]
    n_lines = n_rows if kind in (sparse.csr_array, sparse.csr_matrix) else n_columns
    if kept["indptr"].shape != (n_lines + 1,):
        raise ValueError("indptr does not fit the shape of the matrix")
    if kept["indices"].dtype.kind != "i" or kept["indptr"].dtype.kind != "i":
        raise ValueError("the indices of the matrix are no integers")
    matrix = kind(kept["shape"], dtype=kept["data"].dtype)
    # Not by the constructor, which may choose another type for the indices.
    for name in ("data", "indices", "indptr"):
        setattr(matrix, name, kept[name])
    # Compiled code would follow an index that is out of bounds.
    matrix.check_format(full_check=True)
    return matrix


def _compressed(kind: type) -> Codec:
    return Codec(
        f"scipy.{kind.__name__}",
        kind,
        _matrix_to_parts,
        lambda parts: _matrix_from_parts(kind, parts),
    )


def _graph_to_parts(graph: Any) -> Parts:
    """Nodes, edges and attributes in their order, by columns."""
    nodes = list(graph.nodes)
    numbers = {node: number for number, node in enumerate(nodes)}
    edges = np.array(
        [(numbers[u], numbers[v]) for u, v in graph.edges], dtype=np.int64
    ).reshape(-1, 2)
    of_edges = [data for _, _, data in graph.edges(data=True)]
    return {
        "": {
            "attributes": graph.graph,
            "nodes": _column(nodes),
            "edges": edges,
            "node_attributes": _table([graph.nodes[node] for node in nodes]),
            "edge_attributes": _table(of_edges),
        }
    }


def _graph_from_parts(parts: Parts) -> Any:
    kept = parts[""]
    nodes = _values(kept["nodes"])
    graph = nx.Graph()
    graph.graph.update(kept["attributes"])
    graph.add_nodes_from(nodes)
    edges = [(nodes[u], nodes[v]) for u, v in kept["edges"].tolist()]
    graph.add_edges_from(edges)
    _fill([graph.nodes[node] for node in nodes], kept["node_attributes"])
    _fill([graph.edges[edge] for edge in edges], kept["edge_attributes"])
    return graph


def _table(rows: list[dict[Any, Any]]) -> dict[Any, Any]:
    """Dictionaries as one column for each key, with the rows that have it."""
    keys = dict.fromkeys(key for row in rows for key in row)
    table = {}
    for key in keys:
        having = [number for number, row in enumerate(rows) if key in row]
        column = _column([rows[number][key] for number in having])
        table[key] = (np.array(having, dtype=np.int64), column)
    return table


def _fill(rows: list[dict[Any, Any]], table: dict[Any, Any]) -> None:
    """Undo :func:`_table`."""
    for key, (having, column) in table.items():
        for number, value in zip(having.tolist(), _values(column), strict=True):
            rows[number][key] = value


def _column(values: list[Any]) -> Any:
    """Values of one type as an array, in a tuple if they are numpy's; or the list."""
    kinds = {type(value) for value in values}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind in _COLUMNS:
        try:
            return np.array(values, dtype=_COLUMNS[kind])
        except OverflowError:
            return values
    if kind is not None and issubclass(kind, np.number | np.bool_):
        return (np.array(values, dtype=kind),)
    return values


def _values(column: Any) -> list[Any]:
    """Undo :func:`_column`."""
    if isinstance(column, tuple):
        return list(column[0])
    return column.tolist() if isinstance(column, np.ndarray) else column


def _random_to_parts(random: np.random.RandomState) -> Parts:
    state = random.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise RefusedError(
            "only a RandomState of the Mersenne Twister can be, such as "
            "RandomState(0); or give a seed"
        )
    names = ("has_gauss", "gauss")
    return {"": {**state["state"], **{name: state[name] for name in names}}}


def _random_from_parts(parts: Parts) -> np.random.RandomState:
    kept = parts[""]
    key, position = kept["key"], kept["pos"]
    # Compiled code would read from any position.
    if key.dtype != np.uint32 or not 0 <= position <= len(key):
        raise ValueError("the position in the state of the generator is out of bounds")
    random = np.random.RandomState(0)
    random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": key, "pos": position},
            "has_gauss": kept["has_gauss"],
            "gauss": kept["gauss"],
        }
    )
    return random


VALUES = (
    *map(_compressed, _COMPRESSED),
    Codec("networkx.Graph", nx.Graph, _graph_to_parts, _graph_from_parts),
    Codec(
        "numpy.RandomState",
        np.random.RandomState,
        _random_to_parts,
        _random_from_parts,
    ),
    Codec(
        "torch.device",
        torch.device,
        lambda device: {"": {"name": str(device)}},
        lambda parts: torch.device(parts[""]["name"]),
    ),
)
