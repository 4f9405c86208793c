"""Files that are damaged, wrong or hostile end in one clear error."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from sklearn_ccx.pretrained import load_dictionary
from tests.pretrained.cases import (
    CASES,
    D,
    M,
    crosscoder,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    llamascopium,
    openai,
    qwen_scope,
    sae_lens,
    sparsify,
)


def rng():
    return np.random.default_rng(0)


def changed_json(path, **changes):
    values = json.loads(path.read_text())
    values |= changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


def changed_tensors(path, change):
    """Let a function change the tensors of a file, of whatever kind."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        change(tensors)
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    elif path.suffix == ".npz":
        with np.load(path) as held:
            tensors = dict(held)
        change(tensors)
        np.savez(path, **tensors)
    else:
        tensors = torch.load(path, weights_only=True)
        arrays = {k: v.numpy() for k, v in tensors.items() if hasattr(v, "numpy")}
        others = {k: v for k, v in tensors.items() if k not in arrays}
        change(arrays)
        held = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}
        torch.save(others | held, path)


def weights_of(directory):
    endings = (".safetensors", ".npz", ".pt", ".pth")
    found = sorted(p for p in directory.rglob("*") if p.name.endswith(endings))
    return found[0]


# One of each kind of file and of each format.
KINDS = [
    "sae_lens standard none",
    "gemma_scope",
    "gemma_scope_2",
    "llama_scope",
    "llamascopium jumprelu",
    "llamascopium torch",
    "sparsify",
    "dictionary_learning AutoEncoderNew",
    "crosscoder",
    "openai",
    "qwen_scope",
    "ckkissane",
    "goodfire",
]


@pytest.mark.parametrize("kept", [0, 20, 0.5, 0.98])
@pytest.mark.parametrize("name", KINDS)
def test_a_truncated_file_is_named(name, kept, tmp_path):
    written = CASES[name](tmp_path, rng())
    path = weights_of(tmp_path)
    if name == "qwen_scope":
        path = path.with_name("layer13.sae.pt")
    content = path.read_bytes()
    length = kept if isinstance(kept, int) else int(kept * len(content))
    path.write_bytes(content[:length])
    with pytest.raises(ValueError, match=r"truncated|damaged") as error:
        load_dictionary(tmp_path, written.expected["format"], **written.arguments)
    assert path.name in str(error.value)


@pytest.mark.parametrize("name", KINDS)
def test_every_matrix_that_is_missing_is_named(name, tmp_path):
    names = tensor_names(name, tmp_path / "names")
    for number, tensor in enumerate(names):
        directory = tmp_path / str(number)
        directory.mkdir()
        written = CASES[name](directory, rng())
        path = chosen_weights(name, directory)
        if name == "llamascopium torch":
            held = torch.load(path, weights_only=True)
            del held["sae"][tensor]
            torch.save(held, path)
        else:
            changed_tensors(path, lambda held, tensor=tensor: held.pop(tensor))
        with pytest.raises(ValueError, match="has no ") as error:
            load_dictionary(directory, written.expected["format"], **written.arguments)
        assert path.name in str(error.value)
        assert tensor in str(error.value)


def chosen_weights(name, directory):
    path = weights_of(directory)
    return path.with_name("layer13.sae.pt") if name == "qwen_scope" else path


def tensor_names(name, directory):
    """Tensors that a file of a format cannot do without."""
    directory.mkdir()
    CASES[name](directory, rng())
    path = chosen_weights(name, directory)
    if path.suffix == ".safetensors":
        names = list(load_file(path))
    elif path.suffix == ".npz":
        names = list(np.load(path))
    else:
        held = torch.load(path, weights_only=True)
        held = held.get("sae", held)
        names = [k for k, v in held.items() if isinstance(v, torch.Tensor)]
    optional = ("stats_last_nonzero", "code_normalization_id", "target_rms")
    optional += ("activation_mean", "activation_std")
    return [n for n in names if n not in optional and "average" not in n]


