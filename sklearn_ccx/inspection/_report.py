"""A page that shows what the clusters of a FeatureClusterer are about."""

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from .._validation import as_array, check_int, check_text, shown
from ..coders import find_coder, find_last_step, holds_coder
from ._token_codes import (
    check_runs,
    check_tokens,
    encode,
    token_shares,
    visible,
)
from ._top_activations import TopActivation, _places_of_feature

# Label of features that are in no cluster.
_NO_CLUSTER = -1


@dataclass(frozen=True)
class _Feature:
    """One feature, as the page shows it."""

    index: int
    label: int
    frequency: float
    mass: float
    tokens: list[tuple[str, float]]
    places: list[TopActivation]
    partners: list[tuple[int, float]]


def cluster_report(
    clusterer: Any,
    X: npt.ArrayLike,
    tokens: Sequence[str],
    *,
    groups: npt.ArrayLike | None = None,
    title: str = "Feature clusters",
    n_tokens: int = 8,
    n_examples: int = 5,
    n_partners: int = 5,
    context: int = 8,
    out_file: str | os.PathLike[str] | None = None,
) -> str:
    """Build a web page of all clusters, their features and what these are active on.

    Every feature is shown with the tokens that hold most of its activation, the
    places where it is most active, in context, and the features it interacts with
    most, as links. The page is one file without any outside resource: it opens
    offline, has a search field, and can be sorted.

    Parameters
    ----------
    clusterer : FeatureClusterer
        Fitted, or a pipeline that ends in one, or a search or
        :class:`~sklearn.frozen.FrozenEstimator` around it. Anything with `labels_` for
        the columns of X will do; `affinity_matrix_`, if there is one, gives the
        partners.

    X : array-like of shape (n_samples, ...)
        Activations, as `clusterer` takes them, or codes if it has no `estimator_`.
        Rows follow each other as the tokens do in the text.

    tokens : sequence of str
        The token, or any label, of each row of X.

    groups : array-like of shape (n_samples,), default=None
        Text that each row belongs to. The context does not cross from one into the
        next.

    title : str, default="Feature clusters"
        Title of the page.

    n_tokens : int, default=8
        Tokens of each feature and of each cluster.

    n_examples : int, default=5
        Places of each feature.

    n_partners : int, default=5
        Partners of each feature.

    context : int, default=8
        Tokens on each side of a place.

    out_file : str or path-like, default=None
        Where to write the page. None does not write it.

    Returns
    -------
    page : str
        The HTML. All text of the tokens is escaped.

    Raises
    ------
    ValueError
        If `tokens` or `groups` does not have one entry for each row of X, or the
        codes do not have one column for each label.
    TypeError
        If `clusterer` has no labels, or an argument is of another type.
    NotFittedError
        If `clusterer` is not fitted.

    See Also
    --------
    top_activations : The places where one feature is most active.
    top_tokens : Tokens by their share of each feature's activation.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.cluster import FeatureAgglomeration
    >>> from sklearn_ccx.inspection import cluster_report
    >>> codes = np.array([[2.0, 1, 0], [3, 2, 0], [0, 0, 1]])
    >>> clusterer = FeatureAgglomeration(n_clusters=2).fit(codes)
    >>> page = cluster_report(clusterer, codes, ["cat", "dog", "<b>sun</b>"])
    >>> "&lt;b&gt;sun&lt;/b&gt;" in page
    True
    """
    n_tokens = check_int(n_tokens, "n_tokens")
    n_examples = check_int(n_examples, "n_examples")
    n_partners = check_int(n_partners, "n_partners", minimum=0)
    context = check_int(context, "context", minimum=0)
    check_text(title, "title")
    path = _check_path(out_file)
    clusterer, X = find_last_step(clusterer, X)
    labels = _labels(clusterer)
    codes = _codes(clusterer, X)
    if codes.shape[1] != len(labels):
        raise ValueError(
            f"the codes have {codes.shape[1]} columns, but clusterer has "
            f"{len(labels)} labels; pass the X, or the codes, of its features."
        )
    tokens = check_tokens(tokens, codes.shape[0])
    runs = check_runs(groups, codes.shape[0])

    shares = token_shares(codes, tokens, n_tokens)
    partners = _partners(clusterer, len(labels), n_partners)
    features = [
        _Feature(
            index,
            int(labels[index]),
            frequency=float((_column(codes, index) > 0).sum() / codes.shape[0]),
            mass=float(_column(codes, index).sum()),
            tokens=shares[index],
            places=_places_of_feature(codes, index, tokens, runs, n_examples, context),
            partners=partners[index],
        )
        for index in range(len(labels))
    ]
    cluster_labels, cluster_codes = _pooled(codes, labels)
    cluster_tokens = token_shares(cluster_codes, tokens, n_tokens)
    sections = [
        _cluster_section(label, [f for f in features if f.label == label], most)
        for label, most in zip(cluster_labels, cluster_tokens, strict=True)
    ]
    template = files(__package__).joinpath("_report_template.html")
    page = Template(template.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        summary=html.escape(_summary(clusterer, labels, codes)),
        clusters="\n".join(sections),
    )
    if path is not None:
        path.write_bytes(page.encode("utf-8"))
    return page


