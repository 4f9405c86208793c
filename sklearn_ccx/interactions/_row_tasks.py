"""Work on rows as tasks, which joblib runs wherever its backend does.

The rows are cut into chunks at places that depend on their number only. Sums over
chunks are added in an order that depends on their number only, too, so that the number
of workers changes no result.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from joblib import effective_n_jobs
from sklearn.utils.parallel import Parallel, delayed

from .._engine._threads import ThreadShare
from .._engine._torch_state import with_torch_state
from ..activations._row_range import RowRange
from ._reader import NeuronReader

# Tasks for each worker: enough for all to end at about the same time.
_TASKS_PER_WORKER = 4


class Addable(Protocol):
    """What has a sum."""

    def __add__(self, other: Any, /) -> Any:
        """The sum with another one."""


_Result = TypeVar("_Result")
_Sum = TypeVar("_Sum", bound=Addable)


def sum_over_chunks(
    function: Callable[..., _Sum],
    reader: NeuronReader,
    n_jobs: int | None,
    *arguments: Any,
) -> _Sum:
    """Sum of what a function gives for each encoded chunk of the reader's samples.

    Parameters
    ----------
    function : callable
        Of a module, ``function(chunk, *arguments)``.
    reader : NeuronReader
        Has the samples.
    n_jobs : int or None
        As joblib takes it.
    *arguments : objects
        Passed on.
    """
    parts = run_tasks(
        _sum_of_chunks,
        reader,
        [(rows, function, *arguments) for rows in _task_rows(reader, n_jobs)],
        n_jobs,
    )
    with np.errstate(over="ignore", invalid="ignore"):
        return pairwise_sum(parts)


def rows_of_chunks(
    function: Callable[..., _Result],
    reader: NeuronReader,
    n_jobs: int | None,
    *arguments: Any,
) -> list[_Result]:
    """What a function gives for each encoded chunk, in their order."""
    parts = run_tasks(
        _list_of_chunks,
        reader,
        [(rows, function, *arguments) for rows in _task_rows(reader, n_jobs)],
        n_jobs,
    )
    return [result for part in parts for result in part]


class OverRows(Protocol):
    """What can be had for some rows only."""

    def over(self, rows: RowRange, /) -> Self:
        """The same for these rows."""


class Workers:
    """Workers of joblib that stay for several calls.

    Parameters
    ----------
    n_jobs : int or None
        As joblib takes it.
    n_tasks : int
        How many tasks there are in a call, at most.
    """

    def __init__(self, n_jobs: int | None, n_tasks: int) -> None:
        n_workers = min(effective_n_jobs(n_jobs), n_tasks)
        self._share = ThreadShare.of_this_process(n_workers)
        self._parallel: Parallel | None = None
        if n_workers > 1:
            # Arrays that joblib writes to files are mapped so that torch can share
            # them.
            self._parallel = Parallel(n_jobs=n_workers, mmap_mode="c")

    def __enter__(self) -> Self:
        if self._parallel is not None:
            self._parallel.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._parallel is not None:
            self._parallel.__exit__(*error)

    def run(
        self,
        function: Callable[..., _Result],
        reader: OverRows,
        tasks: Iterable[tuple[Any, ...]],
    ) -> list[_Result]:
        """Call ``function(reader_over_rows, *arguments)`` for each task.

        What the workers are sent is the reader, which should pickle without
        activations, and for each task where its rows lie or, if they lie in no file,
        the rows.

        Parameters
        ----------
        function : callable
            Of a module.
        reader : object
            Has a method ``over(rows)``.
        tasks : iterable of tuple
            Rows of each task, and further arguments.
        """
        if self._parallel is None:
            return [_run(function, reader, self._share, *task) for task in tasks]
        run = delayed(_run)
        results = self._parallel(
            run(function, reader, self._share, *task) for task in tasks
        )
        return list(results)


def run_tasks(
    function: Callable[..., _Result],
    reader: OverRows,
    tasks: Sequence[tuple[Any, ...]],
    n_jobs: int | None,
) -> list[_Result]:
    """:meth:`Workers.run` for workers that go when they are done."""
    with Workers(n_jobs, len(tasks)) as workers:
        return workers.run(function, reader, tasks)


class PairwiseSum:
    """Adds up values in the order of a balanced tree.

    The sums of neighbouring values, then those of neighbouring pairs, and so on. If
    sums of so many neighbours each, a power of two, are added up in this way, the
    result has the same bits as if the values were.
    """

    def __init__(self) -> None:
        self._sums: list[tuple[int, Any]] = []

    def add(self, value: Any) -> Self:
        """Take one more value."""
        size = 1
        while self._sums and self._sums[-1][0] == size:
            value = self._sums.pop()[1] + value
            size *= 2
        self._sums.append((size, value))
        return self

    def total(self) -> Any:
        """The sum of all values."""
        total = self._sums[-1][1]
        for _, value in reversed(self._sums[:-1]):
            total = value + total
        return total


def pairwise_sum(values: Iterable[_Sum]) -> _Sum:
    """Sum of some values, at least one, in the order of :class:`PairwiseSum`."""
    sums = PairwiseSum()
    for value in values:
        sums.add(value)
    total: _Sum = sums.total()
    return total


def n_tasks(n_jobs: int | None) -> int:
    """How many tasks keep the workers busy."""
    n_workers = effective_n_jobs(n_jobs)
    return 1 if n_workers == 1 else _TASKS_PER_WORKER * n_workers


def chunk_rows(reader: NeuronReader, n_chunks: int = 1) -> list[RowRange]:
    """The reader's rows, so many chunks at a time."""
    n_samples, length = len(reader.X), n_chunks * reader.chunk_length
    return [
        RowRange(reader.X, start, min(start + length, n_samples))
        for start in range(0, n_samples, length)
    ]


def _task_rows(reader: NeuronReader, n_jobs: int | None) -> list[RowRange]:
    """The rows of each task: a number of chunks that is a power of two."""
    n_chunks = -(-len(reader.X) // reader.chunk_length)
    if n_tasks(n_jobs) == 1:
        return chunk_rows(reader, n_chunks)
    per_task = max(1, n_chunks // n_tasks(n_jobs))
    return chunk_rows(reader, 1 << (per_task.bit_length() - 1))


@with_torch_state()
def _run(
    function: Callable[..., _Result],
    reader: OverRows,
    share: ThreadShare,
    rows: RowRange,
    *arguments: Any,
) -> _Result:
    # numpy's error state is one of the thread.
    with share.taken(), np.errstate(over="ignore", invalid="ignore"):
        return function(reader.over(rows), *arguments)


def _sum_of_chunks(
    reader: NeuronReader, function: Callable[..., _Sum], *arguments: Any
) -> _Sum:
    return pairwise_sum(function(chunk, *arguments) for chunk in reader.chunks())


def _list_of_chunks(
    reader: NeuronReader, function: Callable[..., _Result], *arguments: Any
) -> list[_Result]:
    return [function(chunk, *arguments) for chunk in reader.chunks()]
