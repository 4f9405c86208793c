"""What some dictionaries do to each sample before they encode it."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.preprocessing import FunctionTransformer

FloatArray = npt.NDArray[np.floating]

# Added to the standard deviation, in the formats that take it.
_EPSILON = 1e-5


def sample_statistics(kind: str, X: Any) -> tuple[FloatArray, FloatArray, FloatArray]:
    r"""What the rows are normalised by, and restored with.

    A row is normalised to ``(x - offset) / divisor``, and what reconstructs it is
    restored to ``y * size + offset``.

    Parameters
    ----------
    kind : {"layer_norm", "constant_norm"}
        "layer_norm" takes the mean over the row, and divides by its standard deviation
        (unbiased) plus 1e-5; "constant_norm" scales the row to the norm
        :math:`\sqrt d`.
    X : ndarray of shape (n_samples, d)
        Activations.

    Returns
    -------
    offset, divisor, size : ndarray of shape (n_samples, 1)
        In the dtype of X. Size and divisor differ by the 1e-5 of "layer_norm".

    Raises
    ------
    ValueError
        If a row is too large for its squares to be summed.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        if kind == "layer_norm":
            offset = X.mean(axis=1, keepdims=True)
            size = X.std(axis=1, ddof=1, keepdims=True)
            divisor = size + _EPSILON
        else:
            norm = np.linalg.norm(X, axis=1, keepdims=True)
            size = (norm / math.sqrt(X.shape[1])).astype(X.dtype)
            offset = np.zeros_like(size)
            # A row of zeros stays one.
            divisor = np.where(size > 0, size, size.dtype.type(1))
    if not (np.isfinite(offset).all() and np.isfinite(size).all()):
        raise ValueError(
            f"X has rows too large to be normalised in {X.dtype}; pass activations as "
            "the model has them, or in float64."
        )
    return offset, divisor, size


def normalized(X: Any, kind: str) -> FloatArray:
    """Rows normalised one by one, in float32 or float64."""
    if X.dtype not in (np.float32, np.float64):
        X = X.astype(np.float32 if X.dtype == np.float16 else np.float64)
    offset, divisor, _ = sample_statistics(kind, X)
    normed: FloatArray = (X - offset) / divisor
    return normed


def sample_norm_transformer(kind: str) -> FunctionTransformer:
    """A step of a pipeline that normalises each row."""
    return FunctionTransformer(normalized, validate=True, kw_args={"kind": kind})


# What SAELens calls them.
SAMPLE_NORMS = {
    None: "none",
    "layer_norm": "layer_norm",
    "constant_norm": "constant_norm_rescale",
}


def sample_norm_of(steps: list[Any]) -> str | None:
    """The normalisation that the steps before a coder are; None if there are none.

    Raises
    ------
    ValueError
        If they are something else.
    """
    steps = [step for step in steps if step is not None and step != "passthrough"]
    if not steps:
        return None
    step = steps[0]
    if len(steps) > 1 or getattr(step, "func", None) is not normalized:
        names = ", ".join(type(step).__name__ for step in steps)
        raise ValueError(
            f"estimator has steps before the coder ({names}), which the files cannot "
            "hold; save the coder alone, or pass its weights to from_weights with "
            "input_offset and input_scale."
        )
    kind: str = step.kw_args["kind"]
    return kind
