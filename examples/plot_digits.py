"""
=================================
One feature per neuron, on digits
=================================

A classifier of handwritten digits has 128 hidden neurons. A sparse autoencoder
describes its input, the image, by a few features. Does the classifier still work if
each neuron receives its largest feature alone?

Without a penalty it loses more than a quarter of its accuracy. We compare three
remedies: the bound on feature interaction (`lam`), training for the output that one
feature per neuron gives (`lam_fidelity`), and fewer active features (`k`).
"""

# %%
# The network
# -----------
#
# The classifier is trained first and stays as it is. `MLPWeights` copies the weights
# that the autoencoder has to know.

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from sklearn_ccx import MLPWeights

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.3, stratify=y, random_state=0
)
network = MLPClassifier((128,), max_iter=500, random_state=0).fit(X_train, y_train)
network_accuracy = network.score(X_test, y_test)
mlp = MLPWeights.from_sklearn(network)

# %%
# The search
# ----------
#
# `ablated_output` gives the ten class scores that the network computes when its neurons
# keep only some of the features. The share of images that these scores get right
# decides the search. The autoencoder's own score, the explained variance of the
# reconstruction, could not: it knows nothing of the network.
#
# All models are trained for 100 passes over the same images. A quarter of the training
# images is held out to choose the setting.

from sklearn.model_selection import GridSearchCV, ShuffleSplit

from sklearn_ccx import InteractionSAE, ablated_output


def accuracy(sae, X, y, scheme="keep_largest"):
    """Accuracy of the network when each neuron keeps what `scheme` says."""
    class_scores = ablated_output(sae, X, scheme)
    return np.mean(network.classes_[class_scores.argmax(axis=1)] == y)


sae = InteractionSAE(
    n_components=256, k=16, lam=0, mlp=mlp, max_iter=100, random_state=0
)
search = GridSearchCV(
    sae,
    [
        {"lam": [0]},
        {"lam": [0.1, 0.3]},
        {"lam_fidelity": [1, 2]},
        {"k": [8, 4]},
    ],
    scoring=accuracy,
    refit=False,
    cv=ShuffleSplit(n_splits=1, test_size=0.25, random_state=0),
    n_jobs=2,
)
search.fit(X_train, y_train)
settings = search.cv_results_["params"]

# %%
# The results
# -----------
#
# To see the whole trade-off, we fit every setting to all training images, not the
# chosen one alone, and measure it on the test images, which the search has not seen:
#
# - FVU is the fraction of the images' variance that the reconstruction does not
#   explain, and L0 the mean number of active features per image;
# - the share is the part of a neuron's input that comes from its largest feature;
# - the last two columns are the accuracy of the network when each neuron keeps its
#   largest feature, and when it keeps all of them.

from joblib import Parallel, delayed
from sklearn.base import clone

from sklearn_ccx import dominant_share

models = Parallel(n_jobs=2)(
    delayed(clone(sae).set_params(**setting).fit)(X_train) for setting in settings
)
names = [f"{name}={value}" for setting in settings for name, value in setting.items()]
fvu = [1 - model.score(X_test) for model in models]
one_feature = [accuracy(model, X_test, y_test) for model in models]

print("                                     accuracy, features per neuron")
print("k=16, lam=0, but    FVU    L0  share      one      all")
for i, model in enumerate(models):
    l0 = np.count_nonzero(model.transform(X_test), axis=1).mean()
    share = dominant_share(model, X_test)
    all_features = accuracy(model, X_test, y_test, "none")
    print(
        f"{names[i]:15} {fvu[i]:7.3f} {l0:5.1f} {share:6.2f} "
        f"{one_feature[i]:8.3f} {all_features:8.3f}"
    )
print(f"the network itself {network_accuracy:35.3f}")
print(f"chosen on held-out training images: {names[search.best_index_]}")

# %%
# What they show
# --------------
#
# On the left, every path starts at the model without a penalty. The fidelity term
# gains the most accuracy and costs some reconstruction. A smaller `k` alone helps as
# well, but costs more. The bound helps at `lam=0.1`, at little cost; more of it costs
# reconstruction and gains nothing here.
#
# On the right, neurons keep more than one feature. Without a penalty, two make up for
# most of the loss. With the fidelity term, the second adds nothing: the features have
# been trained to act alone, and all together they give less than those of the other
# models.

import matplotlib.pyplot as plt

paths = {
    "tab:red": {1: (0, 11, "center"), 2: (8, -12, "right")},
    "tab:blue": {3: (-7, 5, "right"), 4: (7, 5, "left")},
    "tab:green": {5: (7, -6, "left"), 6: (0, -12, "center")},
}


def annotate(axes, x, i, dx, dy, ha, color):
    """Write the name of model `i` at a distance of (dx, dy) points."""
    axes.annotate(
        names[i] if i else "no penalty, k=16",
        (x, one_feature[i]),
        xytext=(dx, dy),
        textcoords="offset points",
        ha=ha,
        va="center",
        color=color,
    )


figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4.2), sharey=True, layout="constrained"
)
for color, places in paths.items():
    path = [0, *places]
    left.plot([fvu[i] for i in path], [one_feature[i] for i in path], "o-", c=color)
    for i, place in places.items():
        annotate(left, fvu[i], i, *place, color)
left.plot(fvu[0], one_feature[0], "o", color="black")
annotate(left, fvu[0], 0, 8, 0, "left", "black")
left.set(
    title="One feature per neuron",
    xlabel="fraction of variance unexplained",
    ylabel="accuracy on the test images",
    ylim=(None, 1),
)
left.margins(x=0.2)

schemes = ["keep_largest", "keep_top_2", "keep_top_3", "keep_top_4", "none"]
for i, color in [(0, "black"), (1, "tab:red"), (3, "tab:blue"), (6, "tab:green")]:
    curve = [accuracy(models[i], X_test, y_test, scheme) for scheme in schemes]
    right.plot(curve, "o-", color=color)
    annotate(right, 0, i, -8, 0, "right", color)
right.set(
    title="More features per neuron",
    xlabel="largest features that each neuron keeps",
    xlim=(-1.65, None),
    xticks=range(len(schemes)),
    xticklabels=["1", "2", "3", "4", "all"],
)

for axes in (left, right):
    axes.axhline(network_accuracy, color="0.6", linestyle="--", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.annotate(
        "the network",
        (0.99, network_accuracy),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        color="0.4",
    )
right.spines["left"].set_visible(False)
right.tick_params(axis="y", left=False)

figure.savefig("plot_digits.png", dpi=150)
print("The figure is in plot_digits.png.")
