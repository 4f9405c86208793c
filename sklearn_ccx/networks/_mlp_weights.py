"""The weights of the MLP whose neurons the features share."""

from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .._engine.neurons._nonlinearity import NONLINEARITIES

FloatArray = npt.NDArray[np.floating]


class MLPWeights:
    r"""Weights of an MLP that reads activations, as an immutable value.

    The MLP is :math:`f(u) = \varphi(u W_{in} + b_{in}) W_{out} + b_{out}`, with one
    row of samples `u` per row of activations at its input site. With ``W_gate`` it is
    gated, as in most recent language models,
    :math:`f(u) = (\varphi(u W_{gate} + b_{gate}) \odot (u W_{in} + b_{in})) W_{out}
    + b_{out}`. Pass it, or a list with one for each MLP, as the ``mlp`` parameter of
    :class:`InteractionCrosscoder` and :class:`InteractionSAE`.

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

    Attributes
    ----------
    W_in, W_out, b_in, b_out : ndarray
        Read-only arrays of the given shapes and one common dtype.

    W_gate, b_gate : ndarray or None
        The same; None where there is no gate.

    activation : str
        Name of the nonlinearity.

    site : int
        The site that is read.

    lipschitz : float
        The Lipschitz constant of the nonlinearity, :math:`\sup |\varphi'|`: 1 for
        "relu", "tanh" and "identity", 1/4 for "logistic",
        :math:`\Phi(\sqrt 2) + \sqrt 2 \phi(\sqrt 2) \approx 1.1289` for "gelu"
        (its derivative is largest at :math:`\sqrt 2`), 1.1290 for "gelu_tanh" and
        1.0998 for "silu" (maxima found numerically and rounded up).

    Raises
    ------
    ValueError
        If shapes do not fit together, a weight is not finite, the activation is
        unknown or the site is negative.

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
    """

    __slots__ = (
        "W_gate",
        "W_in",
        "W_out",
        "activation",
        "b_gate",
        "b_in",
        "b_out",
        "lipschitz",
        "site",
    )

    W_in: FloatArray
    W_out: FloatArray
    b_in: FloatArray
    b_out: FloatArray
    W_gate: FloatArray | None
    b_gate: FloatArray | None
    activation: str
    site: int
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
    ) -> None:
        W_in, W_out = np.asarray(W_in), np.asarray(W_out)
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
        if W_gate is None and b_gate is not None:
            raise ValueError("b_gate needs W_gate; pass both or neither.")
        if W_gate is not None and np.shape(W_gate) != W_in.shape:
            raise ValueError(
                f"W_gate must have the shape of W_in, {W_in.shape}; "
                f"got {np.shape(W_gate)}."
            )
        if activation not in NONLINEARITIES:
            raise ValueError(
                f"activation must be one of {sorted(NONLINEARITIES)}; "
                f"got {activation!r}."
            )
        if not isinstance(site, Integral) or site < 0:
            raise ValueError(f"site must be an integer from 0; got {site!r}.")
        single = W_in.dtype == W_out.dtype == np.float32
        dtype = np.dtype(np.float32 if single else np.float64)
        arrays: dict[str, Any] = {
            "W_in": W_in,
            "W_out": W_out,
            "b_in": _bias("b_in", b_in, W_in.shape[1]),
            "b_out": _bias("b_out", b_out, W_out.shape[1]),
            "W_gate": None,
            "b_gate": None,
        }
        if W_gate is not None:
            arrays["W_gate"] = W_gate
            arrays["b_gate"] = _bias("b_gate", b_gate, W_in.shape[1])
        for name, array in arrays.items():
            if array is None:
                object.__setattr__(self, name, None)
                continue
            array = np.array(array, dtype=dtype)
            if not np.isfinite(array).all():
                raise ValueError(f"{name} contains NaN or infinity.")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "activation", activation)
        object.__setattr__(self, "site", int(site))
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
                "mlp must be an MLPClassifier or MLPRegressor; "
                f"got {type(mlp).__name__}."
            )
        check_is_fitted(mlp)
        n_hidden = len(mlp.coefs_) - 1
        if not 0 <= layer < n_hidden:
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
        linear_in: nn.Linear,
        linear_out: nn.Linear,
        activation: str | nn.Module,
        *,
        linear_gate: nn.Linear | None = None,
        site: int = 0,
    ) -> "MLPWeights":
        """Take the two linear layers of a torch MLP.

        Parameters
        ----------
        linear_in, linear_out : torch.nn.Linear
            The layers before and after the nonlinearity.

        activation : str or torch.nn.Module
            A name as in :class:`MLPWeights`, or one of ``nn.ReLU``, ``nn.GELU``
            (either form), ``nn.SiLU``, ``nn.Tanh``, ``nn.Sigmoid`` and
            ``nn.Identity``.

        linear_gate : torch.nn.Linear, default=None
            For a gated MLP, the layer before the nonlinearity; `linear_in` is then
            the one that multiplies its output (``up_proj`` in Llama).

        site : int, default=0
            The site of the activations that the MLP reads.

        Returns
        -------
        MLPWeights
            Copies of the weights, detached from the network.

        Raises
        ------
        TypeError
            If a layer is not linear or the activation module is not known.

        Examples
        --------
        >>> from torch import nn
        >>> from sklearn_ccx import MLPWeights
        >>> MLPWeights.from_torch(nn.Linear(8, 32), nn.Linear(32, 8), nn.GELU())
        MLPWeights(d=8, n_neurons=32, d_out=8, activation='gelu', site=0)
        """
        layers = {"linear_in": linear_in, "linear_out": linear_out}
        if linear_gate is not None:
            layers["linear_gate"] = linear_gate
        for name, linear in layers.items():
            if not isinstance(linear, nn.Linear):
                raise TypeError(
                    f"{name} must be a torch.nn.Linear; got {type(linear).__name__}. "
                    "For another layer pass its arrays to MLPWeights(W_in, W_out)."
                )
        if not isinstance(activation, str):
            activation = _activation_name(activation)
        return cls(
            _weight(linear_in),
            _weight(linear_out),
            b_in=_array(linear_in.bias),
            b_out=_array(linear_out.bias),
            W_gate=None if linear_gate is None else _weight(linear_gate),
            b_gate=None if linear_gate is None else _array(linear_gate.bias),
            activation=activation,
            site=site,
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"MLPWeights is immutable; cannot set {name!r}.")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"MLPWeights is immutable; cannot delete {name!r}.")

    def __sklearn_clone__(self) -> "MLPWeights":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        arrays = (self.W_in, self.W_out, self.b_in, self.b_out)
        gate = (self.W_gate, self.b_gate)
        return _restore, (*arrays, self.activation, self.site, *gate)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MLPWeights):
            return NotImplemented
        return (self.activation, self.site) == (other.activation, other.site) and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("W_in", "W_out", "b_in", "b_out", "W_gate", "b_gate")
        )

    def __hash__(self) -> int:
        return hash((self.W_in.shape, self.W_out.shape, self.activation, self.site))

    def __repr__(self) -> str:
        d, n_neurons = self.W_in.shape
        gated = "" if self.W_gate is None else ", gated=True"
        return (
            f"MLPWeights(d={d}, n_neurons={n_neurons}, d_out={self.W_out.shape[1]}, "
            f"activation={self.activation!r}, site={self.site}{gated})"
        )


