"""InteractionSAE."""

import re
from inspect import cleandoc
from numbers import Integral
from typing import Any, ClassVar

from sklearn.utils import Tags

from .._sklearn_compat import Interval
from ._base import BaseInteractionCoder
from ._crosscoder import InteractionCrosscoder

# What stands in the docstring where the sections on parameters go.
_REFERENCE = "Parameters and attributes are those of :class:`InteractionCrosscoder`."


class InteractionSAE(BaseInteractionCoder):
    r"""Sparse autoencoder trained to explain a network with one feature per neuron.

    :class:`InteractionCrosscoder` for activations of one site: a sparse code
    explains each row of X,

    .. math::

        a = \sigma(W_{enc} x + b_{enc}), \qquad \hat x = a W_{dec} + b_{dec},

    trained with a penalty on the interaction of features at the neurons of the MLPs
    that read the site. The loss is

    .. math::

        \mathrm{FVU}
        + \mathtt{lam} \sum_p \frac{E_b I_p(b)}{\mathrm{Lip}_p \, \mathrm{mass}_p}
        + \mathtt{lam\_fidelity} \sum_p (1 - R^2_p),

    summed over MLPs :math:`p`; see :class:`InteractionCrosscoder` for the interaction
    :math:`I_p(b)` of sample :math:`b`. `lam_margin` and `lam_interval` can add two
    terms that train for the proofs of :func:`certify`.

    Parameters and attributes are those of :class:`InteractionCrosscoder`.

    See Also
    --------
    InteractionCrosscoder : The same for activations of several sites.
    MLPWeights : The MLP whose neurons the features share.
    interaction_matrix : Which features interact.
    ablation_fidelity : How much of an MLP survives with one feature per neuron.

    Notes
    -----
    After :meth:`partial_fit` the estimator also keeps the state of the optimizer, which
    triples its size. :meth:`fit` drops it; a :meth:`partial_fit` after it starts from
    the fitted weights with a fresh optimizer.

    References
    ----------
    .. [1] `arXiv:2606.09940 <https://arxiv.org/abs/2606.09940>`_.

    .. [2] Gao et al., "Scaling and evaluating sparse autoencoders",
           `arXiv:2406.04093 <https://arxiv.org/abs/2406.04093>`_.

    Examples
    --------
    Features of handwritten digits that leave each hidden neuron of a classifier to
    one of them:

    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn_ccx import InteractionSAE, MLPWeights, dominant_share
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = MLPClassifier((32,), random_state=0, early_stopping=True).fit(X, y)
    >>> mlp = MLPWeights.from_sklearn(clf)
    >>> def share(lam):
    ...     sae = InteractionSAE(128, k=16, lam=lam, mlp=mlp, random_state=0)
    ...     return dominant_share(sae.fit(X), X)
    >>> share(lam=0.3) > share(lam=0.0)
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseInteractionCoder._parameter_constraints,
        "n_sites": [Interval(Integral, 0, 1, closed="right"), None],
    }

    _max_ndim = 2

    def _number_of_sites(self, shape: tuple[int, ...]) -> int:
        if len(shape) > 2:
            raise ValueError(
                "InteractionSAE takes X of shape (n_samples, d); "
                f"got {tuple(shape)}. If the middle axis is positions, make a sample "
                "of each: X.reshape(-1, X.shape[-1]). Use InteractionCrosscoder for "
                "several sites of one sample."
            )
        return 1

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = False
        return tags


def _sections(doc: str, *names: str) -> str:
    """Some sections of a numpydoc docstring."""
    headings = list(re.finditer(r"^(\w[\w ]*)\n-+\n", doc, re.MULTILINE))
    ends = [match.start() for match in headings[1:]] + [len(doc)]
    return "".join(
        doc[match.start() : end]
        for match, end in zip(headings, ends, strict=True)
        if match[1] in names
    )


def _with_parameters(doc: str | None, source: str | None) -> str | None:
    """A docstring with the sections on parameters and attributes of another one."""
    if doc is None or source is None:  # python -OO
        return doc
    described = _sections(cleandoc(source), "Parameters", "Attributes")
    return cleandoc(doc).replace(f"{_REFERENCE}\n\n", described)


InteractionSAE.__doc__ = _with_parameters(
    InteractionSAE.__doc__, InteractionCrosscoder.__doc__
)
