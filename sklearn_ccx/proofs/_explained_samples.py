"""Samples, their codes and the MLPs that read them, as the proofs need them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_array, column_or_1d, gen_batches

from ..coders._base import BaseInteractionCoder
from ..networks._mlp_weights import MLPWeights
from ..interactions._reader import MLPs, NeuronReader, check_n_dominant
from ._intervals import UNIT_ROUNDOFF
from ._neuron_ranges import (
    CodeBoxes,
    ExplainedMLP,
    NeuronRanges,
    dominant_contributions,
    sample_ranges,
)

FloatArray = npt.NDArray[np.float64]

# How many times the bound on rounding is taken. Two more than for what is tighter, once
# for the rounding of each, so that rounding cannot reverse their order.
_LEVEL_SLACK = {"sample": 1.0, "group": 3.0, "domain": 5.0}
_BOUND_SLACK = {"interval": 0.0, "lipschitz": 2.0}

_DEFAULT_BATCH_SIZE = 512


@dataclass(frozen=True)
class Premises:
    """What the theorem is about, besides the estimator and the network.

    Parameters
    ----------
    level : {"sample", "group", "domain"}
        For what it holds.
    bound : {"interval", "lipschitz"}
        How it is proved.
    groups : object
        The parameter `groups` of :func:`certify`.
    code_max : array-like of shape (n_components,) or None
        Largest codes of the domain; None for those of the data.
    max_active : int or None
        Most active features in the domain; None for that of the data.
    """

    level: str
    bound: str
    groups: object = None
    code_max: npt.ArrayLike | None = None
    max_active: int | None = None

    def __post_init__(self) -> None:
        _check_option("level", self.level, _LEVEL_SLACK)
        _check_option("bound", self.bound, _BOUND_SLACK)
        for name, level in (
            ("groups", "group"),
            ("code_max", "domain"),
            ("max_active", "domain"),
        ):
            if getattr(self, name) is not None and self.level != level:
                raise ValueError(f'{name} needs level="{level}"; got {self.level!r}.')

    @property
    def slack(self) -> float:
        """How many times the bound on rounding is taken."""
        return _LEVEL_SLACK[self.level] + _BOUND_SLACK[self.bound]


class ExplainedSamples:
    """Validated activations with codes, batch by batch in float64.

    Parameters
    ----------
    estimator : InteractionCrosscoder or InteractionSAE
        A fitted estimator.
    X : array-like
        Activations as in its ``transform``.
    mlp : MLPWeights, list of MLPWeights or None
        The MLPs; None takes those of the estimator.
    n_dominant : int or None
        How many contributions a neuron keeps; None takes the estimator's.
    batch_size : int or None
        Samples read at a time.
    unit_roundoff : float
        That of the precision in which the network is run.

    Attributes
    ----------
    mlps : list of ExplainedMLP
        The MLPs, identity neurons at each site if there are none.
    n_dominant : int
        How many contributions a neuron keeps.
    """

    def __init__(
        self,
        estimator: BaseInteractionCoder,
        X: npt.ArrayLike,
        mlp: MLPs,
        n_dominant: int | None,
        batch_size: int | None,
        unit_roundoff: float = UNIT_ROUNDOFF,
    ) -> None:
        reader = NeuronReader(estimator, X, mlp, batch_size)
        self.n_dominant = check_n_dominant(n_dominant, estimator)
        self.batch_size = batch_size or _DEFAULT_BATCH_SIZE
        self.components = estimator.components_.astype(np.float64)
        self.intercept = estimator.intercept_.astype(np.float64)
        self._estimator = estimator
        self._X = reader.X
        self.n_sites = estimator.n_sites_
        width = len(self.intercept) // self.n_sites
        weights = reader.weights
        if weights is None:
            identity = np.eye(width)
            weights = [
                MLPWeights(identity, identity, activation="identity", site=site)
                for site in range(self.n_sites)
            ]
        for index, item in enumerate(weights):
            if item.W_gate is not None:
                raise ValueError(
                    f"mlp[{index}] is gated; proofs cover MLPs without a gate. Use "
                    "interaction_scores and ablation_fidelity, which measure."
                )
        self.mlps = [
            ExplainedMLP(item, self.components, self.intercept, unit_roundoff)
            for item in weights
        ]

    def __len__(self) -> int:
        return len(self._X)

    def batches(self) -> Iterator[tuple[slice, FloatArray, FloatArray]]:
        """Rows, codes (B, M) and activations (B, F)."""
        encoded = self._estimator._encode_batches(self._X, self.batch_size)
        for rows, codes_BM in encoded:
            codes = codes_BM.cpu().numpy().astype(np.float64)
            yield rows, codes, self._X[rows].astype(np.float64)

    def site_columns(self, site: int) -> slice:
        """The columns of a site."""
        width = len(self.intercept) // self.n_sites
        return slice(site * width, (site + 1) * width)

    def n_active(self) -> npt.NDArray[np.int64]:
        """Number of active features of each sample."""
        counts = [(codes_BM > 0).sum(axis=1) for _, codes_BM, _ in self.batches()]
        return np.concatenate(counts)

    def group_labels(self, premises: Premises) -> npt.NDArray[np.int64]:
        """Which sample or set each sample belongs to, numbered from 0."""
        if premises.level == "sample":
            return np.arange(len(self))
        if premises.level == "domain":
            return np.zeros(len(self), dtype=np.int64)
        groups = premises.groups
        if groups is None:
            labels = self._dominant_patterns()
        elif hasattr(groups, "labels_"):
            labels = self._strongest_clusters(np.asarray(groups.labels_))
        else:
            labels = column_or_1d(groups)
            if len(labels) != len(self):
                raise ValueError(
                    f"groups has {len(labels)} entries, but X has {len(self)} "
                    "samples; pass one label for each sample."
                )
        _, inverse = np.unique(labels, return_inverse=True)
        return inverse.astype(np.int64)

    def _dominant_patterns(self) -> npt.NDArray[np.int64]:
        """A number for each distinct assignment of dominant features to neurons."""
        numbers: dict[bytes, int] = {}
        labels = np.empty(len(self), dtype=np.int64)
        for rows, codes_BM, _ in self.batches():
            features = [
                dominant_contributions(codes_BM, mlp.M_MN, self.n_dominant)[0]
                for mlp in self.mlps
            ]
            for row in range(rows.start, rows.stop):
                pattern = b"".join(
                    feature_RBN[:, row - rows.start].tobytes()
                    for feature_RBN in features
                )
                labels[row] = numbers.setdefault(pattern, len(numbers))
        return labels

    def _strongest_clusters(
        self, labels_M: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """The cluster of features with the largest sum of codes, -1 for no code."""
        if labels_M.shape != (len(self.components),):
            raise ValueError(
                f"groups.labels_ has shape {labels_M.shape}, but the estimator has "
                f"{len(self.components)} features; pass a clusterer fitted with the "
                "same estimator."
            )
        clusters, cluster_M = np.unique(labels_M, return_inverse=True)
        membership_MC = np.eye(len(clusters))[cluster_M]
        labels = []
        for _, codes_BM, _ in self.batches():
            pooled_BC = codes_BM @ membership_MC
            strongest_B = pooled_BC.argmax(axis=1)
            labels.append(np.where(pooled_BC.any(axis=1), strongest_B, -1))
        return np.concatenate(labels)

    def boxes(
        self, labels: npt.NDArray[np.int64], premises: Premises
    ) -> CodeBoxes | None:
        """Smallest boxes around the groups; None for samples, which need none."""
        if premises.level == "sample":
            return None
        n_groups, n_components = labels.max() + 1, len(self.components)
        lower_GM = np.full((n_groups, n_components), np.inf)
        upper_GM = np.zeros((n_groups, n_components))
        max_active_G = np.zeros(n_groups, dtype=np.int64)
        size_GF = np.zeros((n_groups, len(self.intercept)))
        residuals = [np.zeros((n_groups, len(mlp.bias_N))) for mlp in self.mlps]
        for rows, codes_BM, x_BF in self.batches():
            group_B = labels[rows]
            np.minimum.at(lower_GM, group_B, codes_BM)
            np.maximum.at(upper_GM, group_B, codes_BM)
            np.maximum.at(max_active_G, group_B, (codes_BM > 0).sum(axis=1))
            np.maximum.at(size_GF, group_B, np.abs(x_BF))
            for mlp, residual_GN in zip(self.mlps, residuals, strict=True):
                np.maximum.at(residual_GN, group_B, mlp.residual(codes_BM, x_BF))
        if premises.level == "domain":
            lower_GM = np.zeros_like(lower_GM)
            upper_GM, max_active_G = _domain(premises, upper_GM, max_active_G)
        return CodeBoxes(lower_GM, upper_GM, max_active_G, size_GF, residuals)

    def ranges(
        self, mlp_index: int, boxes: CodeBoxes | None, slack: float
    ) -> Iterator[tuple[slice, NeuronRanges]]:
        """Ranges of what the neurons of an MLP receive, by sample or by box."""
        mlp = self.mlps[mlp_index]
        if boxes is None:
            for rows, codes_BM, x_BF in self.batches():
                yield rows, sample_ranges(mlp, codes_BM, x_BF, self.n_dominant, slack)
            return
        for batch in gen_batches(len(boxes), self.batch_size):
            yield batch, boxes.ranges(mlp, mlp_index, self.n_dominant, batch, slack)


def _check_option(name: str, value: str, options: Collection[str]) -> None:
    if value not in options:
        raise ValueError(f"{name} must be one of {list(options)}; got {value!r}.")


def _domain(
    premises: Premises,
    seen_max_GM: FloatArray,
    seen_active_G: npt.NDArray[np.int64],
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Largest codes and most active features, which must cover the data."""
    if premises.code_max is not None:
        code_max = check_array(
            premises.code_max, ensure_2d=False, dtype=np.float64, input_name="code_max"
        )
        if code_max.shape != seen_max_GM[0].shape:
            raise ValueError(
                f"code_max has shape {code_max.shape}; pass one number for each of "
                f"the {seen_max_GM.shape[1]} features."
            )
        if np.any(seen_max_GM > code_max):
            feature = int(np.argmax(seen_max_GM[0] - code_max))
            raise ValueError(
                f"X has a code of {seen_max_GM[0, feature]:.4g} for feature {feature}, "
                f"but code_max allows {code_max[feature]:.4g}; the samples must lie "
                "in the domain."
            )
        seen_max_GM = code_max[np.newaxis]
    if premises.max_active is not None:
        if premises.max_active < seen_active_G[0]:
            raise ValueError(
                f"X has a sample with {seen_active_G[0]} active features, but "
                f"max_active={premises.max_active}; the samples must lie in the "
                "domain."
            )
        seen_active_G = np.array([premises.max_active])
    return seen_max_GM, seen_active_G
