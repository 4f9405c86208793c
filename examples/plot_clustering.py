"""
======================================
Features that share neurons, clustered
======================================

Which features does a network combine? Those that interact at its neurons. But features
that are merely active together interact more as well, if only a little each time, and
that can hide the others.

We make activations in which the two are independent: every feature belongs to a group
that shares neurons, and to a topic that is active together. `FeatureClusterer` should
find the neuron groups, not the topics.
"""

# %%
# The data
# --------
#
# There are 96 features in 8 neuron groups and 8 topics. The features of a sample's
# topic are 12 times as likely to be active as others. Features write to the neurons of
# their group and, more weakly, to all others (`background`).

from sklearn_ccx.datasets import make_interacting_features

data = make_interacting_features(n_samples=4000, background=0.15, random_state=0)
print(f"activations: {data.activations.shape}")
print(f"the network: {data.mlp}")

# %%
# Clusters of learned features
# ----------------------------
#
# The clusterer fits an autoencoder, builds the graph of the features' interactions and
# looks for its communities. The interaction of two features is taken *per
# co-activation*: its mean over the samples on which both are active. `normalize=None`
# would leave it raw.
#
# We know the true features. Each is compared with the learned one that is most like it.

from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize

from sklearn_ccx import FeatureClusterer, InteractionSAE

sae = InteractionSAE(n_components=96, k=8, lam=0, mlp=data.mlp, random_state=0)
clusterer = FeatureClusterer(sae, random_state=0).fit(data.activations)

learned = clusterer.estimator_
cosines = data.components @ normalize(learned.components_).T
labels = clusterer.labels_[cosines.argmax(axis=1)]
print(f"cosine of true and learned features: {cosines.max(axis=1).mean():.2f}")
print(f"clusters: {clusterer.n_clusters_}, modularity {clusterer.modularity_:.2f}")
print("adjusted Rand index")
print(f"  against neuron groups: {adjusted_rand_score(data.neuron_groups, labels):.2f}")
print(f"  against topics:        {adjusted_rand_score(data.topic_groups, labels):.2f}")

# %%
# Without the truth, the agreement between the clusters of two halves of the data says
# whether there is something to find. It does not say what: the clusters of raw
# interaction are as stable, and they are the topics.

from sklearn.frozen import FrozenEstimator

for name in ("coactivation", None):
    other = FeatureClusterer(FrozenEstimator(learned), normalize=name, random_state=0)
    other.fit(data.activations)
    stability = other.stability(data.activations, random_state=0)
    labels = other.labels_[cosines.argmax(axis=1)]
    topics = adjusted_rand_score(data.topic_groups, labels)
    print(f"normalize={name}: stability {stability:.2f}, {topics:.2f} against topics")

# %%
# How far it works
# ----------------
#
# From here on we use the true features, which `data.sae` has, so that nothing but the
# clustering can fail. The more features write to neurons outside their group, the
# harder it becomes, and 240 features in 24 groups are harder than 96 in 8.
#
# The five affinities are
#
# - the raw interaction;
# - the interaction per co-activation, the default;
# - the interaction per product of the two codes, which also takes out how strongly
#   the features are active;
# - the similarity of what they write to the neurons. It needs no samples, but says
#   nothing on what happens when both are active;
# - co-activation alone.

import numpy as np

affinities = {
    "raw interaction": {"normalize": None},
    "per co-activation": {"normalize": "coactivation"},
    "per code product": {"normalize": "code_product"},
    "weights": {"affinity": "weights"},
    "co-activation": {"affinity": "coactivation"},
}
sizes = {
    "96 features in 8 groups": {},
    "240 features in 24 groups": {"n_features": 240, "n_groups": 24, "n_topics": 24},
}
backgrounds = [0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]
seeds = [0, 1]


def agreement(seed, params, **setting):
    """Adjusted Rand index against the neuron groups."""
    data = make_interacting_features(random_state=seed, **setting)
    clusterer = FeatureClusterer(FrozenEstimator(data.sae), random_state=0, **params)
    labels = clusterer.fit_predict(data.activations)
    return adjusted_rand_score(data.neuron_groups, labels)


curves = {
    (size, name): [
        np.mean([agreement(s, params, background=b, **setting) for s in seeds])
        for b in backgrounds
    ]
    for size, setting in sizes.items()
    for name, params in affinities.items()
}
for size in sizes:
    print(f"\n{size}, by background")
    print(" " * 17, *(f"{background:5.2f}" for background in backgrounds))
    for name in affinities:
        values = np.round(curves[size, name], 2) + 0.0
        print(f"{name:17}", *(f"{value:5.2f}" for value in values))

# %%
# What they show
# --------------
#
# On top are the interactions of the true features in the order of their neuron groups.
# Raw, the groups are faint squares on the diagonal, and the topics bright specks all
# over. Per co-activation the groups stand out.
#
# Below, raw interaction finds the groups only while features hardly write outside
# them. Per co-activation it works for much longer, but not for 240 features: most of
# their pairs are active together on a handful of samples. The product of the codes
# gets along with fewer. Weights do best here; no sample enters them. Co-activation
# alone finds nothing, since the topics are independent of the groups.

import matplotlib.pyplot as plt

from sklearn_ccx import interaction_matrix

figure, axes = plt.subplots(2, 2, figsize=(10, 9.2), layout="constrained")
order = np.lexsort((data.topic_groups, data.neuron_groups))
titles = {None: "Raw interaction", "coactivation": "Interaction per co-activation"}
for ax, (name, title) in zip(axes[0], titles.items(), strict=True):
    matrix = interaction_matrix(data.sae, data.activations, normalize=name)
    matrix = (matrix + matrix.T).toarray()[order][:, order]
    ax.imshow(matrix, cmap="viridis", vmax=np.quantile(matrix, 0.99))
    ax.set(title=title, xlabel="features, by neuron group", xticks=[], yticks=[])
axes[0, 0].set_ylabel("features, by neuron group")

colors = ["tab:red", "black", "tab:blue", "tab:green", "0.6"]
for ax, size in zip(axes[1], sizes, strict=True):
    for i, (name, color) in enumerate(zip(affinities, colors, strict=True)):
        # Smaller markers on top, where curves coincide.
        style = {"color": color, "marker": "o", "markersize": 9 - 1.5 * i}
        ax.plot(backgrounds, curves[size, name], label=name, **style)
    ax.set(
        title=f"{size}, {len(data.activations)} samples",
        xlabel="writes outside the group, relative to those inside",
        ylim=(-0.05, 1.05),
    )
    ax.spines[["top", "right"]].set_visible(False)
axes[1, 0].set_ylabel("adjusted Rand index, neuron groups")
axes[1, 0].legend(frameon=False, loc="center", bbox_to_anchor=(0.42, 0.5))

figure.savefig("plot_clustering.png", dpi=150)
print("The figure is in plot_clustering.png.")
