"""How many threads a computation takes."""

from collections.abc import Iterator
from contextlib import contextmanager

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
    n_threads = torch.get_num_threads()
    n_wanted = 1
    if n_multiplications >= _MIN_PARALLEL:
        n_wanted = min(n_threads, n_multiplications // _PER_THREAD)
    if n_wanted >= n_threads:
        yield
        return
    torch.set_num_threads(n_wanted)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
