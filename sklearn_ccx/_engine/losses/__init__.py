"""Terms of the training loss, one subject a module, and their sum."""

from ._neurons import NeuronLosses, neuron_losses
from ._objective import LossTerms, Objective

__all__ = ["LossTerms", "NeuronLosses", "Objective", "neuron_losses"]
