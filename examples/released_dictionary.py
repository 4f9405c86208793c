"""
======================================
A released dictionary, measured by us
======================================

From files that others trained to features that interact, with GPT-2 small and OpenAI's
dictionaries of its residual stream between attention and MLP ("resid_post_attn" there,
"resid_mid" here). Each normalises its samples as the LayerNorm before the MLP does, so
that its features are what the MLP reads: the interaction is exact.

Nothing is downloaded when the script runs. Give it the folder of the model, as
``huggingface_hub`` saves it, and one ``.pt`` file of the dictionaries::

    pip install 'sklearn-ccx[lm]'
    hf download openai-community/gpt2 --local-dir gpt2
    python released_dictionary.py gpt2 resid_post_attn_layer_8.pt

Any other dictionary that `load_dictionary` reads, and any model of a known family, will
do as well, if the dictionary reads what an MLP of the model reads. The text is the
reference that ships with Python. The script is not run when this page is built; it
takes a few minutes.
"""

import sys

if len(sys.argv) != 3:
    raise SystemExit("usage: released_dictionary.py MODEL_FOLDER DICTIONARY")
model_folder, dictionary_path = sys.argv[1:]

# %%
# The model and its text
# ----------------------

from pydoc_data.topics import topics

import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer

N_TOKENS = 20_000

tokenizer = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
model = AutoModelForCausalLM.from_pretrained(model_folder, local_files_only=True)
paragraphs = [
    " ".join(paragraph.split())
    for name in sorted(topics)
    for paragraph in topics[name].split("\n\n")
]
paragraphs = [paragraph for paragraph in paragraphs if len(paragraph) > 100]
np.random.default_rng(0).shuffle(paragraphs)

# %%
# The dictionary, and where it reads
# ----------------------------------
#
# The files say where: `reads` has the name of the site. A first load tells it, a second
# one measures the dictionary on activations of that site. The first position of a
# sequence is left out, where activations are far larger than elsewhere.

from sklearn_ccx.lm import harvest, mlp_weights
from sklearn_ccx.pretrained import load_dictionary

site = load_dictionary(dictionary_path).reads
print(f"{dictionary_path} reads {site}")
recorded = harvest(
    model,
    paragraphs,
    sites=site,
    tokenizer=tokenizer,
    max_length=128,
    max_tokens=N_TOKENS,
    drop_positions=1,
)
X = recorded.activations[:, 0]
(mlp,) = mlp_weights(model, site=site.split(".")[-1], sites=site)
dictionary = load_dictionary(dictionary_path, X=X, mlp=mlp, sparse_output=True)
print(dictionary.interaction)
print(f"FVU {dictionary.fvu:.3f}, L0 {dictionary.l0:.1f} on {len(X)} tokens")

# %%
# How much its features interact
# ------------------------------
#
# A dictionary that normalises each sample takes normalised samples: `sample_norm` makes
# them, in a pipeline with the estimator.

from sklearn.pipeline import make_pipeline

from sklearn_ccx import ablation_fidelity, dominant_share, interaction_matrix

estimator = dictionary.estimator
if dictionary.sample_norm is not None:
    estimator = make_pipeline(dictionary.sample_norm, estimator)
fidelity = ablation_fidelity(estimator, X, schemes=["none", "keep_largest"])
print(f"dominant share {dominant_share(estimator, X):.2f}")
print(f"R² of the MLP with all features {fidelity['none'][0]:.2f}")
print(f"R² of the MLP with one feature per neuron {fidelity['keep_largest'][0]:.2f}")

A = interaction_matrix(estimator, X, normalize="coactivation").tocoo()
print("\nstrongest pairs, given that both are active:")
for place in np.argsort(-A.data)[:10]:
    dominant, other = A.coords[0][place], A.coords[1][place]
    print(f"    feature {dominant:6} over feature {other:6}: {A.data[place]:.3f}")

# %%
# Clusters
# --------

from sklearn.frozen import FrozenEstimator

from sklearn_ccx import FeatureClusterer
from sklearn_ccx.inspection import top_tokens

tokens = tokenizer.convert_ids_to_tokens(recorded.token_ids)
clusterer = FeatureClusterer(FrozenEstimator(estimator), random_state=0).fit(X)
about = top_tokens(clusterer, X, tokens, n_tokens=8)
print(f"\n{clusterer.n_clusters_} clusters; the largest are about")
sizes = np.bincount(clusterer.labels_[clusterer.labels_ >= 0])
for label in np.argsort(-sizes)[:10]:
    words = " ".join(token.strip("Ġ ") for token, _ in about[label])
    print(f"{sizes[label]:6} features: {words}")
