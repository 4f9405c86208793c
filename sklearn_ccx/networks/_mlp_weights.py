"""The weights of the MLP whose neurons the features share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from .._engine.neurons import NONLINEARITIES
from .._validation import as_weights, check_int, check_option, check_real, shown
from ._activation_modules import activation_name
from ._linear_layers import linear_layer
from ._norm_modules import norm_layer

FloatArray = npt.NDArray[np.floating]

_NORMS = ("layernorm", "rmsnorm")
_NORM_ARRAYS = ("norm_weight", "norm_bias")
_ARRAYS = ("W_in", "W_out", "b_in", "b_out", "W_gate", "b_gate", *_NORM_ARRAYS)
_OPTIONS = ("activation", "site", "norm", "eps")
_PARAMETERS = (*_ARRAYS, *_OPTIONS)


class MLPWeights:
    r"""Weights of an MLP that reads activations, as an immutable value.

    The MLP is :math:`f(u) = \varphi(u W_{in} + b_{in}) W_{out} + b_{out}`, with one
    row of samples `u` per row of activations at its input site. With ``W_gate`` it is
    gated, as in most recent language models,
    :math:`f(u) = (\varphi(u W_{gate} + b_{gate}) \odot (u W_{in} + b_{in})) W_{out}
    + b_{out}`. With ``norm`` the site is in front of a normalisation, as the residual
    stream of a language model is, and `u` is the normalised row
    :math:`\gamma \odot (r - \bar r) / \sqrt{\mathrm{var}(r) + \epsilon} + \beta`, or
    :math:`\gamma \odot r / \sqrt{\overline{r^2} + \epsilon} + \beta`; see
    :ref:`norms`. Pass it, or a list with one for each MLP, as the ``mlp`` parameter
    of :class:`InteractionCrosscoder` and :class:`InteractionSAE`.

    Parameters
    ----------
    W_in : array-like of shape (d, n_neurons)
        Input weights. float32 and float64 are kept, all else becomes float64.

    W_out : array-like of shape (n_neurons, d_out)
        Output weights.

    b_in : array-like of shape (n_neurons,), default=None
        Bias of the neurons. None is zero.

    b_out : array-like of shape (d_out,), default=None
        Bias of the output. None is zero.

    W_gate : array-like of shape (d, n_neurons), default=None
        Input weights of the gate: what goes through the nonlinearity, while
        ``u W_in + b_in`` multiplies it. None is an MLP without a gate.

    b_gate : array-like of shape (n_neurons,), default=None
        Bias of the gate. None is zero.

    activation : str, default="relu"
        The nonlinearity :math:`\varphi`: "relu", "gelu", "gelu_tanh", "silu", "tanh",
        "logistic" or "identity". "gelu" is the exact form, "gelu_tanh" its tanh
        approximation (``gelu_new`` in some model configurations).

    site : int, default=0
        The site among those of the activations that the MLP reads, from 0.

    norm : {"layernorm", "rmsnorm"} or None, default=None
        The normalisation between the site and the MLP. "layernorm" subtracts each
        row's mean and divides by its standard deviation, "rmsnorm" divides by its root
        mean square. None is an MLP that reads the site as it is.

    norm_weight : array-like of shape (d,), default=None
        Scale :math:`\gamma` after the normalisation, which is not in ``W_in``. None is
        one. Where a model multiplies by one plus its weight, as Gemma does, it is that
        sum.

    norm_bias : array-like of shape (d,), default=None
        Shift :math:`\beta` after the scale. None is zero.

    eps : float, default=1e-5
        What the normalisation adds to the variance or to the mean square.

    Attributes
    ----------
    W_in, W_out, b_in, b_out : ndarray
        Read-only arrays of the given shapes and one common dtype.

    W_gate, b_gate : ndarray or None
        The same; None where there is no gate.

    norm_weight, norm_bias : ndarray or None
        The same; None where there is no normalisation.

    activation : str
        Name of the nonlinearity.

    site : int
        The site that is read.

    norm : str or None
        Name of the normalisation.

    eps : float
        What the normalisation adds.

    lipschitz : float
        The Lipschitz constant of the nonlinearity, :math:`\sup |\varphi'|`: 1 for
        "relu", "tanh" and "identity", 1/4 for "logistic",
        :math:`\Phi(\sqrt 2) + \sqrt 2 \phi(\sqrt 2) \approx 1.1289` for "gelu"
        (its derivative is largest at :math:`\sqrt 2`), 1.1290 for "gelu_tanh" and
        1.0998 for "silu" (maxima found numerically and rounded up).

    Raises
    ------
    ValueError
        If shapes do not fit together, a weight is not a finite real number, the
        activation or the norm is unknown, the site is negative, `eps` is not positive,
        or there are weights of a norm without its name.
    TypeError
        If the site is not an integer or `eps` not a number.

    See Also
    --------
    InteractionCrosscoder : Features trained against the neurons of MLPs.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ccx import MLPWeights
    >>> rng = np.random.default_rng(0)
    >>> MLPWeights(
    ...     rng.normal(size=(8, 32)),
    ...     rng.normal(size=(32, 8)),
    ...     activation="gelu",
    ...     site=1,
    ... )
    MLPWeights(d=8, n_neurons=32, d_out=8, activation='gelu', site=1)

    The same MLP behind the normalisation of a language model, whose activations are
    those of the residual stream:

    >>> MLPWeights(
    ...     rng.normal(size=(8, 32)),
    ...     rng.normal(size=(32, 8)),
    ...     activation="gelu",
    ...     norm="rmsnorm",
    ...     norm_weight=rng.normal(size=8),
    ...     eps=1e-6,
    ... )
    MLPWeights(d=8, n_neurons=32, d_out=8, activation='gelu', site=0, norm='rmsnorm')
    """

    __slots__ = (
        "W_gate",
        "W_in",
        "W_out",
        "activation",
        "b_gate",
        "b_in",
        "b_out",
        "eps",
        "lipschitz",
        "norm",
        "norm_bias",
        "norm_weight",
        "site",
    )

    W_in: FloatArray
    W_out: FloatArray
    b_in: FloatArray
    b_out: FloatArray
    W_gate: FloatArray | None
    b_gate: FloatArray | None
    norm_weight: FloatArray | None
    norm_bias: FloatArray | None
    activation: str
    site: int
    norm: str | None
    eps: float
    lipschitz: float

    def __init__(
        self,
        W_in: npt.ArrayLike,
        W_out: npt.ArrayLike,
        *,
        b_in: npt.ArrayLike | None = None,
        b_out: npt.ArrayLike | None = None,
        W_gate: npt.ArrayLike | None = None,
        b_gate: npt.ArrayLike | None = None,
        activation: str = "relu",
        site: int = 0,
        norm: str | None = None,
        norm_weight: npt.ArrayLike | None = None,
        norm_bias: npt.ArrayLike | None = None,
        eps: float = 1e-5,
    ) -> None:
        weights = {
            "W_in": as_weights(W_in, "W_in"),
            "W_out": as_weights(W_out, "W_out"),
        }
        _check_shapes(weights["W_in"], weights["W_out"])
        n_neurons, d_out = weights["W_out"].shape
        if W_gate is None and b_gate is not None:
            raise ValueError("b_gate needs W_gate; pass both or neither.")
        biases = {"b_in": (b_in, n_neurons), "b_out": (b_out, d_out)}
        if W_gate is not None:
            weights["W_gate"] = as_weights(W_gate, "W_gate")
            if weights["W_gate"].shape != weights["W_in"].shape:
                raise ValueError(
                    "W_gate must have the shape of W_in, "
                    f"{weights['W_in'].shape}; got {weights['W_gate'].shape}."
                )
            biases["b_gate"] = b_gate, n_neurons
        norm = check_option(norm, "norm", [None, *_NORMS])
        if norm is not None:
            d = len(weights["W_in"])
            scale = np.ones(d) if norm_weight is None else norm_weight
            biases |= {"norm_weight": (scale, d), "norm_bias": (norm_bias, d)}
        elif norm_weight is not None or norm_bias is not None:
            raise ValueError(
                "norm_weight and norm_bias need norm; pass norm='layernorm' or "
                "norm='rmsnorm'."
            )
        is_single = weights["W_in"].dtype == weights["W_out"].dtype == np.float32
        dtype = np.dtype(np.float32 if is_single else np.float64)
        for name, (bias, length) in biases.items():
            weights[name] = _bias(bias, length, name)
        for name in _ARRAYS:
            array = _frozen(weights[name], dtype, name) if name in weights else None
            object.__setattr__(self, name, array)
        activation = str(check_option(activation, "activation", sorted(NONLINEARITIES)))
        object.__setattr__(self, "activation", activation)
        object.__setattr__(self, "site", check_int(site, "site", minimum=0))
        object.__setattr__(self, "norm", norm)
        object.__setattr__(
            self, "eps", check_real(eps, "eps", minimum=0, inclusive=False)
        )
        object.__setattr__(self, "lipschitz", NONLINEARITIES[activation].lipschitz)

    @classmethod
    def from_sklearn(
        cls, mlp: MLPClassifier | MLPRegressor, *, layer: int = 0, site: int = 0
    ) -> "MLPWeights":
        """Take one hidden layer of a fitted scikit-learn network.

        Parameters
        ----------
        mlp : MLPClassifier or MLPRegressor
            A fitted network.

        layer : int, default=0
            The hidden layer, from 0. Its input is what the features explain: the
            network's own input for the first hidden layer, else the activations
            of the hidden layer before it.

        site : int, default=0
            The site of the activations that holds this layer's input.

        Returns
        -------
        MLPWeights
            ``coefs_[layer]`` and ``coefs_[layer + 1]`` with their intercepts. The
            output is the pre-activation of the next layer: for the last hidden
            layer of a classifier, its logits.

        Raises
        ------
        ValueError
            If the network has no such hidden layer.
        TypeError
            If ``mlp`` is not a scikit-learn network.
        NotFittedError
            If ``mlp`` is not fitted.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.neural_network import MLPClassifier
        >>> from sklearn_ccx import MLPWeights
        >>> X, y = load_digits(return_X_y=True)
        >>> clf = MLPClassifier((16,), random_state=0, early_stopping=True).fit(X, y)
        >>> MLPWeights.from_sklearn(clf)
        MLPWeights(d=64, n_neurons=16, d_out=10, activation='relu', site=0)
        """
        if not isinstance(mlp, MLPClassifier | MLPRegressor):
            raise TypeError(
                f"mlp must be a fitted MLPClassifier or MLPRegressor; got {shown(mlp)}."
            )
        check_is_fitted(mlp)
        n_hidden = len(mlp.coefs_) - 1
        layer = check_int(layer, "layer", minimum=0)
        if layer >= n_hidden:
            raise ValueError(
                f"layer must be in 0..{n_hidden - 1}, the hidden layers of the "
                f"network; got {layer}."
            )
        return cls(
            mlp.coefs_[layer],
            mlp.coefs_[layer + 1],
            b_in=mlp.intercepts_[layer],
            b_out=mlp.intercepts_[layer + 1],
            activation=mlp.activation,
            site=site,
        )

    @classmethod
    def from_torch(
        cls,
        linear_in: nn.Module,
        linear_out: nn.Module,
        activation: str | Callable[[Tensor], Tensor],
        *,
        linear_gate: nn.Module | None = None,
        norm: nn.Module | None = None,
        site: int = 0,
    ) -> "MLPWeights":
        """Take the layers of a torch MLP.

        Parameters
        ----------
        linear_in, linear_out : torch.nn.Module
            The layers before and after the nonlinearity: a ``torch.nn.Linear``, or
            another module that multiplies by its ``weight``, such as the ``Conv1D``
            of GPT-2 in transformers.

        activation : str or callable
            A name as in :class:`MLPWeights`, or a module or function that computes one
            of these nonlinearities, such as ``nn.GELU(approximate="tanh")`` or the
            activation modules of transformers.

        linear_gate : torch.nn.Module, default=None
            For a gated MLP, the layer before the nonlinearity; `linear_in` is then
            the one that multiplies its output (``up_proj`` in Llama).

        norm : torch.nn.Module, default=None
            The normalisation between the site and the MLP, if the activations are
            those in front of it: a ``torch.nn.LayerNorm``, a ``torch.nn.RMSNorm``, or
            another module that computes one of them, such as those of transformers.

        site : int, default=0
            The site of the activations that the MLP reads.

        Returns
        -------
        MLPWeights
            Copies of the weights, detached from the network.

        Raises
        ------
        ValueError
            If a layer does not multiply by the weights that it stores, as quantised
            layers do, or has none, as offloaded ones, or if `norm` computes neither
            normalisation.
        TypeError
            If a layer is not linear, `norm` not a module or the activation not known.

        Notes
        -----
        Any layer but a plain ``torch.nn.Linear`` is run once on a few random rows, and
        taken where it computes ``x @ W + b`` up to rounding. The activation is run on
        a grid, and found by its values, and so is the normalisation, with its `eps` and
        with or without the 1 that some add to their weight.

        Examples
        --------
        >>> from torch import nn
        >>> from sklearn_ccx import MLPWeights
        >>> MLPWeights.from_torch(nn.Linear(8, 32), nn.Linear(32, 8), nn.GELU())
        MLPWeights(d=8, n_neurons=32, d_out=8, activation='gelu', site=0)
        >>> mlp = MLPWeights.from_torch(
        ...     nn.Linear(8, 32),
        ...     nn.Linear(32, 8),
        ...     nn.GELU(),
        ...     norm=nn.LayerNorm(8, eps=1e-6),
        ... )
        >>> mlp.norm, mlp.eps
        ('layernorm', 1e-06)
        """
        W_in, b_in = linear_layer(linear_in, "linear_in")
        W_out, b_out = linear_layer(linear_out, "linear_out")
        if W_in.shape[1] != W_out.shape[0]:
            raise ValueError(
                f"linear_in has {W_in.shape[1]} outputs, but linear_out has "
                f"{W_out.shape[0]} inputs; pass the layers before and after the "
                "neurons."
            )
        W_gate = b_gate = None
        if linear_gate is not None:
            W_gate, b_gate = linear_layer(linear_gate, "linear_gate")
            if W_gate.shape != W_in.shape:
                raise ValueError(
                    f"linear_gate has {W_gate.shape[0]} inputs and {W_gate.shape[1]} "
                    f"outputs, but linear_in has {W_in.shape[0]} and {W_in.shape[1]}; "
                    "both read the input of the MLP."
                )
        if not isinstance(activation, str):
            activation = activation_name(activation)
        of_norm = {}
        if norm is not None:
            of_norm = norm_layer(norm, "norm", len(W_in)).parameters()
        return cls(
            W_in,
            W_out,
            b_in=b_in,
            b_out=b_out,
            W_gate=W_gate,
            b_gate=b_gate,
            activation=activation,
            site=site,
            **of_norm,
        )

    def at_site(self, site: int) -> "MLPWeights":
        """Give the same MLP, reading another site.

        Parameters
        ----------
        site : int
            The site among those of the activations, from 0.

        Returns
        -------
        mlp : MLPWeights
            Equal to this one but for `site`.

        Raises
        ------
        ValueError
            If `site` is negative.
        TypeError
            If `site` is not an integer.
        """
        return MLPWeights(**self.__getstate__() | {"site": site})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"MLPWeights is immutable; cannot set {name!r}.")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"MLPWeights is immutable; cannot delete {name!r}.")

    def __sklearn_clone__(self) -> "MLPWeights":
        return self

    # A dict, and no __reduce__, is what skops can store and load.
    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _PARAMETERS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if hasattr(self, "site"):
            raise AttributeError("MLPWeights is immutable; cannot set its state.")
        MLPWeights.__init__(self, **state)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MLPWeights):
            return NotImplemented
        is_like = all(getattr(self, name) == getattr(other, name) for name in _OPTIONS)
        return is_like and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in _ARRAYS
        )

    def __hash__(self) -> int:
        return hash((self.W_in.shape, self.W_out.shape, self.activation, self.site))

    def __repr__(self) -> str:
        d, n_neurons = self.W_in.shape
        gated = "" if self.W_gate is None else ", gated=True"
        norm = "" if self.norm is None else f", norm={self.norm!r}"
        return (
            f"MLPWeights(d={d}, n_neurons={n_neurons}, d_out={self.W_out.shape[1]}, "
            f"activation={self.activation!r}, site={self.site}{gated}{norm})"
        )


def _check_shapes(W_in: npt.NDArray[Any], W_out: npt.NDArray[Any]) -> None:
    if W_in.ndim != 2 or W_out.ndim != 2 or W_in.shape[1] != W_out.shape[0]:
        raise ValueError(
            "W_in must have shape (d, n_neurons) and W_out (n_neurons, d_out); "
            f"got W_in {W_in.shape} and W_out {W_out.shape}. The weight of a "
            "torch.nn.Linear is stored transposed: use MLPWeights.from_torch."
        )
    if min(*W_in.shape, W_out.shape[1]) == 0:
        raise ValueError(
            "W_in and W_out must not be empty; "
            f"got shapes {W_in.shape} and {W_out.shape}."
        )


def _bias(bias: Any, length: int, name: str) -> npt.NDArray[Any]:
    if bias is None:
        return np.zeros(length)
    array = as_weights(bias, name)
    if array.shape != (length,):
        lines = {"b_in": "column of W_in", "b_gate": "column of W_in"}
        lines |= {"b_out": "column of W_out"}
        raise ValueError(
            f"{name} must have shape ({length},), one number for each "
            f"{lines.get(name, 'row of W_in')}; got {array.shape}."
        )
    return array


def _frozen(array: npt.NDArray[Any], dtype: np.dtype[Any], name: str) -> FloatArray:
    """A read-only copy."""
    with np.errstate(over="ignore"):  # what does not fit is refused below
        copy = np.array(array, dtype=dtype)
    if not np.isfinite(copy).all():
        raise ValueError(f"{name} contains NaN or infinity in {dtype}.")
    copy.setflags(write=False)
    return copy
