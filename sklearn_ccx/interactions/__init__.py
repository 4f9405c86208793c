"""How features interact at neurons, and what survives when they may not."""

from ._ablation import SCHEMES, Loss, ablated_output, ablation_fidelity
from ._matrix import interaction_matrix
from ._reader import NeuronReader, refuse_overflow
from ._row_tasks import n_tasks, run_tasks
from ._scores import interaction_scores
from ._share import dominant_share

__all__ = [
    "SCHEMES",
    "Loss",
    "NeuronReader",
    "ablated_output",
    "ablation_fidelity",
    "dominant_share",
    "interaction_matrix",
    "interaction_scores",
    "n_tasks",
    "refuse_overflow",
    "run_tasks",
]