@pytest.mark.parametrize("name", KINDS)
def test_every_matrix_that_is_transposed_is_named(name, tmp_path):
    matrices = [n for n in tensor_names(name, tmp_path / "names") if is_matrix(n)]
    assert len(matrices) == 2
    for number, tensor in enumerate(matrices):
        directory = tmp_path / str(number)
        directory.mkdir()
        written = CASES[name](directory, rng())
        path = chosen_weights(name, directory)
        transpose(path, tensor)
        with pytest.raises(ValueError, match="must have shape") as error:
            load_dictionary(directory, written.expected["format"], **written.arguments)
        assert path.name in str(error.value)


def is_matrix(name):
    return name.endswith("weight") or name.split(".")[-1].lower() in (
        "w_enc",
        "w_dec",
        "w_e",
        "w_d",
    )


def transpose(path, tensor):
    if path.name == "sae_weights.pt":
        held = torch.load(path, weights_only=True)
        held["sae"][tensor] = held["sae"][tensor].T.contiguous()
        torch.save(held, path)
        return

    def change(held):
        held[tensor] = np.swapaxes(held[tensor], -1, -2)

    changed_tensors(path, change)


def test_a_transposed_matrix_is_called_one(tmp_path):
    sae_lens(tmp_path, rng())
    transpose(tmp_path / "sae_weights.safetensors", "W_enc")
    shapes = r"\(d_in, d_sae\) = \(6, 14\); got \(14, 6\)\. It is transposed"
    with pytest.raises(ValueError, match=shapes):
        load_dictionary(tmp_path)


def test_a_wrong_width_is_named(tmp_path):
    sae_lens(tmp_path, rng())
    changed_json(tmp_path / "cfg.json", d_in=D + 1)
    with pytest.raises(ValueError, match=r"W_enc must have shape .* = \(7, 14\)"):
        load_dictionary(tmp_path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["W_enc", "b_dec"])
def test_what_is_not_finite_is_named(name, bad, tmp_path):
    sae_lens(tmp_path, rng())

    def change(held):
        held[name].flat[0] = bad

    changed_tensors(tmp_path / "sae_weights.safetensors", change)
    with pytest.raises(ValueError, match=f"safetensors: {name} contains NaN or inf"):
        load_dictionary(tmp_path)


