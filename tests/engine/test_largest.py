"""The largest numbers of several processes, against sorting all of them."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_ccx._engine._processes import BatchPart, Processes
from sklearn_ccx._engine.activations import BatchTopK
from sklearn_ccx._engine.activations._largest import largest_together


class Threads(Processes):
    """Processes of which each is a thread, as far as this search needs them."""

    def __init__(self, rank, size, barrier, desk):
        self.rank, self.size = rank, size
        self._barrier, self._desk = barrier, desk
        self.n_gathered = 0

    def gather(self, tensor):
        self._desk[self.rank] = tensor.clone()
        self._barrier.wait(timeout=30)
        gathered = torch.stack(self._desk)
        self._barrier.wait(timeout=30)
        self.n_gathered += gathered.numel()
        return gathered

    def largest(self, tensor):
        return self.gather(tensor).amax(dim=0)


def together(function, parts):
    """Call ``function(part, processes)`` in a thread for each part."""
    barrier, desk = Barrier(len(parts)), [None] * len(parts)
    processes = [Threads(i, len(parts), barrier, desk) for i in range(len(parts))]
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(function, parts, processes)), processes


# Few different numbers, so that many are equal.
numbers = st.one_of(
    st.integers(-3, 6).map(float), st.floats(-10, 10, width=32), st.just(np.inf)
)


@st.composite
def split_numbers(draw):
    k, width = draw(st.integers(1, 4)), draw(st.integers(4, 6))
    n_rows = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(sum))
    rows = st.lists(numbers, min_size=width, max_size=width)
    parts = [draw(st.lists(rows, min_size=n, max_size=n)) for n in n_rows]
    return k, [torch.tensor(part).float().reshape(-1, width) for part in parts]


@settings(deadline=None, max_examples=200)
@given(split_numbers(), st.sampled_from([0.0, 0.5, 2.0, 5.0, 100.0]))
def test_the_largest_are_those_of_all(problem, floor):
    k, parts = problem
    n_kept = k * sum(map(len, parts))

    def search(part, processes):
        return largest_together(part.flatten(), k * len(part), n_kept, floor, processes)

    results, _ = together(search, parts)
    every = torch.cat([part.flatten() for part in parts])
    expected = every[every > 0].sort(descending=True).values[:n_kept]
    kept = [
        part.flatten()[positions]
        for part, (positions, _) in zip(parts, results, strict=True)
    ]
    torch.testing.assert_close(torch.cat(kept).sort(descending=True).values, expected)
    for positions, smallest in results:
        assert len(positions.unique()) == len(positions)
        assert smallest == (expected[-1] if len(expected) else np.inf)


def test_of_equal_numbers_the_first_processes_keep_theirs():
    parts = [torch.tensor([[1.0, 3.0], [1.0, 1.0]]), torch.tensor([[1.0, 2.0]])]

    def search(part, processes):
        return largest_together(part.flatten(), len(part), 3, 0.0, processes)

    (first, second), _ = together(search, parts)
    assert first[0].tolist() == [1, 0]
    assert second[0].tolist() == [1]


def test_nan_counts_as_the_largest():
    parts = [torch.tensor([[1.0, 2.0]]), torch.tensor([[torch.nan, 3.0]])]

    def search(part, processes):
        return largest_together(part.flatten(), 1, 2, 0.0, processes)

    (first, second), _ = together(search, parts)
    assert first[0].tolist() == []
    assert sorted(second[0].tolist()) == [0, 1]


def test_only_numbers_near_the_last_are_gathered():
    generator = torch.Generator().manual_seed(0)
    pre_BM = torch.randn(1000, 64, generator=generator)
    k, n_parts = 8, 4

    def search(part, processes):
        return largest_together(
            part.flatten(), k * len(part), k * len(pre_BM), 0.0, processes
        )

    _, processes = together(search, list(pre_BM.chunk(n_parts)))
    assert max(p.n_gathered for p in processes) < 0.2 * k * len(pre_BM)


@pytest.mark.parametrize("threshold", [None, 0.5, 1.0, 50.0])
def test_batchtopk_of_parts_is_that_of_the_batch(threshold):
    generator = torch.Generator().manual_seed(0)
    pre_BM = torch.randn(11, 8, generator=generator, dtype=torch.float64)
    alone = BatchTopK(2, threshold)
    expected, _ = alone.train_codes(pre_BM)

    def encode(part, processes):
        activation = BatchTopK(2, threshold)
        codes, _ = activation.train_codes(part, BatchPart(len(pre_BM), processes))
        return codes, activation.running_threshold

    results, _ = together(encode, list(pre_BM.split([5, 0, 6])))
    assert torch.equal(torch.cat([codes for codes, _ in results]), expected)
    for _, running_threshold in results:
        assert running_threshold == alone.running_threshold
