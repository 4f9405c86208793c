"""Synthetic activations for the other scripts."""

import numpy as np
import numpy.typing as npt


def sparse_activations(
    n_samples: int, width: int, *, n_directions: int, n_active: int, noise: float = 0.02
) -> npt.NDArray[np.float32]:
    """Sums of few out of many random unit directions, plus Gaussian noise.

    Each direction takes part in a sample independently of the others, ``n_active`` of
    them on average, with an exponential amplitude. The result has unit variance.
    """
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(n_directions, width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    shape = n_samples, n_directions
    amplitudes = rng.exponential(size=shape) * (rng.random(shape) < n_active / shape[1])
    X = amplitudes @ directions + noise * rng.normal(size=(n_samples, width))
    return (X / X.std()).astype(np.float32)