def _restore(
    W_in: FloatArray,
    W_out: FloatArray,
    b_in: FloatArray,
    b_out: FloatArray,
    activation: str,
    site: int,
    W_gate: FloatArray | None,
    b_gate: FloatArray | None,
) -> MLPWeights:
    return MLPWeights(
        W_in,
        W_out,
        b_in=b_in,
        b_out=b_out,
        W_gate=W_gate,
        b_gate=b_gate,
        activation=activation,
        site=site,
    )


def _bias(name: str, bias: npt.ArrayLike | None, length: int) -> npt.NDArray[Any]:
    if bias is None:
        return np.zeros(length)
    bias = np.asarray(bias)
    if bias.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},); got {bias.shape}.")
    return bias


def _array(tensor: torch.Tensor | None) -> npt.NDArray[Any] | None:
    if tensor is None:
        return None
    tensor = tensor.detach().cpu()
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return tensor.numpy()


def _weight(linear: nn.Linear) -> npt.NDArray[Any]:
    weight = _array(linear.weight)
    assert weight is not None
    return weight.T


def _activation_name(module: nn.Module) -> str:
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    names = {
        nn.ReLU: "relu",
        nn.SiLU: "silu",
        nn.Tanh: "tanh",
        nn.Sigmoid: "logistic",
        nn.Identity: "identity",
    }
    for module_type, name in names.items():
        if isinstance(module, module_type):
            return name
    raise TypeError(
        f"activation {type(module).__name__} is not known; pass one of "
        f"{sorted(NONLINEARITIES)} or a matching torch module."
    )
