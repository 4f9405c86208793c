"""What the displays share: matplotlib itself, axes to draw on, colors."""

from typing import Any

from .._validation import shown

# Okabe and Ito's palette, which color-blind readers can tell apart.
# Its yellow is left out, which is too pale on white.
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#CC79A7", "#E69F00", "#56B4E9"
COLORS = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY)


def check_matplotlib(caller: str) -> None:
    """Raise an error that names the extra if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{caller} needs matplotlib; install it with "
            "`pip install 'sklearn-ccx[plot]'`."
        ) from error


def axes_or_new(
    ax: Any, caller: str, figsize: tuple[float, float], layout: str = "constrained"
) -> Any:
    """The axes given, or those of a new figure of this size in inches."""
    check_matplotlib(caller)
    if ax is not None:
        return check_axes(ax)
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=figsize, layout=layout)
    return ax


def check_axes(ax: Any) -> Any:
    """Raise if these are no axes of matplotlib."""
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be a matplotlib Axes or None; got {shown(ax)}.")
    return ax


def spread(positions: list[float], gap: float) -> list[float]:
    """Positions at least a gap apart, in the same order, near those given."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = [positions[i] for i in order]
    for _ in range(100):
        for low in range(len(placed) - 1):
            overlap = gap - (placed[low + 1] - placed[low])
            if overlap > 0:
                placed[low] -= overlap / 2
                placed[low + 1] += overlap / 2
    return [placed[order.index(i)] for i in range(len(positions))]
