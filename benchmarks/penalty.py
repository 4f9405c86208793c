"""Time of the interaction penalty, forward and backward, against two yardsticks.

The floor is what every form needs: for each MLP the product that gives what each
feature writes to each neuron, and the product that carries a gradient back from there
to the decoder. The textbook form is autograd over the tensor of all contributions.

The column "system" is the share of the time that the operating system takes, nearly all
of it to hand out memory.
"""

import argparse
import math
import os
from collections.abc import Callable
from functools import partial

import torch
from memory import peak_mib
from penalty_forms import FORMS, Problem, parse_problem, random_problem
from reporting import interleaved_medians, print_table
from torch import Tensor

# In float32 two forms may find another winner where two contributions nearly tie.
_TOLERANCE = 1e-3


def floor(problem: Problem) -> Callable[[], None]:
    """The two products, written into memory that is already there."""
    weights = [(mlp.site, mlp.W_in_DN) for mlp in problem.mlps]
    width, n_neurons = weights[0][1].shape
    W_dec_MF = problem.W_dec_MF.detach()
    M_MN = torch.empty(len(W_dec_MF), n_neurons)
    gradient_MF = torch.zeros_like(W_dec_MF)

    def run() -> None:
        for site, W_in_DN in weights:
            columns = slice(site * width, (site + 1) * width)
            torch.mm(W_dec_MF[:, columns], W_in_DN, out=M_MN)
            gradient_MF[:, columns].addmm_(M_MN, W_in_DN.T)

    return run


def check_agreement(problem: Problem) -> None:
    """Compare values and gradients; print and bound the largest difference."""
    reference = {"fidelity": _results("torch, with fidelity", problem)}
    reference["penalty"] = _results("textbook", problem)
    largest = 0.0
    for form in FORMS:
        expected = reference["fidelity" if "fidelity" in form else "penalty"]
        for result, right in zip(_results(form, problem), expected, strict=True):
            largest = max(largest, float((result - right).norm() / right.norm()))
    print(f"largest relative difference of a value or gradient: {largest:.0e}\n")
    if largest > _TOLERANCE:
        raise SystemExit("The forms disagree.")


def _results(form: str, problem: Problem) -> list[Tensor]:
    """Value and gradients; the codes' gradient on active entries, where it is used."""
    value, grad_codes_BM, grad_W_MF = FORMS[form](problem)
    return [value, grad_codes_BM * (problem.codes_BM > 0), grad_W_MF]


def system_share(call: Callable[[], object]) -> float:
    """Share of a call's processor time that is spent in the operating system."""
    before = os.times()
    call()
    after = os.times()
    system, user = after.system - before.system, after.user - before.user
    return system / (system + user) if system + user else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options, shapes = parse_problem(parser)
    problem = random_problem(shapes, options.codes)
    print(problem)
    check_agreement(problem)

    calls: dict[str, Callable[[], object]] = {"floor": floor(problem)}
    calls |= {form: partial(run, problem) for form, run in FORMS.items()}
    seconds = interleaved_medians(calls, options.repeats)
    rows = []
    for form, time in seconds.items():
        ratios = time / seconds["floor"], seconds["textbook"] / time
        row = [form, f"{time:.3f}", *(f"{ratio:.2f}" for ratio in ratios)]
        row.append(f"{system_share(calls[form]):.0%}")
        if form == "floor":
            row.append("")
        else:
            mib = peak_mib(form, shapes, options.codes, options.threads)
            row.append(f"{mib:.0f}")
        rows.append(row)
    header = ["form", "seconds", "÷ floor", "textbook ÷ form", "system", "peak MiB"]
    print_table(header, rows)
    print(
        "\nAims: numba at most 1.35 times the floor, textbook at least 10 times slower;"
        "\ntorch at most 2.5 times the floor, textbook at least 6 times slower."
    )


if __name__ == "__main__":
    main()
