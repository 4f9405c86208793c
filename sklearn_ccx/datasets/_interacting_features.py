"""Features of which it is known who shares neurons and who fires together."""

from numbers import Real

import numpy as np
import numpy.typing as npt
from scipy.stats import ortho_group
from sklearn.utils import Bunch, check_random_state

from .._sklearn_compat import Interval, validate_params
from .._validation import as_float, check_memory
from ..coders import InteractionSAE
from ..networks import MLPWeights
from ._sizes import COUNT

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Standard deviation of the logarithm of the codes of active features.
_LOG_CODE_SCALE = 0.5

# A true feature counts as active above so many standard deviations of the noise.
_THRESHOLD_PER_NOISE = 4.0


@validate_params(
    {
        "n_samples": [COUNT],
        "n_features": [COUNT],
        "n_neurons": [COUNT],
        "n_groups": [COUNT],
        "n_topics": [COUNT],
        "n_active": [COUNT],
        "boost": [Interval(Real, 0, None, closed="neither")],
        "background": [Interval(Real, 0, None, closed="left")],
        "overlap": [Interval(Real, 0, 1, closed="both")],
        "frequency_skew": [Interval(Real, 0, None, closed="left")],
        "noise": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_interacting_features(
    n_samples: int = 4000,
    n_features: int = 96,
    *,
    n_neurons: int = 256,
    n_groups: int = 8,
    n_topics: int = 8,
    n_active: int = 8,
    boost: float = 12.0,
    background: float = 0.15,
    overlap: float = 0.0,
    frequency_skew: float = 0.0,
    noise: float = 0.0,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    r"""Generate activations whose features share neurons and fire together.

    Every feature belongs to a *neuron group*, whose features write to the same
    neurons of an MLP, and to a *topic*, whose features are active together. The two
    partitions are drawn independently, so that a method which looks for features that
    interact can be told from one that finds features which merely fire together.

    Each sample has a topic. Its active features are drawn without replacement, those
    of the topic being `boost` times as likely as others, and get log-normal codes
    :math:`e^{z / 2}`, :math:`z \sim N(0, 1)`. The activations are the codes times
    orthonormal components, plus noise. A feature writes uniform random amounts from
    0.5 to 1.5, with random signs, to the neurons of its group, and normal ones of
    standard deviation `background` to the others.

    Parameters
    ----------
    n_samples : int, default=4000
        Number of samples.

    n_features : int, default=96
        Number of features, and the width of the activations.

    n_neurons : int, default=256
        Number of neurons, divided among the groups.

    n_groups : int, default=8
        Number of neuron groups, of nearly equal size.

    n_topics : int, default=8
        Number of topics, of nearly equal size.

    n_active : int, default=8
        Number of active features per sample, at most `n_features`.

    boost : float, default=12.0
        Strength of the co-activation: how many times as likely the features of a
        sample's topic are as others. 1 makes topics meaningless.

    background : float, default=0.15
        What features write to neurons outside their group, relative to those inside.

    overlap : float, default=0.0
        Share of the neurons of each group to which the features of the next group
        write as well.

    frequency_skew : float, default=0.0
        Exponent of Zipf's law: the feature of rank r is drawn with a weight of
        :math:`r^{-\mathtt{frequency\_skew}}`. 0 makes all equally frequent.

    noise : float, default=0.0
        Standard deviation of the noise on every coordinate of the activations.

    random_state : int, RandomState instance or None, default=None
        Determines the data. Pass an int for reproducible output.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the following attributes.

        activations : ndarray of shape (n_samples, n_features), float64
            Input of the MLP.
        codes : ndarray of shape (n_samples, n_features), float64
            The true codes.
        components : ndarray of shape (n_features, n_features), float64
            The true features, orthonormal rows.
        mlp : MLPWeights
            The MLP.
        sae : InteractionSAE
            Fitted: its features are the true ones, and it has `mlp`. Without noise
            it transforms `activations` to `codes`, with noise to those above four
            standard deviations of the noise.
        neuron_groups : ndarray of shape (n_features,), int
            Features of one group share neurons.
        topic_groups : ndarray of shape (n_features,), int
            Features of one topic are active together.

    See Also
    --------
    sklearn_ccx.FeatureClusterer : Recovers the neuron groups.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx.datasets import make_interacting_features
    >>> data = make_interacting_features(500, 24, n_neurons=64, random_state=0)
    >>> data.activations.shape, data.mlp
    ((500, 24), MLPWeights(d=24, n_neurons=64, d_out=24, activation='relu', site=0))
    >>> bool(np.allclose(data.sae.transform(data.activations), data.codes))
    True
    """
    n_samples, n_features, n_neurons = int(n_samples), int(n_features), int(n_neurons)
    boost, background = as_float(boost, "boost"), as_float(background, "background")
    noise, frequency_skew = (
        as_float(noise, "noise"),
        as_float(frequency_skew, "frequency_skew"),
    )
    # Codes, their weights and keys, the order of these, and activations with noise;
    # the components and what makes them; weights of the MLP and masks of the writes.
    n_numbers = 7 * n_samples * n_features + 3 * n_features**2
    n_numbers += 6 * n_features * n_neurons
    sizes = {"n_samples": n_samples, "n_features": n_features, "n_neurons": n_neurons}
    check_memory(8 * n_numbers, sizes)
    random = check_random_state(random_state)
    n_active = min(n_active, n_features)
    neuron_groups = random.permutation(n_features) % n_groups
    topic_groups = random.permutation(n_features) % n_topics
    writes = _writes(neuron_groups, n_groups, n_neurons, background, overlap, random)
    rank = random.permutation(np.arange(1.0, n_features + 1))
    topics = random.randint(n_topics, size=n_samples)
    is_boosted = topics[:, np.newaxis] == topic_groups
    # In logarithms, since the powers of a steep law would vanish.
    log_frequency = -frequency_skew * np.log(rank)
    log_weights = log_frequency + np.where(is_boosted, np.log(boost), 0.0)
    codes = _codes(log_weights, n_active, random)
    components = np.eye(1)
    if n_features > 1:
        components = ortho_group.rvs(n_features, random_state=random)
    W_out = random.normal(size=(n_neurons, n_features)) / np.sqrt(n_features)
    mlp = MLPWeights(components.T @ writes, W_out, activation="relu")
    activations = codes @ components
    activations += noise * random.normal(size=activations.shape)
    threshold = max(_THRESHOLD_PER_NOISE * noise, 1e-9)
    return Bunch(
        activations=activations,
        codes=codes,
        components=components,
        mlp=mlp,
        sae=_sae_with(components, mlp, n_active, threshold, codes),
        neuron_groups=neuron_groups,
        topic_groups=topic_groups,
    )


def _writes(
    groups: IntArray,
    n_groups: int,
    n_neurons: int,
    background: float,
    overlap: float,
    random: np.random.RandomState,
) -> FloatArray:
    """What each feature writes to each neuron, (n_features, n_neurons)."""
    shape = (len(groups), n_neurons)
    group_of_neuron = np.arange(n_neurons) % n_groups
    is_shared = random.random_sample(n_neurons) < overlap
    next_group = (groups[:, np.newaxis] + 1) % n_groups
    is_own = groups[:, np.newaxis] == group_of_neuron
    is_own |= is_shared & (next_group == group_of_neuron)
    own = random.choice([-1.0, 1.0], size=shape) * random.uniform(0.5, 1.5, size=shape)
    return np.where(is_own, own, background * random.normal(size=shape))


def _codes(
    log_weights: FloatArray, n_active: int, random: np.random.RandomState
) -> FloatArray:
    """Codes of features drawn without replacement, with weights for each sample."""
    # The largest of log-weights with Gumbel noise are such a draw.
    keys = log_weights + random.gumbel(size=log_weights.shape)
    active = np.argpartition(keys, -n_active, axis=1)[:, -n_active:]
    codes = np.zeros(log_weights.shape)
    values = random.lognormal(sigma=_LOG_CODE_SCALE, size=active.shape)
    np.put_along_axis(codes, active, values, axis=1)
    return codes


def _sae_with(
    components: FloatArray,
    mlp: MLPWeights,
    n_active: int,
    threshold: float,
    codes: FloatArray,
) -> InteractionSAE:
    """Fitted autoencoder with given orthonormal features."""
    sae = InteractionSAE.from_weights(
        components.T,
        components,
        activation="batchtopk",
        k=n_active,
        threshold=threshold,
        lam=0,
        center=False,
        mlp=mlp,
    )
    sae.activation_frequency_ = (codes > 0).mean(axis=0)
    return sae
