"""Drawn explanations of drawn gated MLPs, and what they compute, by the formulas."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from sklearn_ccx import InteractionCrosscoder, MLPWeights
from tests.proofs.cases import NONLINEARITIES, fitted

N_SAMPLES = 40


@dataclass
class GatedCase:
    """A fitted estimator, activations, and a gated MLP that reads them."""

    estimator: InteractionCrosscoder
    X: np.ndarray
    mlp: MLPWeights
    n_dominant: int
    groups: np.ndarray

    @property
    def codes(self):
        return self.estimator.transform(self.X)

    def written(self):
        """What a unit of each feature writes to gates and linear factors, (M, 2N)."""
        W = np.hstack([self.mlp.W_gate, self.mlp.W_in])
        return self.estimator.components_ @ W

    def biases(self):
        W = np.hstack([self.mlp.W_gate, self.mlp.W_in])
        bias = np.hstack([self.mlp.b_gate, self.mlp.b_in])
        return bias + self.estimator.intercept_ @ W

    def nonlinearity(self, u):
        return NONLINEARITIES[self.mlp.activation](u)

    def sizes(self, codes=None, n_largest=1):
        """Sizes of all features at all neurons, (B, M, N)."""
        q, p = self.contributions(codes)
        beta, gamma = np.split(self.biases(), 2)
        gate = np.abs(self.nonlinearity(beta + q.sum(axis=1)))[:, np.newaxis]
        largest = np.sort(np.abs(p), axis=1)[:, ::-1][:, :n_largest].sum(axis=1)
        linear = (np.abs(gamma) + largest)[:, np.newaxis]
        return self.mlp.lipschitz * linear * np.abs(q) + gate * np.abs(p)

    def contributions(self, codes=None):
        codes = self.codes if codes is None else codes
        p = codes[:, :, np.newaxis] * self.written()
        return np.split(p, 2, axis=2)

    def kept_input(self, codes=None):
        """What gates and linear factors keep, their biases included, (B, 2N)."""
        order = np.argsort(-self.sizes(codes), axis=1, kind="stable")
        order = order[:, : self.n_dominant]
        kept = [
            np.take_along_axis(part, order, axis=1).sum(axis=1)
            for part in self.contributions(codes)
        ]
        return np.hstack(kept) + self.biases()

    def input(self, X=None):
        X = self.X if X is None else X
        return np.hstack(
            [X @ self.mlp.W_gate + self.mlp.b_gate, X @ self.mlp.W_in + self.mlp.b_in]
        )

    def hidden(self, neuron_input):
        gate, linear = np.split(neuron_input, 2, axis=1)
        return self.nonlinearity(gate) * linear

    def output(self, neuron_input, n_layers=1):
        return self.hidden(neuron_input) @ self.mlp.W_out + self.mlp.b_out

    def lipschitz_bounds(self):
        """Bounds on interaction and reconstruction of each sample, (B,)."""
        codes, lipschitz = self.codes, self.mlp.lipschitz
        norms = np.linalg.norm(self.mlp.W_out, axis=1)
        chosen, counted = self.sizes(codes), self.sizes(codes, self.n_dominant)
        order = np.argsort(-chosen, axis=1, kind="stable")[:, : self.n_dominant]
        np.put_along_axis(counted, order, 0.0, axis=1)
        recon = self.estimator.inverse_transform(codes)
        residual = self.X - recon
        gate, linear = np.split(self.input(recon), 2, axis=1)
        gate_residual = lipschitz * np.abs(residual @ self.mlp.W_gate)
        linear_residual = np.abs(residual @ self.mlp.W_in)
        moved = np.abs(linear) * gate_residual
        moved += (np.abs(self.nonlinearity(gate)) + gate_residual) * linear_residual
        return counted.sum(axis=1) @ norms, moved @ norms


@st.composite
def gated_cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    activation = draw(st.sampled_from(sorted(NONLINEARITIES)))
    has_ties = draw(st.booleans())
    exponents = draw(
        st.just((0.0,) * 6)
        | st.tuples(*[st.sampled_from([-30.0, -8.0, -1.0, 0.0, 1.0, 4.0, 8.0])] * 6)
    )
    if has_ties:  # which other units would break by their rounding
        exponents = (0.0,) * 6
    x_scale, gate_scale, in_scale, out_scale, bias_scale, decoder_scale = (
        10.0 ** np.array(exponents)
    )
    width, n_features, n_neurons, d_out = rng.integers(1, 6, size=4)

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
    mlp = MLPWeights(
        normal(width, n_neurons) * in_scale,
        normal(n_neurons, d_out) * out_scale,
        b_in=normal(n_neurons) * bias_scale,
        b_out=normal(d_out) * bias_scale,
        W_gate=normal(width, n_neurons) * gate_scale,
        b_gate=normal(n_neurons) * bias_scale,
        activation=activation,
    )
    X = normal(N_SAMPLES, width) * x_scale
    if rng.random() < 0.5:  # some samples without a code, some reconstructed exactly
        X[0] = 0.0
        X[1] = estimator.inverse_transform(estimator.transform(X[1:2]))[0]
    return GatedCase(
        estimator,
        X,
        mlp,
        int(rng.integers(1, 4)),
        rng.integers(0, 4, size=N_SAMPLES),
    )
