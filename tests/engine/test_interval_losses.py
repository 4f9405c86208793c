"""Losses on what a proof cannot exclude: values, gradients, and what they buy."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.datasets import make_blobs
from sklearn.neural_network import MLPClassifier, MLPRegressor

from sklearn_ccx import (
    InteractionCrosscoder,
    InteractionSAE,
    MLPWeights,
    certify,
    certify_classifier,
)
from sklearn_ccx._engine._sparse_codes import SparseCodes
from sklearn_ccx._engine.neurons import DataScale
from sklearn_ccx.networks import freeze_mlps
from tests.conftest import make_mlp
from tests.engine.penalties import losses_of
from tests.proofs.cases import NONLINEARITIES

N_SAMPLES, N_FEATURES, WIDTH = 12, 8, 4

STRENGTHS = ["lam_margin", "lam_interval"]


class Problem:
    """Drawn codes, decoder and data, read by one MLP with a site scale of 2."""

    def __init__(self, activation, d_out, seed=0):
        rng = np.random.default_rng(seed)
        self.weights = make_mlp(WIDTH, 6, activation, seed=seed, d_out=d_out)
        self.offset = rng.normal(size=WIDTH)
        shape = N_SAMPLES, N_FEATURES
        codes = rng.exponential(size=shape) * (rng.random(shape) < 0.4)
        codes[0] = 0.0
        self.codes = torch.from_numpy(codes)
        self.W_dec = torch.from_numpy(rng.normal(size=(N_FEATURES, WIDTH)))
        self.x = torch.from_numpy(rng.normal(size=(N_SAMPLES, WIDTH)))
        (mlp,) = freeze_mlps(
            [self.weights],
            self.offset,
            1,
            dtype=torch.float64,
            device=torch.device("cpu"),
        )
        self.mlp = mlp.in_training_units(2.0).with_data_scale(DataScale(1.0, 0.75, 2.0))

    def loss(self, strength, codes, W_dec, n_dominant):
        sparse = SparseCodes.from_dense(codes)
        return losses_of(
            sparse, W_dec, self.x, [self.mlp], n_dominant=n_dominant, **{strength: 1.0}
        ).weighted

    def naive(self, n_dominant):
        """Both losses, one sample and neuron after another."""
        weights, phi = self.weights, NONLINEARITIES[self.weights.activation]
        codes, W_dec, x = (t.numpy() for t in (self.codes, self.W_dec, self.x))
        W_out, n_neurons = weights.W_out, weights.W_in.shape[1]
        margins, squares = [], []
        for b in range(N_SAMPLES):
            lowest, highest, kept = np.zeros((3, n_neurons))
            true = np.zeros(n_neurons)
            for n in range(n_neurons):
                column = weights.W_in[:, n] / 2.0
                bias = weights.b_in[n] + self.offset @ weights.W_in[:, n]
                p = sorted((codes[b, h] * (W_dec[h] @ column)
                            for h in range(N_FEATURES)), key=abs)  # fmt: skip
                radius = sum(map(abs, p[: N_FEATURES - n_dominant]))
                radius += abs((x[b] - codes[b] @ W_dec) @ column)
                centre = sum(p[N_FEATURES - n_dominant :]) + bias
                grid = phi(np.linspace(centre - radius, centre + radius, 20_001))
                lowest[n], highest[n] = grid.min(), grid.max()
                kept[n], true[n] = phi(centre), phi(x[b] @ column + bias)
            logits = true @ W_out + weights.b_out
            if len(logits) == 1:
                W, b_out = np.hstack([0 * W_out, W_out]), np.array([0, *weights.b_out])
                label = int(logits[0] > 0)
            else:
                W, b_out, label = W_out, weights.b_out, int(logits.argmax())
            worst = []
            for c in range(len(b_out)):
                difference = W[:, c] - W[:, label]
                ends = np.stack([difference * lowest, difference * highest])
                worst.append(ends.max(axis=0).sum() + b_out[c] - b_out[label])
            margins.append(logsumexp(worst))
            ends = np.stack(
                [(lowest - kept)[:, None] * W_out, (highest - kept)[:, None] * W_out]
            )
            high, low = ends.max(axis=0).sum(axis=0), ends.min(axis=0).sum(axis=0)
            squares.append((np.maximum(high, -low) ** 2).sum())
        return np.mean(margins), np.mean(squares) / 3.0


@pytest.mark.parametrize("activation", sorted(NONLINEARITIES))
@pytest.mark.parametrize("n_dominant", [1, 2])
@pytest.mark.parametrize("d_out", [1, 3])
def test_against_loops(kernels, activation, n_dominant, d_out):
    problem = Problem(activation, d_out)
    values = [
        problem.loss(strength, problem.codes, problem.W_dec, n_dominant).item()
        for strength in STRENGTHS
    ]
    np.testing.assert_allclose(values, problem.naive(n_dominant), rtol=1e-5)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("activation", sorted(NONLINEARITIES))
@pytest.mark.parametrize("n_dominant", [1, 2])
def test_gradients(kernels, strength, activation, n_dominant):
    problem = Problem(activation, 3)
    active = problem.codes > 0

    def loss(values, W_dec):
        codes = torch.zeros_like(problem.codes).masked_scatter(active, values)
        return problem.loss(strength, codes, W_dec, n_dominant)

    values = problem.codes[active].requires_grad_()
    W_dec = problem.W_dec.clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (values, W_dec), eps=1e-7, atol=1e-5)
    loss(values, W_dec).backward()
    assert values.grad.abs().sum() > 0
    assert W_dec.grad.abs().sum() > 0


def test_codes_without_entries(kernels):
    problem = Problem("relu", 3)
    codes = torch.zeros_like(problem.codes)
    for strength in STRENGTHS:
        assert problem.loss(strength, codes, problem.W_dec, 1).isfinite()


def test_margin_loss_is_a_proof():
    """Below log 2 the prediction is proved, whichever way it is computed."""
    rng = np.random.default_rng(0)
    proved = 0
    for seed in range(200):
        problem = Problem("relu", 3, seed)
        problem.x = problem.codes @ problem.W_dec
        problem.codes *= float(rng.uniform(0.9, 1.1))
        for b in range(N_SAMPLES):
            problem_b = Problem("relu", 3, seed)
            problem_b.x = problem.x[b : b + 1]
            codes = problem.codes[b : b + 1]
            value = problem_b.loss("lam_margin", codes, problem.W_dec, 1).item()
            if value < np.log(2):
                M = problem.W_dec.numpy() @ problem.weights.W_in / 2
                p = codes.numpy()[0][:, None] * M
                index = np.abs(p).argmax(axis=0)
                bias = problem.mlp.bias_N.numpy()
                kept = np.maximum(p[index, range(6)] + bias, 0)
                true = problem.mlp.hidden(problem.mlp.neuron_inputs(problem_b.x))
                W, b_out = problem.weights.W_out, problem.weights.b_out
                one = (kept @ W + b_out).argmax()
                assert one == (true.numpy()[0] @ W + b_out).argmax()
                proved += 1
    assert proved > 20


@pytest.fixture(scope="module")
def blobs():
    return make_blobs(300, 6, centers=4, cluster_std=2.5, random_state=0)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("activation", ["topk", "batchtopk", "relu", "jumprelu"])
def test_margin_loss_raises_the_certified_share(blobs, activation):
    X, y = blobs
    clf = MLPClassifier((16,), solver="lbfgs", max_iter=50, random_state=0).fit(X, y)
    mlp = MLPWeights.from_sklearn(clf)
    certified = {}
    for lam_margin in (0.0, 1.0):
        sae = InteractionSAE(
            24,
            k=2,
            lam=0.0,
            lam_margin=lam_margin,
            activation=activation,
            mlp=mlp,
            max_iter=150,
            random_state=0,
        ).fit(X)
        certified[lam_margin] = certify_classifier(sae, clf, X).certified_agreement
    assert certified[1.0] > certified[0.0] + 0.1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_interval_loss_lowers_the_certified_error(blobs):
    X, y = blobs
    regressor = MLPRegressor(
        hidden_layer_sizes=(16,), solver="lbfgs", max_iter=50, random_state=0
    ).fit(X, y.astype(float))
    mlp = MLPWeights.from_sklearn(regressor)
    bound = {}
    for lam_interval in (0.0, 1.0):
        sae = InteractionSAE(
            24,
            k=2,
            lam=0.0,
            lam_interval=lam_interval,
            activation="topk",
            mlp=mlp,
            max_iter=150,
            random_state=0,
        ).fit(X)
        bound[lam_interval] = certify(sae, X).error_bound.mean()
    assert bound[1.0] < 0.7 * bound[0.0]


def test_every_mlp_counts(acts):
    mlps = [make_mlp(6, 9, "gelu", seed=site, site=site) for site in (0, 2)]
    kwargs = {"lam": 0.0, "k": 3, "max_iter": 20, "random_state": 0}
    models = [
        InteractionCrosscoder(24, mlp=mlp, lam_interval=1.0, **kwargs).fit(acts)
        for mlp in (mlps, mlps[:1], mlps[1:])
    ]
    bounds = [certify(ccx, acts, mlp=mlps).error_bound.mean(axis=0) for ccx in models]
    assert bounds[0][1] < bounds[1][1]
    assert bounds[0][0] < bounds[2][0]


def test_early_stopping(blobs):
    X, _ = blobs
    sae = InteractionSAE(
        24, k=2, lam_margin=0.5, lam_interval=0.5, mlp=make_mlp(6, 9), max_iter=5,
        early_stopping=True, random_state=0,
    ).fit(X)  # fmt: skip
    assert np.isfinite(sae.validation_loss_curve_).all()


def test_history_has_what_the_loss_is_made_of(blobs):
    X, _ = blobs
    strengths = {"lam_fidelity": 0.2, "lam_margin": 0.3, "lam_interval": 0.4}
    sae = InteractionSAE(
        24, k=2, lam=0.1, aux_k=0, mlp=make_mlp(6, 9), max_iter=5, random_state=0
    )
    history = sae.set_params(**strengths).fit(X).history_
    loss = history["fvu"] + 0.1 * history["interaction"]
    loss += 0.2 * history["infidelity"] + 0.3 * history["margin"]
    np.testing.assert_allclose(history["loss"], loss + 0.4 * history["interval"])
    assert (history["interval"] >= history["infidelity"]).all()
    without = sae.set_params(**dict.fromkeys(strengths, 0.0)).fit(X).history_
    assert not without["margin"].any()
    assert not without["interval"].any()


def test_margin_needs_logits(acts):
    with pytest.raises(ValueError, match="lam_margin needs mlp"):
        InteractionCrosscoder(lam_margin=1.0).fit(acts)


@pytest.mark.parametrize("strength", ["lam_margin", "lam_interval"])
def test_gated_mlp(acts, strength):
    rng = np.random.default_rng(0)
    gated = MLPWeights(
        rng.normal(size=(6, 5)), rng.normal(size=(5, 2)), W_gate=rng.normal(size=(6, 5))
    )
    ccx = InteractionCrosscoder(mlp=gated, max_iter=1)
    with pytest.raises(ValueError, match=r"mlp\[0\] is gated"):
        ccx.set_params(**{strength: 1.0}).fit(acts)
    certificate = certify(ccx.set_params(**{strength: 0.0}).fit(acts), acts)
    assert (certificate.error <= certificate.error_bound).all()