class Hostile:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_the_hostile_pickle_would_run(tmp_path):
    pickle.loads(pickle.dumps(Hostile(tmp_path / "ran"))).close()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("ae.pt", "dictionary_learning"),
        ("8.pt", "openai"),
        ("layer3.sae.pt", "qwen_scope"),
        ("cc_weights.pt", "ckkissane"),
        ("any.pth", "goodfire"),
    ],
)
def test_no_code_of_a_torch_file_is_run(name, format, legacy, tmp_path):
    held = {"b_dec": torch.zeros(3), "evil": Hostile(tmp_path / "ran")}
    torch.save(held, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    for asked in ("auto", format):
        with pytest.raises(ValueError, match=f"{name} holds other pickled objects"):
            load_dictionary(tmp_path, asked)
    assert not (tmp_path / "ran").exists()


def test_no_code_of_a_bare_pickle_is_run(tmp_path):
    (tmp_path / "ae.pt").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    with pytest.raises(ValueError, match=r"ae\.pt"):
        load_dictionary(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_no_code_of_an_npz_is_run(tmp_path):
    evil = np.array([Hostile(tmp_path / "ran")], dtype=object)
    np.savez(tmp_path / "params.npz", W_enc=evil, W_dec=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"params\.npz holds other pickled objects"):
        load_dictionary(tmp_path)
    # The whole file may be a pickle, or an array in the archive may.
    (tmp_path / "params.npz").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    with pytest.raises(ValueError, match=r"params\.npz"):
        load_dictionary(tmp_path)
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        archive.writestr("W_enc.npy", pickle.dumps(Hostile(tmp_path / "ran")))
    with pytest.raises(ValueError, match=r"params\.npz"):
        load_dictionary(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("held", [torch.zeros(3), [1, 2], "text"])
def test_a_torch_file_without_names_is_refused(held, tmp_path):
    torch.save(held, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match="must hold tensors by name"):
        load_dictionary(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b"3", b"[" * 100_000]
)
def test_a_configuration_that_is_none_is_named(content, tmp_path):
    sae_lens(tmp_path, rng())
    (tmp_path / "cfg.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"cfg\.json"):
        load_dictionary(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "foo"}, "'architecture' must be one of"),
        ({"architecture": 3}, "'architecture' must be one of"),
        ({"normalize_activations": "foo"}, "'normalize_activations' must be one of"),
        ({"reshape_activations": "foo"}, "'reshape_activations' must be one of"),
        ({"apply_b_dec_to_input": "yes"}, "'apply_b_dec_to_input' must be true or"),
        ({"d_in": "six"}, "'d_in' must be a positive integer"),
        ({"d_in": 0}, "'d_in' must be a positive integer"),
        ({"d_in": ...}, "has no 'd_in'"),
        ({"architecture": "topk"}, "has no 'k'"),
        ({"architecture": "topk", "k": 2.5}, "'k' must be a positive integer"),
        ({"activation_fn_str": "tanh-relu"}, "'activation_fn_str' must be one of"),
        ({"metadata": 3}, "'metadata' must be an object"),
        ({"metadata": {"hook_name": 3}}, "'hook_name' must be a string"),
    ],
)
def test_an_unknown_value_of_sae_lens_is_named(changes, message, tmp_path):
    sae_lens(tmp_path, rng())
    changed_json(tmp_path / "cfg.json", **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_dictionary(tmp_path)
    assert "cfg.json" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": "transcoder"}, "transcoder"),
        ({"architecture": "skip_transcoder"}, "transcoder"),
        ({"architecture": "jumprelu_transcoder"}, "transcoder"),
        ({"architecture": "matching_pursuit"}, "no encoder"),
        ({"architecture": "abstopk"}, "can be negative"),
        ({"architecture": "temporal"}, "tokens before"),
        ({"finetuning_scaling_factor": True}, "factors of a fine-tuning"),
        ({"d_out": D + 1}, "transcoder"),
        (
            {"metadata": {"hook_name": "blocks.1.hook_a", "hook_name_out": "b"}},
            "transcoder",
        ),
    ],
)
def test_what_sae_lens_has_and_ours_cannot_be_is_refused(changes, reason, tmp_path):
    sae_lens(tmp_path, rng())
    changed_json(tmp_path / "cfg.json", **changes)
    with pytest.raises(ValueError, match=f"cannot be loaded: .*{reason}"):
        load_dictionary(tmp_path)


