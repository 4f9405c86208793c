"""torch's modes as the package needs them, whatever the caller has set."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import torch

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


@contextmanager
def torch_state(*, grad: bool) -> Iterator[None]:
    """Gradients as asked for, no inference mode, no autocast, factories on the CPU.

    Each is a mode of the thread and is restored afterwards.
    """
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.set_grad_enabled(grad))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                modes.enter_context(torch.autocast(device, enabled=False))
        # What torch.get_default_device() says, in earlier versions of torch as well.
        if torch.empty(0).device.type != "cpu":
            modes.enter_context(torch.device("cpu"))
        yield


def with_torch_state(
    *, grad: bool = False
) -> Callable[[Callable[_Params, _Result]], Callable[_Params, _Result]]:
    """Decorate a public function or method to run in its own :func:`torch_state`."""

    def decorate(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
        @functools.wraps(function)
        def wrapped(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
            with torch_state(grad=grad):
                return function(*args, **kwargs)

        return wrapped

    return decorate
