"""The losses at the neurons with strengths by name."""

from sklearn_ccx._engine._settings import LossStrengths
from sklearn_ccx._engine.losses import neuron_losses


def losses_of(codes, W_dec, x, mlps, *, n_dominant=1, **strengths):
    strengths = {"lam": 0.0, "lam_fidelity": 0.0} | strengths
    settings = LossStrengths(n_dominant=n_dominant, aux_k=0, **strengths)
    return neuron_losses(codes, W_dec, x, mlps, settings)