REFUSED = {
    "sparsify transcode": (
        sparsify,
        ("layers.9/cfg.json", {"transcode": True}),
        "transcoder",
    ),
    "sparsify skip": (
        sparsify,
        ("layers.9/cfg.json", {"skip_connection": True}),
        "transcoder",
    ),
    "sparsify signed": (
        sparsify,
        ("layers.9/cfg.json", {"signed": True}),
        "can be negative",
    ),
    "gemma_scope_2 hooks": (
        gemma_scope_2,
        ("config.json", {"hf_hook_point_out": "model.layers.7.output"}),
        "transcoder",
    ),
    "gemma_scope_2 affine": (
        gemma_scope_2,
        ("config.json", {"affine_connection": True}),
        "transcoder",
    ),
    "llama_scope": (
        llama_scope,
        (
            "Llama3_1-8B-Base-L15R-8x/hyperparams.json",
            {"hook_point_out": "blocks.15.hook_mlp_out"},
        ),
        "transcoder",
    ),
    "llamascopium crosscoder": (
        llamascopium,
        ("config.json", {"sae_type": "crosscoder"}),
        "at one site and not at another",
    ),
    "llamascopium clt": (
        llamascopium,
        ("config.json", {"sae_type": "clt"}),
        "cross-layer",
    ),
    "llamascopium glu": (
        llamascopium,
        ("config.json", {"use_glu_encoder": True}),
        "GLU",
    ),
    "llamascopium out": (
        llamascopium,
        ("config.json", {"hook_point_out": "blocks.3.hook_mlp_out"}),
        "transcoder",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_represented_is_refused(name, tmp_path):
    write, (file, changes), reason = REFUSED[name]
    written = write(tmp_path, rng())
    changed_json(tmp_path / file, **changes)
    with pytest.raises(ValueError, match=f"cannot be loaded: .*{reason}"):
        load_dictionary(tmp_path, **written.arguments)


@pytest.mark.parametrize(
    ("write", "file", "changes"),
    [
        (sparsify, "layers.9/cfg.json", {"activation": "groupmax"}),
        (gemma_scope_2, "config.json", {"architecture": "topk"}),
        (llamascopium, "config.json", {"act_fn": "gelu"}),
        (llamascopium, "config.json", {"norm_activation": "token-wise"}),
        (llamascopium, "config.json", {"sae_type": "new"}),
        (dictionary_learning, "config.json", {"trainer": {"dict_class": "New"}}),
    ],
)
def test_an_unknown_value_is_named(write, file, changes, tmp_path):
    args = ("AutoEncoder",) if write is dictionary_learning else ()
    written = write(tmp_path, rng(), *args)
    changed_json(tmp_path / file, **changes)
    with pytest.raises(ValueError, match="must be one of") as error:
        load_dictionary(tmp_path, **written.arguments)
    (value,) = changes.values()
    shown = value if isinstance(value, str) else "New"
    assert shown in str(error.value)
    assert file in str(error.value)


def test_skip_connections_in_the_weights_are_refused(tmp_path):
    written = sparsify(tmp_path, rng())
    path = tmp_path / "layers.9/sae.safetensors"
    changed_tensors(path, lambda held: held.update(W_skip=np.eye(D)))
    with pytest.raises(ValueError, match="transcoder"):
        load_dictionary(tmp_path, **written.arguments)


def test_a_cross_layer_decoder_is_refused(tmp_path):
    gemma_scope_2(tmp_path, rng())
    path = tmp_path / "params.safetensors"
    changed_tensors(path, lambda held: held.update(w_dec=np.zeros((M, 3, D))))
    with pytest.raises(ValueError, match="cross-layer"):
        load_dictionary(tmp_path)


def test_transcoders_of_gemma_scope_are_told_by_their_folder(tmp_path):
    written = gemma_scope(tmp_path, rng())
    old = tmp_path / "gemma-scope-2b-pt-res"
    old.rename(tmp_path / "gemma-scope-2b-pt-transcoders")
    place = written.arguments["subfolder"].replace("-res", "-transcoders")
    with pytest.raises(ValueError, match="transcoder"):
        load_dictionary(tmp_path / place)


def test_codes_per_site_are_refused(tmp_path):
    crosscoder(tmp_path, rng())
    path = tmp_path / "model.safetensors"
    changed_tensors(path, lambda held: held.update(code_normalization_id=np.array(4)))
    with pytest.raises(ValueError, match="DECOUPLED"):
        load_dictionary(tmp_path)
    changed_tensors(path, lambda held: held.update(code_normalization_id=np.array(9)))
    with pytest.raises(ValueError, match="code_normalization_id 9 is not known"):
        load_dictionary(tmp_path)


def test_a_threshold_on_other_norms_is_refused(tmp_path):
    crosscoder(tmp_path, rng(), batch=True)
    path = tmp_path / "model.safetensors"
    changed_tensors(path, lambda held: held.update(code_normalization_id=np.array(1)))
    with pytest.raises(ValueError, match="compared with the threshold as SAE"):
        load_dictionary(tmp_path)


def test_activations_normalised_by_a_fork_are_refused(tmp_path):
    crosscoder(tmp_path, rng())
    path = tmp_path / "model.safetensors"
    changed_tensors(path, lambda held: held.update(activation_mean=np.zeros((2, D))))
    with pytest.raises(ValueError, match="activation_mean"):
        load_dictionary(tmp_path)


def test_a_threshold_that_was_never_measured_is_refused(tmp_path):
    dictionary_learning(tmp_path, rng(), "BatchTopKSAE")
    path = tmp_path / "ae.pt"
    changed_tensors(path, lambda held: held.update(threshold=np.array(-1.0)))
    with pytest.raises(ValueError, match=r"ae\.pt: threshold is -1"):
        load_dictionary(tmp_path)


def test_a_class_that_nothing_tells_is_asked_for(tmp_path):
    dictionary_learning(tmp_path, rng(), "BatchTopKSAE", bare=True)
    with pytest.raises(ValueError, match="dict_class"):
        load_dictionary(tmp_path)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (("model_cfg.yaml", "model.pt"), "crosscode"),
        (("config.yaml", "layer_0.safetensors"), "circuit-tracer"),
    ],
)
def test_formats_that_are_not_read_are_named(files, reason, tmp_path):
    for name in files:
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=f"cannot be loaded: it is .*{reason}"):
        load_dictionary(tmp_path)


