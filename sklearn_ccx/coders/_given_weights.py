"""Weights of a dictionary that was trained elsewhere, as a fitted coder holds them."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from .._validation import as_weights
from ..networks import row_norms

FloatArray = npt.NDArray[np.floating]

# Activations with a threshold of their own.
_WITH_THRESHOLD = ("batchtopk", "jumprelu")


@dataclass(frozen=True)
class GivenWeights:
    """Validated weights in the units of X; arrays as the attributes of a coder.

    Parameters
    ----------
    encoder_components, components : ndarray of shape (n_components, n_sites * d)
        Encoder and decoder.
    encoder_intercept : ndarray of shape (n_components,)
        Bias of the encoder.
    intercept : ndarray of shape (n_sites * d,)
        Bias of the decoder.
    n_sites : int
        Number of sites.
    is_three_d : bool
        Whether the weights had an axis of sites.
    """

    encoder_components: FloatArray
    components: FloatArray
    encoder_intercept: FloatArray
    intercept: FloatArray
    n_sites: int
    is_three_d: bool

    @property
    def width(self) -> int:
        """Columns of a site."""
        return self.components.shape[1] // self.n_sites

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of activations of one sample that the weights are for."""
        if self.is_three_d:
            return 1, self.n_sites, self.width
        return 1, self.width

    def decoder_norms(self) -> FloatArray:
        """Norm of each feature at each site; the squares of a feature's sum to 1."""
        by_site = self.components.reshape(-1, self.width)
        norms_ML = row_norms(by_site).reshape(-1, self.n_sites)
        total_M1 = row_norms(norms_ML)[:, np.newaxis]
        total_M1[total_M1 == 0.0] = 1.0
        return (norms_ML / total_M1).astype(self.components.dtype)

    @classmethod
    def read(
        cls,
        W_enc: npt.ArrayLike,
        W_dec: npt.ArrayLike,
        b_enc: npt.ArrayLike | None,
        b_dec: npt.ArrayLike | None,
        input_offset: npt.ArrayLike,
        input_scale: npt.ArrayLike,
        *,
        max_ndim: int,
    ) -> Self:
        """Validate the arrays of ``from_weights``.

        Parameters
        ----------
        W_enc, W_dec, b_enc, b_dec, input_offset, input_scale
            As in ``from_weights``.
        max_ndim : int
            3 for coders of several sites, 2 for those of one.

        Raises
        ------
        ValueError
            If shapes do not fit together or an entry is not a finite number.
        """
        W_enc, W_dec = _weights(W_enc, "W_enc"), _weights(W_dec, "W_dec")
        is_single = W_enc.dtype == W_dec.dtype == np.float32
        dtype = np.dtype(np.float32 if is_single else np.float64)
        _check_shapes(W_enc, W_dec, max_ndim)
        n_components, *site_shape = W_dec.shape
        n_sites = site_shape[0] if len(site_shape) == 2 else 1
        bias_M = _filled(b_enc, (n_components,), "b_enc")
        offset = _filled(b_dec, tuple(site_shape), "b_dec").ravel()
        W_enc_MF = W_enc.reshape(-1, n_components).T
        W_dec_MF = W_dec.reshape(n_components, -1)
        shift = _broadcast(input_offset, site_shape, "input_offset")
        scale = _broadcast(input_scale, site_shape, "input_scale")
        if not (scale > 0).all():
            raise ValueError(
                "input_scale must be above 0: it is what the activations are "
                f"multiplied by; got {scale.min():g}."
            )
        if (shift != 0).any() or (scale != 1).any():
            with np.errstate(over="ignore", invalid="ignore"):  # refused below
                W_enc_MF = W_enc_MF * scale
                W_dec_MF = W_dec_MF / scale
                bias_M = bias_M - W_enc_MF @ shift
                offset = offset / scale + shift
        return cls(
            encoder_components=_as_held(W_enc_MF, dtype, "W_enc"),
            components=_as_held(W_dec_MF, dtype, "W_dec"),
            encoder_intercept=_as_held(bias_M, dtype, "b_enc"),
            intercept=_as_held(offset, dtype, "b_dec"),
            n_sites=n_sites,
            is_three_d=len(site_shape) == 2,
        )


