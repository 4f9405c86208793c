"""How many threads a computation takes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

# Threads spin while they wait for each other. Between short operations, or where
# another process holds one of the cores, they wait most of the time: below so many
# multiplications, about a tenth of a second, one thread is faster on a busy machine
# than two, and hardly slower on an idle one.
_MIN_PARALLEL = 2**31

# Multiplications that are worth another thread from there on.
_PER_THREAD = 2**28


@contextmanager
def threads_for(n_multiplications: int) -> Iterator[None]:
    """Take fewer of torch's threads for a small computation.

    The number depends on the sizes only, never on the load of the machine, so that
    results do not.
    """
    n_wanted = 1
    if n_multiplications >= _MIN_PARALLEL:
        n_wanted = n_multiplications // _PER_THREAD
    with threads_at_most(n_wanted):
        yield


@contextmanager
def threads_at_most(n_wanted: int) -> Iterator[None]:
    """Take no more than so many of torch's threads."""
    n_threads = torch.get_num_threads()
    if n_wanted >= n_threads:
        yield
        return
    torch.set_num_threads(n_wanted)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@dataclass(frozen=True)
class ThreadShare:
    """How many threads each of some tasks may take that run side by side.

    Where they are threads of one process, it is their part of what this has. Whoever
    starts other processes (loky, dask, ray) gives each its part of the machine.

    Parameters
    ----------
    process_id : int
        The process that has the threads.
    n_threads : int
        The part of each task.
    """

    process_id: int
    n_threads: int

    @classmethod
    def of_this_process(cls, n_tasks: int) -> "ThreadShare":
        """The part of each of so many tasks."""
        return cls(os.getpid(), max(1, torch.get_num_threads() // n_tasks))

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take this part, and give it back."""
        if os.getpid() != self.process_id:
            yield
            return
        with threads_at_most(self.n_threads):
            yield
