"""Callbacks of scikit-learn, and those of this package."""

import os
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_ccx import FeatureClusterer, InteractionCrosscoder, InteractionSAE
from sklearn_ccx._engine._trainer import Trainer
from sklearn_ccx.activations import ActivationStream
from sklearn_ccx.callbacks import Checkpoint, MetricsLogger
from tests.conftest import make_mlp

sklearn_callback = pytest.importorskip("sklearn.callback")

FITTED = ("components_", "encoder_components_", "encoder_intercept_", "intercept_")


class Tasks:
    """Writes down the tasks that it is told of."""

    def __init__(self):
        self.begun, self.ended, self.fitted = [], [], []

    def setup(self, estimator, context):
        self.begun.append("setup")

    def teardown(self, estimator, context):
        self.ended.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.begun.append((context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        self.ended.append((context.task_name, context.task_id))
        if context.task_name == "pass":
            self.fitted.append(fitted_estimator.score(X))


class StopAfter(Tasks):
    """Ends a fit after some passes."""

    def __init__(self, n_passes):
        super().__init__()
        self.n_passes = n_passes

    def on_fit_task_end(self, estimator, context):
        return context.task_name == "pass" and context.task_id + 1 == self.n_passes


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(300, 12)) * (rng.random((300, 12)) < 0.3)
    return codes @ rng.normal(size=(12, 8))


def make(**params):
    defaults = {"k": 3, "max_iter": 4, "batch_size": 64, "random_state": 0}
    return InteractionSAE(16, **(defaults | params))


def assert_same_fit(one, other):
    for name in FITTED:
        assert_array_equal(getattr(one, name), getattr(other, name))
    assert_array_equal(one.threshold_, other.threshold_)
    for name, values in one.history_.items():
        assert_array_equal(values, other.history_[name])
    assert_array_equal(one.activation_frequency_, other.activation_frequency_)
    if hasattr(one, "validation_loss_curve_"):
        assert one.validation_loss_curve_ == other.validation_loss_curve_
        assert one.best_validation_loss_ == other.best_validation_loss_


class TestTasks:
    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    def test_passes(self, X, method):
        tasks, sae = Tasks(), make()
        getattr(sae.set_callbacks(tasks), method)(X)
        passes = [("pass", i) for i in range(4 if method == "fit" else 1)]
        assert tasks.begun == ["setup", ("fit", 0), *passes]
        assert tasks.ended == [*passes, ("fit", 0), "teardown"]

    def test_fitted_estimators_are_those_of_the_passes(self, X):
        tasks = Tasks()
        sae = make().set_callbacks(tasks).fit(X)
        by_parts = make()
        scores = [by_parts.partial_fit(X).score(X) for _ in range(4)]
        assert tasks.fitted == scores
        assert tasks.fitted[-1] == sae.score(X)

    def test_long_passes_have_tasks_of_steps(self, X):
        tasks = Tasks()
        make(batch_size=2, max_iter=1).set_callbacks(tasks).fit(X)  # 150 steps
        steps = [task for task in tasks.begun if task[0] == "steps"]
        assert steps == [("steps", 0), ("steps", 1)]
        assert tasks.ended[:3] == [("steps", 0), ("steps", 1), ("pass", 0)]

    def test_they_change_nothing(self, X):
        plain, told = make().fit(X), make().set_callbacks(Tasks()).fit(X)
        assert_same_fit(plain, told)
        assert set(vars(told)) - set(vars(plain)) == {"_skl_callbacks"}

    def test_a_callback_may_stop_the_fit(self, X):
        sae = make().set_callbacks(StopAfter(2)).fit(X)
        assert sae.n_iter_ == 2

    def test_teardown_after_an_error(self, X):
        tasks = Tasks()

        def fail(estimator, context):
            raise RuntimeError("stop here")

        tasks.on_fit_task_begin = fail
        sae = make().set_callbacks(tasks)
        with pytest.raises(RuntimeError, match="stop here"):
            sae.fit(X)
        assert tasks.ended == ["teardown"]
        assert not hasattr(sae, "components_")
        assert set(vars(sae)) == set(vars(make().set_callbacks(tasks)))

    def test_scoring_monitor_alone_and_inside(self, X):
        def monitor():
            return sklearn_callback.ScoringMonitor(
                scoring={"score": lambda estimator, X, y: estimator.score(X)}
            )

        alone = monitor()
        sae = make().set_callbacks(alone).fit(X)
        rows = alone.get_logs().data
        of_passes = [row["score"] for row in rows if row["task_name"] == "pass"]
        assert len(of_passes) == 4
        assert of_passes[-1] == sae.score(X)
        in_grid = monitor()
        grid = GridSearchCV(make().set_callbacks(in_grid), {"lam": [0, 0.1]}, cv=2)
        grid.fit(X)
        logs = in_grid.get_logs(select="all")
        assert sum(len(log.data) for log in logs) == 5 * 5
        in_pipeline = monitor()
        make_pipeline(StandardScaler(), make().set_callbacks(in_pipeline)).fit(X)
        assert len(in_pipeline.get_logs().data) == 5

    def test_progress_bar(self, X, capsys):
        pytest.importorskip("rich")
        bar = sklearn_callback.ProgressBar(max_propagation_depth=None)
        GridSearchCV(make(), {"lam": [0, 0.1]}, cv=2).set_callbacks(bar).fit(X)
        assert "InteractionSAE - fit" in capsys.readouterr().out

    def test_inside_other_estimators(self, X):
        tasks = Tasks()
        FeatureClusterer(make().set_callbacks(tasks)).fit(X)
        assert ("pass", 3) in tasks.ended


class TestMetricsLogger:
    def test_rows_are_those_of_the_history(self, X):
        rows = []
        sae = make(early_stopping=True).set_callbacks(MetricsLogger(rows.append)).fit(X)
        assert [row["pass"] for row in rows] == [1, 2, 3, 4]
        for name, values in sae.history_.items():
            assert_array_equal([row[name] for row in rows], values)
        losses = [row["validation_loss"] for row in rows]
        assert losses == sae.validation_loss_curve_
        assert all(
            type(v) is float for row in rows for k, v in row.items() if k != "pass"
        )

    def test_log_is_callable(self):
        with pytest.raises(TypeError, match="log must be callable"):
            MetricsLogger([])


class InterruptedFitError(Exception):
    pass


@pytest.fixture
def interrupting(monkeypatch):
    """Makes fits end after so many more steps, like a kill."""
    step = Trainer.step

    def interrupt_after(n_steps):
        left = [n_steps]

        def limited(self, *args):
            if not left[0]:
                raise InterruptedFitError
            left[0] -= 1
            return step(self, *args)

        monkeypatch.setattr(Trainer, "step", limited)

    yield interrupt_after
    monkeypatch.setattr(Trainer, "step", step)


def fit_with_interruptions(make_one, X, directory, interrupting, n_steps, method="fit"):
    """A fit that is begun anew each time that it was interrupted."""
    for _ in range(100):
        interrupting(n_steps)
        coder = make_one().set_callbacks(Checkpoint(directory, every=2))
        try:
            return getattr(coder, method)(X)
        except InterruptedFitError:
            assert not hasattr(coder, "components_")
    raise AssertionError("the fit does not get on")


class TestCheckpoint:
    @pytest.mark.parametrize(
        "params",
        [
            *(
                {"activation": name}
                for name in ("topk", "batchtopk", "relu", "jumprelu")
            ),
            {"early_stopping": True, "n_iter_no_change": 2, "max_iter": 12},
            {"lam_fidelity": 0.3, "mlp": make_mlp(8, 9), "dtype": "float32"},
            {"outlier_threshold": 5.0, "normalize": False},
        ],
    )
    def test_interrupted_fits_end_in_the_same_bits(
        self, X, tmp_path, interrupting, params
    ):
        plain = make(**params).fit(X)
        resumed = fit_with_interruptions(
            lambda: make(**params), X, tmp_path, interrupting, n_steps=5
        )
        assert_same_fit(plain, resumed)

    def test_crosscoder(self, X, tmp_path, interrupting):
        acts = X.reshape(300, 2, 4)

        def make_one():
            return InteractionCrosscoder(16, k=3, max_iter=3, random_state=1)

        plain = make_one().fit(acts)
        resumed = fit_with_interruptions(make_one, acts, tmp_path, interrupting, 3)
        assert_same_fit(plain, resumed)

    def test_streams(self, X, tmp_path, interrupting):
        def make_stream():
            return ActivationStream(lambda a, b: X[a:b], 300, buffer_size=128)

        plain = make().fit(make_stream())
        resumed = fit_with_interruptions(
            make, make_stream(), tmp_path, interrupting, n_steps=3
        )
        assert_same_fit(plain, resumed)

    def test_partial_fit(self, X, tmp_path, interrupting):
        plain, resumed = make().partial_fit(X), make()
        resumed = fit_with_interruptions(
            make, X, tmp_path, interrupting, n_steps=3, method="partial_fit"
        )
        assert_same_fit(plain, resumed)
        interrupting(10**6)
        again = resumed.partial_fit(X)
        assert_same_fit(plain.partial_fit(X), again)
        assert len(os.listdir(tmp_path)) == 1  # that of the newest call

    def test_a_new_random_fit_goes_on_with_the_seed_of_the_first(
        self, X, tmp_path, interrupting
    ):
        """Also rows are held out by it."""
        params = {"random_state": None, "early_stopping": True}
        checkpoint = Checkpoint(tmp_path, every=1)
        interrupting(7)
        with pytest.raises(InterruptedFitError):
            make(**params).set_callbacks(checkpoint).fit(X)
        interrupting(10**6)
        one = make(**params).set_callbacks(checkpoint).fit(X)
        other = make(**params).set_callbacks(checkpoint).fit(X)
        assert_same_fit(one, other)

    def test_at_most_one_interval_is_lost(self, X, tmp_path, interrupting):
        """20 steps in all; interrupted after 13, it goes on from the twelfth."""
        interrupting(13)
        with pytest.raises(InterruptedFitError):
            make().set_callbacks(Checkpoint(tmp_path, every=4)).fit(X)
        interrupting(8)
        make().set_callbacks(Checkpoint(tmp_path, every=4)).fit(X)

    def test_other_fits_have_other_files(self, X, tmp_path):
        def fit(X=X, **params):
            make(**params).set_callbacks(Checkpoint(tmp_path)).fit(X)
            return len(os.listdir(tmp_path))

        assert fit() == 1
        assert fit(verbose=0, sparse_output=True) == 1
        assert fit(lam=0.3) == 2
        assert fit(random_state=1) == 3
        assert fit(mlp=make_mlp(8, 9)) == 4
        assert fit(mlp=make_mlp(8, 9, seed=1)) == 5
        assert fit(X=X[:-1]) == 6
        assert fit(X=X * 2) == 7
        assert fit(X=X.astype(np.float32)) == 8

    def test_warm_start_is_told_by_its_weights(self, X, tmp_path):
        sae = make(warm_start=True).set_callbacks(Checkpoint(tmp_path)).fit(X)
        first = sae.components_
        second = sae.fit(X).components_
        assert not np.array_equal(first, second)
        assert len(os.listdir(tmp_path)) == 2

    def test_search(self, X, tmp_path, interrupting):
        def search():
            coder = make().set_callbacks(Checkpoint(tmp_path, every=3))
            return GridSearchCV(coder, {"lam": [0, 0.2]}, cv=2, error_score="raise")

        plain = GridSearchCV(make(), {"lam": [0, 0.2]}, cv=2).fit(X)
        for _ in range(50):
            interrupting(7)
            try:
                resumed = search().fit(X)
                break
            except InterruptedFitError:
                continue
        assert_array_equal(
            plain.cv_results_["mean_test_score"], resumed.cv_results_["mean_test_score"]
        )
        assert_same_fit(plain.best_estimator_, resumed.best_estimator_)

    def test_divergence_is_kept(self, X, tmp_path):
        sae = make(learning_rate_init=1e200).set_callbacks(Checkpoint(tmp_path))
        with pytest.warns(ConvergenceWarning, match="diverged in pass 1"):
            first = sae.fit(X).components_
        with pytest.warns(ConvergenceWarning, match="diverged in pass 1"):
            again = sae.fit(X).components_
        assert_array_equal(first, again)

    def test_damaged_file(self, X, tmp_path):
        make().set_callbacks(Checkpoint(tmp_path)).fit(X)
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(ValueError, match=file.name):
            make().set_callbacks(Checkpoint(tmp_path)).fit(X)

    def test_no_directory(self, X, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="file"):
            make().set_callbacks(Checkpoint(tmp_path / "file")).fit(X)

    def test_clone_and_pickle(self, X, tmp_path):
        sae = clone(make().set_callbacks(Checkpoint(tmp_path, every=7)))
        (checkpoint,) = pickle.loads(pickle.dumps(sae))._skl_callbacks
        assert (checkpoint.directory, checkpoint.every) == (tmp_path, 7)

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"directory": 3}, TypeError),
            ({"directory": ""}, ValueError),
            ({"directory": "a", "every": 0}, ValueError),
            ({"directory": "a", "every": 1.5}, TypeError),
        ],
    )
    def test_parameters(self, arguments, error):
        with pytest.raises(
            error, match="every" if "every" in arguments else "directory"
        ):
            Checkpoint(**arguments)

    @pytest.mark.parametrize("callback", [MetricsLogger(print), Checkpoint("unused")])
    def test_other_estimators_are_refused(self, X, callback, tmp_path):
        scaler = StandardScaler()
        with pytest.raises(TypeError, match="is for InteractionCrosscoder"):
            scaler.set_callbacks(callback).fit(X)
