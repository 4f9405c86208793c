"""How closely two implementations agree."""

import numpy as np
import torch

D, M, K, N_SAMPLES = 12, 40, 5, 200

# Of the largest entry. Both sides compute in float32.
TOLERANCE = 1e-5


def activations(seed=3):
    rng = np.random.default_rng(seed)
    X = 2 * rng.normal(size=(N_SAMPLES, D)) + rng.normal(size=D)
    return X.astype(np.float32)


def fill(module, seed=0):
    """Draw every parameter at random; thresholds are positive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = 0.5 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn.abs() if "threshold" in name else drawn)
    return module


def to_numpy(tensor):
    return tensor.detach().cpu().numpy()


def assert_equal(ours, theirs):
    """Equal within the tolerance, relative to the largest entry, and not all zero."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max()
    assert scale > 0
    error = np.abs(ours - theirs).max() / scale
    assert error <= TOLERANCE, f"relative error {error:.2g}"
