"""One training of an estimator: its parameters and data handed to the engine."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import gen_batches
from torch import Tensor
from tqdm import tqdm

from .._engine.activations._code_activation import (
    BatchTopK,
    CodeActivation,
    JumpReLU,
    ReLU,
    TopK,
    fitting_code_scale,
    initial_threshold,
)
from .._engine._evaluation import Evaluation, evaluate, mean_loss
from .._engine.neurons._frozen_mlp import FrozenMLP, measure_data_scale
from .._engine._model import CrosscoderModel, LossStrengths
from .._engine._site_scaling import SiteScaling, measure_sites
from .._engine._tensors import to_tensor, torch_dtype
from .._engine._trainer import PASS_METRICS, DivergenceError, Schedule, Trainer
from ..networks._site_mlps import check_mlps, check_provable, freeze_mlps

if TYPE_CHECKING:
    from ._base import BaseInteractionCoder

FloatArray = npt.NDArray[np.floating]
Rows = npt.NDArray[np.int64]

# Rows on which the MLPs' scales and the fitted model are measured.
_MAX_MEASURED_ROWS = 4096
_MAX_EVALUATED_ROWS = 16_384

# Features for each column of one site when n_components is None.
_DEFAULT_EXPANSION = 4


def spread(rows: Rows, n_kept: int) -> Rows:
    """At most ``n_kept`` of the rows, evenly spaced."""
    n_kept = min(len(rows), n_kept)
    return rows[np.linspace(0, len(rows) - 1, n_kept).astype(np.int64)]


class TrainingData:
    """Activations, read in training units.

    Parameters
    ----------
    X : ndarray of shape (n_samples, F)
        Activations in the user's units.
    scaling : SiteScaling
        Between the user's units and those of training.
    dtype, device
        Of the batches.
    """

    def __init__(
        self,
        X: FloatArray,
        scaling: SiteScaling,
        dtype: np.dtype[Any],
        device: torch.device,
    ) -> None:
        self.dtype = dtype
        self._X = X
        self._device = device
        self._offset_F = self.tensor(scaling.offset_F)
        self._scale_F = self.tensor(scaling.scale_F)

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """Tensor of the data's dtype on its device."""
        return to_tensor(array, torch_dtype(self.dtype), self._device)

    def load(self, rows: Rows) -> Tensor:
        """The given rows, (B, F)."""
        return (self.tensor(self._X[rows]) - self._offset_F) * self._scale_F

    def batches(self, rows: Rows, batch_size: int) -> Iterator[Tensor]:
        """The given rows in their order, batch by batch."""
        for batch in gen_batches(len(rows), batch_size):
            yield self.load(rows[batch])


class FittedWeights(NamedTuple):
    """Fitted arrays of an estimator, in the user's units."""

    encoder_components: FloatArray
    encoder_intercept: FloatArray
    components: FloatArray
    threshold: float | FloatArray


