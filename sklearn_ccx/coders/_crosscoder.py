"""InteractionCrosscoder and InteractionSAE."""

from sklearn.utils import Tags

from ._base import BaseInteractionCoder


class InteractionCrosscoder(BaseInteractionCoder):
    r"""Sparse crosscoder trained to explain a network with one feature per neuron.

    One sparse code explains the activations at several sites of a network at once:

    .. math::

        a = \sigma(W_{enc} x + b_{enc}), \qquad \hat x = a W_{dec} + b_{dec},

    with :math:`x` the sites of one sample (a token, a row) side by side. Where several
    active features feed the same neuron of an MLP, the nonlinearity mixes them. How
    far that can move the MLP's output is bounded by the interaction

    .. math::

        I(b) = \mathrm{Lip}(\varphi) \sum_n \|W_{out}[n]\|
               \Bigl(\sum_h |p_{bnh}| - \max_h |p_{bnh}|\Bigr),
        \qquad p_{bnh} = a_{bh} (W_{dec} W_{in})_{hn},

    which enters the training as a penalty of strength `lam`. The loss is

    .. math::

        \sum_l \mathrm{FVU}_l
        + \mathtt{lam} \sum_p \frac{E_b I_p(b)}{\mathrm{Lip}_p \, \mathrm{mass}_p}
        + \mathtt{lam\_fidelity} \sum_p (1 - R^2_p),

    summed over sites :math:`l` and MLPs :math:`p`; see the user guide. `lam_margin` and
    `lam_interval` can add two terms that train for the proofs of :func:`certify`.

    Parameters
    ----------
    n_components : int, default=None
        Number of features. None is four times the width of a site.

    k : int, default=32
        Number of active features per sample: exactly (``activation="topk"``), on
        average (``"batchtopk"``) or as the target of the mean (``"jumprelu"``).
        More than `n_components` is taken as `n_components`.

    activation : {"batchtopk", "topk", "relu", "jumprelu"}, default="batchtopk"
        How pre-activations become codes.

        - "batchtopk" keeps the ``k * batch_size`` largest of a training batch; at
          inference those above a threshold learned in training, so that a row's
          code does not depend on the other rows;
        - "topk" keeps the `k` largest of each sample;
        - "relu" keeps the positive ones, made sparse by `l1_coefficient`;
        - "jumprelu" keeps those above a threshold learned for each feature.

    l1_coefficient : float, default=0.2
        Strength of the mean sum of a sample's codes, divided by the mean norm of
        the samples. Used by ``activation="relu"`` only.

    lam : float, default=0.1
        Strength of the interaction bound, the penalty of [1]_. It has no unit: the
        bound of each MLP is divided by the mass that the data sends through its
        neurons, and added to the fraction of variance unexplained of each site.

    lam_fidelity : float, default=0.0
        Strength of the one-feature infidelity: :math:`1 - R^2` of each MLP's output
        when every neuron keeps its `n_dominant` largest contributions only.

    lam_margin : float, default=0.0
        Strength of the proved margin, for MLPs whose output is the logits of a
        classifier: the cross-entropy of the MLP's own prediction under the worst
        logits that the intervals of :func:`certify_classifier` allow. It raises the
        share of certified predictions and needs no labels; see the user guide for what
        it costs.

    lam_interval : float, default=0.0
        Strength of the proved error, for outputs of any kind: the largest
        :math:`1 - R^2` of each MLP's output that the intervals of :func:`certify`
        allow.

    n_dominant : int, default=1
        How many features a neuron may keep before the others count as
        interaction.

    mlp : MLPWeights or list of MLPWeights, default=None
        The MLPs that read the activations. None takes every coordinate of the
        activations for a neuron.

    n_sites : int, default=None
        Number of sites in a row of a two-dimensional X of shape
        `(n_samples, n_sites * d)`. None takes the second axis of a
        three-dimensional X, and one site for a two-dimensional X.
        :class:`InteractionSAE` has one in any case.

    center : bool, default=True
        Whether the decoder's bias is the mean of the data; it is zero otherwise, as
        in [1]_.

    normalize : bool, default=True
        Whether each site is scaled, after centering, to a mean norm of
        :math:`\sqrt d` for the training. The fitted arrays are in the units of X
        either way.

    outlier_threshold : float, default=None
        Rows whose norm, about the median of the data, is more than so many times the
        median norm at any site take no part in the training. The first token of a
        text often has a norm a hundred times that of the others in a language model,
        and a single such row can decide scales and losses. None trains on all rows
        and warns if there are any beyond 10 times the median.

    aux_k : int, default=None
        How many dead features may take part in explaining what the active ones
        leave, which revives them [2]_. None is half the width of a site, 0 turns
        it off.

    learning_rate_init : float, default=2e-3
        Learning rate of Adam after the warm-up. It falls to zero over the last
        quarter of the training.

    batch_size : int, default=256
        Largest batch; a pass is cut into batches of nearly equal size. Several
        processes share each of them.

    max_iter : int, default=None
        Number of passes over the data. None is as many as make at least 1,000
        gradient steps.

    tol : float, default=1e-4
        With ``early_stopping=True``, by how much the held-out loss must fall to
        count as improved.

    n_iter_no_change : int, default=10
        With ``early_stopping=True``, the number of passes without improvement
        after which the training stops.

    early_stopping : bool, default=False
        Whether to hold out `validation_fraction` of the samples, stop when their
        loss no longer improves and keep the best weights.

    validation_fraction : float, default=0.1
        Share of the samples to hold out with ``early_stopping=True``.

    warm_start : bool, default=False
        Whether ``fit`` starts from the weights of the previous fit.

    device : str or torch.device, default="auto"
        Where to compute. "auto" is a CUDA GPU if there is one, else the CPU. Of the
        processes that torchrun has started on a machine each takes a GPU of its own.

    distributed : {"auto"}, bool or None, default="auto"
        Whether ``fit`` and ``partial_fit`` train one model together with the other
        processes of torch's default process group, each of which is given the same X
        and computes its part of every batch. The fitted arrays are then the same on
        all of them, and those of one process up to rounding.

        - "auto" does so if there is a process group of several processes, or the
          variables by which torchrun tells of one, which then is begun and left in
          place until the process ends;
        - True does so too, and raises where there is neither;
        - None and False train in this process alone. Set it if the processes of a
          group fit different things, or not all of them call ``fit``: the others
          would be waited for.

    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of the computation and of the fitted arrays. "auto" is that of X.

    mixed_precision : bool, default=False
        Whether the matrix products of the training take bfloat16, which is faster on
        a GPU. Weights, codes and sums stay float32; needs float32 activations or
        ``dtype="float32"``.

    sparse_output : bool, default=False
        Whether ``transform`` returns a :class:`scipy.sparse.csr_array`, of which the
        memory grows with the active features instead of `n_components`.

    random_state : int, RandomState instance or None, default=None
        Determines the initial weights and the order of the data. Pass an int for
        results that are reproducible across calls; on one machine's CPU the fitted
        arrays are then equal bit by bit. Of several processes, what the first one
        draws counts.

    verbose : bool or int, default=0
        Whether to show progress: loss, fraction of variance unexplained, active
        features per sample (L0), dead features and dominant share.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_sites * d)
        The decoder in the units of X: what one unit of each feature writes.

    intercept_ : ndarray of shape (n_sites * d,)
        The decoder's bias in the units of X. It belongs to no feature.

    encoder_components_ : ndarray of shape (n_components, n_sites * d)
        The encoder: pre-activations are
        ``X @ encoder_components_.T + encoder_intercept_``.

    encoder_intercept_ : ndarray of shape (n_components,)
        The encoder's bias.

    threshold_ : float or ndarray of shape (n_components,)
        Pre-activation above which a feature is active: learned for "batchtopk" (one
        number) and "jumprelu" (one for each feature), else 0.

    k_ : int
        The number of active features in effect, ``min(k, n_components)``.

    activation_ : str
        The `activation` that the features were trained with. It decides what
        ``transform`` does, whatever becomes of the parameter.

    mlp_ : tuple of MLPWeights or None
        The MLPs that the features were trained with, at which interaction is measured
        unless others are named.

    n_dominant_ : int
        The `n_dominant` that the features were trained with.

    decoder_norms_ : ndarray of shape (n_components, `n_sites_`)
        Norm of each feature at each site, with the sites scaled to equal size. The
        squares of a feature's norms sum to 1.

    activation_frequency_ : ndarray of shape (n_components,)
        Share of the training samples on which each feature is active, measured on
        at most 16,384 evenly spaced ones.

    site_fvu_ : ndarray of shape (`n_sites_`,)
        Fraction of variance unexplained at each site, measured likewise. NaN where
        the activations do not vary.

    site_norm_ratio_ : ndarray of shape (`n_sites_`,)
        Mean norm of the reconstruction over that of the activations at each site,
        both less `intercept_`, measured likewise. Below 1 the features shrink what
        they explain.

    history_ : dict of ndarray of shape (`n_iter_`,)
        What each pass over the data reported: means over its steps of "loss",
        "fvu" (summed over sites), "interaction", "infidelity", "margin" and
        "interval" (summed over MLPs, before their strengths; 0 while not trained on)
        and "l0"; the number of "dead_features", inactive in the whole pass; and the
        "dominant_share" on the pass's last batch, NaN if no neuron receives anything
        there.

    loss_curve_ : list of float
        ``history_["loss"]``.

    validation_loss_curve_ : list of float
        Held-out loss after each pass. Only with ``early_stopping=True``.

    best_validation_loss_ : float
        The least of them. Only with ``early_stopping=True``.

    n_iter_ : int
        Number of passes over the data.

    n_sites_ : int
        Number of sites.

    n_features_in_ : int
        Number of columns of X, the number of sites times their width.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, if it had names.

    See Also
    --------
    InteractionSAE : The same for activations of one site.
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
    >>> import numpy as np
    >>> from sklearn_ccx import InteractionCrosscoder
    >>> rng = np.random.default_rng(0)
    >>> codes = rng.exponential(size=(500, 12)) * (rng.random((500, 12)) < 0.2)
    >>> acts = (codes @ rng.normal(size=(12, 3 * 8))).reshape(500, 3, 8)
    >>> ccx = InteractionCrosscoder(24, k=3, lam=0.05, max_iter=50, random_state=0)
    >>> codes = ccx.fit(acts).transform(acts)
    >>> codes.shape, ccx.inverse_transform(codes).shape
    ((500, 24), (500, 3, 8))
    >>> ccx.score(acts) > 0.7
    True
    """

    _max_ndim = 3

    def _number_of_sites(self, shape: tuple[int, ...]) -> int:
        if len(shape) > 3:
            raise ValueError(
                "X must have shape (n_samples, d) or (n_samples, n_sites, d); "
                f"got {tuple(shape)}."
            )
        n_sites = shape[1] if len(shape) == 3 else self.n_sites or 1
        if n_sites != (self.n_sites or n_sites):
            raise ValueError(
                f"X has shape {tuple(shape)}, but n_sites={self.n_sites}; pass the "
                "axes as (n_samples, n_sites, d) or set n_sites=None."
            )
        if len(shape) == 2 and shape[1] % n_sites:
            raise ValueError(
                f"X has {shape[1]} columns, which n_sites={n_sites} does not divide; "
                "a row must hold n_sites sites of equal width."
            )
        return n_sites

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
