"""
===================================
What one feature per neuron proves
===================================

A classifier reads handwritten digits. A sparse autoencoder explains it: each hidden
neuron receives one feature. On how many test images can we *prove*, from the
explanation and bounds on what it leaves out, that the classifier predicts what the
explanation predicts?

Without a penalty on almost none. We train for the proof (`lam_margin`), compare with
the other penalties, and look at the length of the proofs.
"""

# %%
# The network and its variations
# ------------------------------
#
# The loss of the proved margin asks for the prediction of the network, not for labels.
# Any input serves, also one that nobody has labelled. We add three noisy copies of each
# training image; without them the share that is proved on training images is far above
# that on others.

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


def with_noisy_copies(X, n_copies=3, size=0.5):
    """Add copies with noise of `size` times each pixel's standard deviation."""
    noise = np.random.default_rng(0).normal(size=(n_copies, *X.shape))
    copies = np.clip(X + size * X.std(axis=0) * noise, 0, 1)
    return np.concatenate([X, *copies]).astype(np.float32)


# %%
# The choice
# ----------
#
# Each setting is trained on three quarters of the training images and measured on the
# others. We take the one that proves most, of those whose explanation is right on 95%
# of these images.

from joblib import Parallel, delayed
from sklearn.base import clone

from sklearn_ccx import InteractionSAE, certify_classifier

sae = InteractionSAE(
    n_components=256,
    k=16,
    activation="topk",
    lam=0,
    mlp=mlp,
    max_iter=100,
    random_state=0,
)
settings = [
    {"lam": 0},
    {"lam": 0.1},
    {"lam_fidelity": 1},
    {"k": 2},
    {"lam_margin": 1},
    {"k": 4, "lam_margin": 1},
    {"k": 2, "lam_margin": 0.1},
    {"k": 2, "lam_margin": 1},
    {"k": 2, "lam_margin": 3},
    {"k": 1, "lam_margin": 1},
]
names = [
    ", ".join(f"{name}={value}" for name, value in setting.items())
    for setting in settings
]


def fit(setting, X):
    return clone(sae).set_params(**setting).fit(with_noisy_copies(X))


X_part, X_held_out, _, y_held_out = train_test_split(
    X_train, y_train, test_size=0.25, stratify=y_train, random_state=0
)
with Parallel(n_jobs=2) as parallel:
    candidates = parallel(delayed(fit)(setting, X_part) for setting in settings)
    models = parallel(delayed(fit)(setting, X_train) for setting in settings)

held_out = [
    certify_classifier(model, network, X_held_out, y_held_out) for model in candidates
]
chosen = max(
    range(len(settings)),
    key=lambda i: (
        held_out[i].explained_accuracy >= 0.95,
        held_out[i].certified_agreement,
    ),
)

# %%
# The certified share
# -------------------
#
# On the test images, with all settings trained on all training images:
#
# - certified is the share of images whose prediction is proved to be that of the
#   explanation, by intervals and by the Lipschitz constant alone;
# - accuracy is that of the explanation;
# - FVU is the fraction of the images' variance that the reconstruction leaves out.

certificates = [certify_classifier(model, network, X_test, y_test) for model in models]
fvu = [1 - model.score(X_test) for model in models]

print("                              certified")
print("k=16, no penalty, but    interval  Lipschitz  accuracy    FVU")
for i, model in enumerate(models):
    lipschitz = certify_classifier(model, network, X_test, bound="lipschitz")
    print(
        f"{names[i]:23} {certificates[i].certified_agreement:9.3f} "
        f"{lipschitz.certified_agreement:10.3f} "
        f"{certificates[i].explained_accuracy:9.3f} {fvu[i]:6.3f}"
    )
print(f"the network itself {network_accuracy:36.3f}")
print(f"chosen on held-out training images: {names[chosen]}")

# %%
# Shorter proofs
# --------------
#
# A proof for each image is longer than running the network: it has to look at the
# image as well. A proof for a group of images, from the ranges of their codes, is
# shared by the group, and a proof for the whole domain (every code with so many
# active features, as large as on the images) holds for images never seen.
#
# We cluster the images by what their codes write to the neurons, into more and more
# groups. The tightness is the actual error of the MLP's output over its bound; the
# length is in operations of running network and explanation on every image.

from sklearn.cluster import AgglomerativeClustering

from sklearn_ccx import certify

model = models[chosen]
codes = model.transform(X_test)
clusters = {"domain": ("domain", None)}
for n_groups in (1, 10, 30, 100, 200, 300, 400, 500):
    labels = AgglomerativeClustering(n_groups).fit_predict(codes @ model.components_)
    clusters[f"{n_groups} groups"] = ("group", labels)
clusters["sample"] = ("sample", None)

