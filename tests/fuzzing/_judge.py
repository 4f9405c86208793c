"""Whether what came of a call is clear."""

import dataclasses
import dis
import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import sklearn
import torch
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

import sklearn_ccx

OWN = Path(sklearn_ccx.__file__).parent
SCIKIT_LEARN = Path(sklearn.__file__).parent

# Where scikit-learn looks at what it is given, and says what is wrong with it.
VALIDATION = tuple(
    SCIKIT_LEARN / name
    for name in (
        "base.py",
        "metrics/_classification.py",
        "metrics/_ranking.py",
        "metrics/_base.py",
        "model_selection/_split.py",
        "model_selection/_search.py",
        "model_selection/_validation.py",
        "utils/_available_if.py",
        "utils/_indexing.py",
        "utils/_metadata_requests.py",
        "utils/_param_validation.py",
        "utils/_set_output.py",
        "utils/multiclass.py",
        "utils/validation.py",
    )
)

# Exact types: UnicodeError, JSONDecodeError and LinAlgError are ValueErrors too, and
# none of them is about an argument.
CLEAR = (ValueError, TypeError, NotFittedError, InvalidParameterError)


class Hang(BaseException):
    """A call took too long. No handler of errors may take it for one."""


def why_unclear(error: BaseException, door: Any, replaced: Mapping[str, str]) -> str:
    """What is wrong with an error; empty if it is clear."""
    if isinstance(error, Hang):
        return "hang"
    where = error.__traceback__
    # scikit-learn hides a method from hasattr by an AttributeError.
    hidden = type(error) is AttributeError and _file(where).name == "_available_if.py"
    if _is_about_a_path(error, door, replaced) or hidden:
        return ""
    if type(error) not in (*CLEAR, *door.also):
        return f"a {type(error).__name__}"
    if not _is_deliberate(where):
        return "not raised by a check"
    words = [word for name in replaced for word in door.words_for(name)]
    if replaced and not any(_says(str(error), word) for word in words):
        return f"does not name {' or '.join(replaced)}"
    return ""


def _is_about_a_path(
    error: BaseException, door: Any, replaced: Mapping[str, str]
) -> bool:
    """Whether the system refused a file; its errors say which."""
    about = any(name in door.paths for name in replaced)
    return about and isinstance(error, OSError) and error.filename is not None


def _says(message: str, word: str) -> bool:
    """Whether a message has a word; "one for each score" speaks of `scores`."""
    singular = rf"{re.escape(word[:-1])}s?" if word.endswith("s") else re.escape(word)
    return re.search(rf"(?<!\w){singular}(?!\w)", message) is not None


def _innermost(where: TracebackType | None) -> TracebackType | None:
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    return where


def _file(where: TracebackType | None) -> Path:
    inner = _innermost(where)
    return Path(inner.tb_frame.f_code.co_filename) if inner else Path()


def _is_deliberate(where: TracebackType | None) -> bool:
    """Whether the innermost frame is ours or scikit-learn's checks, at a `raise`.

    A frame that merely calls ``np.asarray`` or ``float`` is where an error passes
    through: it is not where somebody thought of it.
    """
    file = _file(where)
    if not file.is_relative_to(OWN) and file not in VALIDATION:
        return False
    inner = _innermost(where)
    code = inner.tb_frame.f_code.co_code
    return code[inner.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def describe(error: BaseException) -> str:
    """The error in one line, with the frame it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f for f in frames if Path(f.filename).is_relative_to(OWN)]
    inner = _place(frames[-1]) if frames else "?"
    ours = f", from {_place(places[-1])}" if places and places[-1] != frames[-1] else ""
    message = " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())
    return f"{type(error).__name__}: {message[:200]} [{inner}{ours}]"


def _place(frame: traceback.FrameSummary) -> str:
    path = Path(frame.filename)
    for root in (OWN.parent, SCIKIT_LEARN.parent):
        if path.is_relative_to(root):
            path = path.relative_to(root)
            break
    return f"{path}:{frame.lineno}"


def not_finite(result: Any, name: str = "result") -> list[str]:
    """Names of the parts of a result that hold NaN or infinity."""
    return sorted({part for part, numbers in _numbers(result, name, 0)
                   if not np.isfinite(numbers).all()})  # fmt: skip


def _numbers(value: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > 4:
        return
    if isinstance(value, float | np.floating):
        yield name, value
    elif isinstance(value, torch.Tensor):
        yield name, value.detach().numpy()
    elif sparse.issparse(value):
        yield name, value.data
    elif hasattr(value, "to_numpy"):
        yield from _numbers(value.to_numpy(), name, depth)
    elif isinstance(value, np.ndarray):
        if value.dtype.kind == "f":
            yield name, value
    else:
        for key, part in _parts(value):
            yield from _numbers(part, f"{name}{key}", depth + 1)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a result is made of, without the parameters it only hands back."""
    if isinstance(value, sklearn_ccx.MLPWeights):
        for name in type(value).__slots__:
            yield f".{name}", getattr(value, name, None)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield f".{field.name}", getattr(value, field.name)
        for name, member in vars(type(value)).items():
            if isinstance(member, property):
                yield f".{name}", getattr(value, name)
    elif isinstance(value, BaseEstimator):
        for name, part in vars(value).items():
            if name.endswith("_"):
                yield f".{name}", part
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield f"[{key!r}]", part
    elif isinstance(value, list | tuple):
        for part in value:
            yield "[...]", part
