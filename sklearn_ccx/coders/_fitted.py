"""What a fitted coder does with activations: codes, reconstruction, score."""

import math
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils import check_array, gen_batches
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from .._engine._measure_sites import is_constant, site_units
from .._engine._tensors import to_tensor, torch_dtype
from .._engine._threads import threads_for
from .._engine._torch_state import with_torch_state
from .._engine.activations import keep_above, keep_largest
from .._validation import as_numbers, errors_of_conversion
from ..activations import ActivationStream
from ..networks import MLPWeights, check_mlps
from ._given_weights import GivenWeights, given_threshold
from ._parameters import CoderParameters
from ._rows import DTYPES, batch_length, computed_dtype, flat, validated

FloatArray = npt.NDArray[np.floating]


class FittedCoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, CoderParameters):
    """What does not depend on how a coder was trained.

    Subclasses say how X is laid out in sites.
    """

    components_: FloatArray
    intercept_: FloatArray
    encoder_components_: FloatArray
    encoder_intercept_: FloatArray
    threshold_: float | FloatArray
    k_: int
    activation_: str
    mlp_: tuple[MLPWeights, ...] | None
    n_dominant_: int
    n_sites_: int
    n_features_in_: int
    decoder_norms_: FloatArray
    activation_frequency_: FloatArray
    site_fvu_: FloatArray
    site_norm_ratio_: FloatArray
    history_: dict[str, FloatArray]
    loss_curve_: list[float]
    n_iter_: int
    _is_three_d: bool
    # Whether training keeps the decoder's bias instead of taking the mean of X.
    _intercept_is_given: bool

    # Axes that activations may have.
    _max_ndim: ClassVar[int]

    def _number_of_sites(self, shape: tuple[int, ...]) -> int:
        """Sites in a row of activations of this shape; raises if it has none."""
        raise NotImplementedError

    @classmethod
    def from_weights(
        cls,
        W_enc: npt.ArrayLike,
        W_dec: npt.ArrayLike,
        *,
        b_enc: npt.ArrayLike | None = None,
        b_dec: npt.ArrayLike | None = None,
        activation: str = "relu",
        k: int | None = None,
        threshold: npt.ArrayLike | None = None,
        input_offset: npt.ArrayLike = 0.0,
        input_scale: npt.ArrayLike = 1.0,
        **params: Any,
    ) -> Self:
        r"""Make a fitted estimator of a dictionary that was trained elsewhere.

        The code of activations :math:`x` is

        .. math::

            a = \sigma(\tilde x W_{enc} + b_{enc}), \qquad
            \tilde x = \mathtt{input\_scale} \odot (x - \mathtt{input\_offset}),

        and :math:`a W_{dec} + b_{dec}` is the reconstruction of :math:`\tilde x`.
        Offset and scale are folded into the weights, so that ``transform`` and
        ``inverse_transform`` speak the units of X. No data is needed.

        Parameters
        ----------
        W_enc : array-like of shape (d, n_components) or (n_sites, d, n_components)
            Encoder. The second shape is for :class:`InteractionCrosscoder`. float16,
            bfloat16 and float32 are held in float32, all else in float64.

        W_dec : array-like of shape (n_components, d) or (n_components, n_sites, d)
            Decoder.

        b_enc : array-like of shape (n_components,), default=None
            Bias of the encoder. None is zero.

        b_dec : array-like of shape (d,) or (n_sites, d), default=None
            Bias of the decoder. None is zero.

        activation : {"relu", "topk", "batchtopk", "jumprelu"}, default="relu"
            The nonlinearity :math:`\sigma` of ``transform``: "relu" keeps what is
            positive, "topk" the `k` largest of each sample that are, "batchtopk" and
            "jumprelu" what is positive and above `threshold`.

        k : int, default=None
            Active features per sample. "topk" needs it; for "batchtopk" and "jumprelu"
            it is what training goes on with, and None is 32.

        threshold : float or array-like of shape (n_components,), default=None
            Pre-activation above which a feature is active. "jumprelu" needs it, and
            so does "batchtopk", which takes a number.

        input_offset : float or array-like of shape (d,) or (n_sites, d), default=0
            What is subtracted from the activations. A crosscoder also takes shape
            `(n_sites,)`.

        input_scale : float or array-like of shape (d,) or (n_sites, d), default=1
            What they are then multiplied by.

        **params : dict
            Other parameters of the estimator, such as `mlp`.

        Returns
        -------
        estimator : object
            A fitted estimator. `history_` is empty, `n_iter_` 0, and
            `activation_frequency_`, `site_fvu_` and `site_norm_ratio_` are NaN, since
            nothing was measured.

        Raises
        ------
        ValueError
            If shapes do not fit together, an entry is not a finite number, or an
            activation lacks its `k` or `threshold`, or has one that it does not use.

        Notes
        -----
        :meth:`partial_fit`, and :meth:`fit` with ``warm_start=True``, go on training
        the dictionary. Its decoder's bias stays as it is, whatever `center` says.
        Training holds decoder rows at unit norm. Where they are not, "topk" then keeps
        the features whose code times that norm is largest, which may be others.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_ccx import InteractionSAE, interaction_scores
        >>> rng = np.random.default_rng(0)
        >>> W_dec = rng.normal(size=(16, 8))
        >>> sae = InteractionSAE.from_weights(W_dec.T, W_dec, activation="topk", k=2)
        >>> X = rng.normal(size=(4, 8))
        >>> (sae.transform(X) > 0).sum(axis=1)
        array([2, 2, 2, 2])
        >>> interaction_scores(sae, X).round(2)
        array([ 8.86, 13.2 , 13.18, 13.23])
        """
        given = GivenWeights.read(
            W_enc,
            W_dec,
            b_enc,
            b_dec,
            input_offset,
            input_scale,
            max_ndim=cls._max_ndim,
        )
        n_components, dtype = len(given.components), given.components.dtype
        if k is not None:
            params["k"] = k
        estimator = cls(n_components, activation=activation, **params)
        estimator._validate_params()
        if activation == "topk" and k is None:
            raise ValueError(
                'activation="topk" needs k, the number of active features.'
            )
        n_sites = estimator._number_of_sites(given.shape)
        mlps = check_mlps(estimator.mlp, n_sites, given.width)
        estimator.components_ = given.components
        estimator.intercept_ = given.intercept
        estimator.encoder_components_ = given.encoder_components
        estimator.encoder_intercept_ = given.encoder_intercept
        estimator.threshold_ = given_threshold(
            threshold, activation, n_components, dtype
        )
        estimator.k_ = min(int(estimator.k), n_components)
        estimator.activation_ = activation
        estimator.mlp_ = None if mlps is None else tuple(mlps)
        estimator.n_dominant_ = int(estimator.n_dominant)
        estimator.n_sites_, estimator.n_features_in_ = n_sites, n_sites * given.width
        estimator._is_three_d = given.is_three_d
        estimator.decoder_norms_ = given.decoder_norms()
        estimator.activation_frequency_ = np.full(n_components, np.nan)
        estimator.site_fvu_, estimator.site_norm_ratio_ = np.full((2, n_sites), np.nan)
        estimator.history_, estimator.loss_curve_, estimator.n_iter_ = {}, [], 0
        estimator._intercept_is_given = True
        return estimator

    @with_torch_state()
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
        with threads_for(len(X) * self.components_.size):
            if self.sparse_output:
                return self._encode_sparsely(X)
            shape = len(X), len(self.components_)
            codes = np.empty(shape, dtype=self._output_dtype(X))
            for rows, codes_BM in self._encode_batches(X):
                codes[rows] = codes_BM.cpu().numpy()
        return codes

    @with_torch_state()
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
        with errors_of_conversion("X"):
            codes = check_array(as_numbers(X, "X"), dtype=DTYPES, accept_sparse="csr")
        n_components = len(self.components_)
        if codes.shape[1] != n_components:
            raise ValueError(
                f"X has {codes.shape[1]} columns, but {type(self).__name__} has "
                f"{n_components} components; pass codes as returned by transform, "
                f"of shape (n_samples, {n_components})."
            )
        components = self.components_.astype(codes.dtype, copy=False)
        intercept = self.intercept_.astype(codes.dtype, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            X = codes @ components + intercept
        if not np.isfinite(X).all():
            raise ValueError(
                f"X has codes too large for {X.dtype}: what they reconstruct is not "
                "finite. Divide them by a constant, or pass them in float64."
            )
        return X.reshape(len(X), self.n_sites_, -1) if self._is_three_d else X

    @with_torch_state()
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
        sum_F, largest_F = np.zeros((2, X.shape[1]))
        for batch in gen_batches(len(X), batch_length(X.shape[1])):
            rows = np.asarray(X[batch], dtype=np.float64)
            sum_F += rows.sum(axis=0)
            np.maximum(largest_F, np.abs(rows).max(axis=0), out=largest_F)
        mean = sum_F / len(X)
        by_site = n_sites, -1
        unit_F = np.repeat(site_units(largest_F, n_sites), X.shape[1] // n_sites)
        error_L, total_L, square_L = np.zeros((3, n_sites))
        for batch, codes_BM in self._encode_batches(X):
            codes = codes_BM.cpu().numpy()
            rows = np.asarray(X[batch], dtype=np.float64)
            recon = codes @ self.components_ + self.intercept_
            for sums_L, values in (
                (error_L, rows - recon),
                (total_L, rows - mean),
                (square_L, rows),
            ):
                with np.errstate(over="ignore"):
                    squares = np.square(values / unit_F)
                    sums_L += squares.reshape(len(rows), *by_site).sum(axis=(0, 2))
        varies = ~is_constant(total_L, square_L)
        if not varies.any():
            return float(is_constant(error_L, square_L).all())
        with np.errstate(over="ignore"):
            score = float(np.mean(1.0 - error_L[varies] / total_L[varies]))
        if not math.isfinite(score):
            warnings.warn(
                f"The score is {score}: what the features reconstruct is of quite "
                "another size than X. Pass X in the units of the fit.",
                UserWarning,
                stacklevel=3,
            )
        return score

    def _validate_new_activations(self, X: Any) -> tuple[FloatArray, dict[str, Any]]:
        """Flattened activations to fit, and the attributes that describe them.

        Nothing is set on the estimator, so that a fit which fails or is interrupted
        leaves it as it was.
        """
        X = as_numbers(X, "X")
        n_sites = self._number_of_sites(X.shape)
        layout = {"n_sites_": n_sites, "_is_three_d": len(X.shape) == 3}
        X = flat(X)
        if len(X.shape) == 2:
            check_mlps(self.mlp, n_sites, X.shape[1] // n_sites)
        probe = clone(self)
        X = validated(probe, X, reset=True, ensure_min_samples=2)
        names = ("n_features_in_", "feature_names_in_")
        layout |= {name: getattr(probe, name) for name in names if hasattr(probe, name)}
        if layout["_is_three_d"] and n_sites > len(X):
            warnings.warn(
                f"X has {n_sites} sites but {len(X)} samples. If its shape is (batch, "
                "positions, d), make a sample of each position: "
                "X.reshape(-1, X.shape[-1]).",
                UserWarning,
                stacklevel=5,
            )
        return X, layout

    def _validate_activations(self, X: Any) -> FloatArray:
        """Flattened activations that match those of the fit."""
        self._check_parameters("dtype", "device", "n_sites", "sparse_output")
        if isinstance(X, ActivationStream):
            raise TypeError(
                "X is an ActivationStream, which only fit and partial_fit take; pass "
                "the rows of a buffer, X.buffer(0)."
            )
        X = as_numbers(X, "X")
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
        return validated(self, flat(X), reset=False)

    def _output_dtype(self, X: Any) -> np.dtype[Any]:
        """The precision of the computation on validated activations."""
        return computed_dtype(X) if self.dtype == "auto" else np.dtype(self.dtype)

    def _encode_batches(
        self, X: FloatArray, batch_size: int | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Codes of the rows, batch by batch, in the dtype of the output."""
        device = self._torch_device()
        dtype = torch_dtype(self._output_dtype(X))
        W_enc_MF = to_tensor(self.encoder_components_, dtype, device)
        b_enc_M = to_tensor(self.encoder_intercept_, dtype, device)
        threshold = to_tensor(np.asarray(self.threshold_), dtype, device)
        for batch in gen_batches(
            len(X), batch_size or batch_length(sum(W_enc_MF.shape))
        ):
            x_BF = to_tensor(X[batch], dtype, device)
            pre_BM = torch.addmm(b_enc_M, x_BF, W_enc_MF.T)
            if self.activation_ == "topk":
                yield batch, keep_largest(pre_BM, self.k_)
            else:
                yield batch, keep_above(pre_BM, threshold)

    def _encode_sparsely(self, X: FloatArray) -> sparse.csr_array:
        """Codes of validated activations, in memory that grows with the active ones."""
        batches = [
            sparse.csr_array(codes_BM.cpu().numpy())
            for _, codes_BM in self._encode_batches(X)
        ]
        return sparse.csr_array(sparse.vstack(batches, format="csr"))

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)
