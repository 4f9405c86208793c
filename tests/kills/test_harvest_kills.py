"""Harvests that are killed, and harvests that write to one directory at once."""

import shutil
import sys
import time

import numpy as np
import pytest

from sklearn_ccx.activations import load_harvest
from sklearn_ccx.activations._directory_lock import LOCK_NAME
from sklearn_ccx.activations._shard_directory import ShardDirectory
from tests.kills.harvests import BATCHES_PER_SHARD, N_SHARDS, digest_of_rows, digests
from tests.kills.server import Server

pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL, no fork")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server("tests.kills.harvests", tmp_path_factory.mktemp("reports"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    """What harvests of two models give: digests of files and rows, and seconds."""
    path = tmp_path_factory.mktemp("undisturbed")
    files, rows, seconds = [], [], []
    for model in range(2):
        start = time.perf_counter()
        rows.append(harvest(server, path / str(model), model).wait())
        seconds.append(time.perf_counter() - start)
        files.append(digests(path / str(model)))
        assert len(files[-1]) == N_SHARDS + 1
    assert len({*rows}) == 2
    return files, rows, min(seconds)


def harvest(server, out, model=0):
    return server.start(out=str(out), model=model)


def noted_shards(out, files):
    """How many shards a directory says it has; they are as they should be."""
    if not (out / "manifest.json").exists():
        return 0
    directory = ShardDirectory.open(out)
    directory.verify()
    missing = {directory.shard_path(number).name for number in directory.missing()}
    whole = {name: digest for name, digest in files.items() if name.startswith("shard")}
    here = digests(out)
    for name in whole.keys() - missing:
        assert here[name] == whole[name]
    return len(directory) - len(missing)


def kill_at_random(server, undisturbed, out, n_kills, seed):
    """Kill a harvest again and again, and begin anew when one has finished."""
    files, rows, seconds = undisturbed
    rng = np.random.default_rng(seed)
    n_killed = n_finished = 0
    n_before = 0
    while n_killed < n_kills:
        started = harvest(server, out)
        time.sleep(rng.uniform(0, 0.7 * seconds))
        started.kill()
        outcome = started.wait()
        if outcome == "killed":
            n_killed += 1
        else:
            assert outcome == rows[0]
        n_noted = noted_shards(out, files[0]) if out.exists() else 0
        # Nothing that was there is lost, and of the new work one shard at most.
        assert n_noted >= n_before
        n_lost = started.progress() - BATCHES_PER_SHARD * (n_noted - n_before)
        assert n_lost <= BATCHES_PER_SHARD
        n_before = n_noted
        if n_noted == N_SHARDS:
            assert harvest(server, out).wait() == rows[0]
            assert digests(out) == files[0]
            assert not [path for path in out.iterdir() if path.is_dir()]
            shutil.rmtree(out)
            n_finished, n_before = n_finished + 1, 0
    assert harvest(server, out).wait() == rows[0]
    assert digests(out) == files[0]
    return n_finished


def test_a_few_kills(server, undisturbed, tmp_path):
    kill_at_random(server, undisturbed, tmp_path / "acts", 6, seed=0)


@pytest.mark.kills
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_kills(server, undisturbed, tmp_path, seed):
    n_finished = kill_at_random(server, undisturbed, tmp_path / "acts", 50, seed)
    assert n_finished  # the kills were not all too early


def write_at_once(server, undisturbed, out, trial):
    """Two harvests into one directory, of one model, of two, or one that is killed."""
    files, rows, seconds = undisturbed
    rng = np.random.default_rng(trial)
    kind = ("one model", "two models", "one is killed")[trial % 3]
    models = (0, 1) if kind == "two models" else (trial // 3 % 2,) * 2
    harvests = [harvest(server, out, model) for model in models]
    if kind == "one is killed":
        time.sleep(rng.uniform(0, seconds))
        harvests[0].kill()
    outcomes = [started.wait() for started in harvests]
    if kind == "two models":
        winner = outcomes.index(rows[0]) if rows[0] in outcomes else 1
        assert outcomes[winner] == rows[winner]
        assert "was written with other settings: model_sha256" in outcomes[1 - winner]
        assert outcomes[1 - winner].startswith("ValueError")
        model = winner
    else:
        model = models[0]
        assert outcomes[1] == rows[model]
        assert outcomes[0] in (rows[model], *(["killed"] * (kind == "one is killed")))
    found = digests(out)
    if outcomes[0] == "killed":  # after the other had finished; it locks nothing
        found.pop(LOCK_NAME, None)
    assert found == files[model]
    assert digest_of_rows(load_harvest(out).activations) == rows[model]
    return kind, outcomes


def test_two_at_once(server, undisturbed, tmp_path):
    for trial in range(3):
        write_at_once(server, undisturbed, tmp_path / str(trial), trial)


@pytest.mark.kills
@pytest.mark.slow
def test_a_hundred_times_two_at_once(server, undisturbed, tmp_path):
    for trial in range(100):
        write_at_once(server, undisturbed, tmp_path / str(trial), trial)
        shutil.rmtree(tmp_path / str(trial))
