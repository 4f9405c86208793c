"""Each format, against its formulas."""

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

from sklearn_ccx import InteractionCrosscoder, InteractionSAE
from sklearn_ccx.pretrained import load_dictionary
from tests.pretrained.cases import CASES, activations


def n_sites(name):
    return 2 if name.startswith(("crosscoder", "ckkissane")) else None


@pytest.mark.parametrize("name", CASES)
def test_codes_and_reconstructions_are_those_of_the_formulas(name, tmp_path):
    written = CASES[name](tmp_path, np.random.default_rng(0))
    loaded = load_dictionary(tmp_path, **written.arguments)
    X = activations(n_sites(name))
    codes, recon = written.encode(X), written.decode(written.encode(X), X)
    sae = loaded.estimator
    reader = make_pipeline(*filter(None, [loaded.sample_norm, sae]))
    expected = codes if written.codes is None else written.codes(X)
    assert 0 < (expected > 0).mean() < 1
    np.testing.assert_allclose(reader.transform(X), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(loaded.reconstruct(X), recon, rtol=1e-9, atol=1e-9)
    if loaded.sample_norm is None:
        restored = sae.inverse_transform(sae.transform(X))
        np.testing.assert_allclose(restored, recon, rtol=1e-9, atol=1e-9)
    said = {key: getattr(loaded, key) for key in written.expected}
    assert said == written.expected
    cls = InteractionCrosscoder if n_sites(name) else InteractionSAE
    assert type(sae) is cls


@pytest.mark.parametrize("name", CASES)
def test_the_format_can_be_named(name, tmp_path):
    written = CASES[name](tmp_path, np.random.default_rng(0))
    named = load_dictionary(
        tmp_path, written.expected["format"], **written.arguments, dtype="float32"
    )
    assert named.format == written.expected["format"]
    assert named.estimator.dtype == "float32"


class SinglePrecision:
    """Draws float32."""

    def __init__(self):
        self._rng = np.random.default_rng(0)

    def normal(self, size):
        return self._rng.normal(size=size).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_single_precision_stays_single(name, tmp_path):
    written = CASES[name](tmp_path, SinglePrecision())
    loaded = load_dictionary(tmp_path, **written.arguments)
    assert loaded.estimator.components_.dtype == np.float32
    X = activations(n_sites(name)).astype(np.float32)
    codes = loaded.estimator.transform(
        X if loaded.sample_norm is None else loaded.sample_norm.transform(X)
    )
    assert codes.dtype == np.float32
    precise = X.astype(np.float64)
    recon = written.decode(written.encode(precise), precise)
    np.testing.assert_allclose(loaded.reconstruct(X), recon, rtol=1e-4, atol=1e-4)
