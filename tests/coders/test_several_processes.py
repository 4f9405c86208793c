"""Several processes that fit together give what one gives alone."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import distributed

from sklearn_ccx import InteractionSAE
from sklearn_ccx._engine import _processes
from tests.coders import several_processes

ROOT = Path(__file__).parents[2]

# Seconds after which processes count as hanging.
TIME_LIMIT = 240

pytestmark = pytest.mark.skipif(
    not distributed.is_available(), reason="torch was built without distributed"
)


def run(command, arguments):
    """Run the script with two processes; an error of any of them is one of the run."""
    result = subprocess.run(
        [sys.executable, *command, several_processes.__file__, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result


def assert_close(actual, expected, name):
    if expected.dtype.kind not in "fiu":
        assert_array_equal(actual, expected, err_msg=name)
        return
    size = np.abs(np.nan_to_num(expected)).max(initial=0.0)
    assert_allclose(actual, expected, rtol=1e-9, atol=1e-9 * size, err_msg=name)


@pytest.mark.slow
def test_two_processes_fit_as_one_does(tmp_path, monkeypatch):
    # Compiling kernels takes longer than everything else, and is tested elsewhere.
    monkeypatch.setenv("SKLEARN_CCX_KERNELS", "torch")
    torchrun = "-m", "torch.distributed.run", "--nproc-per-node", "2"
    run(torchrun, ["fit_all", tmp_path])
    first, second = (np.load(tmp_path / f"process_{rank}.npz") for rank in range(2))
    assert first.files == second.files
    n_compared = 0
    for name, case in several_processes.CASES.items():
        for key, alone in several_processes.fitted_arrays(case()).items():
            together = first[f"{name}/{key}"]
            assert_array_equal(together, second[f"{name}/{key}"], err_msg=name)
            assert_close(together, alone, f"{name}: {key}")
            n_compared += 1
    assert n_compared == len(first.files)


@pytest.mark.slow
def test_processes_in_a_group_of_the_caller(tmp_path):
    """What else holds; see the script."""
    run([], ["in_own_group", tmp_path])


@pytest.fixture
def torchrun_variables(monkeypatch):
    values = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    for name, value in (values | {"MASTER_PORT": "29500"}).items():
        monkeypatch.setenv(name, value)


def X():
    return np.random.default_rng(0).normal(size=(30, 4))


@pytest.mark.parametrize("choice", [None, False])
def test_nobody_is_waited_for_if_not_asked_to(torchrun_variables, choice):
    InteractionSAE(max_iter=1, distributed=choice).fit(X())
    assert not distributed.is_initialized()


def test_workers_of_a_process_do_not_take_its_place(torchrun_variables, monkeypatch):
    monkeypatch.setattr(multiprocessing, "parent_process", object)
    InteractionSAE(max_iter=1).fit(X())
    assert not distributed.is_initialized()


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_asking_for_processes_where_there_are_none(method):
    with pytest.raises(ValueError, match=r"distributed=True needs .*torchrun"):
        getattr(InteractionSAE(distributed=True), method)(X())


def test_a_group_that_does_not_serve_the_device(monkeypatch):
    for name, value in {
        "is_initialized": True,
        "get_world_size": 2,
        "get_backend_config": "cuda:nccl",
    }.items():
        monkeypatch.setattr(_processes.dist, name, lambda value=value: value)
    message = "distributed='auto' cannot .*cuda:nccl.*device=\"cpu\".*distributed=None"
    with pytest.raises(ValueError, match=message):
        InteractionSAE(device="cpu").fit(X())


@pytest.mark.parametrize(
    ("local_rank", "expected"), [(None, "cuda"), ("1", "cuda:1"), ("5", "cuda:1")]
)
def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch, local_rank, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert InteractionSAE()._torch_device() == torch.device(expected)
