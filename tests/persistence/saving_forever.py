"""Save one estimator after the other to one file, until killed.

``python -m tests.persistence.saving_forever PATH`` waits for lines. At each it starts a
process that saves estimators whose arrays all hold one number, 1, 2, ..., and writes
the number to its output after each; the line is the first number. It says the id of
the process before.
"""

import os
import sys
from pathlib import Path

import numpy as np

from sklearn_ccx import InteractionSAE, save

N_COMPONENTS, WIDTH = 512, 256


def estimator_of(number: int) -> InteractionSAE:
    """A fitted coder with arrays of one number, 2 MiB in all."""
    W_dec = np.full((N_COMPONENTS, WIDTH), number, dtype=np.float32)
    return InteractionSAE.from_weights(
        W_dec.T, W_dec, b_enc=W_dec[:, 0], activation="topk", k=3
    )


def number_of(estimator: InteractionSAE) -> int:
    """The one number in its arrays."""
    arrays = estimator.components_, estimator.encoder_components_
    (number,) = {float(x) for array in arrays for x in np.unique(array)}
    return int(number)


def save_forever(path: Path, number: int) -> None:
    """Save number after number."""
    while True:
        save(estimator_of(number), path)
        say(f"saved {number}")
        number += 1


def say(line: str) -> None:
    """Write a line at once."""
    os.write(1, f"{line}\n".encode())


def main(path: Path) -> None:
    """Start a process for each line of the input."""
    say("ready")
    for line in sys.stdin:
        child = os.fork()  # without threads, and what it has imported is there
        if child == 0:
            save_forever(path, int(line))
        say(f"pid {child}")
        os.waitpid(child, 0)
        say("killed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
