"""A model in evaluation mode, for one thread at a time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

# Of each model that is running, by its base model, which all its heads share. An entry
# goes with the model.
_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


def _lock_of(model: PreTrainedModel) -> threading.RLock:
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(model.base_model, threading.RLock())


@contextmanager
def evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """No gradients and no dropout inside; each module's mode is restored after.

    Other threads that want the same model wait, since the modes are the model's.
    """
    with _lock_of(model):
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, mode in modes:
                module.training = mode
