import numpy as np
import pytest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "estimator.safetensors"


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(80, 10)) * (rng.random((80, 10)) < 0.3)
    return codes @ rng.normal(size=(10, 6)) + 0.1
