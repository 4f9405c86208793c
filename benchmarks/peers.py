"""Training steps of other packages for sparse autoencoders, through their public API.

Each function takes a batch, the number of features, k and the activation, and returns
what takes one training step on that batch and returns its loss. A step is what the
package's own training loop does with a batch: forward, backward, optimizer, and what
else belongs to it there, such as clipping gradients or normalizing the decoder.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

Step = Callable[[], float]

LEARNING_RATE = 1e-3

# For packages to which the caller brings the optimizer: the one that ours uses.
_Adam = partial(torch.optim.Adam, lr=LEARNING_RATE, fused=True)


def sae_lens_step(x_BF: Tensor, n_features: int, k: int, activation: str) -> Step:
    import sae_lens
    from sae_lens.config import SAETrainerConfig

    sizes = {"d_in": x_BF.shape[1], "d_sae": n_features, "k": k}
    if activation == "TopK":
        # Its fastest settings; on a CPU, sparse codes fail with the default rescaling.
        config = sae_lens.TopKTrainingSAEConfig(
            **sizes, use_sparse_activations=True, rescale_acts_by_decoder_norm=False
        )
        model = sae_lens.TopKTrainingSAE(config)
    else:
        config = sae_lens.BatchTopKTrainingSAEConfig(**sizes)
        model = sae_lens.BatchTopKTrainingSAE(config)
    trainer_config = SAETrainerConfig(
        total_training_samples=1000 * len(x_BF),
        train_batch_size_samples=len(x_BF),
        lr=LEARNING_RATE,
        lr_end=LEARNING_RATE,
    )
    no_data = iter(())  # step is given its batch
    trainer = sae_lens.SAETrainer(trainer_config, model, no_data)
    return lambda: trainer.step(x_BF).loss.item()


def dictionary_learning_step(
    x_BF: Tensor, n_features: int, k: int, activation: str
) -> Step:
    from dictionary_learning import trainers

    trainer = getattr(trainers, f"{activation}Trainer")(
        steps=1000,
        activation_dim=x_BF.shape[1],
        dict_size=n_features,
        k=k,
        layer=0,
        lm_name="",
        lr=LEARNING_RATE,
        warmup_steps=1,
        device="cpu",
    )
    # Step 0 would also place the decoder's bias, once for the whole training.
    return lambda: trainer.update(1, x_BF)


def overcomplete_step(x_BF: Tensor, n_features: int, k: int, activation: str) -> Step:
    from overcomplete import sae

    # Its BatchTopK counts over the batch.
    top_k = k * len(x_BF) if activation == "BatchTopK" else k
    model = getattr(sae, f"{activation}SAE")(x_BF.shape[1], n_features, top_k=top_k)
    optimizer = _Adam(model.parameters())
    losses = []

    def criterion(x_BF: Tensor, recon_BF: Tensor, *_: Tensor) -> Tensor:
        losses.append((x_BF - recon_BF).square().mean())
        return losses[-1]

    def step() -> float:
        sae.train_sae(model, [x_BF], criterion, optimizer, nb_epochs=1, monitoring=0)
        return losses.pop().item()

    return step


def sparsify_step(x_BF: Tensor, n_features: int, k: int, activation: str) -> Step:
    from sparsify import SparseCoder, SparseCoderConfig

    config = SparseCoderConfig(activation.lower(), num_latents=n_features, k=k)
    model = SparseCoder(x_BF.shape[1], config)
    optimizer = _Adam(model.parameters())

    # Its loop begins with a language model; these are the calls for its activations.
    def step() -> float:
        model.set_decoder_norm_to_unit_norm()
        loss = model(x_BF).fvu
        loss.backward()
        model.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


# Distribution: module, step and the activations it has.
PEERS = {
    "sae-lens": ("sae_lens", sae_lens_step, ["BatchTopK", "TopK"]),
    "dictionary-learning": (
        "dictionary_learning",
        dictionary_learning_step,
        ["BatchTopK", "TopK"],
    ),
    "overcomplete": ("overcomplete", overcomplete_step, ["BatchTopK", "TopK"]),
    "eai-sparsify": ("sparsify", sparsify_step, ["TopK"]),
}


def why_missing(module: str) -> str | None:
    """Why a module cannot be used, None if it can."""
    if find_spec(module) is None:
        return "not installed"
    try:
        import_module(module)
    except Exception as error:  # whatever its own dependencies raise
        return f"cannot be imported: {error}"
    return None
