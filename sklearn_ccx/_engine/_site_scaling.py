"""Units of the sites: from the user's to those of training, and back."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]

# Size of the float64 copy of some rows that is held while the data is measured.
_CHUNK_BYTES = 2**26

# Standard deviation, relative to the root mean square, up to which a site counts
# as constant: what is left is rounding of the input.
_CONSTANT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class SiteScaling:
    """Training units are ``(x - offset) * scale``, with one scale for each site.

    Parameters
    ----------
    offset_F : ndarray of shape (F,), float64
        The decoder's bias in the user's units.
    scale_L : ndarray of shape (L,), float64
        ``sqrt(D) / E|x_l - offset_l|``, or 1 without normalisation.
    mean_F : ndarray of shape (F,), float64
        Data mean in the user's units.
    variance_L : ndarray of shape (L,), float64
        Total variance of each site in the user's units.
    is_constant_L : ndarray of shape (L,), bool
        Sites without variance; they take no part in the reconstruction loss.
    """

    offset_F: FloatArray
    scale_L: FloatArray
    mean_F: FloatArray
    variance_L: FloatArray
    is_constant_L: npt.NDArray[np.bool_]

    @property
    def scale_F(self) -> FloatArray:
        """The sites' scales repeated over their columns."""
        return np.repeat(self.scale_L, len(self.offset_F) // len(self.scale_L))

    @property
    def training_variance_L(self) -> FloatArray:
        """Total variance of each site in training units."""
        return self.variance_L * self.scale_L**2

    def fold(
        self, W_enc_MF: FloatArray, b_enc_M: FloatArray, W_dec_MF: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Encoder weights, encoder bias and decoder that work on the user's units."""
        W_enc_user_MF = W_enc_MF * self.scale_F
        return (
            W_enc_user_MF,
            b_enc_M - W_enc_user_MF @ self.offset_F,
            W_dec_MF / self.scale_F,
        )

    def unfold(
        self, W_enc_MF: FloatArray, b_enc_M: FloatArray, W_dec_MF: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Undo :meth:`fold`, with decoder rows of unit norm.

        A row that :meth:`fold` made under another scaling loses its unit norm;
        the norm moves to the codes, which leaves the reconstruction as it was. The
        norms are returned last, as the factors from the old codes to the new.
        """
        W_dec_MF = W_dec_MF * self.scale_F
        norm_M = np.linalg.norm(W_dec_MF, axis=1)
        norm_M[norm_M == 0.0] = 1.0
        b_enc_M = b_enc_M + W_enc_MF @ self.offset_F
        return (
            W_enc_MF / self.scale_F * norm_M[:, np.newaxis],
            b_enc_M * norm_M,
            W_dec_MF / norm_M[:, np.newaxis],
            norm_M,
        )

    def unit_rows_on_varying_sites(self, rows_MF: FloatArray) -> FloatArray:
        """Rows without the columns of constant sites, at unit norm."""
        width = len(self.offset_F) // len(self.scale_L)
        rows_MF = np.where(np.repeat(self.is_constant_L, width), 0.0, rows_MF)
        norm_M1 = np.linalg.norm(rows_MF, axis=1, keepdims=True)
        norm_M1[norm_M1 == 0.0] = 1.0
        return rows_MF / norm_M1


def measure_sites(
    X: FloatArray,
    rows: npt.NDArray[np.int64],
    n_sites: int,
    *,
    center: bool,
    normalize: bool,
) -> SiteScaling:
    """Measure the scaling on ``rows`` of ``X``, shape (n, F), in bounded memory."""
    n_samples, n_features = len(rows), X.shape[1]
    sum_F = np.zeros(n_features)
    for chunk_BF in _chunks(X, rows):
        sum_F += chunk_BF.sum(axis=0)
    mean_F = sum_F / n_samples
    offset_F = mean_F if center else np.zeros(n_features)

    norm_L, variance_L, mean_square_L = np.zeros((3, n_sites))
    for chunk_BF in _chunks(X, rows):
        by_site = (len(chunk_BF), n_sites, -1)
        norm_L += np.linalg.norm((chunk_BF - offset_F).reshape(by_site), axis=2).sum(0)
        variance_L += np.square(chunk_BF - mean_F).reshape(by_site).sum((0, 2))
        mean_square_L += np.square(chunk_BF).reshape(by_site).sum((0, 2))
    norm_L /= n_samples
    variance_L /= n_samples
    mean_square_L /= n_samples

    is_constant_L = is_constant(variance_L, mean_square_L)
    scale_L = np.ones(n_sites)
    if normalize:
        measurable_L = ~is_constant_L if center else norm_L > 0
        width = n_features // n_sites
        scale_L[measurable_L] = np.sqrt(width) / norm_L[measurable_L]
    return SiteScaling(offset_F, scale_L, mean_F, variance_L, is_constant_L)


def is_constant(variance: FloatArray, mean_square: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether a variance is no more than the rounding of its data."""
    return variance <= _CONSTANT_TOLERANCE**2 * mean_square


def _chunks(X: FloatArray, rows: npt.NDArray[np.int64]) -> Iterator[FloatArray]:
    n_rows = max(1, _CHUNK_BYTES // (8 * X.shape[1]))
    for start in range(0, len(rows), n_rows):
        yield X[rows[start : start + n_rows]].astype(np.float64)
