"""PenaltyPathDisplay."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, check_cv
from sklearn.utils.validation import check_is_fitted

from .._validation import (
    as_array,
    check_int,
    check_n_rows,
    check_real,
    check_rows,
    check_text,
    errors_about,
    shown,
)
from ..coders import check_holds_coder
from ..model_selection import SCORERS
from ._axes import BLUE, GREEN, VERMILION, axes_or_new, check_matplotlib, spread
from ._checks import check_numbers, check_strengths

_AXIS_LABELS = {
    "lam": "strength of the interaction penalty, lam",
    "lam_fidelity": "strength of the fidelity term, lam_fidelity",
    "k": "active features per sample, k",
}

_MAX_JOBS = 2**15

# Width of a digit of the tick labels.
_CHARACTER_POINTS = 6.5


class PenaltyPathDisplay:
    """What a penalty buys and what it costs, against its strength.

    Draws the dominant share and the fraction of variance unexplained (FVU), and the
    fidelity with one feature per neuron if it is known. Create it with
    :meth:`from_search` or :meth:`from_estimator`; all parameters are stored as
    attributes.

    Parameters
    ----------
    param_range : array-like of shape (n_values,)
        The strengths, not negative.

    dominant_share : array-like of shape (n_values,) or (n_values, n_splits)
        Dominant share at each of them, for one or several splits of the data.

    fvu : array-like of shape (n_values,) or (n_values, n_splits)
        Fraction of variance unexplained, 1 minus the explained variance.

    one_feature_fidelity : array-like of shape (n_values,) or (n_values, n_splits), \
            default=None
        :math:`R^2` of the MLP outputs if each neuron keeps its largest feature
        alone.

    param_name : str, default="lam"
        Which parameter was varied.

    chosen : float, default=None
        The strength to mark as chosen.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the curves.

    figure_ : matplotlib Figure
        Figure that contains them.

    lines_ : list of matplotlib Line2D
        Means over the splits, in the order of the parameters.

    fill_between_ : list of matplotlib PolyCollection
        One standard deviation over the splits to either side; empty with one split.

    Raises
    ------
    ValueError
        If the shapes do not fit together or a strength is negative or not finite.

    See Also
    --------
    sklearn_ccx.model_selection.SCORERS : Scorers for the search.
    sklearn_ccx.model_selection.StrongestPenalty : Chooses a strength.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionSAE, PenaltyPathDisplay
    >>> X = np.random.default_rng(0).normal(size=(200, 6))
    >>> sae = InteractionSAE(k=3, max_iter=5, random_state=0)
    >>> PenaltyPathDisplay.from_estimator(sae, X, param_range=[0, 0.1, 1], cv=2)
    <...PenaltyPathDisplay object at ...>
    """

    def __init__(
        self,
        *,
        param_range: npt.ArrayLike,
        dominant_share: npt.ArrayLike,
        fvu: npt.ArrayLike,
        one_feature_fidelity: npt.ArrayLike | None = None,
        param_name: str = "lam",
        chosen: float | None = None,
    ) -> None:
        self.param_range = param_range
        self.dominant_share = dominant_share
        self.fvu = fvu
        self.one_feature_fidelity = one_feature_fidelity
        self.param_name = param_name
        self.chosen = chosen

    @classmethod
    def from_search(
        cls,
        search: BaseEstimator,
        *,
        param_name: str = "lam",
        fixed_params: Mapping[str, Any] | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the path from the results of a search.

        Parameters
        ----------
        search : GridSearchCV or another fitted search
            Its ``scoring`` must have reported "explained_variance" and
            "dominant_share", as :data:`~sklearn_ccx.model_selection.SCORERS` does;
            "one_feature_fidelity" is drawn if it is there. The candidate chosen by
            ``refit`` is marked.

        param_name : str, default="lam"
            The parameter along the axis, as in the search's grid:
            "interactionsae__lam" for a step of a pipeline.

        fixed_params : dict, default=None
            Where the search varied other parameters too, their values on this path.

        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        Returns
        -------
        PenaltyPathDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If the search did not vary the parameter or did not report the scores,
            or if several candidates have the same strength.
        NotFittedError
            If the search is not fitted.
        """
        check_matplotlib(f"{cls.__name__}.from_search")
        if isinstance(search, type) or not hasattr(search, "fit"):
            raise TypeError(f"search must be a fitted search; got {shown(search)}.")
        check_is_fitted(search)
        if not hasattr(search, "cv_results_"):
            raise TypeError(
                "search must be a GridSearchCV or another search; "
                f"{type(search).__name__} has no cv_results_."
            )
        if fixed_params is None:
            fixed_params = {}
        elif not isinstance(fixed_params, Mapping):
            raise TypeError(f"fixed_params must be a dict; got {shown(fixed_params)}.")
        results = search.cv_results_
        check_text(param_name, "param_name")
        rows = _path_rows(results["params"], param_name, fixed_params)
        fidelity = None
        if "split0_test_one_feature_fidelity" in results:
            fidelity = _split_scores(results, "one_feature_fidelity", rows)
        chosen = getattr(search, "best_index_", None)
        display = cls(
            param_range=np.array([results["params"][row][param_name] for row in rows]),
            dominant_share=_split_scores(results, "dominant_share", rows),
            fvu=1.0 - _split_scores(results, "explained_variance", rows),
            one_feature_fidelity=fidelity,
            param_name=param_name,
            chosen=results["params"][chosen][param_name] if chosen in rows else None,
        )
        return display.plot(ax)

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: npt.ArrayLike,
        y: npt.ArrayLike | None = None,
        *,
        param_name: str = "lam",
        param_range: npt.ArrayLike,
        groups: npt.ArrayLike | None = None,
        cv: Any = None,
        n_jobs: int | None = None,
        ax: Any = None,
    ) -> Self:
        """Fit the estimator at every strength, measure on held-out data and draw.

        Parameters
        ----------
        estimator : estimator
            An :class:`~sklearn_ccx.InteractionCrosscoder` or
            :class:`~sklearn_ccx.InteractionSAE`, a pipeline that ends in one, or
            another estimator that holds one. Cloned for every fit.

        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
            Activations.

        y : array-like of shape (n_samples,), default=None
            Passed to ``cv`` and to the steps of a pipeline.

        param_name : str, default="lam"
            The parameter to vary: "lam", "lam_fidelity" or "k", or such a parameter of
            a step, "interactionsae__lam".

        param_range : array-like of shape (n_values,)
            Its values.

        groups : array-like of shape (n_samples,), default=None
            Groups that ``cv`` keeps together, such as texts.

        cv : int, splitter or iterable, default=None
            How to hold out data, as in
            :class:`~sklearn.model_selection.GridSearchCV`.

        n_jobs : int, default=None
            Number of fits to run at the same time.

        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        Returns
        -------
        PenaltyPathDisplay
            The display, drawn.
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        check_holds_coder(estimator)
        check_text(param_name, "param_name")
        if param_name not in estimator.get_params():
            raise ValueError(
                f"param_name={param_name!r} is no parameter of "
                f"{type(estimator).__name__}; see its get_params()."
            )
        values = check_strengths(param_range, "param_range")
        X = as_array(X, "X")
        n_samples = check_n_rows(X, "X")
        if y is not None and check_n_rows(as_array(y, "y"), "y") != n_samples:
            raise ValueError(f"y must have one entry for each of the {n_samples} rows.")
        if groups is not None:
            groups = check_rows(groups, "groups", n_samples)
        if n_jobs is not None:
            n_jobs = check_int(n_jobs, "n_jobs", minimum=-_MAX_JOBS, maximum=_MAX_JOBS)
        if not _says_how_to_split(cv):
            raise TypeError(
                "cv must be an int, a splitter, a list of splits or None; got "
                f"{shown(cv)}."
            )
        with errors_about("cv"):
            splits = [
                (train, test) for train, test in check_cv(cv, y).split(X, y, groups)
            ]
        search = GridSearchCV(
            estimator,
            {param_name: values.tolist()},
            scoring=SCORERS,
            refit=False,
            cv=splits,
            n_jobs=n_jobs,
            error_score="raise",
        )
        search.fit(X, y)
        return cls.from_search(search, param_name=param_name, ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        Returns
        -------
        PenaltyPathDisplay
            The display itself.
        """
        values, order = self._sorted_range()
        check_text(self.param_name, "param_name")
        if self.chosen is not None:
            check_real(self.chosen, "chosen")
        curves = [
            ("dominant share", "dominant_share", BLUE, "o", "-"),
            ("unexplained variance (FVU)", "fvu", VERMILION, "s", "--"),
            ("one-feature fidelity", "one_feature_fidelity", GREEN, "^", "-."),
        ]
        data = {
            label: self._splits(name, len(values))[order]
            for label, name, *_ in curves
            if name != "one_feature_fidelity" or self.one_feature_fidelity is not None
        }
        ax = axes_or_new(ax, f"{type(self).__name__}.plot", (6.4, 3.6))
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_, self.fill_between_ = [], []
        for label, _, color, marker, style in curves:
            if label not in data:
                continue
            mean, deviation = data[label].mean(axis=1), data[label].std(axis=1)
            self.lines_ += ax.plot(
                values, mean, marker + style, color=color, label=label
            )
            if data[label].shape[1] > 1:
                band = (mean - deviation, mean + deviation)
                self.fill_between_.append(
                    ax.fill_between(values, *band, color=color, alpha=0.2, linewidth=0)
                )
        self._scale_axes(values)
        self._label_lines()
        self._label_ticks(values)
        if self.chosen is not None:
            ax.axvline(self.chosen, color="0.5", linewidth=1, zorder=0)
            ax.annotate(
                "chosen",
                (self.chosen, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                color="0.35",
            )
        return self

    def _sorted_range(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
        values = check_strengths(self.param_range, "param_range").astype(np.float64)
        order = np.argsort(values, kind="stable")
        return values[order], order

    def _splits(self, name: str, n_values: int) -> npt.NDArray[Any]:
        """Scores of shape (n_values, n_splits)."""
        scores = check_numbers(getattr(self, name), name)
        if scores.ndim not in (1, 2) or len(scores) != n_values:
            raise ValueError(
                f"{name} must have shape ({n_values},) or ({n_values}, n_splits), like "
                f"param_range; got {scores.shape}."
            )
        return scores.reshape(n_values, -1)

    def _scale_axes(self, values: npt.NDArray[Any]) -> None:
        ax = self.ax_
        positive = values[values > 0]
        if len(positive) and len(values) > 1:
            if len(positive) < len(values):
                ax.set_xscale("symlog", linthresh=positive[0], linscale=0.5)
            else:
                ax.set_xscale("log")
        at = ax.transScale.transform(np.c_[values, values])[:, 0]
        span = at[-1] - at[0] or 1.0
        ax.set_xlim(
            *ax.transScale.inverted().transform(
                [[at[0] - 0.04 * span, 0.5], [at[-1] + 0.04 * span, 0.5]]
            )[:, 0]
        )
        low = min(line.get_ydata().min() for line in self.lines_)
        high = max(line.get_ydata().max() for line in self.lines_)
        ax.set_ylim(min(0.0, low * 1.1), max(1.0, high * 1.05))
        if low < 0:
            ax.axhline(0, color="0.5", linewidth=0.8, zorder=0)
        name = self.param_name.rpartition("__")[2]
        own_name = self.param_name.replace("$", r"\$")  # no mathematics
        ax.set_xlabel(_AXIS_LABELS.get(name, own_name))
        ax.set_ylabel("fraction" if len(self.lines_) == 2 else "fraction or $R^2$")
        ax.spines[["top", "right"]].set_visible(False)

    def _label_ticks(self, values: npt.NDArray[Any]) -> None:
        """Label the strengths, from the left, that leave room between labels."""
        ax = self.ax_
        ax.figure.canvas.draw()
        at = ax.transData.transform(np.c_[values, np.zeros(len(values))])[:, 0]
        ticks: list[float] = []
        end = -np.inf
        for value, position in zip(values, at / ax.figure.dpi * 72, strict=True):
            half = _CHARACTER_POINTS * (len(f"{value:.3g}") + 1) / 2
            if position - half >= end:
                ticks.append(value)
                end = position + half
        ax.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        ax.set_xticks([], minor=True)

    def _label_lines(self) -> None:
        """Write the name of each curve to the right of its end."""
        ax = self.ax_
        height = ax.get_window_extent().height / ax.figure.dpi * 72
        bottom, top = ax.get_ylim()
        ends = [line.get_ydata()[-1] for line in self.lines_]
        gap = 13 * (top - bottom) / height
        for line, y in zip(self.lines_, spread(ends, gap), strict=True):
            ax.annotate(
                line.get_label(),
                (line.get_xdata()[-1], y),
                xytext=(9, 0),
                textcoords="offset points",
                va="center",
                color=line.get_color(),
                annotation_clip=False,
            )


def _says_how_to_split(cv: Any) -> bool:
    if isinstance(cv, bool):
        return False
    if cv is None or isinstance(cv, Integral) or hasattr(cv, "get_n_splits"):
        return True
    # Strings and tensors, of which scikit-learn takes `split` for that of a splitter.
    return isinstance(cv, Iterable) and not hasattr(cv, "split")


def _path_rows(
    candidates: Sequence[Mapping[str, Any]],
    param_name: str,
    fixed_params: Mapping[str, Any],
) -> list[int]:
    """The candidates on the path, of which each has another strength."""
    rows = [
        row
        for row, candidate in enumerate(candidates)
        if param_name in candidate
        and all(candidate.get(name) == value for name, value in fixed_params.items())
    ]
    if not rows:
        raise ValueError(
            f"param_name: no candidate of the search has {param_name!r}"
            + (f" and {dict(fixed_params)}" if fixed_params else "")
            + f"; its parameters are {sorted(set().union(*candidates))}."
        )
    values = [candidates[row][param_name] for row in rows]
    if len(set(values)) < len(values):
        others = sorted(
            {name for row in rows for name in candidates[row]}
            - {param_name, *fixed_params}
        )
        raise ValueError(
            f"the search has several candidates with the same {param_name!r}; choose "
            f"values of {others} with fixed_params, such as "
            f"{ {name: candidates[rows[0]].get(name) for name in others} }."
        )
    return rows


def _split_scores(
    results: Mapping[str, Any], name: str, rows: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Test scores of shape (n_values, n_splits)."""
    columns: list[npt.NDArray[np.float64]] = []
    while (key := f"split{len(columns)}_test_{name}") in results:
        columns.append(np.asarray(results[key])[rows])
    if not columns:
        raise ValueError(
            f"the search reports no {name!r}; pass scoring=SCORERS of "
            "sklearn_ccx.model_selection to it."
        )
    return np.stack(columns, axis=1)
