"""A process that is killed while it saves leaves the old estimator or the new one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sklearn_ccx import load, save
from tests.persistence.saving_forever import estimator_of, number_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")

SCRIPT = "tests.persistence.saving_forever"


class Saver:
    """The script, of which one child after the other is killed."""

    def __init__(self, path):
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", SCRIPT, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout.readline() == "ready\n"

    def save_and_be_killed(self, first, delay):
        """Save from a number on until killed: the last number saved for certain."""
        self.process.stdin.write(f"{first}\n")
        self.process.stdin.flush()
        pid, last = None, first - 1
        killed = False
        for line in self.process.stdout:
            word, *rest = line.split()
            if word == "pid":
                pid = int(rest[0])
            elif word == "saved":
                last = int(rest[0])
            else:
                return last
            # Only once it saves, so that a slow start is not what is tested.
            if pid is not None and last >= first and not killed:
                time.sleep(delay)
                os.kill(pid, signal.SIGKILL)
                killed = True
        raise AssertionError("the script ended")

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture
def saver(path):
    saver = Saver(path)
    yield saver
    saver.close()


def kill_and_load(saver, path, n_kills):
    random = np.random.default_rng(0)
    number, n_halves = 0, 0
    for _ in range(n_kills):
        last = saver.save_and_be_killed(number + 1, random.uniform(0, 0.06))
        n_halves += len(os.listdir(path.parent)) - 1
        number = number_of(load(path))
        assert number in (last, last + 1)
        assert len(os.listdir(path.parent)) <= 2
    save(estimator_of(number + 1), path)
    assert os.listdir(path.parent) == [path.name]
    return n_halves


def test_some_kills(saver, path):
    kill_and_load(saver, path, n_kills=10)


@pytest.mark.kills
@pytest.mark.slow
def test_a_hundred_kills(saver, path):
    n_halves = kill_and_load(saver, path, n_kills=100)
    print(f"{n_halves} of 100 kills left an unfinished file")
    assert n_halves
