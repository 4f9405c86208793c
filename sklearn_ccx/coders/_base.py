"""What InteractionCrosscoder and InteractionSAE share: the scikit-learn contract."""

import math
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
    clone,
)
from sklearn.utils import check_array, check_random_state, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from .._engine.activations._code_activation import keep_above, keep_largest
from .._engine._site_scaling import is_constant
from .._engine._tensors import to_numpy, to_tensor, torch_dtype
from ..networks._mlp_weights import MLPWeights
from ..activations._sharded import ShardedActivations
from ..networks._site_mlps import check_mlps
from ._training_run import FittedWeights, TrainingRun

FloatArray = npt.NDArray[np.floating]

# Gradient steps that max_iter=None stands for, if one pass takes fewer.
_DEFAULT_N_STEPS = 1000

# Kept as they are; everything else becomes the first.
_DTYPES = (np.float32, np.float64)

# Attributes that a fit may leave unset; those of an earlier fit must not survive it.
_NOT_IN_EVERY_FIT = (
    "feature_names_in_",
    "validation_loss_curve_",
    "best_validation_loss_",
    "_training_state",
)

# Bytes of float64 that one batch of transform or score may take.
_INFERENCE_BYTES = 2**27


def _supports_partial_fit(estimator: "BaseInteractionCoder") -> bool:
    if estimator.early_stopping:
        raise AttributeError(
            "partial_fit does not support early_stopping=True; "
            "set early_stopping=False or use fit."
        )
    return True


