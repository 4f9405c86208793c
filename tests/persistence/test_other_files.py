"""Files of other versions, and files that were edited by somebody who means harm."""

import sys

import numpy as np
import pytest
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_ccx import FeatureClusterer, InteractionSAE, load, save
from sklearn_ccx._storage import write_tree
from tests.storage.editing import edit, read_parts, sign, write_parts
from tests.storage.equality import assert_same

FIT = {"n_components": 12, "k": 3, "max_iter": 3, "device": "cpu"}


def test_another_version_of_scikit_learn_gives_its_warning(path, X):
    save(make_pipeline(StandardScaler(), InteractionSAE(**FIT)).fit(X), path)

    def make_older(document):
        steps = document["tree"]["parts"]["params"]["steps"]
        scaler = steps[0]["items"][1]
        scaler["parts"]["state"]["_sklearn_version"] = "1.5.0"

    edit(path, make_older)
    with pytest.warns(InconsistentVersionWarning, match=r"StandardScaler.*1\.5\.0"):
        load(path)


def test_a_file_of_an_earlier_version_gets_the_defaults_of_new_parameters(path, X):
    sae = InteractionSAE(**FIT, random_state=0).fit(X)
    save(sae, path)
    edit(path, lambda document: document["tree"]["parts"]["params"].pop("lam_margin"))
    assert_same(load(path), sae)


def state_of(document):
    return document["tree"]["parts"]["state"]


def params_of(document):
    return document["tree"]["parts"]["params"]


def random_state(key, position):
    parts = {"key": key, "pos": position, "has_gauss": 0, "gauss": 0.0}
    node = {"type": "numpy.RandomState", "name": "r", "parts": {"": parts}}
    return lambda d: params_of(d).update(random_state=node)


def array_called(name):
    return {"type": "array", "name": name, "dtype": "<f8"}


HARMFUL = [
    (lambda d: d.update(tree=[1]), "it holds list, which is no estimator"),
    (lambda d: state_of(d).update(n_sites_=5), "decoder_norms_ does not fit"),
    (lambda d: state_of(d).update(n_sites_=0), "decoder_norms_ does not fit"),
    (lambda d: state_of(d).update(n_features_in_=7), "n_features_in_ does not fit"),
    (
        lambda d: state_of(d).update(encoder_components_=array_called("intercept_")),
        "encoder_components_ does not fit",
    ),
    (
        lambda d: state_of(d).update(components_=array_called("intercept_")),
        "not enough values",
    ),
    (lambda d: state_of(d).pop("encoder_intercept_"), "encoder_intercept_"),
    (lambda d: state_of(d).update(mlp_=[3]), "mlp"),
    (random_state([1], 0), "never written: AttributeError"),
    (random_state(array_called("intercept_"), 0), "out of bounds"),
    (lambda d: params_of(d).update(magic=1), "InteractionSAE has no parameter 'magic'"),
    (lambda d: state_of(d).update(transform=1), "keeps no attribute 'transform'"),
    (lambda d: state_of(d).update(__class__=1), "keeps no attribute '__class__'"),
    (
        lambda d: state_of(d).update(_parameter_constraints=None),
        "keeps no attribute '_parameter_constraints'",
    ),
    (lambda d: state_of(d).update({"a b": 1}), "keeps no attribute 'a b'"),
    (lambda d: d["tree"].update(type="sklearn_ccx.Evil"), "no known type"),
    (lambda d: d["tree"].update(type="sklearn.NMF"), "no known type"),
    (lambda d: d["tree"].update(parts={}), "never written: KeyError"),
    (lambda d: d["tree"].update(parts=3), "never written: AttributeError"),
    (
        lambda d: d["tree"].update(type="sklearn.Pipeline", parts={
            "params": {"steps": [], "memory": "/tmp/pickles"}, "state": {}
        }),
        "memory would read pickles",
    ),
    (
        lambda d: d["tree"].update(type="sklearn.FunctionTransformer", parts={
            "params": {"func": "os.system"}, "state": {}
        }),
        "never written: KeyError",
    ),
    (
        lambda d: params_of(d).update(mlp={
            "type": "sklearn_ccx.MLPWeights", "name": "mlp", "parts": {"": {"b": 1}}
        }),
        "at mlp, .*argument",
    ),
    (
        lambda d: params_of(d).update(device={
            "type": "torch.device", "name": "device", "parts": {"": {"name": "evil"}}
        }),
        "at device",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HARMFUL)
def test_files_that_were_edited_and_signed(path, X, change, message):
    save(InteractionSAE(**FIT, random_state=0).fit(X), path)
    edit(path, change)
    with pytest.raises(ValueError, match=f"cannot be loaded: .*{message}") as caught:
        load(path)
    assert type(caught.value) is ValueError


def test_indices_of_a_sparse_matrix_that_point_nowhere(path, X):
    clusterer = FeatureClusterer(random_state=0).fit(X**2)
    save(clusterer, path)
    header, body = read_parts(path)
    name = "affinity_matrix_.indices"
    start, stop = header[name]["data_offsets"]
    indices = np.frombuffer(body[start:stop], np.int32).copy()
    indices[0] = 10**6
    save(clusterer, path)
    write_parts(path, header, body[:start] + indices.tobytes() + body[stop:])
    sign(header["__metadata__"])
    with pytest.raises(ValueError, match="checksum"):
        load(path)
    with pytest.raises(ValueError, match=r"at affinity_matrix_"):
        load(path, verify=False)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"shape": {"type": "tuple", "items": [10**14, 3]}}, "indptr does not fit"),
        ({"shape": [3]}, "not enough values"),
        ({"indices": array_called("affinity_matrix_.data")}, "no integers"),
        ({"indptr": {"type": "shared", "name": "labels_"}}, "never written"),
    ],
)
def test_sparse_matrices_that_do_not_fit_together(path, X, parts, message):
    clusterer = FeatureClusterer(random_state=0).fit(X**2)
    save(clusterer, path)

    def change(document):
        state_of(document)["affinity_matrix_"]["parts"][""].update(parts)

    edit(path, change)
    with pytest.raises(ValueError, match=f"at affinity_matrix_.*{message}"):
        load(path)


def test_the_position_in_a_random_state_is_within_it(path):
    save(InteractionSAE(random_state=np.random.RandomState(0)), path)

    def change(document):
        params_of(document)["random_state"]["parts"][""]["pos"] = 625

    edit(path, change)
    with pytest.raises(ValueError, match=r"at random_state, .* out of bounds"):
        load(path)


def test_errors_name_the_version_that_wrote_a_file(path):
    save(InteractionSAE(), path)
    edit(path, lambda document: params_of(document).update(magic=1))
    header, body = read_parts(path)
    header["__metadata__"]["package_version"] = "0.0.7"
    sign(header["__metadata__"])
    write_parts(path, header, body)
    message = (
        r"no parameter 'magic' in this version; it was written by sklearn_ccx 0\.0\.7"
    )
    with pytest.raises(ValueError, match=message):
        load(path)


def test_nothing_but_this_package_is_imported_by_a_file(path):
    """What a file names is looked up, not imported."""
    save(InteractionSAE(), path)
    edit(path, lambda document: document["tree"].update(type="antigravity.Sae"))
    before = set(sys.modules)
    with pytest.raises(ValueError, match="no known type"):
        load(path)
    assert "antigravity" not in set(sys.modules) - before


def test_a_checkpoint_is_no_estimator(path):
    write_tree(path, {"step": 3}, "checkpoint")
    with pytest.raises(ValueError, match="of the kind 'checkpoint', not 'estimator'"):
        load(path)
