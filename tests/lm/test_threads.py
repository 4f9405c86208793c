"""One model in several threads."""

import copy
import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sklearn_ccx.lm import _evaluation_mode, harvest, patched_loss

from .tiny_models import D, make_model, random_ids

N_INPUTS = 40


@pytest.fixture
def model():
    """A model in training mode with dropout, but for one module."""
    model = make_model("gpt2", resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5)
    model.train()
    model.transformer.h[0].mlp.eval()
    return model


@pytest.fixture
def inputs():
    return [random_ids(5 + i % 7, 3 + i % 5, seed=i) for i in range(N_INPUTS)]


def modes(model):
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("base_first", [False, True])
def test_harvest_in_two_threads(model, inputs, base_first):
    """Also where one thread has the model and the other its base."""
    before = modes(model)
    models = [model.base_model if base_first and i % 2 else model for i in range(40)]
    expected = [harvest(model, ids, sites="resid_post").activations for ids in inputs]
    with ThreadPoolExecutor(2) as pool:
        results = list(
            pool.map(lambda m, ids: harvest(m, ids, sites="resid_post"), models, inputs)
        )
    for result, activations in zip(results, expected, strict=True):
        assert_allclose(result.activations, activations, rtol=1e-5, atol=1e-5)
    assert modes(model) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_patched_losses_and_harvests_in_two_threads(model, inputs):
    before = modes(model)
    losses = [patched_loss(model, ids) for ids in inputs]
    outputs = [np.ones((sum(map(len, ids)), D), dtype=np.float32) for ids in inputs]
    activations = [harvest(model, ids).activations for ids in inputs]
    expected = [
        loss(output, i % 2)
        for i, (loss, output) in enumerate(zip(losses, outputs, strict=True))
    ]

    def both(i):
        return losses[i](outputs[i], i % 2), harvest(model, inputs[i]).activations

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(both, range(N_INPUTS)))
    for (loss, recorded), value, array in zip(
        results, expected, activations, strict=True
    ):
        assert_allclose(loss, value, rtol=1e-5)
        assert_allclose(recorded, array, rtol=1e-5, atol=1e-5)
    assert modes(model) == before


def test_a_forward_pass_of_another_thread_is_not_recorded():
    """Nor is its output replaced."""
    model = make_model("gpt2")
    ids, others = random_ids(8), torch.tensor(random_ids(8, seed=5))
    expected = harvest(model, ids, sites="resid_post").activations
    with torch.no_grad():
        logits = model(others).logits
    seen = []

    def elsewhere(*_):
        """Run the model in another thread while this one runs it."""
        if threading.current_thread() is not threading.main_thread():
            return

        def run():
            with torch.no_grad():
                seen.append(model(others).logits)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    handle = model.transformer.ln_f.register_forward_hook(elsewhere)
    result = harvest(model, ids, sites="resid_post").activations
    patched_loss(model, ids, 0)(np.ones((8, D), dtype=np.float32))
    handle.remove()
    assert len(seen) == 2
    for there in seen:
        assert_allclose(there, logits, rtol=1e-5, atol=1e-5)
    assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_an_error_in_one_thread_frees_the_model(model):
    def fail(*_):
        raise RuntimeError("fails")

    handle = model.transformer.h[1].register_forward_pre_hook(fail)
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(RuntimeError, match="fails"):
            pool.submit(harvest, model, random_ids(5)).result()
        handle.remove()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(harvest, model, random_ids(5)).result(timeout=60)


def test_the_lock_is_not_part_of_the_model(model):
    harvest(model, random_ids(5))
    for duplicate in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        harvest(duplicate, random_ids(5))
    gone = weakref.ref(duplicate.base_model)
    assert gone() in _evaluation_mode._LOCKS
    del duplicate
    gc.collect()
    assert gone() is None
