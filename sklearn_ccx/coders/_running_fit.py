"""A fit while it runs: what scikit-learn's callbacks are told of it."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator

from .._engine._data import spread
from .._engine._fit import Training
from .._engine._processes import Processes
from .._engine._trainer import PassReport
from .._engine._watcher import Watcher
from ..networks import MLPWeights

# Steps that a task of a long pass has.
_STEPS_OF_TASK = 100

# Rows of X that tell one array from another.
_MAX_COMPARED_ROWS = 256

# Parameters on which no fitted number depends.
_WITHOUT_EFFECT = ("verbose", "sparse_output")


class RunningFit(Watcher):
    """Tells the callbacks of an estimator of the passes and steps of its fit.

    The task "fit" has a task "pass" for each pass, and this, where it is longer than
    ``_STEPS_OF_TASK`` steps, has tasks "steps". Without callbacks nothing is done. The
    estimator holds this object as `_running_fit` while it is fitted.

    Parameters
    ----------
    estimator : estimator
        What is fitted.
    method : str
        "fit" or "partial_fit".
    X, y : array-like
        As the user gave them, or the first buffer of a stream.
    rows : array
        The validated X.
    seed : int
        What the fit draws its random numbers from.
    n_passes : int
        How many passes are planned.
    n_samples : int
        How many samples there are; more than in X, if this is the first buffer.
    start : dict of ndarray
        Weights that the fit begins with; empty if they are drawn.
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        method: str,
        X: Any,
        y: Any,
        rows: Any,
        *,
        seed: int,
        n_passes: int,
        n_samples: int,
        start: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        self._estimator, self.method = estimator, method
        self._X, self._y, self._rows = X, y, rows
        self.seed, self._start = seed, start
        self._n_passes, self._n_samples = n_passes, n_samples
        self._run: Training | None = None
        self._attributes: Callable[[], dict[str, Any]] | None = None
        self._saved: dict[str, Any] | None = None
        self._listeners: list[tuple[int, Callable[[], None]]] = []
        self._n_steps = 0
        self._fit: Any = None
        self._pass: Any = None
        self._steps: Any = None

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell the callbacks that the fit begins, and what happens until it ends.

        They may give a state to go on from, so that all that is random comes after.
        """
        estimator: Any = self._estimator
        if not getattr(estimator, "_skl_callbacks", None):
            yield
            return
        estimator._running_fit = self
        try:
            self._fit = estimator._init_callback_context(max_subtasks=self._n_passes)
            self._call(self._fit.call_on_fit_task_begin, with_attributes=False)
            yield
        finally:
            del estimator._running_fit

    def start(
        self,
        run: Training,
        attributes: Callable[[], dict[str, Any]],
        processes: Processes,
    ) -> None:
        """Take the training that is about to run, and go to where it was saved.

        Parameters
        ----------
        run : Training
            The training.
        attributes : callable
            Gives the fitted attributes as they are at present.
        processes : Processes
            Those that fit together. All go to the saved state of the first one.
        """
        self._run, self._attributes = run, attributes
        self._saved = processes.from_first(self._saved)
        if processes.rank > 0:  # what is written is written once
            self._listeners.clear()
        if self._saved is not None:
            run.load_run_state(self._saved)
            if self._fit is not None:
                for _ in run.reports:  # a task's number is that of its pass
                    self._fit.subcontext("pass")

    def end(self) -> None:
        """Tell the callbacks that the fit has ended."""
        for _, listener in self._listeners:
            listener()
        if self._fit is not None:
            self._call(self._fit.call_on_fit_task_end)

    # What a training tells

    def on_pass_begin(self, n_steps: int) -> None:
        if self._fit is None:
            return
        n_tasks = -(-n_steps // _STEPS_OF_TASK) if n_steps > _STEPS_OF_TASK else 0
        self._pass = self._fit.subcontext("pass", max_subtasks=n_tasks)
        self._call(self._pass.call_on_fit_task_begin)

    def on_step(self) -> None:
        self._n_steps += 1
        for every, listener in self._listeners:
            if self._n_steps % every == 0:
                listener()
        if self._pass is None or not self._pass.max_subtasks:
            return
        if self._steps is None:
            self._steps = self._pass.subcontext("steps")
            self._call(self._steps.call_on_fit_task_begin)
        if self._n_steps % _STEPS_OF_TASK == 0:
            self._end_steps()

    def on_pass_end(self, report: PassReport) -> bool:
        if self._fit is None:
            return False
        if self._steps is not None:
            self._end_steps()
        return bool(self._call(self._pass.call_on_fit_task_end))

    # What a callback of this package may ask

    @property
    def state(self) -> dict[str, Any]:
        """Where the fit is; what :meth:`go_on_from` takes."""
        assert self._run is not None
        return {"seed": self.seed, "run": self._run.run_state()}

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Begin with the state of an earlier run of this fit."""
        self.seed, self._saved = state["seed"], state["run"]

    def listen(self, every: int, listener: Callable[[], None]) -> None:
        """Call a function after every so many steps, and after the last one.

        Of several processes the first one does.
        """
        self._listeners.append((every, listener))

    @property
    def metrics(self) -> dict[str, float]:
        """The newest row of `history_`, and with held-out rows their loss."""
        assert self._run is not None
        row = {name: float(values[-1]) for name, values in self._run.history().items()}
        if self._run.validation_losses:
            row["validation_loss"] = self._run.validation_losses[-1]
        return row

    @property
    def n_passes_done(self) -> int:
        """How many passes have ended."""
        assert self._run is not None
        return len(self._run.reports)

    def key(self) -> str:
        """A digest of all that decides about the result of the fit.

        Of X it has the shape, the dtype and some rows.
        """
        digest = hashlib.sha256()
        params = self._estimator.get_params(deep=False)
        is_seeded = params.pop("random_state") is not None
        names = sorted(params.keys() - set(_WITHOUT_EFFECT))
        description = {
            "class": type(self._estimator).__name__,
            "method": self.method,
            "params": {name: _described(params[name]) for name in names},
            "seed": self.seed if is_seeded else None,
            "X": [self._n_samples, list(self._rows.shape), str(self._rows.dtype)],
        }
        digest.update(json.dumps(description, sort_keys=True).encode())
        compared = spread(np.arange(len(self._rows)), _MAX_COMPARED_ROWS)
        _update(digest, np.asarray(self._rows[compared]))
        for name in sorted(self._start):
            _update(digest, self._start[name])
        return digest.hexdigest()

    def _end_steps(self) -> None:
        steps, self._steps = self._steps, None
        self._call(steps.call_on_fit_task_end)

    def _call(self, hook: Callable[..., bool], *, with_attributes: bool = True) -> bool:
        attributes = self._attributes if with_attributes else None
        # ScoringMonitor scores where there are targets only. The coders need none.
        y = self._y if self._y is not None else self._no_targets
        return hook(
            estimator=self._estimator,
            X=self._X,
            y=y,
            reconstruction_attributes=attributes,
        )

    def _no_targets(self) -> npt.NDArray[np.float64]:
        return np.zeros(len(self._rows))


def _described(value: Any) -> Any:
    """A parameter as JSON, arrays by a digest."""
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    if isinstance(value, MLPWeights):
        return {name: _described(item) for name, item in value.__getstate__().items()}
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256()
        _update(digest, value)
        return digest.hexdigest()
    return value if value is None or isinstance(value, bool | str) else repr(value)


def _update(digest: "hashlib._Hash", array: npt.NDArray[Any]) -> None:
    digest.update(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
