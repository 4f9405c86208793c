"""Timing side by side, and tables."""

import time
from collections.abc import Callable
from statistics import median


def interleaved_medians(
    calls: dict[str, Callable[[], object]], repeats: int
) -> dict[str, float]:
    """Median seconds of each call over rounds in which every call has its turn.

    One more round comes first and does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(times[1:]) for name, times in seconds.items()}


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print columns separated by two spaces, all but the first to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [header, ["-" * width for width in widths], *rows]:
        first, *others = (
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())