lengths, tightness, shares = [], [], []
print("\n             length  membership  tightness  certified")
for name, (level, groups) in clusters.items():
    certificate = certify(model, X_test, level=level, groups=groups)
    proved = certify_classifier(model, network, X_test, level=level, groups=groups)
    lengths.append(proved.proof_flops / proved.brute_force_flops)
    membership = proved.membership_flops / proved.brute_force_flops
    tightness.append(certificate.tightness.mean())
    shares.append(proved.certified_agreement)
    print(
        f"{name:11} {lengths[-1]:7.2f} {membership:11.2f} {tightness[-1]:10.3f} "
        f"{shares[-1]:10.3f}"
    )

# %%
# A network that predicts numbers
# -------------------------------
#
# It has no margin. `lam_interval` makes the intervals of its output narrow instead. In
# units of the standard deviation of the network's predictions, here of the progression
# of a disease:

import warnings

from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

from sklearn_ccx import certify_regressor

X_diabetes, progression = load_diabetes(return_X_y=True)
X_diabetes = StandardScaler().fit_transform(X_diabetes)
progression = (progression - progression.mean()) / progression.std()
A_train, A_test, b_train, _ = train_test_split(X_diabetes, progression, random_state=0)
regressor = MLPRegressor(
    hidden_layer_sizes=(32,), alpha=10, solver="lbfgs", max_iter=200, random_state=0
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)
    regressor.fit(A_train, b_train)
noise = np.random.default_rng(0).normal(size=(5, *A_train.shape))
A_varied = np.concatenate([A_train, *(A_train + 0.5 * noise)])

print("\nlam_interval  proved error  actual error    FVU")
for lam_interval in (0, 0.1, 0.3, 1):
    explanation = InteractionSAE(
        n_components=64,
        k=4,
        lam=0,
        lam_interval=lam_interval,
        mlp=MLPWeights.from_sklearn(regressor),
        max_iter=200,
        random_state=0,
    ).fit(A_varied)
    certificate = certify_regressor(explanation, regressor, A_test)
    scale = certificate.prediction.std()
    print(
        f"{lam_interval:12} {certificate.error_bound.mean() / scale:13.2f} "
        f"{certificate.error.mean() / scale:13.2f} "
        f"{1 - explanation.score(A_test):6.3f}"
    )

# %%
# The frontiers
# -------------
#
# On the left, what is proved against what the reconstruction costs. On the right, how
# long a proof is against how tight it is.

import matplotlib.pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
places = {
    3: ("k=2", 0, 10, "center"),
    4: ("k=16", 0, 10, "center"),
    5: ("k=4", 0, -11, "center"),
    6: ("k=2, strength 0.1", 0, 10, "center"),
    7: ("k=2", 0, 10, "center"),
    8: ("k=2, strength 3", 0, 10, "center"),
    9: ("k=1", 0, 10, "center"),
}
groups = {
    "without lam_margin": (range(4), "black"),
    "lam_margin=1": ((4, 5, 7, 9), "tab:blue"),
    "other strengths of it": ((6, 8), "tab:orange"),
}
for label, (members, color) in groups.items():
    left.plot(
        [fvu[i] for i in members],
        [certificates[i].certified_agreement for i in members],
        "o",
        color=color,
        label=label,
    )
for i, (text, dx, dy, ha) in places.items():
    left.annotate(
        text,
        (fvu[i], certificates[i].certified_agreement),
        xytext=(dx, dy),
        textcoords="offset points",
        ha=ha,
        va="center",
    )
left.set(
    title="What training for the proof costs",
    xlabel="fraction of variance unexplained",
    ylabel="certified share of the test images",
    ylim=(-0.05, 1.05),
)
left.margins(x=0.1)
left.legend(loc="upper left", frameon=False)

for label, values, color in [
    ("certified share", shares, "tab:green"),
    ("error over its bound", tightness, "tab:purple"),
]:
    right.plot(lengths, values, "o-", color=color)
    right.annotate(
        label,
        (lengths[-1], values[-1]),
        xytext=(4, -14),
        textcoords="offset points",
        ha="right",
        color=color,
    )
for name, length, share, tight in zip(
    clusters, lengths, shares, tightness, strict=True
):
    if name in ("domain", "100 groups", "300 groups", "500 groups", "sample"):
        right.annotate(
            name,
            (length, max(share, tight)),
            xytext=(-4, 6),
            textcoords="offset points",
            ha="right",
        )
right.axvline(1, color="0.6", linestyle="--", zorder=0)
right.annotate(
    "running both",
    (1, 0.02),
    xytext=(4, 0),
    textcoords="offset points",
    rotation=90,
    color="0.4",
)
right.set(
    title="Length and tightness of the proofs",
    xlabel="length, relative to running network and explanation",
    xlim=(0.15, 1.5),
    ylim=(-0.05, 1.05),
)
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)

figure.savefig("plot_certify.png", dpi=150)
print("\nThe figure is in plot_certify.png.")