def _check_path(out_file: Any) -> Path | None:
    if out_file is None:
        return None
    if not isinstance(out_file, str | os.PathLike):
        raise TypeError(
            f"out_file must be a path as a string or path-like; got {shown(out_file)}."
        )
    try:
        name = os.fsdecode(os.fsencode(out_file))
    except UnicodeEncodeError as error:
        raise ValueError(
            f"out_file must be a path that the file system can name; got {out_file!a}."
        ) from error
    path = Path(name)
    if path.is_dir():
        raise ValueError(f"out_file must be a file; {str(path)!r} is a directory.")
    return path


def _labels(clusterer: Any) -> npt.NDArray[np.int64]:
    if isinstance(clusterer, type) or not hasattr(clusterer, "fit"):
        raise TypeError(
            f"clusterer must be a fitted FeatureClusterer; got {shown(clusterer)}."
        )
    check_is_fitted(clusterer)
    if not hasattr(clusterer, "labels_"):
        raise TypeError(
            "clusterer must have labels_, one for each feature, such as "
            f"FeatureClusterer; {type(clusterer).__name__} has none."
        )
    return np.asarray(clusterer.labels_, dtype=np.int64)


def _codes(clusterer: Any, X: Any) -> sparse.csc_array:
    """Codes of the features that the clusterer has put into clusters."""
    estimator = getattr(clusterer, "estimator_", None)
    if estimator is None:
        codes = check_array(as_array(X, "X"), accept_sparse="csc", input_name="X")
        return sparse.csc_array(codes)
    if holds_coder(estimator):
        return encode(*find_coder(estimator, X))
    return encode(estimator, X)


def _column(codes: sparse.csc_array, index: int) -> npt.NDArray[np.floating]:
    """Entries of a column that are stored."""
    return codes.data[codes.indptr[index] : codes.indptr[index + 1]]


def _partners(
    clusterer: Any, n_features: int, n_partners: int
) -> list[list[tuple[int, float]]]:
    """The features of the largest affinity to each, and the affinities."""
    affinity = getattr(clusterer, "affinity_matrix_", None)
    if affinity is None or n_partners == 0:
        return [[] for _ in range(n_features)]
    affinity = sparse.csr_array(affinity)
    affinity = affinity.maximum(affinity.T).tocsr()
    partners = []
    for row in range(n_features):
        entries = slice(affinity.indptr[row], affinity.indptr[row + 1])
        index, strength = affinity.indices[entries], affinity.data[entries]
        is_partner = (index != row) & (strength > 0)
        index, strength = index[is_partner], strength[is_partner]
        best = np.lexsort((index, -strength))[:n_partners]
        partners.append([(int(index[i]), float(strength[i])) for i in best])
    return partners


def _pooled(
    codes: sparse.csc_array, labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], sparse.csc_array]:
    """Labels, the largest cluster first and "none" last, and the sums of the codes."""
    found, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    n_features = len(labels)
    indicator = sparse.csr_array(
        (np.ones(n_features), (np.arange(n_features), index)),
        shape=(n_features, len(found)),
    )
    order = np.lexsort((found, -sizes, found == _NO_CLUSTER))
    return found[order], sparse.csc_array(codes @ indicator)[:, order]


