"""After a fit the fitted state decides, and what cannot be honoured is an error."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_ccx import (
    InteractionCrosscoder,
    InteractionSAE,
    ablated_output,
    dominant_share,
    interaction_matrix,
    interaction_scores,
)
from sklearn_ccx.datasets import make_interacting_features
from tests.conftest import make_mlp

ACTIVATIONS = ["batchtopk", "topk", "relu", "jumprelu"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("other", ACTIVATIONS)
def test_transform_does_what_the_fit_was_for(acts, activation, other):
    sae = InteractionSAE(12, k=2, activation=activation, max_iter=3, random_state=0)
    codes = sae.fit(acts[:, 0]).transform(acts[:, 0])
    sae.set_params(activation=other, k=9, n_components=5)
    assert_array_equal(sae.transform(acts[:, 0]), codes)
    assert sae.activation_ == activation


def test_analyses_look_at_the_mlps_of_the_fit(acts, mlps):
    ccx = InteractionCrosscoder(12, k=4, mlp=mlps, max_iter=3, random_state=0).fit(acts)
    functions = [
        interaction_scores,
        dominant_share,
        ablated_output,
        lambda ccx, X: interaction_matrix(ccx, X).toarray(),
    ]
    before = [function(ccx, acts) for function in functions]
    ccx.set_params(mlp=make_mlp(6, 5), n_dominant=3)
    for function, expected in zip(functions, before, strict=True):
        assert_array_equal(function(ccx, acts), expected)
    assert ccx.mlp_ == tuple(mlps)
    assert ccx.n_dominant_ == 1


CHANGES = [
    {"activation": "topk"},
    {"activation": "jumprelu"},
    {"n_components": 32},
    {"mlp": make_mlp(6, 5)},
    {"center": False},
    {"normalize": False},
    {"n_sites": 3},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
@pytest.mark.parametrize("begin", ["fit", "partial_fit"])
def test_partial_fit_refuses_what_it_cannot_go_on_with(acts, begin, change):
    X = acts[:, 0]
    sae = InteractionCrosscoder(16, k=3, max_iter=2, random_state=0)
    getattr(sae, begin)(X)
    components, params = sae.components_.copy(), sae.get_params()
    (name,) = change
    with pytest.raises(ValueError, match=rf"{name}=.*(set it back|n_sites)"):
        sae.set_params(**change).partial_fit(X)
    assert_array_equal(sae.components_, components)
    sae.set_params(**{name: params[name]}).partial_fit(X)


def test_the_planned_calls_of_partial_fit_stay(acts):
    sae = InteractionSAE(16, k=3, max_iter=4, random_state=0).partial_fit(acts[:, 0])
    with pytest.raises(ValueError, match="max_iter=8 is not what the fit began with"):
        sae.set_params(max_iter=8).partial_fit(acts[:, 0])


@pytest.mark.parametrize(
    "change",
    [{"lam": 0.5}, {"learning_rate_init": 1e-4}, {"batch_size": 16}, {"aux_k": 0}],
)
def test_partial_fit_honours_what_it_can(acts, change):
    X = acts[:, 0]
    sae = InteractionSAE(16, k=3, max_iter=4, random_state=0)
    one = sae.partial_fit(X).partial_fit(X).components_
    other = InteractionSAE(16, k=3, max_iter=4, random_state=0).partial_fit(X)
    other.set_params(**change).partial_fit(X)
    if "aux_k" not in change:
        assert np.abs(one - other.components_).max() > 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_few_more_rows_do_not_ruin_a_fit(acts, activation):
    """The scales are those of the fit, not those of two rows."""
    X, test = acts[:90, 0], acts[90:, 0]
    sae = InteractionSAE(24, k=4, activation=activation, random_state=0).fit(X)
    score = sae.score(test)
    intercept = sae.intercept_.copy()
    sae.partial_fit(X[:2])
    assert sae.score(test) > score - 0.02
    assert_array_equal(sae.intercept_, intercept)


def test_partial_fit_after_fit_keeps_the_scales(acts, mlps):
    ccx = InteractionCrosscoder(12, k=4, mlp=mlps, max_iter=3, random_state=0).fit(acts)
    scales = ccx._scales
    ccx.partial_fit(1.5 * acts[20:50])
    assert_allclose(ccx._scales["mlp_scales"], scales["mlp_scales"])
    assert_array_equal(ccx._scales["scaling"]["scale_L"], scales["scaling"]["scale_L"])


def test_partial_fit_goes_on_from_features_that_no_fit_made():
    data = make_interacting_features(300, 24, n_neurons=32, random_state=0)
    before = data.sae.score(data.activations)
    data.sae.set_params(random_state=0, max_iter=100).partial_fit(data.activations)
    data.sae.partial_fit(data.activations)
    assert data.sae.n_iter_ == 2
    assert data.sae.score(data.activations) > before - 0.1
