"""How a coder is trained: the scikit-learn contract of fit and partial_fit."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.metaestimators import available_if

from .._engine._data import TrainingData
from .._engine._fit import Training, UserWeights, step_size
from .._engine._measure_sites import (
    Outliers,
    TypicalNorms,
    measure_sites,
    without_outliers,
)
from .._engine._processes import Processes
from .._engine._settings import FitSettings
from .._engine._site_scaling import SiteScaling
from .._engine._tensors import numpy_tree, tensor_tree, torch_dtype
from .._engine._threads import threads_for
from .._engine._torch_state import with_torch_state
from .._engine.neurons import FrozenMLP
from .._sklearn_compat import CallbackSupportMixin, fit_context
from .._validation import check_seed
from ..networks import check_mlps, check_provable, freeze_mlps
from ._attributes import fitted_attributes, kept_attributes
from ._fitted import FittedCoder
from ._parameters import CoderParameters
from ._passes import Passes
from ._rows import DTYPES, check_finite, flat
from ._running_fit import RunningFit
from ._same_fit import require_same_fit
from ._scales import MeasuredScales
from ._warnings import warn_of_constant_sites, warn_of_divergence, warn_of_outliers

FloatArray = npt.NDArray[np.floating]

# Attributes that a fit may leave unset; those of an earlier fit must not survive it.
_NOT_IN_EVERY_FIT = (
    "feature_names_in_",
    "validation_loss_curve_",
    "best_validation_loss_",
    "_training_state",
)

# How many times the typical norm makes a row an outlier to warn of.
_OUTLIER_RATIO = 10.0


def _supports_partial_fit(estimator: CoderParameters) -> bool:
    if estimator.early_stopping:
        raise AttributeError(
            "partial_fit does not support early_stopping=True; "
            "set early_stopping=False or use fit."
        )
    return True


class BaseInteractionCoder(CallbackSupportMixin, FittedCoder):
    """Base of the coders; subclasses say how X is laid out in sites."""

    @fit_context(prefer_skip_nested_validation=True)
    @with_torch_state(grad=True)
    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Learn the features from activations.

        Parameters
        ----------
        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
            Activations; :class:`InteractionSAE` takes the first shape only. float32
            and float64 are used as they are; memory-mapped arrays and
            :class:`~sklearn_ccx.lm.ShardedActivations` are read batch by batch. Or an
            :class:`~sklearn_ccx.activations.ActivationStream`, which makes them while
            the training goes on.

        y : Ignored
            Present for the scikit-learn API.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X is empty, not finite or of the wrong shape, or a parameter does
            not fit X; or if the processes that fit together are given different X or
            parameters.

        Warns
        -----
        ConvergenceWarning
            If the training diverged. The weights from before the diverging pass
            are kept.
        UserWarning
            If a site does not vary, which then takes no part in the reconstruction
            loss; if rows have a norm more than 10 times the typical one, which they
            would dominate (see `outlier_threshold`); or if there are more sites than
            samples, which hints at a batch of sequences.
        """
        passes = Passes(X)
        if passes.stream is not None and self.early_stopping:
            raise ValueError(
                "early_stopping=True holds out rows of X, which a stream does not "
                "keep; set early_stopping=False."
            )
        given = passes.first()
        X, layout = self._validate_new_activations(given)
        processes = self._processes()
        require_same_fit(self, X, processes)
        typical = self._typical_norms(X, layout)
        rows = self._rows_to_use(X, typical)
        n_train = len(rows) - self._n_validation(len(rows))
        settings = self._settings(
            X.shape[1],
            layout["n_sites_"],
            n_train,
            self._output_dtype(X),
            n_all=passes.n_samples(rows) - (len(rows) - n_train),
            n_buffers=passes.n_buffers,
        )
        weights = self._fitted_weights(settings, X) if self.warm_start else None
        offset = self._given_offset(X) if self.warm_start else None
        running = self._running("fit", given, y, X, settings.n_passes, weights, passes)
        with running.told():
            running.seed = processes.from_first(running.seed)
            generator = torch.Generator().manual_seed(running.seed)
            train_rows, validation_rows = self._split(rows, generator)
            data = self._measured_data(
                X, layout, train_rows, typical, offset, processes
            )
            passes.begin(data, train_rows, self._reader_of_buffers(data, typical))
            mlps = self._frozen_mlps(data)
            with threads_for(step_size(settings, X.shape[1], mlps, processes)):
                run = Training.begin(
                    data,
                    train_rows,
                    mlps,
                    settings,
                    generator,
                    weights,
                    processes=processes,
                )

                def attributes() -> dict[str, Any]:
                    scales = MeasuredScales(data.scaling, run.scales, typical)
                    fitted = fitted_attributes(run, scales, layout)
                    fitted |= kept_attributes(self, settings, scales, layout)
                    fitted["_intercept_is_given"] = offset is not None
                    if validation_rows is not None:
                        losses = run.validation_losses
                        fitted["validation_loss_curve_"] = list(losses)
                        fitted["best_validation_loss_"] = min(losses, default=math.nan)
                    return fitted

                running.start(run, attributes, processes)
                run.run(passes, settings.n_passes, validation_rows, running)
                fitted = attributes()
                if run.diverged_in_pass is not None:
                    warn_of_divergence(run.diverged_in_pass)
                for name in _NOT_IN_EVERY_FIT:
                    self.__dict__.pop(name, None)
                self.__dict__.update(fitted)
                running.end()
        return self

    @available_if(_supports_partial_fit)
    @fit_context(prefer_skip_nested_validation=True)
    @with_torch_state(grad=True)
    def partial_fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Train for one pass over X, going on where the last call stopped.

        The scaling of the sites and of the penalties is measured on the X of the
        first call, or was by a :meth:`fit` before it, and stays. ``max_iter`` is the
        number of calls planned: the learning rate falls to zero towards the last one
        and starts over after it. With ``max_iter=k`` and the same X, `k` calls equal
        one :meth:`fit`.

        Parameters
        ----------
        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
            Activations, or one part of them, or an
            :class:`~sklearn_ccx.activations.ActivationStream`.

        y : Ignored
            Present for the scikit-learn API.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            As in :meth:`fit`, or if a parameter was changed with which a fit that has
            begun cannot go on: `n_components`, `activation`, `mlp`, `n_sites`,
            `center`, `normalize` and, between calls, `max_iter`.
        AttributeError
            With ``early_stopping=True``, which needs all passes at once.
        """
        # scikit-learn validates the parameters at the first call only.
        self._validate_params()
        passes = Passes(X)
        given = passes.first()
        state = getattr(self, "_training_state", None)
        is_fitted = hasattr(self, "components_")
        if is_fitted:
            X, layout = self._validate_activations(given), {"n_sites_": self.n_sites_}
            self._check_goes_on()
        else:
            X, layout = self._validate_new_activations(given)
        processes = self._processes()
        require_same_fit(self, X, processes)
        # Features that were not made by a fit have no scales yet.
        kept: MeasuredScales | None = None
        if is_fitted and hasattr(self, "_scales"):
            kept = MeasuredScales.from_dict(self._scales)
            typical = kept.typical
            rows = self._rows_to_use(X, typical)
            if self.outlier_threshold is None:
                outliers = Outliers(_OUTLIER_RATIO)
                without_outliers(X, rows, typical, outliers)
                warn_of_outliers(outliers)
            data = self._training_data(X, kept.scaling)
        else:
            typical = self._typical_norms(X, layout)
            rows = self._rows_to_use(X, typical)
            offset = self._given_offset(X)
            data = self._measured_data(X, layout, rows, typical, offset, processes)
        passes.begin(data, rows, self._reader_of_buffers(data, typical))
        settings = self._settings(
            X.shape[1],
            layout["n_sites_"],
            len(rows),
            self._output_dtype(X),
            n_all=passes.n_samples(rows),
            n_buffers=passes.n_buffers,
        )
        mlps = self._frozen_mlps(data)
        weights = self._fitted_weights(settings, X)
        goes_on = kept is not None and state is not None
        history: dict[str, FloatArray] = self.history_ if goes_on else {}
        n_passes = passes.n_buffers
        running = self._running(
            "partial_fit", given, y, X, n_passes, weights, passes, goes_on
        )
        n_multiplications = step_size(settings, X.shape[1], mlps, processes)
        with threads_for(n_multiplications), running.told():
            if kept is not None and state is not None:
                settings = replace(settings, n_passes=state["n_passes"])
                trainer = tensor_tree(state["trainer"])
                run = Training.resume(
                    data, mlps, settings, kept.losses, trainer, processes
                )
            else:
                losses = None if kept is None else kept.losses
                running.seed = processes.from_first(running.seed)
                generator = torch.Generator().manual_seed(running.seed)
                run = Training.begin(
                    data, rows, mlps, settings, generator, weights, losses, processes
                )

            def attributes() -> dict[str, Any]:
                scales = MeasuredScales(data.scaling, run.scales, typical)
                fitted = fitted_attributes(run, scales, layout, history)
                fitted |= kept_attributes(self, settings, scales, layout)
                is_given = getattr(self, "_intercept_is_given", False)
                fitted["_intercept_is_given"] = is_given
                return fitted

            running.start(run, attributes, processes)
            run.run(passes, n_passes, watcher=running)
            fitted = attributes()
            if run.diverged_in_pass is not None:
                warn_of_divergence(run.diverged_in_pass)
            fitted["_training_state"] = {
                "trainer": numpy_tree(run.state_dict()),
                "n_passes": settings.n_passes,
                "max_iter": self.max_iter,
            }
            self.__dict__.update(fitted)
            running.end()
        return self

    def _reader_of_buffers(
        self, first: TrainingData, typical: TypicalNorms
    ) -> Callable[[Any], tuple[TrainingData, npt.NDArray[np.int64]]]:
        """Makes training data of another buffer than the first, in its units."""
        n_columns = first.n_columns

        def read(buffer: Any) -> tuple[TrainingData, npt.NDArray[np.int64]]:
            rows = flat(buffer)
            if rows.shape[1] != n_columns:
                raise ValueError(
                    f"the stream has a buffer with {rows.shape[1]} columns after one "
                    f"with {n_columns}; all must have the same sites."
                )
            check_finite(rows, type(self).__name__, of="A buffer of the stream")
            rows = rows if rows.dtype in (*DTYPES, np.float16) else rows.astype(float)
            used = self._rows_to_use(rows, typical)
            return self._training_data(rows, first.scaling), used

        return read

    def _running(
        self,
        method: str,
        given: Any,
        y: Any,
        X: FloatArray,
        n_passes: int,
        weights: UserWeights | None,
        passes: Passes,
        goes_on: bool = False,
    ) -> RunningFit:
        """A fit that callbacks can be told of; one that goes on draws no seed."""
        return RunningFit(
            self,
            method,
            given,
            y,
            X,
            seed=0 if goes_on else self._drawn_seed(),
            n_passes=n_passes,
            n_samples=passes.n_samples(X),
            start={} if weights is None else weights.arrays(),
        )

    def _drawn_seed(self) -> int:
        return int(check_seed(self.random_state).randint(2**31 - 1))

    def _typical_norms(self, X: FloatArray, layout: dict[str, Any]) -> TypicalNorms:
        rows = np.arange(len(X))
        return TypicalNorms.measure(X, rows, layout["n_sites_"], center=self.center)

    def _rows_to_use(
        self, X: FloatArray, typical: TypicalNorms
    ) -> npt.NDArray[np.int64]:
        """All rows, without outliers if they are to be left out."""
        rows = np.arange(len(X))
        if self.outlier_threshold is None:
            return rows
        outliers = Outliers(self._number("outlier_threshold"))
        rows = without_outliers(X, rows, typical, outliers)
        if len(rows) < min(2, len(X)):
            raise ValueError(
                f"outlier_threshold={self.outlier_threshold} leaves {len(rows)} of "
                f"{len(X)} samples; raise it."
            )
        return rows

    def _split(
        self, rows: npt.NDArray[np.int64], generator: torch.Generator
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
        """Rows to train on, and those held out."""
        if not self.early_stopping:
            return rows, None
        n_samples, n_validation = len(rows), self._n_validation(len(rows))
        order = torch.randperm(n_samples, generator=generator).numpy()
        return rows[np.sort(order[n_validation:])], rows[np.sort(order[:n_validation])]

    def _n_validation(self, n_samples: int) -> int:
        """How many samples are held out."""
        if not self.early_stopping:
            return 0
        n_validation = math.ceil(self.validation_fraction * n_samples)
        if n_samples - n_validation < 2:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of {n_samples} "
                "samples leaves fewer than 2 to train on; lower it or set "
                "early_stopping=False."
            )
        return n_validation

    def _measured_data(
        self,
        X: FloatArray,
        layout: dict[str, Any],
        rows: npt.NDArray[np.int64],
        typical: TypicalNorms,
        offset: FloatArray | None,
        processes: Processes,
    ) -> TrainingData:
        """Activations in training units, which are measured on some rows."""
        outliers = Outliers(_OUTLIER_RATIO)
        scaling = measure_sites(
            X,
            rows,
            layout["n_sites_"],
            center=self.center,
            normalize=self.normalize,
            offset=offset,
            watch=(typical, outliers) if self.outlier_threshold is None else None,
        )
        warn_of_constant_sites(scaling)
        warn_of_outliers(outliers)
        return self._training_data(X, processes.from_first(scaling))

    def _training_data(self, X: FloatArray, scaling: SiteScaling) -> TrainingData:
        dtype = torch_dtype(self._output_dtype(X))
        return TrainingData(X, scaling, dtype, self._torch_device())

    def _frozen_mlps(self, data: TrainingData) -> list[FrozenMLP]:
        n_sites = len(data.scaling.scale_L)
        mlps = check_mlps(self.mlp, n_sites, data.n_columns // n_sites)
        check_provable(mlps, self.lam_margin, self.lam_interval)
        return freeze_mlps(
            mlps, data.scaling.offset_F, n_sites, dtype=data.dtype, device=data.device
        )

    def _given_offset(self, X: FloatArray) -> FloatArray | None:
        """The decoder's bias that training has to keep; None if it may choose one."""
        is_given = getattr(self, "_intercept_is_given", False)
        return (
            self.intercept_ if is_given and len(self.intercept_) == X.shape[1] else None
        )

    def _fitted_weights(
        self, settings: FitSettings, X: FloatArray
    ) -> UserWeights | None:
        """Weights to start from, or None if the estimator is not fitted."""
        if not hasattr(self, "components_"):
            return None
        shape = settings.n_components, X.shape[1]
        if self.components_.shape != shape:
            raise ValueError(
                f"The fitted components have shape {self.components_.shape}, but "
                f"n_components and X ask for {shape}; keep n_components and the width "
                "of X, or call fit with warm_start=False."
            )
        return UserWeights(
            self.encoder_components_,
            self.encoder_intercept_,
            self.components_,
            self.threshold_,
        )

    def _check_goes_on(self) -> None:
        """Raise if a fit that has begun cannot go on with the parameters."""
        n_sites = self.n_sites_
        width = self.n_features_in_ // n_sites
        fitted = {
            "n_components": len(self.components_),
            "activation": self.activation_,
            "mlp": self.mlp_,
            "n_sites": n_sites,
            **getattr(self, "_fixed", {}),
        }
        mlps = check_mlps(self.mlp, n_sites, width)
        now = {
            "n_components": self._resolved_n_components(width),
            "activation": self.activation,
            "mlp": None if mlps is None else tuple(mlps),
            "n_sites": self.n_sites or n_sites,
            "center": self.center,
            "normalize": self.normalize,
        }
        state = getattr(self, "_training_state", None)
        if state is not None:
            fitted["max_iter"], now["max_iter"] = state["max_iter"], self.max_iter
        for name, value in now.items():
            if value != fitted.get(name, value):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not what the fit began with, "
                    f"{fitted[name]!r}; set it back to go on with partial_fit, or call "
                    "fit, with warm_start=True to begin from the fitted weights."
                )
