"""Trees of Python values and arrays, as JSON and named arrays, and back.

None, booleans, numbers, strings and lists are themselves in JSON. All else is an object
whose "type" says what it stands for: "dict", "tuple", "array", ..., or the tag of a
:class:`Codec`. What a file says can therefore only become values of these types.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .._validation import shown
from ._arrays import tensor_type
from ._errors import DamagedError, RefusedError
from ._safetensors import METADATA

Array = npt.NDArray[Any]
Node: TypeAlias = Any
Parts: TypeAlias = dict[str, dict[str, Any]]

# Reads an array: its name, the type of the result and whether it has Fortran order.
ReadArray: TypeAlias = Callable[[str, "np.dtype[Any]", bool], Array]

# Deeper trees are a mistake, or hold themselves.
_MAX_DEPTH = 50

# Larger integers lose digits in other readers of JSON.
_MAX_INT = 2**53


@dataclass(frozen=True)
class Codec:
    """How values of one type become trees.

    Parameters
    ----------
    tag : str
        What stands for the type in files. It never changes.
    type : type
        The type itself; values of its subclasses are not taken.
    to_parts : callable
        From a value to dictionaries of what is in it, under their names. Raises
        :class:`RefusedError` if that cannot be kept.
    from_parts : callable
        From the dictionaries to a value equal to the first one.
    """

    tag: str
    type: type
    to_parts: Callable[[Any], Parts]
    from_parts: Callable[[Parts], Any]


def _no_advice(value: Any) -> str:
    return "only numbers, strings, arrays, lists, tuples and dictionaries can be"


@dataclass(frozen=True)
class Registry:
    """The types that a tree can have besides those of Python and numpy.

    Parameters
    ----------
    codecs : sequence of Codec
        One for each type.
    advice : callable
        Takes a value of another type, and returns what an error says about it.
    """

    codecs: Sequence[Codec] = ()
    advice: Callable[[Any], str] = _no_advice

    def by_type(self) -> dict[type, Codec]:
        """Codecs under their types."""
        return {codec.type: codec for codec in self.codecs}

    def by_tag(self) -> dict[str, Codec]:
        """Codecs under their tags."""
        return {codec.tag: codec for codec in self.codecs}


def encode(
    tree: Any, registry: Registry, root: str = "tree"
) -> tuple[Node, dict[str, Array]]:
    """A tree as what JSON can hold, and its arrays under their names.

    Arrays are handed over as they are, not copied. What is in the tree twice, as one
    object, is so after decoding.

    Parameters
    ----------
    tree : object
        The tree.
    registry : Registry
        Further types.
    root : str
        What errors call the tree.

    Raises
    ------
    TypeError
        If something is in the tree that cannot be kept; the error says where.
    ValueError
        If the tree is too deep or holds itself.
    """
    encoder = _Encoder(registry.by_type(), registry.advice, root)
    return encoder.node(tree, "", 0), encoder.arrays


def decode(node: Node, read_array: ReadArray, registry: Registry) -> Any:
    """Undo :func:`encode`.

    Raises
    ------
    DamagedError
        If the node is not one that :func:`encode` makes.
    """
    try:
        return _Decoder(registry.by_tag(), read_array).value(node, "")
    except RecursionError:
        raise DamagedError("its tree is too deep") from None


@dataclass
class _Encoder:
    codecs: dict[type, Codec]
    advice: Callable[[Any], str]
    root: str
    arrays: dict[str, Array] = field(default_factory=dict)
    # By id, with the object, which must live as long as its id stands for it.
    _named: dict[int, tuple[Any, str]] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=lambda: {METADATA})
    _open: set[int] = field(default_factory=set)

    def node(self, value: Any, path: str, depth: int) -> Node:
        if depth > _MAX_DEPTH or id(value) in self._open:
            raise ValueError(
                f"{self._place(path)} cannot be saved: it is more than {_MAX_DEPTH} "
                "levels deep, or holds itself."
            )
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if abs(value) <= _MAX_INT else _tagged("int", value=hex(value))
        if kind is float:
            if math.isfinite(value):
                return value
            return _tagged("float", value=str(value))
        if kind is list:
            return self._items(value, path, depth)
        if kind is tuple:
            return _tagged("tuple", items=self._items(value, path, depth))
        if kind is dict:
            return _tagged("dict", items=self._pairs(value, path, depth))
        if isinstance(value, np.generic):
            return self._scalar(value, path)
        if kind is np.ndarray or kind is np.memmap:
            return self._shared(value) or self._array(value, path)
        if kind in self.codecs:
            return self._shared(value) or self._object(value, path, depth)
        raise self._refused(value, path)

    def _items(self, values: Any, path: str, depth: int) -> list[Node]:
        return [
            self.node(value, _joined(path, number), depth + 1)
            for number, value in enumerate(values)
        ]

    def _pairs(self, values: Any, path: str, depth: int) -> Node:
        """A JSON object, or pairs where not all keys are strings."""
        for key in values:
            if type(key) is not str and type(key) is not int:
                raise TypeError(
                    f"{self._place(path)} cannot be saved: its key {shown(key)} is "
                    "neither a string nor an integer."
                )
        pairs = [
            [key, self.node(value, _joined(path, key), depth + 1)]
            for key, value in values.items()
        ]
        return dict(pairs) if all(type(key) is str for key in values) else pairs

    def _scalar(self, value: Any, path: str) -> Node:
        array = np.asarray(value)
        if array[()].__class__ is not value.__class__:
            raise self._refused(value, path)
        return self._array(array, path) | {"type": "scalar"}

    def _array(self, array: Array, path: str) -> Node:
        if array.dtype.kind == "O":
            return self._strings(array, path)
        try:
            tensor_type(array.dtype)
        except TypeError as error:
            raise self._refused(array, path, f"{error}") from error
        node = _tagged("array", name=self._name(array, path), dtype=array.dtype.str)
        if array.flags.f_contiguous and not array.flags.c_contiguous:
            node["order"] = "F"
        # A view of the base class: a memory map is no longer one when it is loaded.
        self.arrays[node["name"]] = array.view(np.ndarray)
        return node

    def _strings(self, array: Array, path: str) -> Node:
        """An array of objects, as long as these are strings."""
        values = array.ravel().tolist()
        for value in values:
            if type(value) is not str:
                reason = f"an array of objects may hold strings only, not {value!r}"
                raise self._refused(array, path, reason)
        name, shape = self._name(array, path), list(array.shape)
        return _tagged("strings", name=name, shape=shape, values=values)

    def _object(self, value: Any, path: str, depth: int) -> Node:
        codec = self.codecs[type(value)]
        name = self._name(value, path)
        try:
            parts = codec.to_parts(value)
        except RefusedError as error:
            raise self._refused(value, path, str(error)) from error
        self._open.add(id(value))
        node = _tagged(codec.tag, name=name)
        node["parts"] = {
            part: self._pairs(fields, path, depth) for part, fields in parts.items()
        }
        self._open.remove(id(value))
        return node

    def _shared(self, value: Any) -> Node | None:
        """Another mention of what has been encoded, if it has been."""
        if id(value) not in self._named:
            return None
        return _tagged("shared", name=self._named[id(value)][1])

    def _name(self, value: Any, path: str) -> str:
        """A name that nothing else in the tree has."""
        name, number = path, 1
        while name in self._taken:
            number += 1
            name = f"{path}~{number}"
        self._taken.add(name)
        self._named[id(value)] = value, name
        return name

    def _refused(self, value: Any, path: str, reason: str = "") -> TypeError:
        if not reason:
            reason = f"{' '.join(shown(value).split())}: {self.advice(value)}"
        return TypeError(f"{self._place(path)} cannot be saved: {reason}.")

    def _place(self, path: str) -> str:
        return f"{self.root}.{path}" if path else self.root


@dataclass
class _Decoder:
    codecs: dict[str, Codec]
    read_array: ReadArray
    _named: dict[str, Any] = field(default_factory=dict)

    def value(self, node: Node, path: str) -> Any:
        if node is None or isinstance(node, bool | int | float | str):
            return node
        if isinstance(node, list):
            return self._items(node, path)
        try:
            return self._tagged(node, path)
        except (DamagedError, MemoryError, RecursionError, Warning):
            raise
        except (TypeError, ValueError) as error:
            raise DamagedError(_problem(path, str(error))) from error
        except Exception as error:  # codecs are handed what the file says
            problem = f"there is something that is never written: {error!r}"
            raise DamagedError(_problem(path, problem)) from error

    def _tagged(self, node: Node, path: str) -> Any:
        kind = node["type"]
        match kind:
            case "int":
                return int(node["value"], 16)
            case "float":
                return float(node["value"])
            case "tuple":
                return tuple(self._items(node["items"], path))
            case "dict":
                return self._pairs(node["items"], path)
            case "shared":
                return self._named[node["name"]]
            case "scalar":
                return self._array(node)[()]
            case "array":
                value = self._array(node)
            case "strings":
                value = _strings(node["values"], node["shape"])
            case _:
                if kind not in self.codecs:
                    raise DamagedError(_problem(path, f"{kind!r} is no known type"))
                parts = {
                    part: self._pairs(fields, path)
                    for part, fields in node["parts"].items()
                }
                value = self.codecs[kind].from_parts(parts)
        self._named[node["name"]] = value
        return value

    def _items(self, nodes: list[Node], path: str) -> list[Any]:
        return [
            self.value(node, _joined(path, number)) for number, node in enumerate(nodes)
        ]

    def _pairs(self, pairs: Node, path: str) -> dict[Any, Any]:
        pairs = pairs.items() if isinstance(pairs, dict) else pairs
        return {key: self.value(node, _joined(path, key)) for key, node in pairs}

    def _array(self, node: Node) -> Array:
        # Never objects, or what else numpy could make of bytes.
        dtype = np.dtype(str(node["dtype"]))
        tensor_type(dtype)
        return self.read_array(node["name"], dtype, node.get("order") == "F")


def _strings(values: list[Any], shape: list[int]) -> Array:
    """An array of objects that are strings."""
    is_text = all(isinstance(value, str) for value in values)
    if not is_text or math.prod(shape) != len(values):
        raise DamagedError("an array of strings holds something else")
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def _tagged(kind: str, /, **values: Any) -> Node:
    return {"type": kind, **values}


def _joined(path: str, key: str | int) -> str:
    return f"{path}.{key}" if path else str(key)


def _problem(path: str, problem: str) -> str:
    return f"at {path}, {problem}" if path else problem
