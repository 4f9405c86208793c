"""Activations of a language model as the crosscoders read them."""

from collections.abc import Sequence

from text import IdArray
from transformers import PreTrainedModel

from sklearn_ccx import MLPWeights
from sklearn_ccx.lm import Harvest, harvest, mlp_weights

# The residual stream before the first block and four places in each block.
SITES = ("blocks.0.resid_pre", "attn_in", "resid_mid", "mlp_in", "resid_post")


def record(model: PreTrainedModel, ids: IdArray) -> Harvest:
    """Activations at every token of every row, special ones included."""
    return harvest(model, list(ids), sites=SITES, drop_special=False)


def read_mlps(model: PreTrainedModel) -> list[MLPWeights]:
    """The MLPs of all blocks, as readers of those sites."""
    return mlp_weights(model, sites=SITES)


def mlp_inputs(sites: Sequence[str]) -> list[int]:
    """Which of the sites the MLPs read."""
    return [i for i, name in enumerate(sites) if name.endswith("mlp_in")]
