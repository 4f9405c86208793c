"""Means, scales and outliers of activations, in bounded memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ._data import Rows, spread
from ._site_scaling import SiteScaling
from ._tensors import power_of_two_near

FloatArray = npt.NDArray[np.float64]

# Size of the float64 copy of some rows that is held while the data is measured.
_CHUNK_BYTES = 2**26

# Standard deviation, relative to the root mean square, up to which a site counts
# as constant: what is left is rounding of the input.
_CONSTANT_TOLERANCE = 1e-6

# Rows that tell what norm is typical.
_MAX_TYPICAL_ROWS = 1024

# How many outliers are named.
_MAX_NAMED = 5


@dataclass(frozen=True)
class TypicalNorms:
    """What norm the rows of some activations typically have at each site.

    Parameters
    ----------
    centre_F : ndarray of shape (F,)
        The median of each column, or zero.
    norm_L : ndarray of shape (L,)
        Median over the rows of their norm about the centre.
    """

    centre_F: FloatArray
    norm_L: FloatArray

    @classmethod
    def measure(cls, X: Any, rows: Rows, n_sites: int, *, center: bool) -> Self:
        """Measure on at most ``_MAX_TYPICAL_ROWS`` of the rows."""
        sample_BF = np.asarray(X[spread(rows, _MAX_TYPICAL_ROWS)], dtype=np.float64)
        centre_F = np.zeros(sample_BF.shape[1])
        if center:
            # Halves, so that the mean of two large numbers stays finite.
            centre_F = 2 * np.median(sample_BF / 2, axis=0)
        return cls(
            centre_F, np.median(site_norms(sample_BF - centre_F, n_sites), axis=0)
        )

    def ratios(self, chunk_BF: FloatArray) -> FloatArray:
        """Largest norm of each row over the typical one, (B,); 0 where that is 0."""
        norm_BL = site_norms(chunk_BF - self.centre_F, len(self.norm_L))
        out = np.zeros_like(norm_BL)
        ratio_BL = np.divide(norm_BL, self.norm_L, out=out, where=self.norm_L > 0)
        return ratio_BL.max(axis=1)


@dataclass
class Outliers:
    """Rows whose norm is more than so many times the typical one.

    Parameters
    ----------
    threshold : float
        How many times.
    """

    threshold: float
    n_found: int = 0
    named: list[int] = field(default_factory=list)
    largest: float = 0.0

    def add(self, rows: Rows, ratio_B: FloatArray) -> npt.NDArray[np.bool_]:
        """Count those among some rows; return which they are."""
        is_outlier_B = ratio_B > self.threshold
        found = rows[is_outlier_B]
        self.n_found += len(found)
        self.named += found[: _MAX_NAMED - len(self.named)].tolist()
        self.largest = max(self.largest, float(ratio_B.max(initial=0.0)))
        return is_outlier_B


def without_outliers(
    X: Any, rows: Rows, typical: TypicalNorms, outliers: Outliers
) -> Rows:
    """Those of the rows that are no outliers."""
    kept = [
        chunk_rows[~outliers.add(chunk_rows, typical.ratios(chunk_BF))]
        for chunk_rows, chunk_BF in _chunks(X, rows)
    ]
    return np.concatenate(kept)


def measure_sites(
    X: Any,
    rows: Rows,
    n_sites: int,
    *,
    center: bool,
    normalize: bool,
    offset: npt.NDArray[np.floating] | None = None,
    watch: tuple[TypicalNorms, Outliers] | None = None,
) -> SiteScaling:
    """Measure the scaling on ``rows`` of ``X``, shape (n, F), in bounded memory.

    Parameters
    ----------
    X : array of shape (n, F)
        Activations.
    rows : ndarray of int
        Those to measure.
    n_sites : int
        ``L``.
    center : bool
        Whether the offset is the mean.
    normalize : bool
        Whether the sites are scaled.
    offset : ndarray of shape (F,) or None
        The offset itself, whatever `center` says.
    watch : (TypicalNorms, Outliers) or None
        Outliers to count on the way.
    """
    n_samples, n_columns = len(rows), X.shape[1]
    sum_F, largest_F = np.zeros((2, n_columns))
    for chunk_rows, chunk_BF in _chunks(X, rows):
        sum_F += chunk_BF.sum(axis=0)
        np.maximum(largest_F, np.abs(chunk_BF).max(axis=0), out=largest_F)
        if watch is not None:
            watch[1].add(chunk_rows, watch[0].ratios(chunk_BF))
    mean_F = sum_F / n_samples
    offset_F = mean_F if center else np.zeros(n_columns)
    if offset is not None:
        offset_F = offset.astype(np.float64)

    by_site = n_sites, -1
    unit_L = site_units(largest_F, n_sites)
    unit_F = np.repeat(unit_L, n_columns // n_sites)
    norm_L, variance_L, mean_square_L = np.zeros((3, n_sites))
    for _, chunk_BF in _chunks(X, rows):
        shape = (len(chunk_BF), *by_site)
        centred_BF = (chunk_BF - offset_F) / unit_F
        norm_L += np.linalg.norm(centred_BF.reshape(shape), axis=2).sum(axis=0)
        varied_BF = (chunk_BF - mean_F) / unit_F
        variance_L += np.square(varied_BF).reshape(shape).sum(axis=(0, 2))
        mean_square_L += np.square(chunk_BF / unit_F).reshape(shape).sum(axis=(0, 2))
    norm_L /= n_samples
    variance_L /= n_samples
    mean_square_L /= n_samples

    is_constant_L = is_constant(variance_L, mean_square_L)
    scale_L = np.ones(n_sites)
    width = n_columns // n_sites
    relative_L = unit_L.copy()
    if normalize:
        measurable_L = ~is_constant_L if center else norm_L > 0
        relative_L[measurable_L] = math.sqrt(width) / norm_L[measurable_L]
        scale_L[measurable_L] = relative_L[measurable_L] / unit_L[measurable_L]
    training_variance_L = variance_L * relative_L**2
    return SiteScaling(offset_F, scale_L, mean_F, training_variance_L, is_constant_L)


def site_units(largest_F: FloatArray, n_sites: int) -> FloatArray:
    """A power of two near the largest number of each site, (L,).

    Divided by it before they are squared, numbers neither overflow nor vanish.
    """
    largest_L = largest_F.reshape(n_sites, -1).max(axis=1)
    return np.array([power_of_two_near(size) for size in largest_L.tolist()])


def is_constant(variance: FloatArray, mean_square: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether a variance is no more than the rounding of its data."""
    return variance <= _CONSTANT_TOLERANCE**2 * mean_square


def site_norms(rows_BF: FloatArray, n_sites: int) -> FloatArray:
    """Norm of each row at each site, (B, L), without overflow."""
    rows_BLD = rows_BF.reshape(len(rows_BF), n_sites, -1)
    unit = power_of_two_near(float(np.abs(rows_BLD).max(initial=0.0)))
    norms_BL: FloatArray = unit * np.linalg.norm(rows_BLD / unit, axis=2)
    return norms_BL


def _chunks(X: Any, rows: Rows) -> Iterator[tuple[Rows, FloatArray]]:
    n_rows = max(1, _CHUNK_BYTES // (8 * X.shape[1]))
    for start in range(0, len(rows), n_rows):
        chunk = rows[start : start + n_rows]
        yield chunk, np.asarray(X[chunk], dtype=np.float64)
