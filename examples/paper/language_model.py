"""A small GPT-Neo, with local and global attention as in TinyStories."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from text import IdArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedModel

# Where torch's cross-entropy sees nothing to predict.
NO_LABEL = -100


def build_model(
    *,
    vocabulary_size: int,
    hidden_size: int,
    n_blocks: int,
    n_heads: int,
    context: int,
    end_of_text: int,
    seed: int,
) -> GPTNeoForCausalLM:
    """A GPT-Neo with random weights; blocks see globally and locally in turn."""
    config = GPTNeoConfig(
        vocab_size=vocabulary_size,
        max_position_embeddings=context,
        hidden_size=hidden_size,
        num_layers=n_blocks,
        num_heads=n_heads,
        attention_types=[[["global", "local"], n_blocks // 2]],
        window_size=context // 2,
        initializer_range=0.05,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPTNeoForCausalLM(config).eval()


def train(
    model: PreTrainedModel,
    ids: IdArray,
    labels: IdArray | None = None,
    *,
    n_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    description: str,
) -> None:
    """Minimise the cross-entropy of the next token over random rows of `ids`.

    Tokens whose label is `NO_LABEL` are not trained on; None trains on all.
    """
    device = model.device
    rng = np.random.default_rng(seed)
    labels = ids if labels is None else labels
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=n_steps, pct_start=0.1
    )
    model.train()
    for _ in tqdm(range(n_steps), desc=description, disable=None):
        rows = rng.integers(len(ids), size=batch_size)
        loss = next_token_loss(
            model,
            torch.from_numpy(ids[rows]).to(device),
            torch.from_numpy(labels[rows]).to(device),
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def next_token_loss(model: PreTrainedModel, ids: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, in nats."""
    logits = model(ids, use_cache=False).logits[:, :-1]
    targets = labels[:, 1:].flatten()
    return F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=NO_LABEL)


@torch.no_grad()
def cross_entropy(model: PreTrainedModel, ids: IdArray, batch_size: int = 64) -> float:
    """Mean cross-entropy of the next token over all rows, in nats."""
    total = 0.0
    for start in range(0, len(ids), batch_size):
        batch = torch.from_numpy(ids[start : start + batch_size]).to(model.device)
        total += float(next_token_loss(model, batch, batch)) * len(batch)
    return total / len(ids)


def bigram_cross_entropy(
    train_ids: IdArray, test_ids: IdArray, vocabulary_size: int
) -> float:
    """The same for pair frequencies, smoothed by those of single tokens."""
    pairs = np.zeros((vocabulary_size, vocabulary_size))
    np.add.at(pairs, (train_ids[:, :-1].ravel(), train_ids[:, 1:].ravel()), 1)
    single = pairs.sum(axis=0) + 1
    prior = single / single.sum()
    strength = math.sqrt(vocabulary_size)
    pairs = (pairs + strength * prior) / (pairs.sum(axis=1, keepdims=True) + strength)
    return float(-np.log(pairs[test_ids[:, :-1], test_ids[:, 1:]]).mean())
