"""Draw calls, and make them where they can do no harm."""

import contextlib
import io
import multiprocessing
import os
import resource
import shlex
import signal
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt

from ._doors import Door, doors
from ._judge import Hang, describe, not_finite, why_unclear
from ._values import HOSTILE, TEXTS

# A call that takes longer hangs.
LIMIT_S = 10
# The worker gets so much longer to give in: compiled code hears no alarm.
GRACE_S = 30
# Memory that a call may ask for, over what the worker has.
LIMIT_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Call:
    """A door, and the names of the values that replace some of its arguments."""

    door: str
    replaced: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """What ``python -m tests.fuzzing --repeat`` makes it again from."""
        return shlex.join([self.door, *(f"{n}={value}" for n, value in self.replaced)])


@dataclass(frozen=True)
class Outcome:
    """What came of a call.

    ``kind`` is "result", "result, warned", "clear error" or "unclear".
    """

    call: Call
    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.call} -> {self.kind}: {self.detail}"


_HUGE = {"10**18", "10**30", "10**400"}
# What happens in a callable that the caller passes is the caller's: these take other
# arguments than a loss or a metric is called with, and say so in words of their own.
_OTHER_CALLABLES = {"int", "class of a coder", "class MLPWeights", "nn.Linear"}
_OTHER_CALLABLES |= {"bfloat16 nn.Linear", "meta nn.Linear", "nn.ReLU"}
_OTHER_CALLABLES |= {"nn.Sequential()", "lies"}
# joblib starts as many processes as it is asked for, whoever asks.
_LEFT_OUT = {"n_jobs": _HUGE, "loss": _OTHER_CALLABLES, "metric": _OTHER_CALLABLES}


def _values_for(door: Door, argument: str) -> list[str]:
    """Names of the values that an argument is tried with."""
    left_out = _LEFT_OUT.get(argument, set())
    if argument != "inputs":
        left_out = left_out | {f"text: {name}" for name in TEXTS}
    if argument == "max_iter" and door.valid().get("early_stopping") is False:
        # A fit that never stops early takes the time that it is told to take.
        left_out = left_out | _HUGE
    return [name for name in HOSTILE if name not in left_out]


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """A call with one argument replaced, or two."""
    # Hypothesis's own choices favour what shrinks well and repeat themselves.
    random = draw(st.randoms(use_true_random=True))
    taken = {door.name: list(door.valid()) for door in doors().values()}
    # A method has the arguments of its constructor too, up to 30.
    weights = [len(names) ** 0.5 for names in taken.values()]
    (door,) = random.choices(list(taken), weights)
    n_replaced = min(len(taken[door]), random.choice([1, 1, 1, 2]))
    names = random.sample(taken[door], n_replaced)
    if "max_iter" in names and len(names) > 1:
        # A second value could switch off what ends a fit without a last pass.
        names = ["max_iter"]
    values = [(n, random.choice(_values_for(doors()[door], n))) for n in names]
    return Call(door, tuple(values))


def draw_calls(n_calls: int, random_seed: int) -> list[Call]:
    """As many calls, the same for the same seed."""
    drawn: list[Call] = []

    @seed(random_seed)
    @settings(
        database=None,
        deadline=None,
        max_examples=n_calls,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(calls())
    def draw(call: Call) -> None:
        drawn.append(call)

    draw()
    return drawn


def arguments_of(call: Call) -> dict[str, Any]:
    """The arguments of a call."""
    arguments = doors()[call.door].valid()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # numpy warns where a hostile array is made
        for name, value in call.replaced:
            arguments[name] = HOSTILE[value](arguments[name])
    return arguments


def outcome_of(call: Call) -> Outcome:
    """Make a call in an empty directory, and judge what comes of it."""
    np.random.seed(0)  # noqa: NPY002 - what random_state=None reads
    torch.manual_seed(0)
    door = doors()[call.door]
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.chdir(directory),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(record=True) as caught,
        mpl.rc_context({"backend": "Agg"}),
    ):
        warnings.simplefilter("always")
        try:
            arguments = arguments_of(call)
            with _alarm():
                result = door.call(**arguments)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            reason = why_unclear(error, door, dict(call.replaced))
            kind = "unclear" if reason else "clear error"
            detail = f"{reason}; " if reason else ""
            return Outcome(call, kind, detail + describe(error))
        finally:
            plt.close("all")
        undefined = not_finite(result)
        if undefined and door.undefined(arguments):
            undefined = []
    # numpy's own warnings are about an operation, which says nothing to a user.
    spoken = [w for w in caught if w.category is not RuntimeWarning]
    raw = "".join(f"; {w.category.__name__}: {w.message}" for w in caught)[:200]
    if undefined and not spoken:
        return Outcome(call, "unclear", f"not finite: {', '.join(undefined)}{raw}")
    kind = "result, warned" if caught else "result"
    return Outcome(call, kind, f"{type(result).__name__}{raw}")


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(signum: int, frame: object) -> None:
        raise Hang(f"took longer than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcomes(some_calls: Iterable[Call]) -> Iterator[Outcome]:
    """Make calls in a process of their own, which may die of them."""
    worker = None
    try:
        for call in some_calls:
            worker = worker or _Worker()
            outcome = worker.make(call)
            if outcome.detail.startswith(("crash", "hang")):
                worker.stop(patience=0)
                worker = None
            yield outcome
    finally:
        if worker is not None:
            worker.stop(patience=10)


class _Worker:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # it has imported everything

    def make(self, call: Call) -> Outcome:
        self._pipe.send(call)
        if not self._pipe.poll(LIMIT_S + GRACE_S):
            return Outcome(call, "unclear", "hang in compiled code")
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            return Outcome(call, "unclear", f"crash: exit code {code}")

    def stop(self, patience: float) -> None:
        self._pipe.close()  # at the end of which it ends
        self._process.join(patience)
        self._process.kill()
        self._process.join()


def _serve(pipe: Any) -> None:
    torch.set_num_threads(1)
    for door in doors().values():
        door.valid()  # what it fits is no part of any call
    _limit_memory()
    pipe.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            pipe.send(outcome_of(pipe.recv()))


def _limit_memory() -> None:
    """Let a large request fail at once, instead of taking the machine with it."""
    try:
        with open("/proc/self/statm") as statm:
            now = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not on every system
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + LIMIT_BYTES, hard))
