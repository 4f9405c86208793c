"""Small work takes one thread, and the caller's number comes back."""

import numpy as np
import pytest
import torch

from sklearn_ccx import InteractionSAE
from sklearn_ccx._engine import _trainer
from sklearn_ccx._engine._threads import threads_for


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("n_multiplications", "n_threads"),
    [(0, 1), (2**31 - 1, 1), (2**31, 4), (10**18, 4)],
)
def test_number_of_threads(four_threads, n_multiplications, n_threads):
    with threads_for(n_multiplications):
        assert torch.get_num_threads() == n_threads
    assert torch.get_num_threads() == 4


def test_the_number_comes_back_after_an_error(four_threads):
    with pytest.raises(KeyError), threads_for(1):
        raise KeyError
    assert torch.get_num_threads() == 4


def test_a_single_thread_stays_single():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threads_for(10**18):
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_small_fit_takes_one_thread(four_threads, monkeypatch):
    X = np.random.default_rng(0).normal(size=(100, 6))
    seen = []
    step = _trainer.Trainer.step

    def spy(*args):
        seen.append(torch.get_num_threads())
        return step(*args)

    monkeypatch.setattr(_trainer.Trainer, "step", spy)
    sae = InteractionSAE(max_iter=2, random_state=0).fit(X).partial_fit(X)
    assert set(seen) == {1}
    sae.transform(X)
    assert torch.get_num_threads() == 4
