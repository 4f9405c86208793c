"""Training: passes over the data, the schedule, and the state between passes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ._model import CrosscoderModel, LossStrengths
from ._sparse_codes import SparseCodes
from ._tensors import to_numpy

# Shares of all steps over which the learning rate rises at the start and falls
# to 0 at the end.
_WARM_UP_SHARE = 0.05
_DECAY_SHARE = 0.25

_MAX_GRADIENT_NORM = 1.0

# Steps without activity after which a feature counts as dead for the auxiliary
# loss.
_DEAD_AFTER_STEPS = 20


# What a pass reports: seven means over its steps, the number of features that were
# inactive in the whole pass, and the dominant share on the last batch.
PASS_METRICS = (
    "loss",
    "fvu",
    "interaction",
    "infidelity",
    "margin",
    "interval",
    "l0",
    "dead_features",
    "dominant_share",
)


class DivergenceError(ArithmeticError):
    """The loss, a gradient or a weight is no longer finite."""


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the position in the planned passes.

    Parameters
    ----------
    learning_rate : float
        The rate between warm-up and decay.
    n_passes : int
        Planned passes over the data; a longer training starts over.
    """

    learning_rate: float
    n_passes: int

    def rate(self, i_pass: int, i_batch: int, n_batches: int) -> float:
        """Learning rate of the step about to be taken."""
        n_steps = self.n_passes * n_batches
        step = (i_pass % self.n_passes) * n_batches + i_batch
        rise = (step + 1) / (_WARM_UP_SHARE * n_steps)
        fall = (n_steps - step) / (_DECAY_SHARE * n_steps)
        return self.learning_rate * min(1.0, rise, fall)


BatchLoader = Callable[[npt.NDArray[np.int64]], Tensor]