@pytest.mark.parametrize(
    ("activation", "state", "message"),
    [
        ("Tanh", {}, "'activation' must be 'TopK' or 'ReLU'"),
        (None, {}, "'activation' must be 'TopK' or 'ReLU'"),
        ("TopK", {}, "must have k"),
        ("TopK", {"k": "a"}, "must have k"),
        ("TopK", None, "must have k"),
    ],
)
def test_activations_of_openai(activation, state, message, tmp_path):
    written = openai(tmp_path, rng())
    path = weights_of(tmp_path)
    held = torch.load(path, weights_only=True)
    held |= {"activation": activation, "activation_state_dict": state}
    torch.save(held, path)
    with pytest.raises(ValueError, match=message):
        load_dictionary(tmp_path, **written.arguments)


def test_k_that_nothing_tells_is_asked_for(tmp_path):
    written = qwen_scope(tmp_path, rng(), named=False)
    del written.arguments["k"]
    with pytest.raises(ValueError, match=r"pass k="):
        load_dictionary(tmp_path, **written.arguments)


@pytest.mark.parametrize(
    ("write", "k", "message"),
    [
        (sparsify, 7, "says k=3; leave k out"),
        (llama_scope, 3, "has no k; leave k out"),
    ],
)
def test_k_does_not_overrule_the_files(write, k, message, tmp_path):
    written = write(tmp_path, rng())
    with pytest.raises(ValueError, match=message):
        load_dictionary(tmp_path, **written.arguments, k=k)


def test_a_scale_does_not_overrule_the_files(tmp_path):
    written = llama_scope(tmp_path, rng())
    with pytest.raises(ValueError, match=r"input_scale is given, but .* has its own"):
        load_dictionary(tmp_path, **written.arguments, input_scale=2.0)
    directory = tmp_path / "normalised"
    sae_lens(directory, rng(), normalize_activations="layer_norm")
    with pytest.raises(ValueError, match=r"input_scale is given, but .* normalises"):
        load_dictionary(directory, input_scale=2.0)


def test_parameters_of_the_estimator_are_checked(tmp_path):
    sae_lens(tmp_path, rng())
    with pytest.raises(TypeError, match="foo"):
        load_dictionary(tmp_path, foo=1)
    with pytest.raises(ValueError, match="device"):
        load_dictionary(tmp_path, device="warp").estimator.transform(np.zeros((1, D)))
    assert load_dictionary(tmp_path, lam=0.5).estimator.lam == 0.5
