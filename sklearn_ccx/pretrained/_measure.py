"""How well a dictionary explains activations, and whether that looks right."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import check_array, gen_batches

from .._validation import as_numbers, errors_of_conversion
from ..activations import ShardedActivations
from ..coders import BaseInteractionCoder

# Bytes that the codes of one batch may take in float64.
_BATCH_BYTES = 2**27

# The mean of X explains it with this much of its variance unexplained.
_FVU_OF_MEAN = 1.0

# How many times more, or less, features than `k` may be active on average.
_L0_RATIO = 4.0


def as_activations(X: Any) -> Any:
    """Activations of which batches are arrays of numbers."""
    if isinstance(X, ShardedActivations):
        return X
    X = as_numbers(X, "X")
    with errors_of_conversion("X"):
        return check_array(
            X,
            dtype=(np.float64, np.float32, np.float16),
            allow_nd=True,
            input_name="X",
        )


def batches(X: Any, coder: BaseInteractionCoder) -> Iterator[slice]:
    """Slices of rows of which the codes take bounded memory."""
    length = max(1, _BATCH_BYTES // (8 * len(coder.components_)))
    yield from gen_batches(len(X), length)


def measure(
    coder: BaseInteractionCoder, sample_norm: FunctionTransformer | None, X: Any
) -> tuple[float, float]:
    """Fraction of variance unexplained, and active features per sample.

    Parameters
    ----------
    coder : InteractionSAE or InteractionCrosscoder
        Fitted.
    sample_norm : FunctionTransformer or None
        What comes before it.
    X : array-like
        Activations before it.

    Returns
    -------
    fvu : float
        After `sample_norm`; NaN if X does not vary.
    l0 : float
        Mean number of active features.
    """
    X = as_activations(X)
    error = square = 0.0
    n_active = 0
    center: Any = None
    unit = 1.0
    total: Any = 0.0
    for batch in batches(X, coder):
        rows = X[batch] if sample_norm is None else sample_norm.transform(X[batch])
        codes: Any = coder.transform(rows)
        n_active += int(codes.nnz if sparse.issparse(codes) else (codes > 0).sum())
        recon = coder.inverse_transform(codes).reshape(len(rows), -1)
        rows = np.asarray(rows, dtype=np.float64).reshape(len(rows), -1)
        if center is None:
            # Squares are summed about the mean of the first batch, so that little
            # cancels, and in a unit in which they neither overflow nor vanish.
            unit = float(np.abs(rows).max()) or 1.0
            center = (rows / unit).mean(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            error += float(np.square(rows / unit - recon / unit).sum())
            rows = rows / unit - center
            square += float(np.square(rows).sum())
            total = total + rows.sum(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        variation = square - float(np.square(total).sum()) / len(X)
    if not math.isfinite(error + variation):
        raise ValueError(
            "X, or what the dictionary makes of it, is too large for its squares to be "
            "summed; pass activations as the model has them."
        )
    # Constant columns vary by what rounding leaves.
    varies = variation > np.finfo(np.float64).eps * len(X) * max(square, 0.0)
    return error / variation if varies else math.nan, n_active / len(X)


def what_is_off(coder: BaseInteractionCoder, fvu: float, l0: float) -> str | None:
    """What says that the dictionary does not belong to the activations."""
    n_features = len(coder.components_)
    found = []
    if fvu > _FVU_OF_MEAN:
        found.append(
            f"it leaves {fvu:.3g} of the variance of X unexplained, where the mean of "
            "X leaves 1"
        )
    if l0 == 0:
        found.append("none of its features is active on X")
    elif coder.activation_ in ("topk", "batchtopk"):
        k = coder.k_
        if not k / _L0_RATIO <= l0 <= k * _L0_RATIO:
            found.append(f"{l0:.3g} features are active on average, and k is {k}")
    elif l0 > n_features / 2:
        found.append(
            f"{l0:.3g} of its {n_features} features are active on average, which is "
            "not sparse"
        )
    return " and ".join(found) if found else None
