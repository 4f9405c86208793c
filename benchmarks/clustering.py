"""Which affinity finds the features that share neurons?

Adjusted Rand index between the clusters of `FeatureClusterer` and the neuron groups of
`make_interacting_features`, for the true features and for those of a fitted
`InteractionSAE`, each true feature standing for the learned one that is assigned to it.
The first row has the defaults of the generator, the others change what they name.
"""

import argparse

import numpy as np
import torch
from joblib import Parallel, delayed
from reporting import print_table
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import SpectralClustering
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize

from sklearn_ccx import FeatureClusterer, InteractionSAE
from sklearn_ccx.datasets import make_interacting_features

LARGE = {"n_features": 240, "n_groups": 24, "n_topics": 24}
HARD = {"background": 0.4, "overlap": 0.5, "frequency_skew": 1.0}
SETTINGS = {
    "boost 12": {},
    "boost 1": {"boost": 1.0},
    "boost 4": {"boost": 4.0},
    "background 0": {"background": 0.0},
    "background .4": {"background": 0.4},
    "overlap .5": {"overlap": 0.5},
    "Zipf frequencies": {"frequency_skew": 1.0},
    "noise .2": {"noise": 0.2},
    "500 samples": {"n_samples": 500},
    "240 features in 24 groups": LARGE,
    "the same, 16000 samples": LARGE | {"n_samples": 16000},
    "240 features, background .4": LARGE | {"background": 0.4},
    "background, overlap, Zipf": HARD,
    "the same, 500 samples": HARD | {"n_samples": 500},
    "240 features and all of these": LARGE | HARD | {"n_samples": 500},
}
AFFINITIES = {
    "raw": {"affinity": "interaction", "normalize": None},
    "per co-activation": {"affinity": "interaction"},
    "per code product": {"affinity": "interaction", "normalize": "code_product"},
    "weights": {"affinity": "weights"},
    "co-activation": {"affinity": "coactivation"},
}
METHODS = {
    "louvain": "louvain",
    "greedy modularity": "greedy_modularity",
    "label propagation": "label_propagation",
    "affinity propagation": "affinity_propagation",
    "affinity propagation on rows": "affinity_propagation_rows",
}


def agreement(data, sae, features, **params):
    """Adjusted Rand index against the neuron groups."""
    clusterer = FeatureClusterer(FrozenEstimator(sae), random_state=0, **params)
    labels = clusterer.fit_predict(data.activations)[features]
    return adjusted_rand_score(data.neuron_groups, labels)


def fitted_features(data, seed):
    """A fitted dictionary, and the feature assigned to each true one."""
    n_features = len(data.components)
    sae = InteractionSAE(n_features, k=8, lam=0, mlp=data.mlp, random_state=seed)
    sae.fit(data.activations)
    cosines = data.components @ normalize(sae.components_).T
    _, features = linear_sum_assignment(cosines, maximize=True)
    return sae, features, cosines[np.arange(n_features), features].mean()


def affinities_at(setting, seed, fit):
    torch.set_num_threads(1)
    data = make_interacting_features(random_state=seed, **SETTINGS[setting])
    n_features = len(data.components)
    sae, features, cosine = data.sae, np.arange(n_features), 1.0
    if fit:
        sae, features, cosine = fitted_features(data, seed)
    scores = [agreement(data, sae, features, **p) for p in AFFINITIES.values()]
    return [*scores, cosine]


def methods_at(setting, seed):
    torch.set_num_threads(1)
    data = make_interacting_features(random_state=seed, **SETTINGS[setting])
    n_features, n_groups = len(data.components), len(np.unique(data.neuron_groups))
    spectral = SpectralClustering(n_groups, affinity="precomputed", random_state=seed)
    return [
        agreement(data, data.sae, np.arange(n_features), method=method)
        for method in [*METHODS.values(), spectral]
    ]


def mean_over_seeds(call, n_seeds, n_jobs, *args):
    rows = Parallel(n_jobs)(
        delayed(call)(args[0], s, *args[1:]) for s in range(n_seeds)
    )
    return [f"{value:.2f}" for value in np.round(np.mean(rows, axis=0), 2) + 0.0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    print(f"Adjusted Rand index against neuron groups, mean of {options.seeds} seeds")
    for fit in (False, True):
        print("\nFeatures of a fitted InteractionSAE" if fit else "\nTrue features")
        header = ["", *AFFINITIES, *(["cosine"] if fit else [])]
        table = []
        for setting in SETTINGS:
            row = mean_over_seeds(
                affinities_at, options.seeds, options.jobs, setting, fit
            )
            table.append([setting, *row[: len(header) - 1]])
        print_table(header, table)
    print("\nTrue features, interaction per co-activation, by method")
    header = ["", *METHODS, "spectral"]
    settings = ["boost 12", "background .4", "240 features in 24 groups"]
    table = [
        [s, *mean_over_seeds(methods_at, options.seeds, options.jobs, s)]
        for s in settings
    ]
    transposed = [list(column) for column in zip(header, *table, strict=True)]
    print_table(transposed[0], transposed[1:])


if __name__ == "__main__":
    main()
