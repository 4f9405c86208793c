"""The parameters of the coders: their constraints, and what they resolve to."""

import math
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator

from .._engine._processes import ALONE, Processes, join_processes, own_cuda_device
from .._engine._settings import FitSettings, LossStrengths
from .._engine._tensors import torch_dtype
from .._sklearn_compat import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)
from .._validation import as_float, check_memory
from ..networks import MLPWeights

# Gradient steps that max_iter=None stands for, if one pass takes fewer.
_DEFAULT_N_STEPS = 1000

# Encoder and decoder, their gradients, and the two moments of each.
_COPIES = 8

# Features for each column of one site when n_components is None.
_DEFAULT_EXPANSION = 4


class CoderParameters(BaseEstimator):
    """Parameters of a coder; :class:`InteractionCrosscoder` documents them."""

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
        "n_sites": [Interval(Integral, 1, None, closed="left"), None],
        "center": ["boolean"],
        "normalize": ["boolean"],
        "outlier_threshold": [Interval(Real, 1, None, closed="neither"), None],
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
        "distributed": [StrOptions({"auto"}), "boolean", None],
        "dtype": [StrOptions({"auto", "float32", "float64"})],
        "mixed_precision": ["boolean"],
        "sparse_output": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_components: int | None = None,
        *,
        k: int = 32,
        activation: str = "batchtopk",
        l1_coefficient: float = 0.2,
        lam: float = 0.1,
        lam_fidelity: float = 0.0,
        lam_margin: float = 0.0,
        lam_interval: float = 0.0,
        n_dominant: int = 1,
        mlp: MLPWeights | list[MLPWeights] | tuple[MLPWeights, ...] | None = None,
        n_sites: int | None = None,
        center: bool = True,
        normalize: bool = True,
        outlier_threshold: float | None = None,
        aux_k: int | None = None,
        learning_rate_init: float = 2e-3,
        batch_size: int = 256,
        max_iter: int | None = None,
        tol: float = 1e-4,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        device: str | torch.device = "auto",
        distributed: str | bool | None = "auto",
        dtype: str = "auto",
        mixed_precision: bool = False,
        sparse_output: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int | bool = 0,
    ) -> None:
        self.n_components = n_components
        self.k = k
        self.activation = activation
        self.l1_coefficient = l1_coefficient
        self.lam = lam
        self.lam_fidelity = lam_fidelity
        self.lam_margin = lam_margin
        self.lam_interval = lam_interval
        self.n_dominant = n_dominant
        self.mlp = mlp
        self.n_sites = n_sites
        self.center = center
        self.normalize = normalize
        self.outlier_threshold = outlier_threshold
        self.aux_k = aux_k
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.device = device
        self.distributed = distributed
        self.dtype = dtype
        self.mixed_precision = mixed_precision
        self.sparse_output = sparse_output
        self.random_state = random_state
        self.verbose = verbose

    def _settings(
        self,
        n_columns: int,
        n_sites: int,
        n_rows: int,
        dtype: np.dtype[Any],
        *,
        n_all: int,
        n_buffers: int,
    ) -> FitSettings:
        """Every default and "auto" resolved for a fit.

        Parameters
        ----------
        n_columns, n_sites : int
            Columns of a row, and the sites they make up.
        n_rows : int
            Rows of the first pass.
        dtype : numpy dtype
            Of the computation.
        n_all, n_buffers : int
            Rows of all passes that make one over all data, and how many these are.
        """
        width = n_columns // n_sites
        n_components = self._resolved_n_components(width)
        check_memory(
            _COPIES * n_components * n_columns * dtype.itemsize,
            {"n_components": n_components, "the columns of X": n_columns},
        )
        if self.mixed_precision and dtype != np.float32:
            raise ValueError(
                "mixed_precision=True computes in bfloat16 and float32, not in "
                'float64; set dtype="float32" or mixed_precision=False.'
            )
        return FitSettings(
            n_components=n_components,
            k=min(int(self.k), n_components),
            activation=self.activation,
            l1_coefficient=self._number("l1_coefficient"),
            strengths=LossStrengths(
                lam=self._number("lam"),
                lam_fidelity=self._number("lam_fidelity"),
                n_dominant=int(self.n_dominant),
                aux_k=width // 2 if self.aux_k is None else self.aux_k,
                lam_margin=self._number("lam_margin"),
                lam_interval=self._number("lam_interval"),
            ),
            learning_rate=self._number("learning_rate_init"),
            batch_size=min(int(self.batch_size), max(1, n_rows)),
            n_passes=n_buffers * self._planned_passes(n_all),
            tol=self._number("tol"),
            n_iter_no_change=int(self.n_iter_no_change),
            dtype=torch_dtype(dtype),
            device=self._torch_device(),
            mixed_precision=bool(self.mixed_precision),
            progress=type(self).__name__ if self.verbose else None,
        )

    def _number(self, name: str) -> float:
        return as_float(getattr(self, name), name)

    def _check_parameters(self, *names: str) -> None:
        """Validate parameters that may have been set after the fit."""
        validate_parameter_constraints(
            {name: self._parameter_constraints[name] for name in names},
            {name: getattr(self, name) for name in names},
            caller_name=type(self).__name__,
        )

    def _resolved_n_components(self, width: int) -> int:
        if self.n_components is None:
            return _DEFAULT_EXPANSION * width
        return int(self.n_components)

    def _planned_passes(self, n_rows: int) -> int:
        if self.max_iter is not None:
            return int(self.max_iter)
        n_steps = math.ceil(n_rows / min(self.batch_size, max(1, n_rows)))
        return math.ceil(_DEFAULT_N_STEPS / n_steps)

    def _processes(self) -> Processes:
        """Those that fit together."""
        if self.distributed is None or not self.distributed:
            return ALONE
        try:
            processes = join_processes(self._torch_device())
        except ValueError as error:
            raise ValueError(
                f"distributed={self.distributed!r} cannot be: {error}. Begin with "
                "torch.distributed.init_process_group() without a backend, which then "
                "serves all devices, or set distributed=None to fit alone."
            ) from error
        if processes is None and self.distributed != "auto":
            raise ValueError(
                "distributed=True needs several processes: start the script with "
                "torchrun --nproc-per-node N, or call "
                "torch.distributed.init_process_group() before. To fit alone where "
                'there are none, set distributed="auto".'
            )
        return processes or ALONE

    def _torch_device(self) -> torch.device:
        if self.device == "auto":
            return (
                own_cuda_device() if torch.cuda.is_available() else torch.device("cpu")
            )
        try:
            device = torch.empty(0, device=self.device).device
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"device={self.device!r} cannot be used here; "
                'use device="auto" or "cpu".'
            ) from error
        if device.type == "meta":
            raise ValueError('device="meta" holds no data; use device="auto" or "cpu".')
        return device