class Trainer:
    """Trains a :class:`CrosscoderModel` pass by pass.

    Parameters
    ----------
    model : CrosscoderModel
        Trained in place.
    strengths : LossStrengths
        Strengths of the loss terms.
    schedule : Schedule
        Learning rates.
    batch_size : int
        Largest batch; a pass is cut into batches of nearly equal size.
    generator : torch.Generator
        On the CPU; gives the order of the data.
    mixed_precision : bool
        Whether matrix products take bfloat16. Weights, codes and sums keep their
        precision.
    """

    def __init__(
        self,
        model: CrosscoderModel,
        strengths: LossStrengths,
        schedule: Schedule,
        batch_size: int,
        generator: torch.Generator,
        *,
        mixed_precision: bool,
    ) -> None:
        self._model = model
        self._strengths = strengths
        self._schedule = schedule
        self._batch_size = batch_size
        self._generator = generator
        self._mixed_precision = mixed_precision
        self._i_pass = 0
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        self._optimizer = torch.optim.Adam(model.parameters(), fused=True)
        self._steps_since_active_M = torch.zeros(
            len(model.b_enc_M), dtype=torch.int64, device=model.b_enc_M.device
        )

    def run_pass(
        self,
        load: BatchLoader,
        rows: npt.NDArray[np.int64],
        on_step: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Train once on all ``rows`` and return the means over the steps.

        Parameters
        ----------
        load : callable
            Takes row numbers and returns those rows in training units.
        rows : ndarray of int
            The rows to train on.
        on_step : callable
            Called after each step.

        Returns
        -------
        dict of float
            The entries of ``PASS_METRICS``.

        Raises
        ------
        DivergenceError
            After restoring the weights from before the pass.
        """
        good_weights = self.get_weights()
        try:
            return self._run_pass(load, rows, on_step)
        except DivergenceError:
            self.set_weights(good_weights)
            raise

    def _run_pass(
        self,
        load: BatchLoader,
        rows: npt.NDArray[np.int64],
        on_step: Callable[[], None],
    ) -> dict[str, float]:
        model = self._model
        on_cpu = model.b_enc_M.device.type == "cpu"
        n_batches = math.ceil(len(rows) / self._batch_size)
        order = torch.randperm(len(rows), generator=self._generator).numpy()
        sums = torch.zeros(8, dtype=torch.float64, device=model.b_enc_M.device)
        was_active_M = torch.zeros_like(self._steps_since_active_M, dtype=torch.bool)
        for i_batch, batch in enumerate(np.array_split(order, n_batches)):
            rate = self._schedule.rate(self._i_pass, i_batch, n_batches)
            x_BF = load(rows[batch])
            # To list the dead features is to ask the device how many there are: on CUDA
            # a list serves for several steps.
            if on_cpu or i_batch % _DEAD_AFTER_STEPS == 0:
                is_dead_M = self._steps_since_active_M >= _DEAD_AFTER_STEPS
                dead_D = is_dead_M.nonzero().squeeze(1)
            terms, is_active_M = self._step(x_BF, dead_D, rate)
            sums += terms
            was_active_M |= is_active_M
            on_step()
        # Asked once a pass: each time the device is asked, it has to finish first.
        trained = [sums, *model.parameters()]
        if not all(bool(values.isfinite().all()) for values in trained):
            raise DivergenceError
        self._i_pass += 1
        values = (sums[:-1] / n_batches).tolist()
        values += [float((~was_active_M).sum()), self._dominant_share(x_BF)]
        return dict(zip(PASS_METRICS, values, strict=True))

    def _step(
        self, x_BF: Tensor, dead_D: Tensor, learning_rate: float
    ) -> tuple[Tensor, Tensor]:
        """Take a step; return what it reports, and which features were active.

        The first is the first seven of ``PASS_METRICS`` and the gradient's norm.
        """
        model, optimizer = self._model, self._optimizer
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            batch = model.training_loss(x_BF, self._strengths, dead_D)
        loss = batch.loss
        loss.total.backward()
        model.remove_radial_gradient()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
        optimizer.step()
        model.normalize_decoder()

        is_active_M = batch.n_active_M > 0
        self._steps_since_active_M += 1
        self._steps_since_active_M.masked_fill_(is_active_M, 0)
        n_active = batch.n_active_M.sum() / len(x_BF)
        terms = [loss.total, loss.fvu, loss.interaction, loss.infidelity]
        # The norm of a gradient that is clipped to zero is infinite.
        terms += [loss.margin, loss.interval, n_active, norm]
        return torch.stack([term.detach().double() for term in terms]), is_active_M

    def _autocast(self) -> torch.autocast:
        device = self._model.b_enc_M.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self._mixed_precision)

    @torch.no_grad()
    def _dominant_share(self, x_BF: Tensor) -> float:
        codes = SparseCodes.from_dense(self._model.codes(x_BF))
        total = count = 0.0
        for mlp in self._model.mlps:
            M_MN = mlp.neuron_inputs(self._model.W_dec_MF)
            contributions = mlp.contributions(codes, M_MN, self._strengths.n_dominant)
            share_sum, n_reached = contributions.share_sum()
            total, count = total + float(share_sum), count + float(n_reached)
        return total / count if count else math.nan

    def get_weights(self) -> dict[str, Any]:
        """Copy of the weights and of the activation's state, on the device."""
        return {
            "parameters": [p.detach().clone() for p in self._model.parameters()],
            "activation": self._model.activation.get_state(),
        }

    @torch.no_grad()
    def set_weights(self, weights: dict[str, Any]) -> None:
        """Restore what :meth:`get_weights` returned."""
        saved = weights["parameters"]
        for parameter, value in zip(self._model.parameters(), saved, strict=True):
            parameter.copy_(value)
        self._model.activation.set_state(weights["activation"])

    def get_state(self) -> dict[str, Any]:
        """Everything a later trainer needs to go on, as numpy arrays."""
        moments = self._optimizer.state_dict()["state"]
        return {
            "parameters": [to_numpy(p) for p in self._model.parameters()],
            "activation": self._model.activation.get_state(),
            "optimizer": {
                index: {name: to_numpy(value) for name, value in state.items()}
                for index, state in moments.items()
            },
            "steps_since_active": to_numpy(self._steps_since_active_M),
            "generator": to_numpy(self._generator.get_state()),
            "i_pass": self._i_pass,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_state` returned."""
        self.set_weights(
            {
                "parameters": [torch.from_numpy(p) for p in state["parameters"]],
                "activation": state["activation"],
            }
        )
        optimizer_state = self._optimizer.state_dict()
        optimizer_state["state"] = {
            index: {name: torch.tensor(value) for name, value in moments.items()}
            for index, moments in state["optimizer"].items()
        }
        self._optimizer.load_state_dict(optimizer_state)
        self._steps_since_active_M.copy_(torch.from_numpy(state["steps_since_active"]))
        self._generator.set_state(torch.from_numpy(state["generator"]))
        self._i_pass = state["i_pass"]