class TrainingRun:
    """The model of an estimator, its data and its trainer.

    Made by :meth:`start` or :meth:`resume`.

    Attributes
    ----------
    model : CrosscoderModel
        The model, trained in place.
    scaling : SiteScaling
        Between the user's units and those of the model.
    k : int
        Active features per sample, at most the number of features.
    dtype : numpy dtype
        Of the weights.
    validation_losses : list of float
        Held-out loss after each pass, with early stopping.
    """

    def __init__(
        self,
        estimator: "BaseInteractionCoder",
        data: TrainingData,
        mlps: list[FrozenMLP],
        weights: Sequence[FloatArray],
        constants: dict[str, Any],
        generator: torch.Generator,
    ) -> None:
        self._estimator = estimator
        self._data = data
        self._constants = constants
        self.scaling: SiteScaling = constants["scaling"]
        self.dtype = data.dtype
        n_components, n_columns = weights[0].shape
        self.k = min(estimator.k, n_components)
        width = n_columns // len(self.scaling.scale_L)
        self._strengths = LossStrengths(
            lam=float(estimator.lam),
            lam_fidelity=float(estimator.lam_fidelity),
            n_dominant=estimator.n_dominant,
            aux_k=width // 2 if estimator.aux_k is None else estimator.aux_k,
            lam_margin=float(estimator.lam_margin),
            lam_interval=float(estimator.lam_interval),
        )
        variance_L = self.scaling.training_variance_L
        variance_L[self.scaling.is_constant_L] = math.inf
        # Copies: the training must not write into the estimator's arrays.
        parameters = [data.tensor(np.array(weight)) for weight in weights]
        scaled_mlps = [
            mlp.with_data_scale(*scale)
            for mlp, scale in zip(mlps, constants["mlp_scales"], strict=True)
        ]
        self.model = CrosscoderModel(
            W_enc_MF=parameters[0],
            b_enc_M=parameters[1],
            W_dec_MF=parameters[2],
            activation=self._new_activation(parameters[3:]),
            variance_L=data.tensor(variance_L),
            mlps=scaled_mlps,
        )
        schedule = Schedule(float(estimator.learning_rate_init), constants["n_passes"])
        self._trainer = Trainer(
            self.model,
            self._strengths,
            schedule,
            estimator.batch_size,
            generator,
            mixed_precision=estimator.mixed_precision,
        )
        self.validation_losses: list[float] = []

    @classmethod
    def start(
        cls,
        estimator: "BaseInteractionCoder",
        X: FloatArray,
        rows: Rows,
        n_sites: int,
        n_passes: int,
        generator: torch.Generator,
        fitted: FittedWeights | None,
    ) -> Self:
        """Begin a training on some rows, from fitted weights if there are any."""
        scaling = measure_sites(
            X, rows, n_sites, center=estimator.center, normalize=estimator.normalize
        )
        _warn_of_constant_sites(scaling)
        data, mlps = _in_training_units(estimator, X, scaling)
        n_columns = X.shape[1]
        n_components = estimator.n_components
        if n_components is None:
            n_components = _DEFAULT_EXPANSION * n_columns // n_sites
        first_BF = data.load(spread(rows, estimator.batch_size)).cpu().double()
        if fitted is None:
            weights, threshold_M = _random_weights(
                estimator, scaling, first_BF, n_components, generator
            )
        else:
            _check_shape_unchanged(fitted, n_components, n_columns)
            *weights, code_factor_M = scaling.unfold(*fitted[:3])
            threshold_M = fitted.threshold * code_factor_M
        if estimator.activation == "jumprelu":
            if not threshold_M.all():
                pre_BM = torch.from_numpy(first_BF.numpy() @ weights[0].T + weights[1])
                k = min(estimator.k, n_components)
                threshold_M = initial_threshold(k, pre_BM).numpy()
            weights.append(np.log(threshold_M))
        constants = {
            "scaling": scaling,
            "n_passes": n_passes,
            "batch_threshold": float(threshold_M.mean()) or None,
            **_measure(data, mlps, rows, scaling, estimator.batch_size),
        }
        return cls(estimator, data, mlps, weights, constants, generator)

    @classmethod
    def resume(
        cls, estimator: "BaseInteractionCoder", X: FloatArray, state: dict[str, Any]
    ) -> Self:
        """Go on from what :meth:`get_state` returned."""
        constants, trainer_state = state["constants"], state["trainer"]
        data, mlps = _in_training_units(estimator, X, constants["scaling"])
        weights = trainer_state["parameters"]
        run = cls(estimator, data, mlps, weights, constants, torch.Generator())
        run._trainer.set_state(trainer_state)
        return run

    def get_state(self) -> dict[str, Any]:
        """Everything that :meth:`resume` needs, without tensors."""
        return {"constants": self._constants, "trainer": self._trainer.get_state()}

    def evaluate(self, rows: Rows) -> Evaluation:
        """Evaluate the model on at most ``_MAX_EVALUATED_ROWS`` of the rows."""
        rows = spread(rows, _MAX_EVALUATED_ROWS)
        return evaluate(self.model, self._batches(rows))

    def train(
        self, rows: Rows, validation_rows: Rows | None, n_passes: int
    ) -> dict[str, FloatArray]:
        """Train for some passes, fewer if held-out loss stalls or training diverges.

        Returns
        -------
        dict of ndarray
            ``PASS_METRICS``, one entry for each pass.
        """
        estimator, trainer = self._estimator, self._trainer
        history: dict[str, list[float]] = {name: [] for name in PASS_METRICS}
        stopping = EarlyStopping(estimator.tol, estimator.n_iter_no_change)
        with tqdm(
            total=n_passes * math.ceil(len(rows) / estimator.batch_size),
            desc=type(estimator).__name__,
            unit="step",
            disable=not estimator.verbose,
        ) as progress:
            for i_pass in range(n_passes):
                try:
                    metrics = trainer.run_pass(self._data.load, rows, progress.update)
                except DivergenceError:
                    _warn_of_divergence(i_pass)
                    break
                for name, value in metrics.items():
                    history[name].append(value)
                progress.set_postfix(
                    loss=f"{metrics['loss']:.3f}",
                    FVU=f"{metrics['fvu']:.3f}",
                    L0=f"{metrics['l0']:.1f}",
                    dead=int(metrics["dead_features"]),
                    share=f"{metrics['dominant_share']:.2f}",
                )
                if validation_rows is not None:
                    batches = self._batches(validation_rows)
                    loss = mean_loss(self.model, batches, self._strengths)
                    self.validation_losses.append(loss)
                    if stopping.should_stop(loss, trainer.get_weights):
                        break
        if stopping.best_weights is not None:
            trainer.set_weights(stopping.best_weights)
        return {name: np.array(values) for name, values in history.items()}

    def _batches(self, rows: Rows) -> Iterator[Tensor]:
        return self._data.batches(rows, self._estimator.batch_size)

    def _new_activation(self, parameters: Sequence[Tensor]) -> CodeActivation:
        estimator = self._estimator
        if estimator.activation == "jumprelu":
            return JumpReLU(self.k, *parameters)
        if estimator.activation == "relu":
            return ReLU(estimator.l1_coefficient, self._constants["code_scale"])
        if estimator.activation == "topk":
            return TopK(self.k)
        return BatchTopK(self.k, self._constants["batch_threshold"])


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
        self.best_weights: Any = None

    def should_stop(self, loss: float, get_weights: Callable[[], Any]) -> bool:
        """Whether to stop after a pass with this held-out loss."""
        improved = loss < self._best_loss - self._tol
        self._n_unchanged = 0 if improved else self._n_unchanged + 1
        if loss < self._best_loss:
            self._best_loss = loss
            self.best_weights = get_weights()
        return self._n_unchanged >= self._n_iter_no_change


