"""Fits that are killed at random end in the bits of one that was not disturbed."""

import os
import time

import numpy as np
import pytest

from tests.kills.fits import EVERY, KINDS, N_STEPS
from tests.kills.server import Server

pytest.importorskip("sklearn.callback")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")

# Steps of which a file may not be finished when the process is killed.
_IN_FLIGHT = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server("tests.kills.fits", tmp_path_factory.mktemp("reports"))
    yield server
    server.stop()


def run(server, kind, directory, kill_after=None):
    """Fit, perhaps until it is killed some seconds after it began to train.

    Returns
    -------
    outcome : str
        The digest of the fit, its error, or "killed".
    n_steps : int
        Steps that it took.
    """
    fit = server.start(kind=kind, directory=str(directory))
    if kill_after is not None:
        deadline = time.monotonic() + 60
        while not (fit.progress() or fit.has_ended or time.monotonic() > deadline):
            time.sleep(0.0005)
        time.sleep(kill_after)
        fit.kill()
    return fit.wait(), fit.progress()


def kill_and_go_on(server, kind, folder, n_kills):
    """Kill fits until so many were."""
    random = np.random.default_rng(0)
    begun = time.monotonic()
    expected, n_steps = run(server, kind, folder / "undisturbed")
    # Late enough for some files to be finished, early enough to be in time.
    latest = 0.6 * (time.monotonic() - begun)
    assert len(expected) == 64, expected
    n_killed = n_begun = 0
    while n_killed < n_kills:
        n_begun += 1
        directory = folder / str(n_begun)
        taken, killed_here, outcome = 0, 0, "killed"
        while outcome == "killed":
            delay = random.uniform(0, latest)
            outcome, n_taken = run(server, kind, directory, kill_after=delay)
            taken += n_taken
            killed_here += outcome == "killed"
        assert outcome == expected
        n_killed += killed_here
        # What was done twice is what was lost.
        assert taken - n_steps <= killed_here * (EVERY + _IN_FLIGHT)
        # Each fit but the killed ones wrote all of its files.
        assert not list(directory.glob("**/*.unfinished")) or killed_here


@pytest.mark.parametrize("kind", KINDS)
def test_kills(server, tmp_path, kind):
    kill_and_go_on(server, kind, tmp_path, n_kills=3)


@pytest.mark.kills
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_100_kills(server, tmp_path, kind):
    """25 of each kind of fit."""
    kill_and_go_on(server, kind, tmp_path, n_kills=25)


def test_steps(server, tmp_path):
    assert run(server, "fit", tmp_path)[1] == N_STEPS