def _summary(
    clusterer: Any, labels: npt.NDArray[np.int64], codes: sparse.csc_array
) -> str:
    in_cluster = labels != _NO_CLUSTER
    n_clusters = len(np.unique(labels[in_cluster]))
    parts = [
        f"{in_cluster.sum()} features in {n_clusters} clusters",
        f"{(~in_cluster).sum()} in none",
        f"{codes.shape[0]} tokens",
    ]
    modularity = getattr(clusterer, "modularity_", None)
    if modularity is not None:
        parts.append(f"modularity {modularity:.2f}")
    return " · ".join(parts)


def _cluster_section(
    label: int, features: list[_Feature], tokens: list[tuple[str, float]]
) -> str:
    name = "No cluster" if label == _NO_CLUSTER else f"Cluster {label}"
    # Features in no cluster come last, in either order.
    size = 0 if label == _NO_CLUSTER else len(features)
    order = 10**9 if label == _NO_CLUSTER else label
    by_mass = sorted(features, key=lambda feature: -feature.mass)
    body = "\n".join(_feature_section(feature) for feature in by_mass)
    plural = "" if len(features) == 1 else "s"
    return (
        f'<details class="cluster" data-size="{size}" data-label="{order}">\n'
        f"<summary><h2>{name}</h2> "
        f'<span class="faint">{len(features)} feature{plural}</span>\n'
        f"{_token_list(tokens)}</summary>\n"
        f"{body}\n</details>"
    )


def _feature_section(feature: _Feature) -> str:
    index = feature.index
    parts = [
        f'<section class="feature" id="f{index}" data-index="{index}" '
        f'data-mass="{feature.mass:.6g}" data-frequency="{feature.frequency:.6g}">',
        f"<h3>Feature {index}</h3> "
        f'<span class="faint">active on {feature.frequency:.2%} of the tokens</span>',
        f'<div class="row">{_token_list(feature.tokens)}</div>',
    ]
    if feature.partners:
        links = " ".join(
            f'<a href="#f{partner}" title="affinity {strength:.3g}">{partner}</a>'
            for partner, strength in feature.partners
        )
        parts.append(f'<div class="row faint">strongest partners {links}</div>')
    if feature.places:
        # The active tokens stand in one column.
        column = max(len(_before(place)) for place in feature.places)
        places = "\n".join(_place(place, column) for place in feature.places)
        parts.append(f'<ol class="places">\n{places}\n</ol>')
    return "\n".join([*parts, "</section>"])


def _token_list(tokens: list[tuple[str, float]]) -> str:
    """Tokens with their shares; those that would show 0% are left out."""
    spans = [
        f'<span class="token">{_named(token)} <small>{share:.0%}</small></span>'
        for token, share in tokens
        if round(share, 2) > 0
    ]
    return f'<span class="tokens">{"".join(spans)}</span>'


def _place(place: TopActivation, column: int) -> str:
    spans = [
        _shaded(token, activation / place.activation, is_place=i == place.position)
        for i, (token, activation) in enumerate(
            zip(place.tokens, place.activations, strict=True)
        )
    ]
    indent = " " * (column - len(_before(place)))
    return (
        f'<li><span class="value">{place.activation:.2f}</span>'
        f"{indent}{''.join(spans)}</li>"
    )


def _shaded(token: str, heat: float, *, is_place: bool) -> str:
    text = html.escape(visible(token))
    if heat <= 0:
        return text
    name = "t at" if is_place else "t"
    return f'<span class="{name}" style="--a:{min(heat, 1.0):.2f}">{text}</span>'


def _before(place: TopActivation) -> str:
    return visible("".join(place.tokens[: place.position]))


def _named(token: str) -> str:
    """The token where it stands alone: spaces only would not be seen."""
    if not token.strip(" "):
        return "␣" * len(token) or "(empty)"
    return html.escape(visible(token))