def _in_training_units(
    estimator: "BaseInteractionCoder", X: FloatArray, scaling: SiteScaling
) -> tuple[TrainingData, list[FrozenMLP]]:
    """Data and MLPs of an estimator, both in training units."""
    dtype, device = estimator._output_dtype(X), estimator._torch_device()
    n_sites = len(scaling.scale_L)
    mlps = check_mlps(estimator.mlp, n_sites, X.shape[1] // n_sites)
    check_provable(mlps, estimator.lam_margin, estimator.lam_interval)
    frozen = freeze_mlps(
        mlps, scaling.offset_F, n_sites, dtype=torch_dtype(dtype), device=device
    )
    if estimator.mixed_precision and dtype != np.float32:
        raise ValueError(
            "mixed_precision=True computes in bfloat16 and float32, not in float64; "
            'set dtype="float32" or mixed_precision=False.'
        )
    scaled = [mlp.in_training_units(float(scaling.scale_L[mlp.site])) for mlp in frozen]
    return TrainingData(X, scaling, dtype, device), scaled


def _measure(
    data: TrainingData,
    mlps: list[FrozenMLP],
    rows: Rows,
    scaling: SiteScaling,
    batch_size: int,
) -> dict[str, Any]:
    """Constants that make the loss terms dimensionless."""
    rows = spread(rows, _MAX_MEASURED_ROWS)
    mean_F = data.tensor((scaling.mean_F - scaling.offset_F) * scaling.scale_F)
    mlp_scales = [
        (math.inf, math.inf)  # what a constant site sends is rounding
        if scaling.is_constant_L[mlp.site]
        else measure_data_scale(mlp, data.batches(rows, batch_size), mean_F)
        for mlp in mlps
    ]
    norms_B = [
        torch.linalg.vector_norm(x_BF, dim=1) for x_BF in data.batches(rows, batch_size)
    ]
    return {"mlp_scales": mlp_scales, "code_scale": float(torch.cat(norms_B).mean())}


def _random_weights(
    estimator: "BaseInteractionCoder",
    scaling: SiteScaling,
    first_BF: Tensor,
    n_components: int,
    generator: torch.Generator,
) -> tuple[list[FloatArray], FloatArray]:
    """Encoder, its bias and decoder to start from, and thresholds of zero."""
    shape = n_components, first_BF.shape[1]
    normal_MF = torch.randn(shape, generator=generator, dtype=torch.float64)
    W_dec_MF = scaling.unit_rows_on_varying_sites(normal_MF.numpy())
    k = n_components if estimator.activation == "relu" else estimator.k
    factor = fitting_code_scale(first_BF, torch.from_numpy(W_dec_MF), k)
    zeros_M = np.zeros(n_components)
    return [factor * W_dec_MF, zeros_M, W_dec_MF], zeros_M


def _check_shape_unchanged(
    fitted: FittedWeights, n_components: int, n_columns: int
) -> None:
    if fitted.components.shape != (n_components, n_columns):
        raise ValueError(
            f"The fitted components have shape {fitted.components.shape}, but "
            f"n_components and X ask for {(n_components, n_columns)}; keep "
            "n_components and the width of X, or call fit with warm_start=False."
        )


def _warn_of_constant_sites(scaling: SiteScaling) -> None:
    if scaling.is_constant_L.any():
        sites = np.flatnonzero(scaling.is_constant_L).tolist()
        warnings.warn(
            f"The activations do not vary at site(s) {sites}, which take no part in "
            "the reconstruction loss; leave them out of X.",
            UserWarning,
            stacklevel=5,
        )


def _warn_of_divergence(n_finished: int) -> None:
    warnings.warn(
        f"The training diverged in pass {n_finished + 1}; the weights from before that "
        "pass are kept. Lower learning_rate_init or the penalties, or look for extreme "
        "values in X.",
        ConvergenceWarning,
        stacklevel=4,
    )
