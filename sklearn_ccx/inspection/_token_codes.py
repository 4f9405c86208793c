"""Codes of tokens as a sparse matrix, and what can be read from it."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.utils import check_array, gen_batches
from sklearn.utils.validation import check_is_fitted

from .._validation import as_array, check_list, check_n_rows, check_rows, shown
from ..coders import find_coder

# Rows encoded at a time.
_BATCH_SIZE = 1024


def check_tokens(tokens: Any, n_samples: int) -> list[str]:
    """The tokens as strings, one for each sample."""
    if isinstance(tokens, str):
        raise TypeError(
            "tokens must be a sequence with one string for each row of X; got a string."
        )
    if isinstance(tokens, np.ndarray):
        tokens = tokens.ravel()
    checked = [str(token) for token in check_list(tokens, "tokens")]
    if len(checked) != n_samples:
        raise ValueError(
            f"tokens must have one string for each row of X; got {len(checked)} tokens "
            f"and {n_samples} rows."
        )
    return checked


def check_runs(groups: npt.ArrayLike | None, n_samples: int) -> npt.NDArray[np.int64]:
    """Number of the run of equal groups that each sample is in."""
    if groups is None:
        return np.zeros(n_samples, dtype=np.int64)
    checked = check_rows(groups, "groups", n_samples)
    starts = np.r_[False, checked[1:] != checked[:-1]]
    return np.cumsum(starts, dtype=np.int64)


def encode(estimator: Any, X: Any) -> sparse.csc_array:
    """Codes of all samples, in memory that grows with the active ones."""
    if isinstance(estimator, type) or not hasattr(estimator, "fit"):
        raise TypeError(
            "estimator must be a fitted transformer whose columns are features, such "
            f"as InteractionSAE; got {shown(estimator)}."
        )
    if not hasattr(estimator, "transform"):
        estimator, X = _coder_of(estimator, X)
    check_is_fitted(estimator)
    X = as_array(X, "X")
    n_samples = check_n_rows(X, "X")
    if n_samples == 0:
        raise ValueError("X must have at least one row; got none.")
    batches = []
    for rows in gen_batches(n_samples, _BATCH_SIZE):
        batch = X.iloc[rows] if hasattr(X, "iloc") else X[rows]
        codes = estimator.transform(batch)
        batches.append(sparse.csr_array(check_array(codes, accept_sparse="csr")))
    codes = sparse.vstack(batches, format="csc")
    codes.eliminate_zeros()
    return codes


def _coder_of(estimator: Any, X: Any) -> tuple[Any, Any]:
    """The coder in an estimator that transforms nothing itself, as a detector does."""
    try:
        return find_coder(estimator, X)
    except TypeError as error:
        raise TypeError(
            "estimator must be a fitted transformer whose columns are features, such "
            f"as InteractionSAE, or hold one; got {type(estimator).__name__}."
        ) from error


def token_shares(
    codes: sparse.csc_array, tokens: list[str], n_tokens: int
) -> list[list[tuple[str, float]]]:
    """Tokens that hold most of each column's positive sum, and their shares."""
    vocabulary, token_index = np.unique(
        np.array(tokens, dtype=object), return_inverse=True
    )
    indicator = sparse.csr_array(
        (np.ones(len(tokens)), (token_index, np.arange(len(tokens)))),
        shape=(len(vocabulary), len(tokens)),
    )
    sums = sparse.csc_array(indicator @ codes.maximum(0))
    sums.eliminate_zeros()
    shares = []
    for column in range(sums.shape[1]):
        entries = slice(sums.indptr[column], sums.indptr[column + 1])
        index, mass = sums.indices[entries], sums.data[entries]
        best = np.lexsort((index, -mass))[:n_tokens]
        total = mass.sum()
        shares.append(
            [
                (vocabulary[index[i]], float(mass[i] / total))
                for i in best
                if mass[i] > 0
            ]
        )
    return shares


def visible(text: str) -> str:
    """The text in one line, with what does not print spelled out."""
    shown = {"\n": "↵", "\t": "⇥", " ": " "}
    return "".join(
        shown.get(character)
        or (character if character.isprintable() else ascii(character)[1:-1])
        for character in text
    )
