"""Training step by step and pass by pass, and the state between passes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ._model import CrosscoderModel
from ._processes import ALONE, BatchPart, Processes
from ._schedule import Schedule
from ._settings import FitSettings
from ._sparse_codes import SparseCodes
from .losses import LossTerms, Objective

_MAX_GRADIENT_NORM = 1.0

# Steps without activity after which a feature counts as dead for the auxiliary
# loss.
_DEAD_AFTER_STEPS = 20


class DivergenceError(ArithmeticError):
    """The loss, a gradient or a weight is no longer finite."""


class StepReport(NamedTuple):
    """What a step reports: scalars that a pass averages."""

    loss: Tensor
    fvu: Tensor
    interaction: Tensor
    infidelity: Tensor
    margin: Tensor
    interval: Tensor
    l0: Tensor
    # The norm of a gradient that is clipped to zero is infinite.
    gradient_norm: Tensor


@dataclass(frozen=True)
class PassReport:
    """What a pass reports: means over its steps, and two numbers of its end.

    Parameters
    ----------
    loss, fvu, interaction, infidelity, margin, interval, l0 : float
        Means over the steps.
    dead_features : float
        Features that were inactive in the whole pass.
    dominant_share : float
        On the last batch.
    """

    loss: float
    fvu: float
    interaction: float
    infidelity: float
    margin: float
    interval: float
    l0: float
    dead_features: float
    dominant_share: float


BatchLoader = Callable[[npt.NDArray[np.int64]], Tensor]


@dataclass
class _Pass:
    """A pass that has begun.

    Parameters
    ----------
    generator_state : Tensor
        Of the generator that gives the order of the data, from before it did.
    good_weights : dict of Tensor
        The weights from before the pass.
    sums : Tensor
        Of the reports of the steps taken.
    was_active_M : Tensor
        Features that were active in any of them.
    n_steps : int
        How many were taken.
    """

    generator_state: Tensor
    good_weights: dict[str, Tensor]
    sums: Tensor
    was_active_M: Tensor
    n_steps: int = 0


class Trainer:
    """Trains a :class:`CrosscoderModel` pass by pass.

    Parameters
    ----------
    model : CrosscoderModel
        Trained in place.
    objective : Objective
        What is minimised.
    settings : FitSettings
        Learning rate, passes, batch size and precision.
    generator : torch.Generator
        On the CPU; gives the order of the data.
    processes : Processes
        Those that train the same model, each on its part of every batch.
    """

    def __init__(
        self,
        model: CrosscoderModel,
        objective: Objective,
        settings: FitSettings,
        generator: torch.Generator,
        processes: Processes = ALONE,
    ) -> None:
        self._processes = processes
        self._model = model
        self._objective = objective
        self._schedule = Schedule(settings.learning_rate, settings.n_passes)
        self._batch_size = settings.batch_size
        self._mixed_precision = settings.mixed_precision
        self._generator = generator
        self._i_pass = 0
        self._pass: _Pass | None = None
        self._optimizer = self._new_optimizer()
        self._steps_since_active_M = torch.zeros_like(model.b_enc_M, dtype=torch.int64)
        # With several processes: gradients and reports, side by side.
        self._sums: Tensor | None = None

    def run_pass(
        self,
        load: BatchLoader,
        rows: npt.NDArray[np.int64],
        on_step: Callable[[], None] = lambda: None,
    ) -> PassReport:
        """Train once on all ``rows``, or on those that a pass has left.

        Parameters
        ----------
        load : callable
            Takes row numbers and returns those rows in training units.
        rows : ndarray of int
            The rows to train on.
        on_step : callable
            Called after each step, when :meth:`state_dict` is that after it.

        Raises
        ------
        DivergenceError
            After restoring the weights from before the pass; the optimizer begins anew.
        """
        if self._pass is None:
            self._pass = self._new_pass()
        try:
            report = self._run_pass(self._pass, load, rows, on_step)
        except DivergenceError:
            self._model.load_state_dict(self._pass.good_weights)
            # Its moments are not finite either: the next pass would diverge as well.
            self._optimizer = self._new_optimizer()
            raise
        finally:
            self._pass = None
        self._i_pass += 1
        return report

    def _new_optimizer(self) -> torch.optim.Adam:
        return torch.optim.Adam(self._model.parameters(), fused=True)

    def _new_pass(self) -> _Pass:
        is_active_M = torch.zeros_like(self._steps_since_active_M, dtype=torch.bool)
        n_terms = len(StepReport._fields)
        return _Pass(
            generator_state=self._generator.get_state(),
            good_weights=copied(self._model.state_dict()),
            sums=self._model.b_enc_M.new_zeros(n_terms, dtype=torch.float64),
            was_active_M=is_active_M,
        )

    def _run_pass(
        self,
        this: _Pass,
        load: BatchLoader,
        rows: npt.NDArray[np.int64],
        on_step: Callable[[], None],
    ) -> PassReport:
        model = self._model
        on_cpu = model.b_enc_M.device.type == "cpu"
        n_batches = math.ceil(len(rows) / self._batch_size)
        order = torch.randperm(len(rows), generator=self._generator).numpy()
        batches = np.array_split(order, n_batches)
        first = this.n_steps
        for i_batch in range(first, n_batches):
            rate = self._schedule.rate(self._i_pass, i_batch, n_batches)
            part = BatchPart(len(batches[i_batch]), self._processes)
            x_BF = load(rows[self._processes.part_of(batches[i_batch])])
            # To list the dead features is to ask the device how many there are: on CUDA
            # a list serves for several steps.
            if on_cpu or i_batch % _DEAD_AFTER_STEPS == 0 or i_batch == first:
                is_dead_M = self._steps_since_active_M >= _DEAD_AFTER_STEPS
                dead_D = is_dead_M.nonzero().squeeze(1)
            report, is_active_M = self.step(x_BF, dead_D, rate, part)
            this.sums += torch.stack([term.detach().double() for term in report])
            this.was_active_M |= is_active_M
            this.n_steps += 1
            on_step()
        # Asked once a pass: each time the device is asked, it has to finish first.
        trained = [this.sums, *model.parameters()]
        is_sound = all(bool(values.isfinite().all()) for values in trained)
        if self._processes.any(not is_sound):
            raise DivergenceError
        means = (this.sums / n_batches).tolist()
        named = dict(zip(StepReport._fields, means, strict=True))
        del named["gradient_norm"]
        return PassReport(
            **named,
            dead_features=float((~this.was_active_M).sum()),
            dominant_share=self._dominant_share(
                load(rows[self._processes.part_of(batches[-1])])
            ),
        )

    def step(
        self,
        x_BF: Tensor,
        dead_D: Tensor,
        learning_rate: float,
        part: BatchPart | None = None,
    ) -> tuple[StepReport, Tensor]:
        """Take a step; return its report, and which features were active.

        Parameters
        ----------
        x_BF : Tensor of shape (B, F)
            The batch in training units.
        dead_D : Tensor of shape (D,), int64
            The features to revive.
        learning_rate : float
            Of this step.
        part : BatchPart or None
            Which batch the B samples are a part of; None for all of it.
        """
        part = part or BatchPart.whole(x_BF)
        model, optimizer = self._model, self._optimizer
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            encoded = model(x_BF, part)
            terms = self._objective.training_loss(model, encoded, x_BF, dead_D, part)
        terms.total.backward()
        terms, n_active_M = self._whole(terms, encoded.n_active_M)
        model.remove_radial_gradient()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
        optimizer.step()
        model.normalize_decoder()

        is_active_M = n_active_M > 0
        self._steps_since_active_M += 1
        self._steps_since_active_M.masked_fill_(is_active_M, 0)
        report = StepReport(
            loss=terms.total,
            fvu=terms.fvu,
            interaction=terms.interaction,
            infidelity=terms.infidelity,
            margin=terms.margin,
            interval=terms.interval,
            l0=n_active_M.sum() / part.n_samples,
            gradient_norm=norm,
        )
        return report, is_active_M

    def _whole(self, terms: LossTerms, n_active_M: Tensor) -> tuple[LossTerms, Tensor]:
        """Add up what the processes have, and their gradients, in one reduction."""
        if self._processes.size == 1:
            return terms, n_active_M
        parameters = list(self._model.parameters())
        names = [column.name for column in fields(terms)]
        scalars = [getattr(terms, name).detach() for name in names]
        sizes = [*(p.numel() for p in parameters), len(scalars), len(n_active_M)]
        if self._sums is None:
            self._sums = parameters[0].new_empty(sum(sizes))
        *grads, sums, counts_M = self._sums.split(sizes)
        for parameter, grad in zip(parameters, grads, strict=True):
            assert parameter.grad is not None
            grad.copy_(parameter.grad.reshape(-1))
            parameter.grad = grad.view_as(parameter)
        sums.copy_(torch.stack(scalars))
        counts_M.copy_(n_active_M)
        self._processes.add_up(self._sums)
        whole = dict(zip(names, sums.clone(), strict=True))
        return LossTerms(**whole), counts_M.to(n_active_M.dtype)

    def _autocast(self) -> torch.autocast:
        device = self._model.b_enc_M.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self._mixed_precision)

    @torch.no_grad()
    def _dominant_share(self, x_BF: Tensor) -> float:
        codes = SparseCodes.from_dense(self._model.codes(x_BF))
        total = count = 0.0
        for mlp in self._objective.mlps:
            M_MN = mlp.neuron_inputs(self._model.W_dec_MF)
            contributions = mlp.on(x_BF).contributions(
                codes, M_MN, self._objective.strengths.n_dominant
            )
            share_sum, n_reached = contributions.share_sum()
            total, count = total + float(share_sum), count + float(n_reached)
        sums = x_BF.new_tensor([total, count], dtype=torch.float64)
        self._processes.add_up(sums)
        total, count = sums.tolist()
        return total / count if count else math.nan

    @property
    def n_steps_of_pass(self) -> int:
        """Steps taken of a pass that has begun."""
        return 0 if self._pass is None else self._pass.n_steps

    def state_dict(self) -> dict[str, Any]:
        """Everything a later trainer needs to go on, as tensors and numbers."""
        return {
            "model": copied(self._model.state_dict()),
            # The rest of the optimizer's state are settings, which may change.
            "optimizer": self._optimizer.state_dict()["state"],
            "steps_since_active": self._steps_since_active_M,
            "generator": self._generator.get_state(),
            "i_pass": self._i_pass,
            "pass": None if self._pass is None else vars(self._pass).copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._model.load_state_dict(state["model"])
        optimizer_state = self._optimizer.state_dict()
        optimizer_state["state"] = state["optimizer"]
        self._optimizer.load_state_dict(optimizer_state)
        self._steps_since_active_M.copy_(state["steps_since_active"])
        self._generator.set_state(state["generator"].cpu())
        self._i_pass = state["i_pass"]
        begun = state.get("pass")
        if begun is not None:
            device = self._model.b_enc_M.device
            self._generator.set_state(begun["generator_state"].cpu())
            self._pass = _Pass(
                generator_state=begun["generator_state"].cpu(),
                good_weights=begun["good_weights"],
                sums=begun["sums"].to(device, copy=True),
                was_active_M=begun["was_active_M"].to(device, copy=True),
                n_steps=begun["n_steps"],
            )


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state of a module that later steps do not change."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}
