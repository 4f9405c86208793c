"""Bounds on the error of an explanation at the end of several residual blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._engine._torch_state import with_torch_state
from .._validation import check_int
from ..networks import MLPWeights, row_norms
from ._explained_samples import ExplainedSamples
from ._overflow import refuses_overflow
from ._premises import Premises
from ._residual_block import ResidualBlock, first_error

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StackCertificate:
    r"""Proved bounds on reconstructions along residual blocks.

    Returned by :func:`certify_stack`. `L` is the number of blocks; site 0 here is the
    one that the first block reads.

    Attributes
    ----------
    bound : str
        "interval" or "lipschitz".

    site_bound : ndarray of shape (n_samples, L + 1)
        Bound on :math:`\|x_l - \hat x_l\|` at each site, where :math:`x_l` comes from
        running the blocks on :math:`x_0`. The last column is the bound at the end.

    site_error : ndarray of shape (n_samples, L + 1)
        That distance itself.

    contributions : ndarray of shape (n_samples, L + 1)
        Most that the reconstruction at site 0 (first column) and each block
        (the others) add to the last site, by the Lipschitz constants of the blocks
        after it. Together they are the Lipschitz bound at the last site, up to
        rounding; with gated MLPs and ``bound="interval"``, which knows smaller
        constants of theirs, no more than that.

    interaction_bound : ndarray of shape (n_samples, L)
        Lipschitz bound on the interaction inside each block.

    transition_error : ndarray of shape (n_samples, L)
        Distance of each block's explanation from the reconstruction at the next site.

    block_lipschitz : ndarray of shape (L,)
        Bound on the Lipschitz constant of each block, the residual path included. A
        block with a gated MLP has none; there it is the largest of the samples'
        constants between the reconstruction and what is no farther from it than
        `site_bound`.

    Examples
    --------
    A block that writes nothing cannot add an error:

    >>> import numpy as np
    >>> from sklearn_ccx import InteractionCrosscoder, MLPWeights, certify_stack
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> mlp = MLPWeights(np.eye(4), np.zeros((4, 4)))
    >>> ccx = InteractionCrosscoder(8, k=2, mlp=mlp, max_iter=5, random_state=0)
    >>> X = np.stack([x, x], axis=1)
    >>> certificate = certify_stack(ccx.fit(X), X)
    >>> float(certificate.interaction_bound.max())
    0.0
    >>> certificate.block_lipschitz.round(6)
    array([1.])
    """

    bound: str
    site_bound: FloatArray
    site_error: FloatArray
    contributions: FloatArray
    interaction_bound: FloatArray
    transition_error: FloatArray
    block_lipschitz: FloatArray


@with_torch_state()
@refuses_overflow
def certify_stack(
    estimator: Any,
    X: npt.ArrayLike,
    *,
    mlp: Sequence[MLPWeights] | None = None,
    output_site: int | None = None,
    bound: str = "interval",
    n_dominant: int | None = None,
    batch_size: int | None = None,
) -> StackCertificate:
    r"""Bound the error of the reconstruction at the end of residual blocks.

    The blocks are :math:`x_{l+1} = x_l + f_l(x_l)`, and the crosscoder has a site
    before each of them and one after the last. With :math:`e_l = x_l - \hat x_l`,

    .. math::

        e_{l+1} = e_l
        + \bigl[ f_l(x_l) - f_{l,\mathrm{one}}(a) \bigr]
        + \bigl[ \hat x_l + f_{l,\mathrm{one}}(a) - \hat x_{l+1} \bigr].

    The last bracket, the single-feature transition, is known from the code. The first
    is bounded as in :func:`certify`, with what :math:`e_l` can send to the neurons in
    place of the residual. ``bound="lipschitz"`` uses norms alone:

    .. math::

        \|e_{l+1}\| \le \mathrm{Lip}(\mathrm{block}_l) \|e_l\|
                        + I_l + \|\text{transition}_l\|.

    A block with a gated MLP has no Lipschitz constant for all inputs. Each sample has
    one between its reconstruction and what is so near; see :ref:`gated-proofs`.

    Parameters
    ----------
    estimator : InteractionCrosscoder
        A fitted estimator, or a pipeline, search or other meta-estimator around one.

    X : array-like of shape (n_samples, n_sites, d)
        Activations. The code is that of all sites; of the activations themselves only
        those at the site of the first block enter.

    mlp : list of MLPWeights, default=None
        The blocks' MLPs in their order; the site of each is where the one before
        writes. None takes those of the estimator.

    output_site : int, default=None
        Where the last block writes. None is the site after the one it reads.

    bound : {"interval", "lipschitz"}, default="interval"
        "interval" carries an interval for each coordinate, "lipschitz" a norm.

    n_dominant : int, default=None
        How many contributions a neuron keeps. None takes the estimator's.

    batch_size : int, default=None
        Samples read at a time. None is as many as take little memory beside X, 512 at
        most.

    Returns
    -------
    certificate : StackCertificate
        Bounds at each site, and what each block adds.

    Raises
    ------
    ValueError
        If a parameter does not fit, an MLP's output has not the width of a site, or the
        bounds are too large for float64.
    TypeError
        If there is no coder in `estimator`, or a parameter is of the wrong type.
    NotFittedError
        If the estimator is not fitted.

    See Also
    --------
    certify : One MLP at a time.

    Notes
    -----
    Blocks with attention or normalisation have no such bound here.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionCrosscoder, MLPWeights, certify_stack
    >>> rng = np.random.default_rng(0)
    >>> W_in, W_out = rng.normal(size=(2, 4, 8)) / 4
    >>> mlp = MLPWeights(W_in, W_out.T)
    >>> x = rng.normal(size=(200, 4))
    >>> X = np.stack([x, x + np.maximum(x @ W_in, 0) @ W_out.T], axis=1)
    >>> ccx = InteractionCrosscoder(16, k=3, mlp=mlp, max_iter=50, random_state=0)
    >>> certificate = certify_stack(ccx.fit(X), X)
    >>> certificate.site_bound.shape
    (200, 2)
    >>> bool((certificate.site_error <= certificate.site_bound).all())
    True
    """
    rounding = Premises("sample", bound).rounding()
    samples = ExplainedSamples(estimator, X, mlp, n_dominant, batch_size)
    sites = _sites(samples, output_site)
    n_blocks = len(samples.mlps)
    blocks = [
        ResidualBlock(samples, explained, site, bound, rounding)
        for explained, site in zip(samples.mlps, sites[1:], strict=True)
    ]
    site_bound, site_error = np.empty((2, len(samples), n_blocks + 1))
    contributions = np.empty((len(samples), n_blocks + 1))
    interaction, transition = np.empty((2, len(samples), n_blocks))
    block_lipschitz = np.zeros(n_blocks)
    for rows, batch in samples.batches():
        columns = samples.site_columns(sites[0])
        true_BD = batch.x_BF[:, columns]
        recon_BF = batch.codes_BM @ samples.components + samples.intercept
        error = first_error(samples, batch, columns, bound, rounding)
        site_bound[rows, 0] = error.norm_B
        site_error[rows, 0] = row_norms(true_BD - recon_BF[:, columns])
        contributions[rows, 0] = error.norm_B
        for index, block in enumerate(blocks):
            ranges = batch.ranges(block.mlp, samples.n_dominant, rounding)
            lipschitz_B = block.lipschitz(error, ranges)
            error = block.next_error(error, ranges, lipschitz_B)
            true_BD = block.run(true_BD)
            recon_BD = recon_BF[:, samples.site_columns(sites[index + 1])]
            interaction[rows, index] = ranges.moved_GN @ block.mlp.output_norm_N
            transition_BD = block.transition.values(
                ranges.kept_lower_GN, batch.codes_BM
            )
            transition[rows, index] = row_norms(transition_BD)
            site_bound[rows, index + 1] = error.norm_B
            site_error[rows, index + 1] = row_norms(true_BD - recon_BD)
            contributions[rows, : index + 1] *= lipschitz_B[:, np.newaxis]
            contributions[rows, index + 1] = (
                interaction[rows, index] + transition[rows, index]
            )
            largest = lipschitz_B.max(initial=block_lipschitz[index])
            block_lipschitz[index] = largest
    return StackCertificate(
        bound=bound,
        site_bound=site_bound,
        site_error=site_error,
        contributions=contributions,
        interaction_bound=interaction,
        transition_error=transition,
        block_lipschitz=block_lipschitz,
    )


def _sites(samples: ExplainedSamples, output_site: int | None) -> list[int]:
    """The site of each block's input, and that of the last output."""
    sites = [mlp.weights.site for mlp in samples.mlps]
    if output_site is None:
        output_site = sites[-1] + 1
    sites.append(check_int(output_site, "output_site", minimum=0))
    if len(set(sites)) < len(sites):
        raise ValueError(
            f"with output_site={output_site}, the blocks read and write the sites "
            f"{sites}, but each needs its own; "
            "pass one MLP for each block, in their order."
        )
    if sites[-1] >= samples.n_sites:
        raise ValueError(
            f"the last block writes to site {sites[-1]}, but the activations have "
            f"{samples.n_sites} site(s); add it to the activations or set output_site."
        )
    width = len(samples.intercept) // samples.n_sites
    for index, mlp in enumerate(samples.mlps):
        if mlp.W_out_NO.shape[1] != width:
            raise ValueError(
                f"the output of mlp[{index}] has width {mlp.W_out_NO.shape[1]}, but "
                f"the sites have width {width}; a residual block needs them equal."
            )
    return sites
