"""Every public callable, with hostile values of every argument.

What comes of a call must be a result, finite or with a warning, or an error that a
check raised and that names the argument. A sample of calls runs with the other tests.
``python -m tests.fuzzing --calls 3000`` draws as many as one likes and prints the count
of calls by outcome, and every unclear one; ``SKLEARN_CCX_FUZZED_CALLS=3000 pytest
tests/test_fuzz.py`` does the same as a test.
"""

import inspect
import os
import sys
from dataclasses import make_dataclass

import numpy as np
import pytest
from scipy import sparse
from sklearn.utils import check_array

if sys.platform == "win32":
    pytest.skip("needs alarms and limits of POSIX", allow_module_level=True)
pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from sklearn_ccx._validation import as_numpy, check_int
from sklearn_ccx.callbacks._base import CoderCallback
from tests.fuzzing import _calls
from tests.fuzzing._calls import Call, draw_calls, outcomes
from tests.fuzzing._doors import HOOKS, NO_DOORS, OF_SCIKIT_LEARN, doors
from tests.fuzzing._judge import not_finite, why_unclear
from tests.fuzzing._report import table
from tests.test_docstrings import MODULES, is_own

N_CALLS = int(os.environ.get("SKLEARN_CCX_FUZZED_CALLS", "300"))


def public_callables():
    """Each public callable once: {name: its parameters}."""
    found = {}
    for module in MODULES.values():
        for name in module.__all__:
            value = getattr(module, name)
            if not (inspect.isclass(value) or inspect.isroutine(value)):
                continue
            if name not in NO_DOORS:
                found[name] = value
            if inspect.isclass(value):
                found |= {f"{name}.{m}": getattr(value, m) for m in methods(value)}
    return {name: parameters(value) for name, value in found.items()}


def methods(cls):
    """Names of public methods that are code of this package, or lead to it."""
    for name in dir(cls):
        method = getattr(cls, name)
        if name.startswith("_") and not (name == "__call__" and is_own(method)):
            continue
        if name in HOOKS and issubclass(cls, CoderCallback):
            continue
        if inspect.isroutine(method) and (
            is_own(method) or name not in OF_SCIKIT_LEARN
        ):
            yield name


def parameters(value):
    taken = inspect.signature(value).parameters.values()
    return {
        p.name
        for p in taken
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != "self"
    }


@pytest.mark.parametrize(
    "name", sorted(name for name, names in public_callables().items() if names)
)
def test_every_argument_of_every_public_callable_has_a_door(name):
    fuzzed = [door for door in doors().values() if name in door.covers]
    assert fuzzed, f"{name} has no entry in tests/fuzzing/_doors.py"
    taken = set().union(*(door.valid() for door in fuzzed))
    assert public_callables()[name] <= taken


def test_every_door_leads_somewhere():
    known = set(public_callables())
    assert {name for door in doors().values() for name in door.covers} <= known


class Unreadable:
    def __array__(self, dtype=None, copy=None):
        return 1 / np.array("k")


def why(raising, *arguments, door="transform", **replaced):
    """What the judge says of an error."""
    names = {"transform": "InteractionSAE.transform", "load": "load_harvest"}
    try:
        raising(*arguments)
    except Exception as error:
        return why_unclear(error, doors()[names[door]], replaced)
    raise AssertionError("raised nothing")


def test_the_judge_knows_a_check_from_an_accident():
    assert why(check_int, "a", "k", k="'a'") == ""
    assert why(check_int, "a", "k", X="'a'") == "does not name X"
    assert why(check_array, [np.nan], X="") == ""  # scikit-learn's words
    assert why(as_numpy, Unreadable(), "X", X="") == "not raised by a check"
    assert (
        why(check_array, np.array([["x"]], dtype=object), X="")
        == "not raised by a check"
    )
    assert why("\ud800".encode, X="") == "a UnicodeEncodeError"
    assert why(lambda: {}["k"], k="") == "a KeyError"
    assert why(lambda: int("k"), k="") == "not raised by a check"


def test_the_judge_takes_the_system_s_word_for_files_alone():
    assert why(open, "nowhere", door="load", directory="") == ""
    assert why(open, "nowhere", door="load", verify="") == "a FileNotFoundError"


def test_the_judge_finds_what_is_not_finite():
    result = {"a": [np.ones(2), 1.0], "b": (np.array([1, np.inf]), "nan")}
    assert not_finite(result) == ["result['b'][...]"]
    assert not_finite(sparse.csr_array([[0.0, np.nan]])) == ["result"]
    certificate = make_dataclass("Certificate", ["bound"])(np.array([np.nan]))
    assert not_finite([certificate]) == ["result[...].bound"]


def test_a_worker_that_dies_or_stalls_is_an_outcome(monkeypatch):
    monkeypatch.setattr(_calls, "LIMIT_S", 0)
    monkeypatch.setattr(_calls, "GRACE_S", 0.0)
    found = list(outcomes([Call("MLPWeights")]))
    assert [outcome.kind for outcome in found] == ["unclear"]
    assert found[0].detail.startswith("hang")


def test_calls_are_the_same_under_a_seed():
    assert draw_calls(20, random_seed=3) == draw_calls(20, random_seed=3)
    assert draw_calls(20, random_seed=3) != draw_calls(20, random_seed=4)


@pytest.mark.slow
def test_valid_calls_give_finite_results():
    found = list(outcomes(Call(name) for name in doors()))
    wrong = [str(outcome) for outcome in found if "result" not in outcome.kind]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_hostile_calls_end_clearly():
    found = list(outcomes(draw_calls(N_CALLS, random_seed=0)))
    print(table(found))
    unclear = [str(outcome) for outcome in found if outcome.kind == "unclear"]
    assert not unclear, "\n".join(unclear)
