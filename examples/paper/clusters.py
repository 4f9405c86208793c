"""Clusters of interacting features and the tokens they are active on."""

from pathlib import Path
from typing import Any

from sklearn.frozen import FrozenEstimator
from transformers import PreTrainedTokenizerBase

from sklearn_ccx import FeatureClusterer, InteractionCrosscoder
from sklearn_ccx.inspection import cluster_report, top_tokens
from sklearn_ccx.lm import Harvest

# The paper's is the first. Raw, features that merely fire together interact more.
AFFINITIES: dict[str, dict[str, Any]] = {
    "interaction": {"normalize": None},
    "interaction per co-activation": {"normalize": "coactivation"},
    "weights": {"affinity": "weights"},
}


def cluster_features(
    crosscoder: InteractionCrosscoder, harvest: Harvest, seed: int
) -> tuple[FeatureClusterer, list[dict[str, Any]]]:
    """The paper's clusters, and how well defined those of each affinity are."""
    acts = harvest.activations
    clusterers = {
        name: FeatureClusterer(
            FrozenEstimator(crosscoder), random_state=seed, **kwargs
        ).fit(acts)
        for name, kwargs in AFFINITIES.items()
    }
    rows = [
        {
            "affinity": name,
            "n_clusters": clusterer.n_clusters_,
            "modularity": clusterer.modularity_,
            "stability": clusterer.stability(acts, random_state=seed),
        }
        for name, clusterer in clusterers.items()
    ]
    return clusterers["interaction"], rows


def describe_clusters(
    clusterer: FeatureClusterer,
    harvest: Harvest,
    tokenizer: PreTrainedTokenizerBase,
    report: Path,
) -> list[dict[str, Any]]:
    """What each cluster is active on; the report has every feature."""
    acts, tokens = harvest.activations, token_strings(tokenizer, harvest)
    cluster_report(
        clusterer,
        acts,
        tokens,
        groups=harvest.sequence_ids,
        title="Clusters of interacting features",
        out_file=report,
    )
    return [
        {
            "cluster": label,
            "n_features": int((clusterer.labels_ == label).sum()),
            "top_tokens": [[token, round(share, 3)] for token, share in shares],
        }
        for label, shares in enumerate(top_tokens(clusterer, acts, tokens))
    ]


def token_strings(tokenizer: PreTrainedTokenizerBase, harvest: Harvest) -> list[str]:
    """The text of each harvested token."""
    strings = {int(i): tokenizer.decode([int(i)]) for i in set(harvest.token_ids)}
    return [strings[int(i)] for i in harvest.token_ids]
