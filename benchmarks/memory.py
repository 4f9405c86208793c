"""Memory that the interaction penalty takes, against its textbook form.

Each form computes the value and both gradients in a fresh process. Counted is the
largest resident set during the call less the resident set after it, when only the
inputs and the returned gradients of decoder and codes are left. So neither inputs nor
results count, but everything between them does. Linux only: the peak is the kernel's
own (VmHWM), reset just before the call.
"""

import argparse
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import torch
from penalty_forms import FORMS, Shapes, parse_problem, random_problem
from reporting import print_table

# From this size on, the C library returns freed memory to the system at once.
_RETURNED_BYTES = 2**16


def peak_mib(form: str, shapes: Shapes, codes: str, threads: int) -> float:
    """Mebibytes that a form takes, measured in a fresh process."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(_RETURNED_BYTES)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (form, shapes, codes, threads))


def _measure(form: str, shapes: Shapes, codes: str, threads: int) -> float:
    torch.set_num_threads(threads)
    # Libraries are loaded and kernels compiled outside the measurement.
    FORMS[form](random_problem(replace(shapes, batch=2), codes))
    problem = random_problem(shapes, codes)
    Path("/proc/self/clear_refs").write_text("5")  # see proc(5): resets the peak
    results = FORMS[form](problem)
    peak, after = _resident_mib("VmHWM"), _resident_mib("VmRSS")
    del results
    return peak - after


def _resident_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"No {field} in /proc/self/status.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    options, shapes = parse_problem(parser)
    print(random_problem(shapes, options.codes), end="\n\n")
    peak = {
        form: peak_mib(form, shapes, options.codes, options.threads) for form in FORMS
    }
    print_table(
        ["form", "peak MiB", "textbook ÷ form"],
        [
            [form, f"{mib:.0f}", f"{peak['textbook'] / mib:.1f}"]
            for form, mib in peak.items()
        ],
    )
    print("\nAims for textbook ÷ form: numba at least 30, torch at least 15.")


if __name__ == "__main__":
    main()
