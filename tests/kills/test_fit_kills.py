"""Fits that are killed at random end in the bits of one that was not disturbed."""

import os
import time

import numpy as np
import pytest

from tests.kills.fits import EVERY, KINDS, N_STEPS, FitServer

pytest.importorskip("sklearn.callback")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")

# Steps of which a file may not be finished when the process is killed.
_IN_FLIGHT = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = FitServer(tmp_path_factory.mktemp("reports"))
    yield server
    server.stop()


def kill_and_go_on(server, kind, folder, n_kills):
    """Kill fits until so many were; return how many were begun for that."""
    random = np.random.default_rng(0)
    begun = time.monotonic()
    expected, n_steps = server.run(kind, folder / "undisturbed")
    # Late enough for some files to be finished, early enough to be in time.
    latest = 0.6 * (time.monotonic() - begun)
    assert expected is not None
    assert len(expected) == 64, expected
    n_killed = n_begun = 0
    while n_killed < n_kills:
        n_begun += 1
        directory = folder / str(n_begun)
        taken, killed_here, outcome = 0, 0, None
        while outcome is None:
            delay = random.uniform(0, latest)
            outcome, n_taken = server.run(kind, directory, kill_after=delay)
            taken += n_taken
            killed_here += outcome is None
        assert outcome == expected
        n_killed += killed_here
        # What was done twice is what was lost.
        assert taken - n_steps <= killed_here * (EVERY + _IN_FLIGHT)
        # Each fit but the killed ones wrote all of its files.
        assert not list(directory.glob("**/*.unfinished")) or killed_here
    return n_begun


@pytest.mark.parametrize("kind", KINDS)
def test_kills(server, tmp_path, kind):
    kill_and_go_on(server, kind, tmp_path, n_kills=3)


@pytest.mark.kills
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_100_kills(server, tmp_path, kind):
    """25 of each kind of fit."""
    assert kill_and_go_on(server, kind, tmp_path, n_kills=25) >= 1


def test_steps(server, tmp_path):
    assert server.run("fit", tmp_path)[1] == N_STEPS
