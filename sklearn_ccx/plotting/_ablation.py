"""AblationDisplay."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator

from .._validation import check_text, shown
from ..coders import find_coder
from ..interactions import SCHEMES, Loss, ablation_fidelity
from ..networks import MLPs
from ._axes import BLUE, COLORS, axes_or_new, check_matplotlib
from ._checks import check_names, check_numbers

_SCHEME_LABELS = {
    "none": "keep all features",
    "drop_random": "drop one at random",
    "drop_second": "drop the second largest",
    "drop_largest": "drop the largest",
    "keep_largest": "keep the largest alone",
}


class AblationDisplay:
    r"""How much of an MLP survives when its neurons keep only some features, as bars.

    One group of bars for each ablation scheme, one bar for each MLP. Create it with
    :meth:`from_estimator`, or from the result of
    :func:`~sklearn_ccx.ablation_fidelity`; all parameters are stored as attributes.

    Parameters
    ----------
    fidelity : dict of str to array-like of shape (n_mlps,)
        :math:`\Phi` of each MLP for each scheme. To compare estimators, one column
        for each of them, such as their means over the MLPs.

    labels : sequence of str, default=None
        Names of the columns. None is "MLP 0", "MLP 1" ...

    quantity : str, default="$R^2$ of the MLP output"
        What the fidelity is, for the axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the bars.

    figure_ : matplotlib Figure
        Figure that contains them.

    bars_ : list of matplotlib BarContainer
        The bars of each column.

    Raises
    ------
    ValueError
        If there is no scheme, or the schemes or `labels` differ in length.

    See Also
    --------
    ablation_fidelity : Computes what is drawn.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx import AblationDisplay, InteractionSAE
    >>> X = np.random.default_rng(0).normal(size=(200, 6))
    >>> sae = InteractionSAE(k=3, max_iter=5, random_state=0).fit(X)
    >>> AblationDisplay.from_estimator(sae, X, random_state=0)
    <...AblationDisplay object at ...>
    """

    def __init__(
        self,
        fidelity: Mapping[str, npt.ArrayLike],
        *,
        labels: Sequence[str] | None = None,
        quantity: str = "$R^2$ of the MLP output",
    ) -> None:
        self.fidelity = fidelity
        self.labels = labels
        self.quantity = quantity

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: npt.ArrayLike,
        *,
        schemes: str | Sequence[str] = SCHEMES,
        mlp: MLPs = None,
        loss: Loss | None = None,
        random_state: int | np.random.RandomState | None = None,
        batch_size: int | None = None,
        labels: Sequence[str] | None = None,
        ax: Any = None,
    ) -> Self:
        """Ablate the MLPs of a fitted estimator and draw.

        Parameters
        ----------
        estimator : estimator
            A fitted :class:`~sklearn_ccx.InteractionCrosscoder` or
            :class:`~sklearn_ccx.InteractionSAE`, a pipeline that ends in one, or a
            meta-estimator fitted with one.

        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
            What `estimator` takes.

        schemes : str or sequence of str
            As in :func:`~sklearn_ccx.ablation_fidelity`; its five by default.

        mlp : MLPWeights or list of MLPWeights, default=None
            The MLPs to ablate; None takes those of the estimator.

        loss : callable, default=None
            The loss of the network, as in :func:`~sklearn_ccx.ablation_fidelity`.

        random_state : int, RandomState instance or None, default=None
            Determines the features that "drop_random" drops.

        batch_size : int, default=None
            Samples read at a time. None is 512.

        labels : sequence of str, default=None
            Names of the MLPs.

        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        Returns
        -------
        AblationDisplay
            The display, drawn.
        """
        check_matplotlib(f"{cls.__name__}.from_estimator")
        coder, X = find_coder(estimator, X)
        fidelity = ablation_fidelity(
            coder,
            X,
            schemes=schemes,
            mlp=mlp,
            loss=loss,
            random_state=random_state,
            batch_size=batch_size,
        )
        quantity = "$R^2$ of the MLP output" if loss is None else "loss recovered"
        return cls(fidelity, labels=labels, quantity=quantity).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the bars.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a new figure.

        Returns
        -------
        AblationDisplay
            The display itself.
        """
        fidelity_SP, labels = self._columns()
        quantity = check_text(self.quantity, "quantity")
        n_schemes, n_columns = fidelity_SP.shape
        size = (6.4, 1.0 + n_schemes * (0.22 * n_columns + 0.18))
        ax = axes_or_new(ax, f"{type(self).__name__}.plot", size)
        self.ax_, self.figure_, self.bars_ = ax, ax.figure, []
        height = 0.8 / n_columns
        for column, color in enumerate(_column_colors(n_columns, self.labels)):
            values = fidelity_SP[:, column]
            bars = ax.barh(
                np.arange(n_schemes) + (column - (n_columns - 1) / 2) * height,
                np.nan_to_num(values),
                height=height * 0.92,
                color=color,
                label=labels[column],
            )
            texts = ["undefined" if np.isnan(v) else f"{v:.2f}" for v in values]
            ax.bar_label(bars, texts, padding=3, fontsize="small", color="0.25")
            self.bars_.append(bars)
        ax.set_yticks(range(n_schemes), list(map(_scheme_label, self.fidelity)))
        ax.set_ylim(n_schemes - 0.45, -0.55)
        ax.set_xlabel(f"fidelity $\\Phi$, {quantity}")
        lowest = np.nanmin([0, *fidelity_SP.flat])
        highest = np.nanmax([1, *fidelity_SP.flat])
        room = 0.08 * (highest - lowest)
        ax.set_xlim(lowest - (room if lowest < 0 else 0), highest + room)
        ax.axvline(0, color="0.3", linewidth=0.8)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        if n_columns > 1:
            ax.legend(
                loc="lower left",
                bbox_to_anchor=(0, 1),
                ncols=min(n_columns, 4),
                frameon=False,
                borderaxespad=0,
            )
        return self

    def _columns(self) -> tuple[npt.NDArray[Any], Sequence[str]]:
        """Fidelity of shape (n_schemes, n_columns), and names of the columns."""
        if not isinstance(self.fidelity, Mapping):
            raise TypeError(
                "fidelity must be a dict from schemes to values, as ablation_fidelity "
                f"returns; got {shown(self.fidelity)}."
            )
        if not self.fidelity:
            raise ValueError("fidelity is empty; it must have at least one scheme.")
        rows = [
            np.atleast_1d(check_numbers(values, f"fidelity[{scheme!r}]"))
            for scheme, values in self.fidelity.items()
        ]
        shapes = {row.shape for row in rows}
        if len(shapes) > 1 or rows[0].ndim != 1 or not len(rows[0]):
            raise ValueError(
                "fidelity must have the same number of values, at least 1, for each "
                f"scheme; got shapes {sorted(shapes)}."
            )
        fidelity_SP = np.stack(rows)
        n_columns = fidelity_SP.shape[1]
        if self.labels is None:
            return fidelity_SP, [f"MLP {index}" for index in range(n_columns)]
        return fidelity_SP, check_names(self.labels, "labels", n_columns, "value")


def _scheme_label(scheme: object) -> str:
    scheme = str(scheme)
    match = re.fullmatch(r"keep_top_(\d+)", scheme)
    return (
        f"keep the {match[1]} largest" if match else _SCHEME_LABELS.get(scheme, scheme)
    )


def _column_colors(n_columns: int, labels: Sequence[str] | None) -> list[Any]:
    """Distinct hues for named columns, shades along the depth for MLPs."""
    import matplotlib as mpl

    if n_columns == 1:
        return [BLUE]
    if labels is not None and n_columns <= len(COLORS):
        return list(COLORS[:n_columns])
    return list(mpl.colormaps["cividis"](np.linspace(0.05, 0.85, n_columns)))
