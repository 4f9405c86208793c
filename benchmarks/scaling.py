"""How the time of the interaction penalty grows with each size, one at a time.

Prints times relative to the base point and draws them in `scaling.png`.
"""

import argparse
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
from penalty_forms import Shapes, package, parse_problem, random_problem
from reporting import interleaved_medians, print_table

BASE = Shapes(batch=128, features=768, sites=16, width=384, mlps=4, neurons=1536, k=16)
SIZES = {
    "batch": "samples",
    "features": "features",
    "neurons": "neurons",
    "k": "active features",
    "mlps": "MLPs",
}
FACTORS = (0.25, 0.5, 1, 2, 4)


def draw(relative: dict[str, list[float]]) -> None:
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axes.set(xscale="log", yscale="log")
    in_points = {"textcoords": "offset points", "va": "center"}
    axes.plot(FACTORS, FACTORS, "--", color="0.6")
    axes.annotate("proportional", (FACTORS[0],) * 2, (14, 0), color="0.5", **in_points)
    label_height = 0.0
    for name, times in sorted(relative.items(), key=lambda item: item[1][-1]):
        (line,) = axes.plot(FACTORS, times, marker="o", markersize=4)
        # Labels stand where the lines end, but never closer than a line of text.
        label_height = max(times[-1], 1.15 * label_height)
        end, color = (FACTORS[-1], label_height), line.get_color()
        axes.annotate(SIZES[name], end, (8, 0), color=color, **in_points)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(plt.FixedLocator(FACTORS))
        axis.set_major_formatter("×{x:g}")
        axis.set_minor_locator(plt.NullLocator())
    axes.set(xlabel="size, relative to the base point", ylabel="time, likewise")
    figure.savefig("scaling.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    options, base = parse_problem(parser, BASE)
    calls = {}
    for name in SIZES:
        for factor in FACTORS:
            shapes = replace(base, **{name: round(factor * getattr(base, name))})
            if shapes not in calls:
                problem = random_problem(shapes, options.codes)
                calls[shapes] = partial(package, problem)
    seconds = interleaved_medians(calls, options.repeats)

    relative, rows = {}, []
    for name, label in SIZES.items():
        size = getattr(base, name)
        varied = [replace(base, **{name: round(f * size)}) for f in FACTORS]
        relative[name] = [seconds[shapes] / seconds[base] for shapes in varied]
        rows.append([label, f"{size}", *(f"{ratio:.2f}" for ratio in relative[name])])
    print(f"Base point: {random_problem(base, options.codes)}\n")
    print_table(["varied", "base", *(f"×{factor:g}" for factor in FACTORS)], rows)
    draw(relative)


if __name__ == "__main__":
    main()
