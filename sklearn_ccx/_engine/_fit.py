"""A fit, from arrays and settings to a trained model."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ._data import Rows, TrainingData, spread
from ._evaluation import Evaluation, evaluate, mean_loss
from ._model import CrosscoderModel
from ._processes import ALONE, Processes
from ._settings import FitSettings
from ._trainer import DivergenceError, PassReport, Trainer, copied
from ._watcher import Watcher
from .activations import (
    BatchTopK,
    CodeActivation,
    JumpReLU,
    ReLU,
    TopK,
    fitting_code_scale,
    initial_threshold,
)
from .losses import Objective
from .neurons import DataScale, FrozenMLP, measure_data_scale

FloatArray = npt.NDArray[np.floating]

# Rows on which the MLPs' scales and the fitted model are measured.
_MAX_MEASURED_ROWS = 4096
_MAX_EVALUATED_ROWS = 16_384


class UserWeights(NamedTuple):
    """Weights to start from, in the user's units."""

    encoder_components: FloatArray
    encoder_intercept: FloatArray
    components: FloatArray
    threshold: float | FloatArray

    def arrays(self) -> dict[str, FloatArray]:
        """The weights by name."""
        return {name: np.asarray(value) for name, value in self._asdict().items()}


@dataclass(frozen=True)
class LossScales:
    """Constants that make the loss terms dimensionless, measured once.

    Parameters
    ----------
    mlp_scales : tuple of DataScale
        Of each MLP.
    code_scale : float
        Norm of a typical sample in training units; infinite if all are 0.
    """

    mlp_scales: tuple[DataScale, ...]
    code_scale: float

    @classmethod
    def measure(
        cls, data: TrainingData, rows: Rows, mlps: Sequence[FrozenMLP], batch_size: int
    ) -> Self:
        """Measure on at most ``_MAX_MEASURED_ROWS`` of the rows."""
        rows, scaling = spread(rows, _MAX_MEASURED_ROWS), data.scaling
        mean_F = data.tensor((scaling.mean_F - scaling.offset_F) * scaling.scale_F)
        mlp_scales = tuple(
            DataScale(math.inf, math.inf, 1.0)  # what a constant site sends is rounding
            if scaling.is_constant_L[mlp.site]
            else measure_data_scale(mlp, data.batches(rows, batch_size), mean_F)
            for mlp in mlps
        )
        norms_B = torch.cat(
            [
                torch.linalg.vector_norm(x_BF, dim=1)
                for x_BF in data.batches(rows, batch_size)
            ]
        )
        return cls(mlp_scales, float(norms_B.mean()) or math.inf)