class BaseInteractionCoder(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Base of the estimators; subclasses say how X is laid out in sites."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "k": [Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({"batchtopk", "topk", "relu", "jumprelu"})],
        "l1_coefficient": [Interval(Real, 0, None, closed="left")],
        "lam": [Interval(Real, 0, None, closed="left")],
        "lam_fidelity": [Interval(Real, 0, None, closed="left")],
        "lam_margin": [Interval(Real, 0, None, closed="left")],
        "lam_interval": [Interval(Real, 0, None, closed="left")],
        "n_dominant": [Interval(Integral, 1, None, closed="left")],
        "mlp": [MLPWeights, list, tuple, None],
        "center": ["boolean"],
        "normalize": ["boolean"],
        "aux_k": [Interval(Integral, 0, None, closed="left"), None],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left"), None],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "warm_start": ["boolean"],
        "device": [str, torch.device],
        "dtype": [StrOptions({"auto", "float32", "float64"})],
        "mixed_precision": ["boolean"],
        "sparse_output": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # Set by the subclasses' __init__.
    n_components: int | None
    k: int
    activation: str
    l1_coefficient: float
    lam: float
    lam_fidelity: float
    lam_margin: float
    lam_interval: float
    n_dominant: int
    mlp: MLPWeights | list[MLPWeights] | tuple[MLPWeights, ...] | None
    center: bool
    normalize: bool
    aux_k: int | None
    learning_rate_init: float
    batch_size: int
    max_iter: int | None
    tol: float
    n_iter_no_change: int
    early_stopping: bool
    validation_fraction: float
    warm_start: bool
    device: str | torch.device
    dtype: str
    mixed_precision: bool
    sparse_output: bool
    random_state: int | np.random.RandomState | None
    verbose: int | bool

    def _number_of_sites(self, shape: tuple[int, ...]) -> int:
        """Sites in a row of activations of this shape; raises if it has none."""
        raise NotImplementedError

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Learn the features from activations.

        Parameters
        ----------
        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
            Activations; :class:`InteractionSAE` takes the first shape only. float32
            and float64 are used as they are; memory-mapped arrays and
            :class:`~sklearn_ccx.lm.ShardedActivations` are read batch by batch.

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
            not fit X.

        Warns
        -----
        ConvergenceWarning
            If the training diverged. The weights from before the diverging pass
            are kept.
        UserWarning
            If a site does not vary. It takes no part in the reconstruction loss.
        """
        X, layout = self._validate_new_activations(X)
        generator = self._new_generator()
        train_rows, validation_rows = self._split(len(X), generator)
        n_passes = self._planned_passes(len(train_rows))
        run = TrainingRun.start(
            self,
            X,
            train_rows,
            layout["n_sites_"],
            n_passes,
            generator,
            self._fitted_weights() if self.warm_start else None,
        )
        history = run.train(train_rows, validation_rows, n_passes)
        self._export(run, history, train_rows, layout)
        if validation_rows is not None:
            self.validation_loss_curve_ = run.validation_losses
            self.best_validation_loss_ = min(run.validation_losses, default=math.nan)
        return self

    @available_if(_supports_partial_fit)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Train for one pass over X, going on where the last call stopped.

        The scaling of the sites and of the penalties is measured on the X of the
        first call. ``max_iter`` is the number of calls planned: the learning rate
        falls to zero towards the last one and starts over after it. With
        ``max_iter=k`` and the same X, `k` calls equal one :meth:`fit`.

        Parameters
        ----------
        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
            Activations, or one part of them.

        y : Ignored
            Present for the scikit-learn API.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            As in :meth:`fit`.
        AttributeError
            With ``early_stopping=True``, which needs all passes at once.
        """
        state = getattr(self, "_training_state", None)
        fitted = self._fitted_weights()
        if fitted is None:
            X, layout = self._validate_new_activations(X)
        else:
            X, layout = self._validate_activations(X), {"n_sites_": self.n_sites_}
        rows = np.arange(len(X))
        history: dict[str, FloatArray] = {}
        if state is None:
            n_sites, n_passes = layout["n_sites_"], self._planned_passes(len(X))
            generator = self._new_generator()
            run = TrainingRun.start(self, X, rows, n_sites, n_passes, generator, fitted)
        else:
            run = TrainingRun.resume(self, X, state)
            history = self.history_
        new = run.train(rows, None, 1)
        joined = {key: np.append(history.get(key, []), new[key]) for key in new}
        self._export(run, joined, rows, layout)
        self._training_state = run.get_state()
        return self

    def transform(self, X: npt.ArrayLike) -> FloatArray | sparse.csr_array:
        """Encode activations as sparse, non-negative codes.

        The code of a row does not depend on the rows beside it.

        Parameters
        ----------
        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
            Activations.

        Returns
        -------
        codes : {ndarray, csr_array} of shape (n_samples, n_components)
            How strongly each feature is active, 0 where it is not. A csr_array with
            ``sparse_output=True``.

        Raises
        ------
        ValueError
            If the shape of X does not match the activations seen in ``fit``.
        NotFittedError
            If the estimator is not fitted.
        """
        check_is_fitted(self)
        X = self._validate_activations(X)
        batches = (codes_BM.cpu().numpy() for _, codes_BM in self._encode_batches(X))
        if self.sparse_output:
            return sparse.vstack(list(map(sparse.csr_array, batches)), format="csr")
        codes = np.empty((len(X), len(self.components_)), dtype=self._output_dtype(X))
        start = 0
        for batch in batches:
            codes[start : start + len(batch)] = batch
            start += len(batch)
        return codes

    def inverse_transform(self, X: Any) -> FloatArray:
        """Reconstruct activations from codes: ``X @ components_ + intercept_``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_components)
            Codes.

        Returns
        -------
        activations : ndarray of shape (n_samples, d) or (n_samples, n_sites, d)
            In the user's units, of the rank that ``fit`` was given.

        Raises
        ------
        ValueError
            If X does not have one column for each feature.
        NotFittedError
            If the estimator is not fitted.
        """
        check_is_fitted(self)
        codes = check_array(X, dtype=_DTYPES, accept_sparse="csr")
        n_components = len(self.components_)
        if codes.shape[1] != n_components:
            raise ValueError(
                f"X has {codes.shape[1]} columns, but {type(self).__name__} has "
                f"{n_components} components; pass codes as returned by transform, "
                f"of shape (n_samples, {n_components})."
            )
        components = self.components_.astype(codes.dtype, copy=False)
        intercept = self.intercept_.astype(codes.dtype, copy=False)
        X = codes @ components + intercept
        return X.reshape(len(X), self.n_sites_, -1) if self._is_three_d else X

    def score(self, X: npt.ArrayLike, y: object = None) -> float:
        r"""Explained variance of the reconstruction, averaged over the sites.

        At each site it is
        :math:`1 - \sum_b \|x_b - \hat x_b\|^2 / \sum_b \|x_b - \bar x\|^2`, with the
        mean over the samples of X: predicting the mean scores 0. Penalties do not
        enter. For one site it is ``r2_score(..., multioutput="variance_weighted")``.

        Parameters
        ----------
        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
            Activations.

        y : Ignored
            Present for the scikit-learn API.

        Returns
        -------
        float
            At most 1. Sites that do not vary in X are left out; without any
            varying site, 1 if the reconstruction is exact, else 0.
        """
        check_is_fitted(self)
        X, n_sites = self._validate_activations(X), self.n_sites_
        batches = gen_batches(len(X), max(1, _INFERENCE_BYTES // (8 * X.shape[1])))
        mean = sum(X[batch].sum(axis=0, dtype=np.float64) for batch in batches) / len(X)
        error_L, total_L, square_L = np.zeros((3, n_sites))
        for batch, codes_BM in self._encode_batches(X):
            codes = codes_BM.cpu().numpy()
            rows = X[batch].astype(np.float64)
            recon = codes @ self.components_ + self.intercept_
            by_site = (len(rows), n_sites, -1)
            error_L += np.square(rows - recon).reshape(by_site).sum(axis=(0, 2))
            total_L += np.square(rows - mean).reshape(by_site).sum(axis=(0, 2))
            square_L += np.square(rows).reshape(by_site).sum(axis=(0, 2))
        varies = ~is_constant(total_L, square_L)
        if not varies.any():
            return float(is_constant(error_L, square_L).all())
        return float(np.mean(1.0 - error_L[varies] / total_L[varies]))

    def _validate_new_activations(self, X: Any) -> tuple[FloatArray, dict[str, Any]]:
        """Flattened activations to fit, and the attributes that describe them.

        Nothing is set on the estimator, so that a fit which fails or is interrupted
        leaves it as it was.
        """
        X = _as_array(X)
        n_sites = self._number_of_sites(X.shape)
        layout = {"n_sites_": n_sites, "_is_three_d": len(X.shape) == 3}
        X = _flatten_sites(X)
        if len(X.shape) == 2:
            check_mlps(self.mlp, n_sites, X.shape[1] // n_sites)
        probe = clone(self)
        X = _validate(probe, X, reset=True, ensure_min_samples=2)
        names = ("n_features_in_", "feature_names_in_")
        layout |= {name: getattr(probe, name) for name in names if hasattr(probe, name)}
        return X, layout

    def _validate_activations(self, X: Any) -> FloatArray:
        """Flattened activations that match those of the fit."""
        X = _as_array(X)
        if len(X.shape) > 2:
            self._number_of_sites(X.shape)
            n_sites = self.n_sites_
            width = self.n_features_in_ // n_sites
            if X.shape[1:] != (n_sites, width):
                raise ValueError(
                    f"X has shape {tuple(X.shape)}, but {type(self).__name__} was "
                    f"fitted with {n_sites} site(s) of width {width}; pass X of shape "
                    f"(n_samples, {n_sites}, {width})."
                )
        X = _flatten_sites(X)
        return _validate(self, X, reset=False)

    def _new_generator(self) -> torch.Generator:
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        return torch.Generator().manual_seed(int(seed))

    def _split(
        self, n_samples: int, generator: torch.Generator
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
        rows = np.arange(n_samples)
        if not self.early_stopping:
            return rows, None
        n_validation = math.ceil(self.validation_fraction * n_samples)
        if n_samples - n_validation < 2:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of {n_samples} "
                "samples leaves fewer than 2 to train on; lower it or set "
                "early_stopping=False."
            )
        order = torch.randperm(n_samples, generator=generator).numpy()
        return np.sort(order[n_validation:]), np.sort(order[:n_validation])

    def _planned_passes(self, n_train: int) -> int:
        if self.max_iter is not None:
            return self.max_iter
        return math.ceil(_DEFAULT_N_STEPS / math.ceil(n_train / self.batch_size))

    def _torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return torch.empty(0, device=self.device).device
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"device={self.device!r} cannot be used here; "
                'use device="auto" or "cpu".'
            ) from error

    def _output_dtype(self, X: FloatArray) -> np.dtype[Any]:
        return X.dtype if self.dtype == "auto" else np.dtype(self.dtype)

    def _encode_batches(
        self, X: FloatArray, batch_size: int | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Codes of the rows, batch by batch, in the dtype of the output."""
        device = self._torch_device()
        dtype = torch_dtype(self._output_dtype(X))
        W_enc_MF = to_tensor(self.encoder_components_, dtype, device)
        b_enc_M = to_tensor(self.encoder_intercept_, dtype, device)
        threshold = to_tensor(np.asarray(self.threshold_), dtype, device)
        if batch_size is None:
            batch_size = max(1, _INFERENCE_BYTES // (8 * sum(W_enc_MF.shape)))
        for batch in gen_batches(len(X), batch_size):
            x_BF = to_tensor(X[batch], dtype, device)
            pre_BM = torch.addmm(b_enc_M, x_BF, W_enc_MF.T)
            if self.activation == "topk":
                yield batch, keep_largest(pre_BM, self.k_)
            else:
                yield batch, keep_above(pre_BM, threshold)

    def _fitted_weights(self) -> FittedWeights | None:
        """Weights to start from, or None if the estimator is not fitted."""
        if not hasattr(self, "components_"):
            return None
        return FittedWeights(
            self.encoder_components_,
            self.encoder_intercept_,
            self.components_,
            self.threshold_,
        )

    def _export(
        self,
        run: TrainingRun,
        history: dict[str, FloatArray],
        rows: npt.NDArray[np.int64],
        layout: dict[str, Any],
    ) -> None:
        """Set the fitted attributes, in the user's units."""
        evaluation = run.evaluate(rows)
        if "n_features_in_" in layout:
            for name in _NOT_IN_EVERY_FIT:
                self.__dict__.pop(name, None)
        self.__dict__.update(layout)
        model, scaling, dtype = run.model, run.scaling, run.dtype
        W_dec_MF = to_numpy(model.W_dec_MF).astype(np.float64)
        folded = scaling.fold(
            to_numpy(model.W_enc_MF).astype(np.float64),
            to_numpy(model.b_enc_M).astype(np.float64),
            W_dec_MF,
        )
        encoder, encoder_intercept, components = (w.astype(dtype) for w in folded)
        self.components_ = components
        self.intercept_ = scaling.offset_F.astype(dtype)
        self.encoder_components_ = encoder
        self.encoder_intercept_ = encoder_intercept
        self.k_ = run.k
        threshold = model.activation.threshold
        self.threshold_: float | FloatArray = (
            to_numpy(threshold)
            if isinstance(threshold, Tensor) and threshold.ndim
            else float(threshold)
        )
        by_site = W_dec_MF.reshape(len(W_dec_MF), self.n_sites_, -1)
        self.decoder_norms_ = np.linalg.norm(by_site, axis=2).astype(dtype)
        self.site_fvu_ = evaluation.site_fvu
        self.site_norm_ratio_ = evaluation.site_norm_ratio
        self.activation_frequency_ = evaluation.activation_frequency
        self.history_ = history
        self.loss_curve_ = history["loss"].tolist() if history else []
        self.n_iter_ = len(self.loss_curve_)

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)


def _as_array(X: Any) -> Any:
    """Give lists and torch tensors a shape that can be read before validation."""
    if isinstance(X, Tensor):
        X = X.detach().cpu()
        if X.dtype in (torch.float16, torch.bfloat16):
            X = X.float()
        return X.numpy()
    return X if hasattr(X, "shape") else np.asarray(X)


def _validate(
    estimator: BaseEstimator, X: Any, *, reset: bool, ensure_min_samples: int = 1
) -> Any:
    """Validate flattened activations. Those in shards are finite and are not read."""
    if not isinstance(X, ShardedActivations):
        checks = {"dtype": _DTYPES, "ensure_min_samples": ensure_min_samples}
        return validate_data(estimator, X, reset=reset, **checks)
    if len(X) < ensure_min_samples:
        raise ValueError(
            f"X has {len(X)} sample(s), but {type(estimator).__name__} needs at least "
            f"{ensure_min_samples}."
        )
    return validate_data(estimator, X, reset=reset, skip_check_array=True)


def _flatten_sites(X: Any) -> Any:
    """One row for each sample."""
    if len(X.shape) != 3:
        return X
    return X.reshape(len(X), X.shape[1] * X.shape[2])
