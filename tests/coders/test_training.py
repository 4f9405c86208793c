"""What fitting promises: reproducible, resumable, robust."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from sklearn_ccx import InteractionCrosscoder, InteractionSAE
from sklearn_ccx._engine import _model
from sklearn_ccx._engine._model import CrosscoderModel
from sklearn_ccx._engine._schedule import Schedule
from sklearn_ccx._engine._settings import FitSettings, LossStrengths
from sklearn_ccx._engine._trainer import Trainer
from sklearn_ccx._engine.activations import BatchTopK, JumpReLU, TopK
from sklearn_ccx._engine.losses import Objective
from tests.conftest import make_mlp

ACTIVATIONS = ["batchtopk", "topk", "relu", "jumprelu"]


def sae(**kwargs):
    defaults = {"k": 4, "batch_size": 32, "max_iter": 4, "random_state": 0}
    return InteractionSAE(**defaults | kwargs)


def global_numpy_state():
    return np.random.get_state()[1].copy()  # noqa: NPY002


def fitted_arrays(estimator):
    names = [name for name in vars(estimator) if name.endswith("_")]
    arrays = {name: getattr(estimator, name) for name in names}
    return arrays | {f"history {k}": v for k, v in arrays.pop("history_").items()}


def assert_same_fit(one, other):
    one, other = fitted_arrays(one), fitted_arrays(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_seed_gives_equal_bits(acts, mlps, activation, dtype):
    ccx = InteractionCrosscoder(
        k=4,
        lam=0.1,
        lam_fidelity=0.1,
        mlp=mlps,
        activation=activation,
        dtype=dtype,
        max_iter=5,
        random_state=3,
    )
    assert_same_fit(ccx.fit(acts), clone(ccx).fit(acts))
    other = clone(ccx).set_params(random_state=4).fit(acts)
    assert np.abs(other.components_ - ccx.components_).max() > 0.01


def test_global_generators_are_untouched(acts):
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    before = global_numpy_state(), torch.get_rng_state()
    InteractionCrosscoder(max_iter=2, random_state=0, early_stopping=True).fit(acts)
    sae(random_state=np.random.RandomState(0)).partial_fit(acts[:, 0])
    assert_array_equal(global_numpy_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_four_pickled_partial_fits_equal_one_fit(acts, mlps, activation):
    ccx = InteractionCrosscoder(
        k=4,
        lam_fidelity=0.2,
        mlp=mlps,
        activation=activation,
        batch_size=32,
        max_iter=4,
        random_state=0,
    )
    at_once = clone(ccx).fit(acts)
    for _ in range(4):
        ccx = pickle.loads(pickle.dumps(ccx.partial_fit(acts)))
    assert ccx.n_iter_ == 4
    assert_same_fit(ccx, at_once)


def test_partial_fit_learns_from_parts(acts):
    X = acts[:, 0]
    estimator = sae(max_iter=400)
    for i in range(400):
        estimator.partial_fit(X[i % 2 :: 2])
    assert estimator.score(X) > 0.8


def test_partial_fit_goes_on_from_fit(acts):
    X = acts[:, 0]
    estimator = sae(max_iter=200).fit(X)
    score = estimator.score(X)
    estimator.partial_fit(X)
    assert estimator.n_iter_ == 1
    assert estimator.score(X) > score - 0.1


def test_fit_forgets_what_came_before(acts):
    X = acts[:, 0]
    assert_same_fit(sae().partial_fit(X).fit(X), sae().fit(X))
    estimator = sae(early_stopping=True).fit(X).set_params(early_stopping=False)
    assert_same_fit(estimator.fit(X), sae().fit(X))


def test_partial_fit_checks_the_width(acts):
    estimator = sae().partial_fit(acts[:, 0])
    with pytest.raises(ValueError, match="expecting 6 features"):
        estimator.partial_fit(acts[:, 0, :5])


def test_warm_start_goes_on_from_the_fitted_weights(acts):
    X = acts[:, 0]
    estimator = sae(max_iter=300, warm_start=True).fit(X)
    score = estimator.score(X)
    part = X[:100] + 0.1  # other units of training, the same units of the user
    estimator.set_params(max_iter=1, learning_rate_init=1e-6).fit(part)
    assert estimator.score(X) == pytest.approx(score, abs=0.02)
    assert estimator.set_params(warm_start=False).fit(X).score(X) < score - 0.2
    with pytest.raises(ValueError, match="keep n_components"):
        estimator.set_params(warm_start=True, n_components=7).fit(X)


def test_early_stopping_keeps_the_best_weights(acts):
    X = np.random.default_rng(0).normal(size=(80, 6))  # noise: overfits soon
    estimator = sae(
        n_components=64, max_iter=500, early_stopping=True, n_iter_no_change=5
    ).fit(X)
    losses = estimator.validation_loss_curve_
    assert len(losses) == estimator.n_iter_ < 500
    assert estimator.best_validation_loss_ == min(losses)
    assert np.argmin(losses) >= len(losses) - 1 - 5
    assert_array_equal(estimator.history_["loss"], estimator.loss_curve_)

    stop = int(np.argmin(losses)) + 1
    assert stop < len(losses)
    patient = clone(estimator).set_params(n_iter_no_change=10**6).fit(X)
    assert_array_equal(patient.validation_loss_curve_[: len(losses)], losses)


def test_early_stopping_holds_out_the_validation_samples():
    X = np.random.default_rng(0).normal(size=(40, 3))
    X[:20] += 100
    estimator = sae(early_stopping=True, validation_fraction=0.5).fit(X)
    assert not np.allclose(estimator.intercept_, X.mean(axis=0), atol=1e-3)


def test_partial_fit_refuses_early_stopping(acts):
    with pytest.raises(AttributeError, match="partial_fit"):
        sae(early_stopping=True).partial_fit(acts[:, 0])


def test_divergence_warns_and_keeps_the_last_finite_weights(acts):
    X = acts[:, 0].astype(np.float32)
    estimator = sae(learning_rate_init=1e30, max_iter=50)
    with pytest.warns(ConvergenceWarning, match="diverged in pass 1;.*learning_rate"):
        estimator.fit(X)
    assert estimator.n_iter_ >= 0
    assert np.isfinite(estimator.components_).all()
    assert np.isfinite(estimator.transform(X)).all()
    assert_array_equal(
        np.linalg.norm(estimator.decoder_norms_, axis=1).round(5), np.ones(24)
    )


def test_divergence_in_a_later_pass_keeps_what_was_learned(acts):
    X = acts[:, 0]
    good = sae(max_iter=60).fit(X)
    estimator = sae(max_iter=60, warm_start=True).fit(X)
    estimator.set_params(learning_rate_init=1e300)
    with pytest.warns(ConvergenceWarning):
        estimator.fit(X)
    assert estimator.score(X) == pytest.approx(good.score(X), abs=0.1)


def test_decoder_rows_whose_norm_overflows_count_as_diverged():
    # One step: the reported losses are those before it, and finite.
    X = np.random.default_rng(0).normal(size=(24, 4))
    estimator = sae(max_iter=2, batch_size=24).fit(X)
    learned = estimator.components_.copy()
    estimator.set_params(learning_rate_init=1e300)
    with pytest.warns(ConvergenceWarning, match="diverged in pass 1"):
        estimator.partial_fit(X)
    assert_allclose(estimator.components_, learned, rtol=1e-12)


def test_learning_rate_is_set_before_the_step():
    schedule = Schedule(learning_rate=1.0, n_passes=2)
    rates = [schedule.rate(i // 50, i % 50, 50) for i in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[4:75] == [1.0] * 71
    assert rates[-1] == pytest.approx(0.04)
    assert np.all(np.diff(rates[75:]) < 0)
    assert schedule.rate(2, 0, 50) == rates[0]

    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(
        torch.randn(4, 3, generator=generator).double()
    )
    model = CrosscoderModel(
        rows.clone(), torch.zeros(4).double(), rows.clone(), BatchTopK(2)
    )
    settings = FitSettings(
        n_components=4,
        k=2,
        activation="batchtopk",
        l1_coefficient=0.0,
        strengths=LossStrengths(0.0, 0.0, 1, 0),
        learning_rate=0.0,
        batch_size=8,
        n_passes=1,
        tol=0.0,
        n_iter_no_change=1,
        dtype=torch.float64,
        device=torch.device("cpu"),
        mixed_precision=False,
    )
    objective = Objective(settings.strengths, torch.ones(1).double(), [])
    trainer = Trainer(model, objective, settings, generator)
    X = torch.randn(16, 3, generator=generator, dtype=torch.float64)
    trainer.run_pass(lambda i: X[torch.from_numpy(i)], np.arange(16))
    torch.testing.assert_close(model.W_dec_MF.detach(), rows)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_aux_k_revives_dead_features(acts, activation):
    X = acts[:, 0]
    fitted = sae(activation=activation, lam=0, warm_start=True, max_iter=100).fit(X)
    pre = X @ fitted.encoder_components_.T
    fitted.encoder_intercept_[::2] = -1 - pre[:, ::2].max(axis=0)  # never fire
    assert not fitted.transform(X)[:, ::2].any()
    n_alive = {}
    for aux_k in (0, None):
        estimator = pickle.loads(pickle.dumps(fitted)).set_params(aux_k=aux_k)
        estimator.set_params(learning_rate_init=0.01).fit(X)
        n_alive[aux_k] = (estimator.activation_frequency_[::2] > 0).sum()
    assert n_alive[0] == 0
    assert n_alive[None] >= 6


def test_decoder_rows_keep_unit_norm_in_training_units(acts):
    estimator = sae(max_iter=20, normalize=False).fit(acts[:, 0])
    np.testing.assert_allclose(np.linalg.norm(estimator.components_, axis=1), 1.0)


def test_jumprelu_gradients_are_the_straight_through_estimates():
    pre = torch.tensor([[0.45, 0.95, 2.0]], dtype=torch.float64, requires_grad=True)
    activation = JumpReLU(1, torch.tensor([0.5, 1.0, 1.0]).double().log())
    codes, _ = activation.train_codes(pre)
    codes.backward(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64))
    assert codes.tolist() == [[0, 0, 2]]
    assert pre.grad.tolist() == [[0, 0, 3]]
    # -theta K((pre - theta) / eps) / eps, times d theta / d log theta = theta.
    expected = torch.tensor([-0.5 * 0.5 * 5, -2.0 * 5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(activation.log_threshold_M.grad, expected)


@pytest.mark.parametrize("activation", [BatchTopK(2, 0.5), BatchTopK(2), TopK(2)])
def test_nan_is_selected_so_that_divergence_shows(activation):
    pre = torch.tensor([[3.0, float("nan"), 1.0], [2.0, -1.0, 0.0]])
    assert 1 in activation.select(pre).tolist()
    codes, _ = activation.train_codes(pre)
    assert codes.isnan().any()


def test_batchtopk_keeps_k_times_the_batch_and_learns_the_smallest():
    pre = torch.tensor([[5.0, 4.0, 3.0], [1.0, 2.0, -1.0]])
    activation = BatchTopK(2)
    codes, _ = activation.train_codes(pre)
    assert codes.tolist() == [[5, 4, 3], [0, 2, 0]]
    assert activation.threshold == 2.0
    activation.train_codes(pre + 10)
    assert 2.0 < activation.threshold < 12.0


@pytest.mark.parametrize("limit", [0, np.inf])
def test_mixed_precision_learns_the_same_in_bfloat16(acts, mlps, limit, monkeypatch):
    monkeypatch.setattr(_model, "_MIN_SPARSE_PRODUCT", limit)
    products = []
    matmul = torch.Tensor.__matmul__

    def spy(one, other):
        result = matmul(one, other)
        products.append(result.dtype)
        return result

    monkeypatch.setattr(torch.Tensor, "__matmul__", spy)
    acts = acts.astype(np.float32)
    ccx = InteractionCrosscoder(
        k=4, lam_fidelity=0.1, mlp=mlps, max_iter=100, random_state=0
    )
    single = ccx.fit(acts)
    assert torch.bfloat16 not in products
    mixed = clone(ccx).set_params(mixed_precision=True).fit(acts)
    assert torch.bfloat16 in products
    assert mixed.components_.dtype == np.float32
    assert np.abs(mixed.components_ - single.components_).max() > 0
    assert mixed.score(acts) == pytest.approx(single.score(acts), abs=0.03)


def test_mixed_precision_needs_float32(acts):
    estimator = sae(mixed_precision=True)
    with pytest.raises(ValueError, match='set dtype="float32" or mixed_precision'):
        estimator.fit(acts[:, 0])
    estimator.set_params(dtype="float32").fit(acts[:, 0])


def test_site_without_variance_warns_and_is_left_out(acts):
    acts = acts.copy()
    acts[:, 1] = 7.0
    ccx = InteractionCrosscoder(k=4, max_iter=300, random_state=0)
    with pytest.warns(UserWarning, match=r"do not vary at site\(s\) \[1\]"):
        ccx.fit(acts)
    assert np.isnan(ccx.site_fvu_[1])
    assert ccx.score(acts) > 0.8
    np.testing.assert_allclose(ccx.inverse_transform(ccx.transform(acts))[:, 1], 7.0)


def test_mlp_at_a_site_without_variance_does_no_harm(acts):
    acts = acts.copy()
    acts[:, 1] = 0.1
    mlp = [make_mlp(6, 5, site=1), make_mlp(6, 5, site=0)]
    ccx = InteractionCrosscoder(k=4, mlp=mlp, lam_fidelity=1.0, random_state=0)
    with pytest.warns(UserWarning, match="do not vary"):
        ccx.set_params(max_iter=100).fit(acts)
    assert np.isfinite(ccx.loss_curve_).all()
    assert ccx.score(acts) > 0.5
    alone = clone(ccx).set_params(mlp=mlp[1])
    with pytest.warns(UserWarning, match="do not vary"):
        alone.fit(acts)
    for name in ("interaction", "infidelity"):
        np.testing.assert_allclose(alone.history_[name], ccx.history_[name])


def test_verbose_shows_progress(acts, capsys):
    sae(verbose=1).fit(acts[:, 0])
    shown = capsys.readouterr().err
    for name in ("InteractionSAE", "loss=", "FVU=", "L0=", "dead=", "share="):
        assert name in shown
    sae().fit(acts[:, 0])
    assert capsys.readouterr().err == ""


def test_default_number_of_passes_makes_a_thousand_steps(acts):
    assert sae(max_iter=None, batch_size=120).fit(acts[:, 0]).n_iter_ == 1000
    assert sae(max_iter=None, batch_size=1).fit(acts[:, 0]).n_iter_ == 9


def test_training_goes_on_after_a_divergence(acts):
    """What diverged leaves no trace in the weights, nor in the optimizer."""
    ccx = InteractionCrosscoder(10, k=4, max_iter=4, batch_size=16, random_state=0)
    kept = ccx.partial_fit(acts).components_
    ccx.set_params(learning_rate_init=1e200)
    with pytest.warns(ConvergenceWarning, match="diverged"):
        ccx.partial_fit(acts)
    assert_array_equal(ccx.components_, kept)
    ccx.set_params(learning_rate_init=1e-3).partial_fit(acts)
    assert np.isfinite(ccx.history_["loss"]).all()
    assert not np.array_equal(ccx.components_, kept)
