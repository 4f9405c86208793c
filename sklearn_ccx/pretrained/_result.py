"""A dictionary that was loaded, and what is known of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.preprocessing import FunctionTransformer

from ..coders import BaseInteractionCoder
from ._measure import as_activations, batches
from ._sample_norms import sample_statistics

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class PretrainedDictionary:
    """A dictionary that others trained, as :func:`load_dictionary` returns it.

    Attributes
    ----------
    estimator : InteractionSAE or InteractionCrosscoder
        The fitted estimator. Whatever takes a fitted estimator takes it.

    format : str
        The format of the files.

    reads : str or None
        Where it reads: the name of a site such as "blocks.8.resid_mid" (see
        :func:`sklearn_ccx.lm.site_names`), or what the files call the place if this
        package has no name for it. None if they do not say.

    model_name : str or None
        The model that it belongs to, None if the files do not say.

    interaction : str
        Where the interaction of its features can be measured, in a sentence.

    sample_norm : FunctionTransformer or None
        What the dictionary does to each sample before it encodes it, which no weights
        can hold. `estimator` takes samples after it:
        ``make_pipeline(sample_norm, estimator)`` takes activations as the model has
        them. None if there is no such step.

    notes : tuple of str
        What else must be known to use it.

    config : mapping
        The configuration in the files, as it is; empty if they have none.

    hook_name : str or None
        What the files call the place where it reads.

    fvu : float or None
        Fraction of the variance of X unexplained, in the units of the estimator. None
        if no X was passed, NaN if X does not vary.

    l0 : float or None
        Mean number of active features per sample of X. None if no X was passed.

    See Also
    --------
    load_dictionary : Read the files of a dictionary.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionSAE
    >>> from sklearn_ccx.pretrained import load_dictionary, save_dictionary
    >>> X = np.random.default_rng(0).normal(size=(200, 6))
    >>> sae = InteractionSAE(12, k=3, max_iter=5, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save_dictionary(
    ...         sae, f"{directory}/sae", hook_name="blocks.3.hook_resid_mid"
    ...     )
    ...     loaded = load_dictionary(f"{directory}/sae")
    >>> loaded.format, loaded.reads
    ('sae_lens', 'blocks.3.resid_mid')
    >>> loaded.interaction
    'at the MLP of block 3, behind its norm (`norm` of MLPWeights)'
    """

    estimator: BaseInteractionCoder
    format: str
    reads: str | None
    model_name: str | None
    interaction: str
    sample_norm: FunctionTransformer | None
    notes: tuple[str, ...]
    config: Mapping[str, Any]
    hook_name: str | None
    fvu: float | None
    l0: float | None

    def reconstruct(self, X: npt.ArrayLike) -> FloatArray:
        """Reconstruct activations as the model has them.

        What `sample_norm` does to each sample is undone with that sample's own
        numbers, which a pipeline cannot do.

        Parameters
        ----------
        X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
            Activations where the dictionary reads.

        Returns
        -------
        reconstruction : ndarray of the shape of X
            In the units of X.

        Raises
        ------
        ValueError
            If X is not finite or of the wrong shape.
        """
        rows = as_activations(X)
        return np.concatenate(
            [self._reconstruct_batch(rows[b]) for b in batches(rows, self.estimator)]
        )

    def _reconstruct_batch(self, X: Any) -> FloatArray:
        coder = self.estimator
        if self.sample_norm is None:
            return coder.inverse_transform(coder.transform(X))
        normed = self.sample_norm.transform(X)
        kind = self.sample_norm.kw_args["kind"]
        X = X.astype(normed.dtype, copy=False)
        offset, _, size = sample_statistics(kind, X)
        recon = coder.inverse_transform(coder.transform(normed))
        restored: FloatArray = recon * size + offset
        return restored
