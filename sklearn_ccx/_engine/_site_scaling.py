"""Units of the sites: from the user's to those of training, and back."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


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
    training_variance_L : ndarray of shape (L,), float64
        Total variance of each site in training units.
    is_constant_L : ndarray of shape (L,), bool
        Sites without variance; they take no part in the reconstruction loss.
    """

    offset_F: FloatArray
    scale_L: FloatArray
    mean_F: FloatArray
    training_variance_L: FloatArray
    is_constant_L: npt.NDArray[np.bool_]

    @property
    def scale_F(self) -> FloatArray:
        """The sites' scales repeated over their columns."""
        return np.repeat(self.scale_L, len(self.offset_F) // len(self.scale_L))

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
