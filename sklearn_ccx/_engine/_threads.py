"""How many threads a computation takes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Multiplications between two barriers that make it worth while to wait for another
# thread. Threads spin while they wait: where the operations are short, or another
# process holds one of the cores, they wait most of the time.
_PER_THREAD = 2**28


@contextmanager
def threads_for(n_multiplications: int) -> Iterator[None]:
    """Take fewer of torch's threads for a small computation.

    The number depends on the sizes only, never on the load of the machine, so that
    results do not.
    """
    n_threads = torch.get_num_threads()
    n_wanted = max(1, min(n_threads, n_multiplications // _PER_THREAD))
    if n_wanted == n_threads:
        yield
        return
    torch.set_num_threads(n_wanted)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
