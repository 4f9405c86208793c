"""Activations in .npy files, of which a search copies nothing."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV

from sklearn_ccx import InteractionCrosscoder, InteractionSAE, interaction_matrix
from sklearn_ccx.activations import ShardedActivations, open_npy


@pytest.fixture
def array():
    return np.random.default_rng(0).normal(size=(90, 3, 4)).astype(np.float32)


@pytest.fixture
def path(array, tmp_path):
    np.save(tmp_path / "X.npy", array)
    return tmp_path / "X.npy"


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("is_flat", [False, True])
def test_rows_of_several_files_follow_each_other(array, tmp_path, dtype, is_flat):
    stored = array.astype(dtype)
    stored = stored[:, 0] if is_flat else stored
    for name, part in (("a", stored[:20]), ("b", stored[20:]), ("c", stored[:0])):
        np.save(tmp_path / name, part)
    X = open_npy([str(tmp_path / "a.npy"), tmp_path / "b.npy", tmp_path / "c.npy"])
    assert isinstance(X, ShardedActivations)
    assert X.storage_dtype == stored.dtype
    assert_array_equal(np.asarray(X), stored.astype(np.float32))
    chosen = X[[70, 3, 20]]
    assert isinstance(chosen, ShardedActivations)
    assert_array_equal(np.asarray(chosen), stored[[70, 3, 20]].astype(np.float32))


def test_a_relative_path_is_found_from_elsewhere(array, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X = open_npy("X.npy")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    reduced = X.__reduce__()
    assert_array_equal(np.asarray(reduced[0](*reduced[1])), array)


def test_estimators_and_analyses_take_it(array, path):
    ccx = InteractionCrosscoder(16, k=3, max_iter=2, random_state=0)
    X = open_npy(path)
    fitted = [ccx.fit(given).components_ for given in (array, X)]
    assert_array_equal(*fitted)
    expected = interaction_matrix(ccx, array, batch_size=8).toarray()
    found = interaction_matrix(ccx, X, batch_size=8, n_jobs=2).toarray()
    assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda path, X: None, r"there is no '.*X\.npy'"),
        (lambda path, X: path.write_bytes(b"x" * 100), "cannot be read as an array"),
        (lambda path, X: path.write_bytes(b""), "cannot be read as an array"),
        (lambda path, X: path.mkdir(), "cannot be read as an array"),
        (lambda path, X: np.savez(path.open("wb"), X=X), "not one array"),
        (lambda path, X: np.save(path, X.astype(object)), "cannot be read as an array"),
        (lambda path, X: np.save(path, X.astype("f8")), r"holds <f8; save float16 or"),
        (lambda path, X: np.save(path, X.astype(">f4")), r"holds >f4; save float16 or"),
        (lambda path, X: np.save(path, X.astype(int)), "holds <i8; save float16 or"),
        (lambda path, X: np.save(path, np.asfortranarray(X)), "in Fortran order; save"),
        (lambda path, X: np.save(path, X.ravel()), r"has shape \(1080,\) in C order"),
        (lambda path, X: np.save(path, X[None]), r"has shape \(1, 90, 3, 4\) in C"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of numpy's errors
def test_other_files_are_refused(array, tmp_path, save, message):
    path = tmp_path / "X.npy"
    save(path, array)
    with pytest.raises(ValueError, match=f"files: .*{message}"):
        open_npy(path)


def test_files_that_do_not_fit_together(array, path, tmp_path):
    np.save(tmp_path / "other.npy", array[:, :2])
    with pytest.raises(ValueError, match=r"files do not fit together: '.*other\.npy'"):
        open_npy([path, tmp_path / "other.npy"])
    np.save(tmp_path / "other.npy", array.astype(np.float16))
    with pytest.raises(ValueError, match=r"rows of shape .* and dtype float16, but"):
        open_npy([path, tmp_path / "other.npy"])


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_numbers_must_be_finite(array, tmp_path, bad):
    array[60, 1, 2] = bad
    np.save(tmp_path / "X.npy", array)
    with pytest.raises(ValueError, match="contains NaN or infinity in rows 0 to 89"):
        open_npy(tmp_path / "X.npy")
    assert open_npy(tmp_path / "X.npy", verify=False).shape == (90, 3, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"files": 3}, TypeError, "files must be a list; got 3"),
        ({"files": []}, ValueError, "files is empty"),
        ({"files": [3]}, TypeError, "files must be the path"),
        ({"files": "X.npy", "verify": 1}, TypeError, "verify must be True or False"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        open_npy(**arguments)


@pytest.mark.slow
def test_a_search_copies_no_rows(tmp_path):
    X = np.random.default_rng(0).normal(size=(400_000, 32)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    n_bytes = X.nbytes
    del X
    sae = InteractionSAE(
        8, k=2, max_iter=1, batch_size=4096, activation="topk", random_state=0
    )
    search = GridSearchCV(
        sae, {"lam": [0.0, 0.1]}, cv=2, refit=False, scoring=sum_of_weights
    )
    peaks, scores = {}, {}
    for kind in ("lazy", "mapped"):
        X = tmp_path / "X.npy"
        X = open_npy(X) if kind == "lazy" else np.load(X, mmap_mode="r")
        tracemalloc.start()
        search.fit(X)
        peaks[kind] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        scores[kind] = search.cv_results_["mean_test_score"]
    assert_array_equal(scores["lazy"], scores["mapped"])
    # The rows of a fold to train on, and those to test on.
    assert peaks["mapped"] - peaks["lazy"] > 0.4 * n_bytes


def sum_of_weights(estimator, X, y=None):
    return float(estimator.components_.sum())