def given_threshold(
    threshold: npt.ArrayLike | None,
    activation: str,
    n_components: int,
    dtype: np.dtype[Any],
) -> float | FloatArray:
    """The attribute `threshold_` of a coder with given weights.

    Raises
    ------
    ValueError
        If an activation lacks its threshold, or has one that it does not use.
    """
    if activation not in _WITH_THRESHOLD:
        if threshold is not None:
            raise ValueError(
                f'threshold has no part in activation="{activation}"; use "jumprelu" '
                'or "batchtopk", or leave it out.'
            )
        return 0.0
    if threshold is None:
        raise ValueError(
            f'activation="{activation}" needs threshold, the pre-activation above '
            "which a feature is active."
        )
    array = as_weights(threshold, "threshold").astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError("threshold contains NaN or infinity.")
    # What is not positive is never active, whatever its threshold.
    array = np.maximum(array, 0.0)
    if activation == "batchtopk":
        if array.size != 1:
            raise ValueError(
                'threshold must be one number with activation="batchtopk"; got shape '
                f'{array.shape}. With one for each feature use activation="jumprelu".'
            )
        return float(array.reshape(()))
    if array.size == 1:
        array = np.full(n_components, array.reshape(()))
    if array.shape != (n_components,):
        raise ValueError(
            f"threshold must be a number or have shape ({n_components},), one number "
            f"for each feature; got {array.shape}."
        )
    return np.array(array, dtype=dtype)


def _weights(value: Any, name: str) -> FloatArray:
    """Floats of a precision to compute in."""
    array = as_weights(value, name)
    if array.dtype == np.float32 or array.dtype == np.float16:
        return array.astype(np.float32, copy=False)
    return array.astype(np.float64, copy=False)


def _check_shapes(W_enc: FloatArray, W_dec: FloatArray, max_ndim: int) -> None:
    expected = "W_enc must have shape (d, n_components) and W_dec (n_components, d)"
    if max_ndim == 3:
        expected += ", or (n_sites, d, n_components) and (n_components, n_sites, d)"
    is_known = W_enc.ndim == W_dec.ndim and 2 <= W_dec.ndim <= max_ndim
    if not is_known or W_enc.shape != (*W_dec.shape[1:], W_dec.shape[0]):
        hint = ""
        if is_known and W_enc.T.shape == (*W_dec.shape[1:], W_dec.shape[0]):
            hint = " W_enc may be transposed."
        elif is_known and W_enc.shape == W_dec.shape and W_dec.ndim == 2:
            hint = " One of them is transposed."
        raise ValueError(f"{expected}; got {W_enc.shape} and {W_dec.shape}.{hint}")
    if not W_dec.size:
        raise ValueError(f"W_dec must not be empty; got shape {W_dec.shape}.")


def _filled(bias: Any, shape: tuple[int, ...], name: str) -> npt.NDArray[np.float64]:
    """A bias in float64, zeros for None."""
    if bias is None:
        return np.zeros(shape)
    array = as_weights(bias, name)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; got {array.shape}.")
    return array.astype(np.float64)


def _broadcast(value: Any, site_shape: list[int], name: str) -> npt.NDArray[np.float64]:
    """One number for each column, from one for all, for each site or for each."""
    array = as_weights(value, name).astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    shapes = [(), tuple(site_shape[:1]), tuple(site_shape)]
    if array.shape not in shapes:
        options = " or ".join(map(str, dict.fromkeys(shapes[1:])))
        raise ValueError(
            f"{name} must be a number or have shape {options}; got {array.shape}."
        )
    by_site = array.reshape(array.shape + (1,) * (len(site_shape) - array.ndim))
    return np.broadcast_to(by_site, site_shape).ravel()


def _as_held(array: npt.NDArray[Any], dtype: np.dtype[Any], name: str) -> FloatArray:
    """A copy as the coder holds it."""
    with np.errstate(over="ignore"):  # what does not fit is refused below
        held = np.array(array, dtype=dtype, order="C")
    if not np.isfinite(held).all():
        raise ValueError(
            f"{name} contains NaN or infinity, or does in the units of X; it must be "
            f"finite in {dtype}."
        )
    return held
