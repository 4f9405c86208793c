"""Bounds on what an explanation misses of an MLP's output."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._engine._torch_state import with_torch_state
from .._validation import as_array, check_bool, check_ints
from ..networks import MLPs, row_norms
from ._code_boxes import CodeBoxes
from ._explained_samples import ExplainedSamples
from ._output_bounds import output_bounds
from ._overflow import refuses_overflow
from ._partition import Partition
from ._premises import Premises
from ._proof_length import proof_length
from ._tightness import tightness
from ._transition import Transition

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ErrorCertificate:
    r"""Proved bounds on the error of an explanation, beside the actual errors.

    Returned by :func:`certify`. The arrays have one row for each sample and one column
    for each MLP; in a group or a domain all samples have the same bounds.

    Attributes
    ----------
    level : str
        "sample", "group" or "domain".

    bound : str
        "interval" or "lipschitz".

    groups : ndarray of shape (n_samples,), int64
        The group of each sample, from 0.

    error_bound : ndarray of shape (n_samples, n_mlps)
        Bound on :math:`\|f(x) - f_\mathrm{one}(a)\|`: the MLP on the activations
        against the MLP whose neurons receive their dominant features alone.

    error : ndarray of shape (n_samples, n_mlps)
        That distance itself.

    reconstruction_bound, reconstruction_error : ndarray of shape (n_samples, n_mlps)
        The same for :math:`\|f(x) - f(\hat x)\|`.

    interaction_bound, interaction_error : ndarray of shape (n_samples, n_mlps)
        The same for :math:`\|f(\hat x) - f_\mathrm{one}(a)\|`. With
        ``bound="lipschitz"`` and ``level="sample"`` the bound is
        :func:`interaction_scores` with ``per_mlp=True``.

    transition_bound, transition_error : ndarray of shape (n_samples, n_mlps) or None
        The same for the distance of :math:`f_\mathrm{one}(a)` from the
        reconstruction at the output site. None without `output_site`.

    rounding : ndarray of shape (n_samples, n_mlps)
        Slack for the rounding of float64. It is part of `error_bound` and
        `transition_bound`, and comes on top of the bounds on reconstruction and
        interaction.

    proof_flops : int
        Operations that check the bounds.

    membership_flops : int
        Operations that encode the samples and check that each is in its group or
        domain, after which the bounds hold for it. 0 at ``level="sample"``.

    brute_force_flops : int
        Operations that run network and explanation on every sample instead.

    Examples
    --------
    A single active feature has nothing to interact with:

    >>> import numpy as np
    >>> from sklearn_ccx import InteractionSAE, certify
    >>> X = np.random.default_rng(0).normal(size=(50, 4))
    >>> sae = InteractionSAE(k=1, activation="topk", max_iter=5, random_state=0)
    >>> certificate = certify(sae.fit(X), X)
    >>> float(certificate.interaction_bound.max())
    0.0
    >>> certificate.reconstruction_bound.shape
    (50, 1)
    """

    level: str
    bound: str
    groups: npt.NDArray[np.int64]
    error_bound: FloatArray
    error: FloatArray
    reconstruction_bound: FloatArray
    reconstruction_error: FloatArray
    interaction_bound: FloatArray
    interaction_error: FloatArray
    transition_bound: FloatArray | None
    transition_error: FloatArray | None
    rounding: FloatArray
    proof_flops: int
    membership_flops: int
    brute_force_flops: int

    @property
    def tightness(self) -> FloatArray:
        """Error over its bound.

        Returns
        -------
        tightness : ndarray of shape (n_samples, n_mlps)
            At most 1.
        """
        return tightness(self.error, self.error_bound)


@with_torch_state()
@refuses_overflow
def certify(
    estimator: Any,
    X: npt.ArrayLike,
    *,
    mlp: MLPs = None,
    level: str = "sample",
    bound: str = "interval",
    groups: object = None,
    code_max: npt.ArrayLike | None = None,
    max_active: int | None = None,
    output_site: int | Sequence[int] | npt.NDArray[np.integer] | None = None,
    residual: bool = False,
    n_dominant: int | None = None,
    batch_size: int | None = None,
) -> ErrorCertificate:
    r"""Bound how far the one-feature explanation is from the MLP.

    The explanation gives neuron :math:`n` on sample :math:`b` its dominant
    contribution and its bias, :math:`c_{bn}`. What the neuron truly receives is in
    :math:`[c_{bn} - r_{bn}, c_{bn} + r_{bn}]` with

    .. math::

        r_{bn} = \Bigl(\sum_h |p_{bnh}| - \max_h |p_{bnh}|\Bigr)
               + |((x_b - \hat x_b) W_{in})_n|.

    The interval goes through the nonlinearity and the output weights, which bounds the
    distance of the outputs. The bounds are computed in float64 and widened by what
    rounding can amount to; see the user guide.

    Of a gated MLP both factors have such an interval, in both cases without the
    features that are dominant at the neuron, and the neuron is in the product of the
    two; see :ref:`gated-proofs`. Behind a norm all is divided by the scale of the
    sample's activation; see :ref:`normed-proofs`.

    Parameters
    ----------
    estimator : InteractionCrosscoder or InteractionSAE
        A fitted estimator, or a pipeline, search or other meta-estimator around one.

    X : array-like of shape (n_samples, d) or (n_samples, n_sites, d)
        Activations.

    mlp : MLPWeights or list of MLPWeights, default=None
        The MLPs; None takes those of the estimator. An estimator without any has
        identity neurons, one for each coordinate.

    level : {"sample", "group", "domain"}, default="sample"
        What one proof is about.

        - "sample": the code and the residual of one sample, the only level for MLPs
          behind a norm;
        - "group": every code inside the ranges of a group of samples, with at most as
          many active features and as large a residual at each neuron as one of them
          has;
        - "domain": every code with at most `max_active` active features between 0
          and `code_max`, with at most as large a residual at each neuron as on X.

    bound : {"interval", "lipschitz"}, default="interval"
        "interval" takes the range of the nonlinearity over the interval,
        "lipschitz" its Lipschitz constant, which is never tighter. Of a gated MLP,
        "lipschitz" takes the sizes of :ref:`gated-mlps`.

    groups : array-like of shape (n_samples,) or FeatureClusterer, default=None
        With ``level="group"``, a label for each sample, or fitted clusters of
        features: a sample belongs to the cluster with the largest sum of codes. None
        groups samples on which every neuron has the same dominant features.

    code_max : array-like of shape (n_components,), default=None
        With ``level="domain"``, how large the codes may be. None is as large as on X.

    max_active : int, default=None
        With ``level="domain"``, how many features may be active at once. None is as
        many as on one sample of X.

    output_site : int or array-like of int, default=None
        The site where the output of each MLP is found. Compares the explanation's
        output with the reconstruction there.

    residual : bool, default=False
        Whether what is found at `output_site` is the MLP's output added to its
        input.

    n_dominant : int, default=None
        How many contributions a neuron keeps. None takes the estimator's.

    batch_size : int, default=None
        Samples read at a time. None is as many as take little memory beside X, 512 at
        most.

    Returns
    -------
    certificate : ErrorCertificate
        Bounds, actual errors and the length of the proof.

    Raises
    ------
    ValueError
        If a parameter is unknown or does not fit, X is not in the domain, or the bounds
        are too large for float64.
    TypeError
        If there is no coder in `estimator`, or a parameter is of the wrong type.
    NotFittedError
        If the estimator, or the clusterer in `groups`, is not fitted.

    See Also
    --------
    certify_classifier : Which predictions the explanation proves.
    certify_stack : The error at the end of several residual blocks.
    interaction_scores : The interaction term alone.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionSAE, certify
    >>> X = np.random.default_rng(0).normal(size=(100, 6))
    >>> sae = InteractionSAE(k=2, max_iter=5, random_state=0).fit(X)
    >>> certificate = certify(sae, X)
    >>> certificate.error_bound.shape
    (100, 1)
    >>> bool((certificate.error <= certificate.error_bound).all())
    True

    A gated MLP whose gates are shut has a bound of 0, up to rounding, though a
    Lipschitz constant does not know that:

    >>> import numpy as np
    >>> from sklearn_ccx import MLPWeights
    >>> W = np.random.default_rng(1).normal(size=(6, 8))
    >>> shut = MLPWeights(W, W.T, W_gate=W, b_gate=np.full(8, -50.0))
    >>> for bound in ("interval", "lipschitz"):
    ...     certificate = certify(sae, X, mlp=shut, bound=bound)
    ...     print(bound, bool(certificate.error_bound.max() > 1e-6))
    interval False
    lipschitz True
    """
    premises = Premises(level, bound, groups, code_max, max_active)
    samples = ExplainedSamples(
        estimator, X, mlp, n_dominant, batch_size, with_norms=level == "sample"
    )
    output_sites = _check_output_sites(output_site, samples, residual)
    transitions = [
        Transition(samples, explained, site, residual)
        for explained, site in zip(samples.mlps, output_sites, strict=False)
    ]
    partition = samples.partition(premises)
    bounds, n_possible = _bounds(samples, partition, premises, transitions)
    errors = _errors(samples, transitions)
    length = proof_length(
        samples.mlps, samples.n_active, n_possible, samples.components.shape[1], bound
    )
    by_sample = {name: bounds.pop(name)[partition.labels] for name in list(bounds)}
    return ErrorCertificate(
        level=level,
        bound=bound,
        groups=partition.labels,
        error_bound=by_sample["error"],
        error=errors["error"],
        reconstruction_bound=by_sample["reconstruction"],
        reconstruction_error=errors["reconstruction"],
        interaction_bound=by_sample["interaction"],
        interaction_error=errors["interaction"],
        transition_bound=by_sample.get("transition"),
        transition_error=errors.get("transition"),
        rounding=by_sample["rounding"],
        proof_flops=length.proof,
        membership_flops=length.membership,
        brute_force_flops=length.brute_force,
    )


def _check_output_sites(
    output_site: Any, samples: ExplainedSamples, residual: bool
) -> list[int]:
    """One output site for each MLP; none if there are no output sites."""
    residual = check_bool(residual, "residual")
    if output_site is None:
        if residual:
            raise ValueError("residual=True needs output_site.")
        return []
    sites = check_ints(as_array(output_site, "output_site"), "output_site")
    if len(sites) != len(samples.mlps):
        raise ValueError(
            f"output_site has {len(sites)} entries for {len(samples.mlps)} MLP(s), "
            "those of mlp or else of the estimator; pass one site for each."
        )
    width = len(samples.intercept) // samples.n_sites
    for index, (site, mlp) in enumerate(zip(sites, samples.mlps, strict=True)):
        if site >= samples.n_sites:
            raise ValueError(
                f"output_site={site}, but the activations have {samples.n_sites} "
                f"site(s); use sites in 0..{samples.n_sites - 1}."
            )
        if mlp.W_out_NO.shape[1] != width:
            raise ValueError(
                f"the output of mlp[{index}] has width {mlp.W_out_NO.shape[1]}, but "
                f"the sites have width {width}; leave output_site=None."
            )
    return sites


def _bounds(
    samples: ExplainedSamples,
    partition: Partition,
    premises: Premises,
    transitions: list[Transition],
) -> tuple[dict[str, FloatArray], npt.NDArray[np.int64] | None]:
    """Bounds for each group and MLP, and how many features can be active in each."""
    rounding = premises.rounding()
    names = ["error", "reconstruction", "interaction", "rounding"]
    names += ["transition"] if transitions else []
    bounds = {name: np.empty((len(partition), len(samples.mlps))) for name in names}
    n_possible = None
    if premises.level != "sample":
        n_possible = np.zeros(len(partition), dtype=np.int64)
    for groups, codes in samples.sets(partition, premises):
        if n_possible is not None and isinstance(codes, CodeBoxes):
            n_possible[groups] = codes.n_possible_G
        for index, mlp in enumerate(samples.mlps):
            ranges = codes.ranges(mlp, samples.n_dominant, rounding)
            values = output_bounds(mlp, ranges, premises.bound, rounding)
            for name in ("error", "reconstruction", "interaction", "rounding"):
                bounds[name][groups, index] = getattr(values, name)
            if transitions:
                value_G = transitions[index].bounds(ranges, rounding)
                bounds["transition"][groups, index] = value_G
    return bounds, n_possible


def _errors(
    samples: ExplainedSamples, transitions: list[Transition]
) -> dict[str, FloatArray]:
    """Run network and explanation on the samples."""
    names = ["error", "reconstruction", "interaction"]
    names += ["transition"] if transitions else []
    errors = {name: np.empty((len(samples), len(samples.mlps))) for name in names}
    for rows, batch in samples.batches():
        for index, mlp in enumerate(samples.mlps):
            kept_BN = batch.kept_input(mlp, samples.n_dominant)
            recon_BD = mlp.reconstruction(batch.codes_BM)
            true_BO = mlp.output(batch.input(mlp, batch.x_BF[:, mlp.columns]))
            recon_BO = mlp.output(batch.input(mlp, recon_BD))
            kept_BO = mlp.output(kept_BN)
            differences = {
                "error": true_BO - kept_BO,
                "reconstruction": true_BO - recon_BO,
                "interaction": recon_BO - kept_BO,
            }
            if transitions:
                transition_BD = transitions[index].values(kept_BN, batch.codes_BM)
                differences["transition"] = transition_BD
            for name, difference_BO in differences.items():
                errors[name][rows, index] = row_norms(difference_BO)
    return errors
