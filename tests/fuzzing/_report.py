"""The table of outcomes."""

from collections import Counter
from collections.abc import Sequence

from ._calls import Outcome

KINDS = ("result", "result, warned", "clear error", "unclear")


def table(outcomes: Sequence[Outcome]) -> str:
    """Calls by public name and outcome."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        name = outcome.call.door.split(".")[0].split("[")[0]
        counts.setdefault(name, Counter())[outcome.kind] += 1
    rows = [(name, counts[name]) for name in sorted(counts)]
    rows.append(("all", sum(counts.values(), Counter())))
    width = max(len(name) for name, _ in rows)
    lines = [f"{'':{width}} {'calls':>7} " + " ".join(f"{k:>14}" for k in KINDS)]
    for name, row in rows:
        cells = " ".join(f"{row[kind]:>14}" for kind in KINDS)
        lines.append(f"{name:{width}} {row.total():>7} {cells}")
    return "\n".join(lines)
