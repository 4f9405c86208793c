"""Drawn explanations of drawn networks, and what they compute, without the package."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from scipy.special import erf, expit

from sklearn_ccx import InteractionCrosscoder, MLPWeights

_SLOPE = np.sqrt(2 / np.pi)

NONLINEARITIES = {
    "identity": lambda u: u,
    "relu": lambda u: np.maximum(u, 0.0),
    "tanh": np.tanh,
    "logistic": expit,
    "gelu": lambda u: u / 2 * (1 + erf(u / np.sqrt(2))),
    "gelu_tanh": lambda u: u / 2 * (1 + np.tanh(_SLOPE * (u + 0.044715 * u**3))),
    "silu": lambda u: u * expit(u),
}

N_SAMPLES = 40


@dataclass
class Case:
    """A fitted estimator, activations, and the layers of a network that reads them."""

    estimator: InteractionCrosscoder
    X: np.ndarray
    weights: list
    biases: list
    activation: str
    n_dominant: int
    groups: np.ndarray

    @property
    def mlp(self):
        return MLPWeights(
            self.weights[0],
            self.weights[1],
            b_in=self.biases[0],
            b_out=self.biases[1],
            activation=self.activation,
        )

    @property
    def codes(self):
        return self.estimator.transform(self.X)

    def kept_input(self, codes=None):
        """What the neurons keep, their bias included, (B, N)."""
        codes = self.codes if codes is None else codes
        sae = self.estimator
        M = sae.components_ @ self.weights[0]
        p = codes[:, :, np.newaxis] * M
        order = np.argsort(-np.abs(p), axis=1, kind="stable")[:, : self.n_dominant]
        kept = np.take_along_axis(p, order, axis=1).sum(axis=1)
        return kept + self.biases[0] + sae.intercept_ @ self.weights[0]

    def input(self, X=None):
        X = self.X if X is None else X
        return X @ self.weights[0] + self.biases[0]

    def output(self, neuron_input, n_layers=None):
        """Output after so many layers, all of them by default."""
        h = NONLINEARITIES[self.activation](neuron_input)
        last = len(self.weights) - 1 if n_layers is None else n_layers
        for layer in range(1, last + 1):
            z = h @ self.weights[layer] + self.biases[layer]
            h = z if layer == last else NONLINEARITIES[self.activation](z)
        return h


def fitted(components, intercept, encoder, encoder_intercept, n_sites=1, k=None):
    """An estimator with the given weights, as ``fit`` would leave it."""
    activation = "relu" if k is None else "topk"
    estimator = InteractionCrosscoder(activation=activation)
    estimator.activation_, estimator.mlp_, estimator.n_dominant_ = activation, None, 1
    estimator.components_ = components
    estimator.intercept_ = intercept
    estimator.encoder_components_ = encoder
    estimator.encoder_intercept_ = encoder_intercept
    estimator.threshold_ = 0.0
    estimator.k_ = k or len(components)
    estimator.n_sites_ = n_sites
    estimator.n_features_in_ = components.shape[1]
    estimator._is_three_d = n_sites > 1
    return estimator


@st.composite
def cases(draw, max_layers=1):
    """Draw a case; ``max_layers`` counts hidden layers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    activation = draw(st.sampled_from(sorted(NONLINEARITIES)))
    n_layers = draw(st.integers(1, max_layers))
    has_ties = draw(st.booleans())
    exponents = draw(
        st.just((0.0,) * 5)
        | st.tuples(*[st.sampled_from([-30.0, -8.0, -1.0, 0.0, 1.0, 4.0, 8.0])] * 5)
    )
    x_scale, in_scale, out_scale, bias_scale, decoder_scale = 10.0 ** np.array(
        exponents
    )
    width, n_features, n_neurons = rng.integers(1, 6, size=3)

    def normal(*shape):
        values = rng.normal(size=shape)
        return np.round(2 * values) / 2 if has_ties else values

    components = normal(n_features, width)
    encoder = normal(n_features, width)
    if has_ties and n_features > 1:
        components[1] = rng.choice([-1, 1]) * components[0]
        encoder[1] = encoder[0]
    estimator = fitted(
        components * decoder_scale,
        normal(width) * x_scale,
        encoder,
        normal(n_features) * x_scale,
    )
    sizes = [width, n_neurons, *rng.integers(1, 6, size=n_layers)]
    scales = [in_scale, *[1.0] * (n_layers - 1), out_scale]
    weights = [
        normal(rows, columns) * scale
        for rows, columns, scale in zip(sizes[:-1], sizes[1:], scales, strict=True)
    ]
    biases = [normal(size) * bias_scale for size in sizes[1:]]
    X = normal(N_SAMPLES, width) * x_scale
    if rng.random() < 0.5:  # some samples without a code, some reconstructed exactly
        X[0] = 0.0
        X[1] = estimator.inverse_transform(estimator.transform(X[1:2]))[0]
    return Case(
        estimator,
        X,
        weights,
        biases,
        activation,
        int(rng.integers(1, 4)),
        rng.integers(0, 4, size=N_SAMPLES),
    )
