"""Gated MLPs, against loops over samples, neurons and features in float64."""

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
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_ccx import (
    FeatureClusterer,
    InteractionCrosscoder,
    InteractionSAE,
    MLPWeights,
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

ACTIVATIONS = ["silu", "gelu", "gelu_tanh", "relu"]


def make_gated(width=6, n_neurons=9, activation="silu", *, seed=0, site=0, d_out=4):
    rng = np.random.default_rng(seed)
    return MLPWeights(
        rng.normal(size=(width, n_neurons)),
        rng.normal(size=(n_neurons, d_out)),
        b_in=rng.normal(size=n_neurons),
        b_out=rng.normal(size=d_out),
        W_gate=rng.normal(size=(width, n_neurons)),
        b_gate=rng.normal(size=n_neurons),
        activation=activation,
        site=site,
    )


def phi(mlp, u):
    u = torch.as_tensor(u, dtype=torch.float64)
    return NONLINEARITIES[mlp.activation].function(u).numpy()


class Neurons:
    """What the features write to the neurons of a gated MLP, by loops."""

    def __init__(self, mlp, codes, W_dec, intercept):
        width = len(mlp.W_in)
        columns = slice(mlp.site * width, (mlp.site + 1) * width)
        self.mlp, self.codes = mlp, codes
        self.q = np.einsum("bh,hn->bnh", codes, W_dec[:, columns] @ mlp.W_gate)
        self.p = np.einsum("bh,hn->bnh", codes, W_dec[:, columns] @ mlp.W_in)
        self.beta = mlp.b_gate + intercept[columns] @ mlp.W_gate
        self.gamma = mlp.b_in + intercept[columns] @ mlp.W_in
        self.norm = np.linalg.norm(mlp.W_out, axis=1)

    def sizes(self, b, n, n_dominant=1):
        p, q = self.p[b, n], self.q[b, n]
        gate = float(phi(self.mlp, self.beta[n] + q.sum()))
        largest = np.sort(np.abs(p))[::-1][:n_dominant].sum()
        lipschitz = self.mlp.lipschitz * (abs(self.gamma[n]) + largest)
        return lipschitz * np.abs(q) + abs(gate) * np.abs(p)

    def kept(self, b, n, n_dominant=1):
        sizes = self.sizes(b, n)
        order = sorted(range(len(sizes)), key=lambda h: (-sizes[h], h))
        return [h for h in order[:n_dominant] if sizes[h] > 0]

    def scores(self, n_dominant=1):
        scores = np.zeros(len(self.codes))
        for b, n in np.ndindex(self.q.shape[:2]):
            sizes = self.sizes(b, n, n_dominant)
            kept = self.kept(b, n, n_dominant)
            scores[b] += self.norm[n] * (sizes.sum() - sizes[kept].sum())
        return scores

    def output(self, select):
        """Output where each neuron keeps the features that ``select(b, n)`` gives."""
        hidden = np.zeros(self.q.shape[:2])
        for b, n in np.ndindex(hidden.shape):
            features = select(b, n)
            gate = phi(self.mlp, self.beta[n] + self.q[b, n, features].sum())
            linear = self.gamma[n] + self.p[b, n, features].sum()
            hidden[b, n] = gate * linear
        return hidden @ self.mlp.W_out + self.mlp.b_out


def some_codes(rng, n_samples=12, n_components=8, density=0.5):
    codes = rng.exponential(size=(n_samples, n_components))
    return codes * (rng.random(codes.shape) < density)


@pytest.fixture
def fitted(acts):
    """An estimator on gated and plain MLPs, and its parts."""
    mlps = [make_gated(seed=1, site=2), make_gated(seed=2, site=0, activation="gelu")]
    ccx = InteractionCrosscoder(10, k=4, mlp=mlps, max_iter=4, random_state=0).fit(acts)
    codes = ccx.transform(acts)
    assert 1 < (codes > 0).sum(axis=1).mean() < 8
    neurons = [Neurons(mlp, codes, ccx.components_, ccx.intercept_) for mlp in mlps]
    return ccx, acts, neurons


@pytest.mark.parametrize("n_dominant", [1, 2, 3])
def test_scores(fitted, n_dominant):
    ccx, acts, neurons = fitted
    scores = interaction_scores(ccx, acts, n_dominant=n_dominant, per_mlp=True)
    expected = [by_loop.scores(n_dominant) for by_loop in neurons]
    assert_allclose(scores, np.transpose(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n_dominant", [1, 2])
def test_bound_is_sound(fitted, n_dominant):
    """For every sample the output moves by at most the bound."""
    ccx, acts, neurons = fitted
    scores = interaction_scores(ccx, acts, n_dominant=n_dominant, per_mlp=True)
    for index, by_loop in enumerate(neurons):
        everything = ablated_output(ccx, acts, "none", mlp_index=index)
        scheme = f"keep_top_{n_dominant}"
        kept = ablated_output(ccx, acts, scheme, mlp_index=index)
        expected = by_loop.output(lambda b, n, f=by_loop: f.kept(b, n, n_dominant))
        assert_allclose(kept, expected, rtol=1e-9, atol=1e-9)
        change = np.linalg.norm(kept - everything, axis=1)
        assert (change <= scores[:, index] * (1 + 1e-12) + 1e-12).all()
        assert change.max() > 0.05 * scores[:, index].max()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    activation=st.sampled_from(ACTIVATIONS),
    scale=st.floats(0.01, 30),
    n_dominant=st.integers(1, 3),
    density=st.floats(0, 1),
)
def test_bound_is_sound_for_any_weights(seed, activation, scale, n_dominant, density):
    rng = np.random.default_rng(seed)
    mlp = make_gated(activation=activation, seed=seed)
    codes = scale * some_codes(rng, density=density)
    W_dec, intercept = rng.normal(size=(8, 6)), rng.normal(size=6)
    (frozen,) = freeze_mlps(
        [mlp], intercept, 1, dtype=torch.float64, device=torch.device("cpu")
    )
    M = frozen.neuron_inputs(torch.from_numpy(W_dec))
    sparse = SparseCodes.from_dense(torch.from_numpy(codes))
    contributions = frozen.contributions(sparse, M, n_dominant)
    bound = contributions.bound().numpy()
    kept = frozen.output(contributions.dominant_RBN.sum(dim=0)).numpy()
    everything = frozen.output(contributions.all_inputs()).numpy()
    change = np.linalg.norm(kept - everything, axis=1)
    assert (
        change <= bound * (1 + 1e-12) + 1e-12 * (1 + np.abs(everything).max())
    ).all()
    by_loop = Neurons(mlp, codes, W_dec, intercept)
    assert_allclose(bound, by_loop.scores(n_dominant), rtol=1e-9, atol=1e-9 * scale**2)
    assert_allclose(float(contributions.bound_sum()), bound.sum(), rtol=1e-10)


def test_kept_feature_makes_the_bound_smallest(fitted):
    _, _, neurons = fitted
    by_loop = neurons[0]
    best = np.zeros(len(by_loop.codes))
    for b, n in np.ndindex(by_loop.q.shape[:2]):
        sizes = by_loop.sizes(b, n)
        best[b] += by_loop.norm[n] * min(sizes.sum() - sizes[h] for h in range(10))
    assert_allclose(by_loop.scores(), best)


def test_matrix(fitted):
    ccx, acts, neurons = fitted
    expected = np.zeros((10, 10))
    for by_loop in neurons:
        for b, n in np.ndindex(by_loop.q.shape[:2]):
            sizes = by_loop.norm[n] * by_loop.sizes(b, n)
            for i in by_loop.kept(b, n):
                sizes[i] = 0
                expected[i] += sizes
    A = interaction_matrix(ccx, acts).toarray()
    assert_allclose(A, expected / len(acts), rtol=1e-10, atol=1e-12)
    assert_allclose(A.sum(), interaction_scores(ccx, acts).mean(), rtol=1e-10)


def test_dominant_share(fitted):
    ccx, acts, neurons = fitted
    shares = []
    for by_loop in neurons:
        for b, n in np.ndindex(by_loop.q.shape[:2]):
            sizes = by_loop.sizes(b, n)
            if sizes.sum() > 0:
                shares.append(sizes.max() / sizes.sum())
    assert_allclose(dominant_share(ccx, acts), np.mean(shares), rtol=1e-10)


@pytest.mark.parametrize("scheme", ["none", "drop_second", "drop_largest"])
def test_ablated_output(fitted, scheme):
    ccx, acts, neurons = fitted
    for index, by_loop in enumerate(neurons):

        def select(b, n, by_loop=by_loop):
            kept = by_loop.kept(b, n, 2)
            dropped = {"none": [], "drop_second": kept[1:], "drop_largest": kept[:1]}
            return [h for h in range(10) if h not in dropped[scheme]]

        output = ablated_output(ccx, acts, scheme, mlp_index=index)
        assert_allclose(output, by_loop.output(select), rtol=1e-9, atol=1e-9)


def test_random_ablation_drops_one_feature_from_both_factors(fitted):
    ccx, acts, neurons = fitted
    output = ablated_output(ccx, acts, "drop_random", random_state=0)
    by_loop = neurons[0]
    hidden = np.linalg.lstsq(
        by_loop.mlp.W_out.T, (output - by_loop.mlp.b_out).T, rcond=None
    )[0].T
    assert hidden.shape == by_loop.q.shape[:2]
    # Nine neurons do not follow from four outputs; one neuron does.
    one = MLPWeights(
        by_loop.mlp.W_in[:, :1],
        by_loop.mlp.W_out[:1],
        b_in=by_loop.mlp.b_in[:1],
        W_gate=by_loop.mlp.W_gate[:, :1],
        b_gate=by_loop.mlp.b_gate[:1],
        activation="silu",
        site=2,
    )
    outputs = ablated_output(ccx, acts, "drop_random", mlp=one, random_state=0)
    neuron = Neurons(one, by_loop.codes, ccx.components_, ccx.intercept_)
    for b in range(len(acts)):
        active = np.flatnonzero(by_loop.codes[b])
        options = [
            neuron.output(lambda _b, _n, kept=active[active != drop]: kept)[b]
            for drop in active
        ]
        assert not len(options) or np.abs(options - outputs[b]).max(axis=1).min() < 1e-9


def test_all_features_explain_all_of_an_exact_reconstruction(acts):
    mlp = make_gated(site=1)
    ccx = InteractionCrosscoder(
        10, k=4, mlp=mlp, lam=0, lam_fidelity=0, max_iter=300, random_state=0
    ).fit(acts)
    fidelity = ablation_fidelity(ccx, acts, random_state=0)
    codes = ccx.transform(acts)
    by_loop = Neurons(mlp, codes, ccx.components_, ccx.intercept_)
    recon = by_loop.output(lambda b, n: list(range(10)))
    hidden = phi(mlp, acts[:, 1] @ mlp.W_gate + mlp.b_gate)
    true = hidden * (acts[:, 1] @ mlp.W_in + mlp.b_in) @ mlp.W_out + mlp.b_out
    error = np.square(recon - true).sum()
    total = np.square(true - true.mean(axis=0)).sum()
    assert_allclose(fidelity["none"][0], 1 - error / total, rtol=1e-9)
    assert fidelity["none"][0] > fidelity["keep_largest"][0]


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize(
    ("lam", "lam_fidelity", "n_dominant"),
    [(1.0, 0.0, 1), (0.0, 1.0, 1), (0.7, 0.4, 1), (1.0, 0.5, 2)],
)
def test_gradients(kernels, activation, lam, lam_fidelity, n_dominant):
    rng = np.random.default_rng(3)
    codes = some_codes(rng, n_samples=6)
    mlp = make_gated(activation=activation)
    (frozen,) = freeze_mlps(
        [mlp], rng.normal(size=6), 1, dtype=torch.float64, device=torch.device("cpu")
    )
    frozen = frozen.in_training_units(1.7).with_data_scale(DataScale(2.5, 3.5, 2.0))
    W_dec, x = (torch.from_numpy(rng.normal(size=(n, 6))) for n in (8, 6))
    sparse = SparseCodes.from_dense(torch.from_numpy(codes))

    def loss(values_A, W_dec_MF):
        moved = SparseCodes(
            values_A,
            sparse.features_A,
            sparse.rows_A,
            sparse.first_entry_B,
            sparse.n_components,
        )
        return losses_of(
            moved,
            W_dec_MF,
            x,
            [frozen],
            lam=lam,
            lam_fidelity=lam_fidelity,
            n_dominant=n_dominant,
        ).weighted

    inputs = (sparse.values_A.requires_grad_(), W_dec.requires_grad_())
    torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-6, rtol=1e-5)


def test_loss_value(acts):
    """The interaction is the mean score over the mass that the data sends."""
    mlp = make_gated(site=1)
    ccx = InteractionCrosscoder(10, k=4, mlp=mlp, max_iter=1, random_state=0).fit(acts)
    centred = acts.reshape(len(acts), -1) - ccx.intercept_
    data = Neurons(mlp, np.ones((len(acts), 1)), np.zeros((1, 18)), ccx.intercept_)
    gate, linear = (centred[:, 6:12] @ W for W in (mlp.W_gate, mlp.W_in))
    sizes = mlp.lipschitz * (np.abs(data.gamma) + np.abs(linear)) * np.abs(gate)
    sizes += np.abs(phi(mlp, gate + data.beta)) * np.abs(linear)
    mass = (sizes @ data.norm).mean()
    (frozen,) = freeze_mlps(
        [mlp], ccx.intercept_, 3, dtype=torch.float64, device=torch.device("cpu")
    )
    codes = torch.from_numpy(ccx.transform(acts))
    losses = losses_of(
        SparseCodes.from_dense(codes),
        torch.from_numpy(ccx.components_),
        torch.from_numpy(centred),
        [frozen.with_data_scale(DataScale(mass, 1.0, 1.0))],
        lam=1.0,
        lam_fidelity=0.0,
        n_dominant=1,
    )
    expected = interaction_scores(ccx, acts).mean() / mass
    assert_allclose(float(losses.interaction), expected, rtol=1e-10)
    batches, mean = [torch.from_numpy(centred)], torch.zeros(18).double()
    measured = measure_data_scale(frozen, batches, mean)
    assert_allclose(measured.mass, mass, rtol=1e-6)


def test_samples_without_active_features(acts):
    mlp = make_gated()
    ccx = InteractionCrosscoder(10, k=2, mlp=mlp, max_iter=2, random_state=0).fit(acts)
    ccx.threshold_ = 1e9
    assert not ccx.transform(acts).any()
    assert_array_equal(interaction_scores(ccx, acts), 0)
    assert math.isnan(dominant_share(ccx, acts))
    assert_allclose(
        ablated_output(ccx, acts), ablated_output(ccx, acts, "none"), rtol=1e-12
    )


def test_penalties_do_what_they_are_for():
    mlp = make_gated(16, 32, seed=4)
    rng = np.random.default_rng(0)
    codes = some_codes(rng, 2000, 40, 0.1)
    X = (codes @ rng.normal(size=(40, 16))).astype(np.float32)
    shares, fidelities = [], []
    for lam, lam_fidelity in ((0, 0), (0.3, 0), (1, 0), (0, 1)):
        sae = InteractionSAE(
            64,
            k=6,
            lam=lam,
            lam_fidelity=lam_fidelity,
            mlp=mlp,
            max_iter=20,
            random_state=0,
        ).fit(X)
        shares.append(dominant_share(sae, X))
        fidelity = ablation_fidelity(sae, X, schemes="keep_largest")
        fidelities.append(float(fidelity["keep_largest"][0]))
    assert shares[0] + 0.05 < shares[1] < shares[2]
    assert fidelities[3] > fidelities[0] + 0.1


def test_fit_is_reproducible_and_rescaling_the_network_changes_nothing(acts):
    mlp = make_gated()
    ccx = InteractionCrosscoder(10, k=4, mlp=mlp, max_iter=3, random_state=0)
    fitted = clone(ccx).fit(acts)
    assert_array_equal(fitted.components_, clone(ccx).fit(acts).components_)
    scaled = MLPWeights(
        4 * mlp.W_in,
        mlp.W_out / 4,
        b_in=4 * mlp.b_in,
        b_out=mlp.b_out,
        W_gate=mlp.W_gate,
        b_gate=mlp.b_gate,
        activation=mlp.activation,
    )
    refitted = clone(ccx).set_params(mlp=scaled).fit(acts)
    assert_allclose(refitted.components_, fitted.components_, rtol=1e-6, atol=1e-9)
    assert_allclose(
        interaction_scores(fitted, acts, mlp=scaled),
        interaction_scores(fitted, acts),
        rtol=1e-10,
    )


@pytest.mark.parametrize("affinity", ["interaction", "weights"])
def test_features_of_gated_mlps_can_be_clustered(fitted, affinity):
    ccx, acts, _ = fitted
    clusterer = FeatureClusterer(FrozenEstimator(ccx), affinity=affinity)
    assert clusterer.fit(acts).labels_.shape == (10,)


def test_value_object():
    mlp = make_gated()
    assert repr(mlp).endswith("activation='silu', site=0, gated=True)")
    assert pickle.loads(pickle.dumps(mlp)) == mlp
    assert mlp != make_gated(seed=1)
    plain = MLPWeights(mlp.W_in, mlp.W_out, b_in=mlp.b_in, b_out=mlp.b_out)
    assert plain.W_gate is None
    assert plain.b_gate is None
    assert mlp != plain
    assert clone(mlp) is mlp
    with pytest.raises(ValueError, match="read-only"):
        mlp.W_gate[0] = 0


def test_from_torch():
    torch.manual_seed(0)
    up, down, gate = nn.Linear(4, 7), nn.Linear(7, 3), nn.Linear(4, 7, bias=False)
    mlp = MLPWeights.from_torch(up, down, nn.SiLU(), linear_gate=gate, site=2)
    u = torch.randn(5, 4)
    expected = down(nn.functional.silu(gate(u)) * up(u)).detach().numpy()
    hidden = phi(mlp, u.numpy() @ mlp.W_gate + mlp.b_gate) * (
        u.numpy() @ mlp.W_in + mlp.b_in
    )
    assert_allclose(hidden @ mlp.W_out + mlp.b_out, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match="linear_gate must be"):
        MLPWeights.from_torch(up, down, nn.SiLU(), linear_gate=nn.ReLU())


def test_bad_weights():
    W_in, W_out = np.ones((2, 3)), np.ones((3, 2))
    with pytest.raises(ValueError, match="W_gate must have the shape of W_in"):
        MLPWeights(W_in, W_out, W_gate=np.ones((3, 2)))
    with pytest.raises(ValueError, match="b_gate needs W_gate"):
        MLPWeights(W_in, W_out, b_gate=np.ones(3))
    with pytest.raises(ValueError, match="b_gate must have shape"):
        MLPWeights(W_in, W_out, W_gate=W_in, b_gate=np.ones(2))
    with pytest.raises(ValueError, match="W_gate contains NaN"):
        MLPWeights(W_in, W_out, W_gate=np.full((2, 3), np.nan))


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return result


def test_nothing_of_size_samples_times_neurons_times_features(kernels):
    n_samples, n_components, n_neurons, n_active = 64, 96, 80, 40
    mlp = make_gated(6, n_neurons)
    rng = np.random.default_rng(0)
    codes = np.zeros((n_samples, n_components))
    codes[:, :n_active] = rng.exponential(size=(n_samples, n_active))
    (frozen,) = freeze_mlps(
        [mlp], np.zeros(6), 1, dtype=torch.float64, device=torch.device("cpu")
    )
    sparse = SparseCodes.from_dense(torch.from_numpy(codes))
    W_dec, x = (torch.from_numpy(rng.normal(size=(n, 6))) for n in (96, n_samples))
    W_dec.requires_grad_()
    with LargestTensor() as largest:
        losses_of(
            sparse, W_dec, x, [frozen], lam=1.0, lam_fidelity=1.0, n_dominant=1
        ).weighted.backward()
    assert W_dec.grad is not None
    # Both inputs of a neuron for every sample, or what every feature writes to them.
    assert largest.size <= 2 * n_neurons * max(n_samples, n_components)
