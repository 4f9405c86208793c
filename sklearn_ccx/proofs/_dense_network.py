"""Fully connected networks of scikit-learn and torch, as lists of layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import nn

from .._validation import check_int
from ..networks import MLPWeights
from ._nonlinearity import nonlinearity_value

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DenseNetwork:
    """The layers of a network from an explained hidden layer on.

    Parameters
    ----------
    first : MLPWeights
        The explained hidden layer and the layer after it.
    later : tuple of MLPWeights
        Each following hidden layer, with the layer after it. The ``W_in`` of one is
        the ``W_out`` of the one before.
    unit_roundoff : float
        That of the precision in which the network is run.
    """

    first: MLPWeights
    later: tuple[MLPWeights, ...]
    unit_roundoff: float

    @property
    def last(self) -> MLPWeights:
        """The last hidden layer, with the output layer."""
        return self.later[-1] if self.later else self.first

    def hidden(self, hidden_BN: FloatArray) -> Iterator[FloatArray]:
        """Activations of all hidden layers, given those of the explained one."""
        yield hidden_BN
        for layer in self.later:
            input_BN = hidden_BN @ layer.W_in + layer.b_in
            hidden_BN = nonlinearity_value(layer.activation, input_BN)
            yield hidden_BN

    def output(self, hidden_BN: FloatArray) -> FloatArray:
        """Output, (B, O), given the activations of the explained layer, in float64."""
        *_, last_BN = self.hidden(hidden_BN)
        output_BO: FloatArray = last_BN @ self.last.W_out.astype(np.float64)
        return output_BO + self.last.b_out

    def true_output(self, x_BD: FloatArray) -> FloatArray:
        """Output, (B, O), given the input of the explained layer, in float64."""
        input_BN = x_BD @ self.first.W_in + self.first.b_in
        return self.output(nonlinearity_value(self.first.activation, input_BN))


def from_sklearn(
    network: MLPClassifier | MLPRegressor, layer: int, site: int
) -> DenseNetwork:
    """The layers of a fitted scikit-learn network from hidden layer ``layer`` on."""
    first = MLPWeights.from_sklearn(network, layer=layer, site=site)
    later = [
        MLPWeights.from_sklearn(network, layer=index)
        for index in range(layer + 1, len(network.coefs_) - 1)
    ]
    dtype = np.result_type(*network.coefs_)
    return DenseNetwork(first, tuple(later), float(np.finfo(dtype).eps) / 2)


def from_torch(network: nn.Sequential, site: int, name: str) -> DenseNetwork:
    """The layers of a torch network that reads the site.

    ``name`` is that of the parameter, for the errors.

    Raises
    ------
    TypeError
        If it is not made of linear layers and known nonlinearities.
    ValueError
        If it has no hidden layer.
    """
    linears: list[nn.Linear] = []
    activations: list[str | nn.Module] = []
    for module in network:
        if isinstance(module, nn.Dropout):  # does nothing after training
            continue
        if isinstance(module, nn.Linear):
            if len(activations) < len(linears):
                activations.append("identity")
            linears.append(module)
        elif len(activations) + 1 == len(linears):
            activations.append(module)
        else:
            raise TypeError(
                f"{name} has {type(module).__name__} where a torch.nn.Linear is "
                "needed; pass a torch.nn.Sequential of linear layers, each but the "
                "last followed by one nonlinearity."
            )
    if len(linears) < 2 or len(activations) != len(linears) - 1:
        raise ValueError(
            f"{name} has {len(linears)} linear layers and {len(activations)} "
            "nonlinearities; pass at least two linear layers, with a nonlinearity "
            "between every two and none after the last: the output must be logits."
        )
    layers = [
        # The layers after the first read no site.
        MLPWeights.from_torch(
            linear_in, linear_out, activation, site=0 if index else site
        )
        for index, (linear_in, linear_out, activation) in enumerate(
            zip(linears[:-1], linears[1:], activations, strict=True)
        )
    ]
    eps = max(torch.finfo(linear.weight.dtype).eps for linear in linears)
    return DenseNetwork(layers[0], tuple(layers[1:]), eps / 2)


def explained_network(
    network: Any,
    sklearn_class: type[MLPClassifier] | type[MLPRegressor],
    layer: int,
    site: int,
    *,
    name: str,
) -> DenseNetwork:
    """The layers of a network of either kind from an explained hidden layer on.

    Parameters
    ----------
    network : MLPClassifier, MLPRegressor or torch.nn.Sequential
        What the user passed.
    sklearn_class : type
        Which of scikit-learn's networks it may be.
    layer : int
        The explained hidden layer.
    site : int
        The site that it reads.
    name : str
        Name of the parameter, for the errors.

    Raises
    ------
    TypeError
        If it is no such network.
    ValueError
        If a torch network is to be read from a later layer.
    """
    layer = check_int(layer, "layer", minimum=0)
    site = check_int(site, "site", minimum=0)
    if isinstance(network, sklearn_class):
        return from_sklearn(network, layer, site)
    if not isinstance(network, nn.Sequential):
        raise TypeError(
            f"{name} must be an {sklearn_class.__name__} or a torch.nn.Sequential; "
            f"got {type(network).__name__}. Of a pipeline or a search, pass the "
            "network inside, and as X what that network reads."
        )
    if layer:
        raise ValueError(
            f"layer={layer}, but {name} is a torch.nn.Sequential, of which the first "
            "layer is explained; pass the layers from the explained one on."
        )
    return from_torch(network, site, name)