class Training:
    """A model, its data and its trainer; made by :meth:`begin` or :meth:`resume`.

    Attributes
    ----------
    model : CrosscoderModel
        The model, trained in place.
    trainer : Trainer
        Takes the steps.
    scales : LossScales
        What the losses are divided by.
    reports : list of PassReport
        Of the passes so far.
    validation_losses : list of float
        Held-out loss after each of them, with held-out rows.
    diverged_in_pass : int or None
        The pass, from 1, that was undone since it diverged.
    """

    def __init__(
        self,
        data: TrainingData,
        mlps: Sequence[FrozenMLP],
        settings: FitSettings,
        scales: LossScales,
        weights: Sequence[Tensor],
        activation: CodeActivation,
        generator: torch.Generator,
        processes: Processes = ALONE,
    ) -> None:
        self._data, self._settings, self._processes = data, settings, processes
        self._rows: Rows = np.arange(0)
        self.scales = scales
        W_enc_MF, b_enc_M, W_dec_MF = weights
        self.model = CrosscoderModel(W_enc_MF, b_enc_M, W_dec_MF, activation)
        variance_L = data.scaling.training_variance_L.copy()
        variance_L[data.scaling.is_constant_L] = math.inf
        self._objective = Objective(
            strengths=settings.strengths,
            variance_L=data.tensor(variance_L),
            mlps=[
                mlp.with_data_scale(scale)
                for mlp, scale in zip(mlps, scales.mlp_scales, strict=True)
            ],
        )
        self.trainer = Trainer(
            self.model, self._objective, settings, generator, processes
        )
        self.reports: list[PassReport] = []
        self.validation_losses: list[float] = []
        self.diverged_in_pass: int | None = None
        self._stopping = EarlyStopping(settings.tol, settings.n_iter_no_change)
        self._is_stopped = False

    @classmethod
    def begin(
        cls,
        data: TrainingData,
        rows: Rows,
        mlps: Sequence[FrozenMLP],
        settings: FitSettings,
        generator: torch.Generator,
        weights: UserWeights | None = None,
        scales: LossScales | None = None,
        processes: Processes = ALONE,
    ) -> Self:
        """Begin a training on some rows.

        Parameters
        ----------
        data : TrainingData
            The activations.
        rows : ndarray of int
            Those that are trained on.
        mlps : sequence of FrozenMLP
            The MLPs, in the user's units.
        settings : FitSettings
            What to do.
        generator : torch.Generator
            On the CPU; gives initial weights and the order of the data.
        weights : UserWeights or None
            Where to start; None is at random.
        scales : LossScales or None
            What the losses are divided by; None measures it on the rows.
        processes : Processes
            Those that train the same model. All are given the same.
        """
        mlps = _in_training_units(mlps, data)
        first_BF = data.load(spread(rows, settings.batch_size)).cpu().double()
        if weights is None:
            start = _random_weights(data, first_BF, settings, generator)
            threshold_M: FloatArray = np.zeros(settings.n_components)
        else:
            *start, code_factor_M = data.scaling.unfold(*weights[:3])
            threshold_M = weights.threshold * code_factor_M
        if scales is None:
            scales = processes.from_first(
                LossScales.measure(data, rows, mlps, settings.batch_size)
            )
        if settings.activation == "jumprelu" and not threshold_M.any():
            pre_BM = torch.from_numpy(first_BF.numpy() @ start[0].T + start[1])
            threshold_M = initial_threshold(settings.k, pre_BM).numpy()
        activation = _new_activation(settings, data, scales, threshold_M)
        # Copies: the training must not write into the caller's arrays.
        tensors = [data.tensor(np.array(weight)) for weight in start]
        return cls(
            data, mlps, settings, scales, tensors, activation, generator, processes
        )

    @classmethod
    def resume(
        cls,
        data: TrainingData,
        mlps: Sequence[FrozenMLP],
        settings: FitSettings,
        scales: LossScales,
        state: dict[str, Any],
        processes: Processes = ALONE,
    ) -> Self:
        """Go on from what :meth:`state_dict` returned."""
        model = state["model"]
        names = "W_enc_MF", "b_enc_M", "W_dec_MF"
        weights = [model[name].to(data.device, data.dtype, copy=True) for name in names]
        threshold_M = np.ones(settings.n_components)
        activation = _new_activation(settings, data, scales, threshold_M)
        mlps = _in_training_units(mlps, data)
        generator = torch.Generator()
        run = cls(
            data, mlps, settings, scales, weights, activation, generator, processes
        )
        run.trainer.load_state_dict(state)
        return run

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`resume` needs besides data, MLPs and settings."""
        return self.trainer.state_dict()

    def run_state(self) -> dict[str, Any]:
        """Where :meth:`run` is: what a run of the same fit has to be given to go on."""
        return {
            "trainer": self.trainer.state_dict(),
            "reports": [asdict(report) for report in self.reports],
            "validation_losses": list(self.validation_losses),
            "stopping": self._stopping.state_dict(),
            "is_stopped": self._is_stopped,
            "diverged_in_pass": self.diverged_in_pass,
        }

    def load_run_state(self, state: dict[str, Any]) -> None:
        """Go to where :meth:`run_state` was, which :meth:`run` then goes on from."""
        self.trainer.load_state_dict(state["trainer"])
        self.reports = [PassReport(**report) for report in state["reports"]]
        self.validation_losses = list(state["validation_losses"])
        self._stopping.load_state_dict(state["stopping"])
        self._is_stopped = state["is_stopped"]
        self.diverged_in_pass = state["diverged_in_pass"]

    def run(
        self,
        passes: Callable[[int], tuple[TrainingData, Rows]],
        n_passes: int,
        validation_rows: Rows | None = None,
        watcher: Watcher | None = None,
    ) -> dict[str, FloatArray]:
        """Train for some passes, fewer if held-out loss stalls or training diverges.

        Parameters
        ----------
        passes : callable
            Gives the data of a pass, from 0, and the rows to train on.
        n_passes : int
            How many passes there shall be, with those that a state was loaded of.
        validation_rows : ndarray of int or None
            Held-out rows.
        watcher : Watcher or None
            What is told of steps and passes, and may end the run.

        Returns
        -------
        dict of ndarray
            The entries of :class:`PassReport`, one number for each pass.
        """
        settings, watcher = self._settings, watcher or Watcher()
        n_done = len(self.reports)
        done = n_done, self.trainer.n_steps_of_pass
        self._processes.require_same({"what was fitted before": done})
        self._processes.copy_from_first(self.model.state_dict().values())
        self._data, self._rows = passes(min(n_done, n_passes - 1))
        n_steps = math.ceil(len(self._rows) / settings.batch_size)
        progress = tqdm(
            total=n_passes * n_steps,
            initial=n_done * n_steps + self.trainer.n_steps_of_pass,
            desc=settings.progress,
            unit="step",
            disable=settings.progress is None or self._processes.rank > 0,
        )

        def on_step() -> None:
            progress.update()
            watcher.on_step()

        with progress:
            while len(self.reports) < n_passes and not self._is_stopped:
                del self._data  # before the next buffer of a stream is there
                self._data, self._rows = passes(len(self.reports))
                self._processes.require_same({"the number of rows": len(self._rows)})
                watcher.on_pass_begin(math.ceil(len(self._rows) / settings.batch_size))
                try:
                    report = self.trainer.run_pass(self._data.load, self._rows, on_step)
                except DivergenceError:
                    self.diverged_in_pass = len(self.reports) + 1
                    self._is_stopped = True
                    break
                self.reports.append(report)
                progress.set_postfix(
                    loss=f"{report.loss:.3f}",
                    FVU=f"{report.fvu:.3f}",
                    L0=f"{report.l0:.1f}",
                    dead=int(report.dead_features),
                    share=f"{report.dominant_share:.2f}",
                )
                if validation_rows is not None:
                    batches = self._batches(self._processes.part_of(validation_rows))
                    loss = mean_loss(
                        self.model, batches, self._objective, self._processes
                    )
                    self.validation_losses.append(loss)
                    self._is_stopped = self._stopping.should_stop(
                        loss, self.model.state_dict
                    )
                if self._processes.any(watcher.on_pass_end(report)):
                    self._is_stopped = True
        if self._stopping.best_weights is not None:
            self.model.load_state_dict(self._stopping.best_weights)
        return self.history()

    def history(self) -> dict[str, FloatArray]:
        """The entries of :class:`PassReport`, one number for each pass."""
        rows = [asdict(report) for report in self.reports]
        return {
            column.name: np.array([row[column.name] for row in rows])
            for column in fields(PassReport)
        }

    def evaluate(self) -> Evaluation:
        """Evaluate the model on at most ``_MAX_EVALUATED_ROWS`` of the newest rows."""
        batches = self._batches(spread(self._rows, _MAX_EVALUATED_ROWS))
        return evaluate(self.model, batches, self._objective.variance_L)

    def _batches(self, rows: Rows) -> Iterator[Tensor]:
        return self._data.batches(rows, self._settings.batch_size)


def step_size(
    settings: FitSettings,
    n_columns: int,
    mlps: Sequence[FrozenMLP],
    processes: Processes = ALONE,
) -> int:
    """Multiplications that a process does in a step, were its products dense."""
    batch_size = math.ceil(settings.batch_size / processes.size)
    size = 3 * batch_size * settings.n_components * n_columns
    if settings.strengths.has_penalty:
        for mlp in mlps:
            n_weights = 0 if mlp.W_in_DN is None else mlp.W_in_DN.numel()
            size += 2 * settings.n_components * n_weights
    return size


class EarlyStopping:
    """Remembers the best weights and tells when they are no longer improved.

    Parameters
    ----------
    tol : float
        A loss counts as improved if it falls by more than this.
    n_iter_no_change : int
        Passes without improvement after which to stop.
    """

    def __init__(self, tol: float, n_iter_no_change: int) -> None:
        self._tol = tol
        self._n_iter_no_change = n_iter_no_change
        self._best_loss = math.inf
        self._n_unchanged = 0
        self.best_weights: dict[str, Tensor] | None = None

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` takes."""
        return {
            "best_loss": self._best_loss,
            "n_unchanged": self._n_unchanged,
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._best_loss = state["best_loss"]
        self._n_unchanged = state["n_unchanged"]
        self.best_weights = state["best_weights"]

    def should_stop(
        self, loss: float, get_weights: Callable[[], dict[str, Tensor]]
    ) -> bool:
        """Whether to stop after a pass with this held-out loss."""
        improved = loss < self._best_loss - self._tol
        self._n_unchanged = 0 if improved else self._n_unchanged + 1
        if loss < self._best_loss:
            self._best_loss = loss
            self.best_weights = copied(get_weights())
        return self._n_unchanged >= self._n_iter_no_change


def _in_training_units(
    mlps: Sequence[FrozenMLP], data: TrainingData
) -> list[FrozenMLP]:
    scale_L = data.scaling.scale_L
    return [mlp.in_training_units(float(scale_L[mlp.site])) for mlp in mlps]


def _random_weights(
    data: TrainingData,
    first_BF: Tensor,
    settings: FitSettings,
    generator: torch.Generator,
) -> list[FloatArray]:
    """Encoder, its bias and decoder to start from."""
    shape = settings.n_components, data.n_columns
    normal_MF = torch.randn(
        shape, generator=generator, dtype=torch.float64, device="cpu"
    )
    W_dec_MF = data.scaling.unit_rows_on_varying_sites(normal_MF.numpy())
    k = settings.n_components if settings.activation == "relu" else settings.k
    factor = fitting_code_scale(first_BF, torch.from_numpy(W_dec_MF), k)
    return [factor * W_dec_MF, np.zeros(settings.n_components), W_dec_MF]


def _new_activation(
    settings: FitSettings,
    data: TrainingData,
    scales: LossScales,
    threshold_M: FloatArray,
) -> CodeActivation:
    if settings.activation == "jumprelu":
        # A threshold of 0 has no logarithm; the least number does the same.
        threshold_M = np.maximum(threshold_M, torch.finfo(data.dtype).tiny)
        return JumpReLU(settings.k, data.tensor(np.log(threshold_M)))
    if settings.activation == "relu":
        return ReLU(settings.l1_coefficient, scales.code_scale)
    if settings.activation == "topk":
        return TopK(settings.k)
    return BatchTopK(settings.k, float(threshold_M.mean()) or None)
