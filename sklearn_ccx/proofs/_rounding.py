r"""Bounds on the rounding of float64, with their derivation.

Every quantity that a proof needs is made of sums of products of given float64 numbers
and of nonlinearities. Four facts bound their rounding, with the unit roundoff
:math:`u = 2^{-53}`:

1. *Sums.* A sum of :math:`n` products, in whatever order, is off by at most
   :math:`\gamma_n \sum_i |x_i y_i|` with :math:`\gamma_n = n u / (1 - n u)` (Higham,
   "Accuracy and Stability of Numerical Algorithms", section 3.1). What goes through
   several sums, one after the other, is off by :math:`\gamma` of all their terms
   together, times the sum of the magnitudes. Underflow takes at most the smallest
   normal number from each product.
2. *Nonlinearities.* One evaluation is off by a few roundoffs, of its argument or of
   its value (:func:`evaluation_rounding`).
3. *What goes on.* A nonlinearity passes on the rounding of its argument times its
   Lipschitz constant, weights times their magnitudes, and a product that of one factor
   times the other, with its rounding.
4. *Comparisons.* A bound is compared with the distance of two outputs that somebody
   computes in float64. The ends of the intervals, the dominant contributions and both
   outputs are rounded, and so is the bound itself.

By 4 each sum is counted :data:`_SIDES` times, each rounding that is passed on
:data:`_ENDS` times and each evaluation twice that. :data:`_SPARE_TERMS` more terms than
a sum has leave room for biases, norms and the arithmetic of the terms themselves.

A bound on a set is never below those on its samples, nor a Lipschitz bound below an
interval bound. So that rounding cannot reverse this order, what is looser is widened
:data:`_STEP` times more often than what is tighter (:meth:`Rounding.of_proof`): once
for the rounding of each.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from ..networks import MLPWeights
from ._nonlinearity import NONLINEARITIES, nonlinearity_value

FloatArray = npt.NDArray[np.float64]

UNIT_ROUNDOFF = float(np.finfo(np.float64).eps) / 2

# What underflow may take from a product; a sum of a million of them is still covered.
TINY = 1e6 * float(np.finfo(np.float64).tiny)

# The kept contributions, the interaction, the residual, and the two outputs compared
# are each off by at most one gamma times the magnitudes: five, and some.
_SIDES = 8.0

# Both ends of an interval move, or one end and the dominant contributions.
_ENDS = 2.0

_SPARE_TERMS = 16

# Rounding of one evaluation, in units of roundoff. GELU and SiLU are u times a factor
# in [0, 1], which a handful of operations gives to a few roundoffs *absolutely*
# (1 + erf cancels in the left tail); tanh and logistic are given to a few roundoffs of
# their value. relu and identity do not round.
_EVALUATION_ROUNDOFFS = 16.0

# A classifier predicts from probabilities, which are at most 1 and rounded as well.
_PROBABILITY_ROUNDOFFS = 16.0

_STEP = 2.0
LEVELS = ("sample", "group", "domain")
BOUNDS = ("interval", "lipschitz")


def gamma(n_terms: int, unit_roundoff: float = UNIT_ROUNDOFF) -> float:
    r""":math:`\gamma_n = n u / (1 - n u)`, the relative rounding of a sum of products.

    Parameters
    ----------
    n_terms : int
        Number of roundings that one term can go through.
    unit_roundoff : float
        Half the distance from 1 to the next larger number of the precision.

    Raises
    ------
    ValueError
        If there are too many terms for the precision to say anything.
    """
    product = n_terms * unit_roundoff
    if product >= 0.5:
        raise ValueError(
            f"a sum of {n_terms} terms cannot be bounded in a precision with unit "
            f"roundoff {unit_roundoff:.1e}; use weights in float64."
        )
    return product / (1.0 - product)


def evaluation_rounding(
    activation: str, u: FloatArray, unit_roundoff: float = UNIT_ROUNDOFF
) -> FloatArray:
    """Bound on the rounding of :func:`nonlinearity_value`, elementwise."""
    if activation in ("identity", "relu"):
        return np.zeros_like(u)
    if NONLINEARITIES[activation].minimum is not None:
        size = np.abs(u)
    else:
        size = np.abs(nonlinearity_value(activation, u))
    return _EVALUATION_ROUNDOFFS * unit_roundoff * size + TINY


@dataclass(frozen=True)
class Rounding:
    """How far a proof widens its bounds for rounding; the module has the derivation.

    Parameters
    ----------
    slack : float
        How many times each bound on rounding is taken.
    network_unit : float
        Unit roundoff of the precision in which the network is run. The explanation and
        the bounds are computed in float64.
    """

    slack: float
    network_unit: float = UNIT_ROUNDOFF

    @classmethod
    def of_proof(
        cls, level: str, bound: str, network_unit: float = UNIT_ROUNDOFF
    ) -> Self:
        """The slack of a level and a bound."""
        n_steps = LEVELS.index(level) + BOUNDS.index(bound)
        return cls(1.0 + _STEP * n_steps, network_unit)

    def of_sums(self, size: FloatArray, n_terms: int) -> FloatArray:
        """Rounding of sums with so many terms whose magnitudes add up to `size`."""
        relative = _SIDES * gamma(n_terms + _SPARE_TERMS, self.network_unit)
        return self.slack * (relative * size + TINY)

    def of_received(
        self, mass_GN: FloatArray, n_features: int, width: int
    ) -> FloatArray:
        """Rounding of what neurons receive, (G, N).

        The network sums over the width in its own precision. The explanation sums over
        the features and the width in float64.

        Parameters
        ----------
        mass_GN : ndarray of shape (G, N)
            Sums of the magnitudes that the neurons receive.
        n_features, width : int
            Number of features, and of columns of the site.
        """
        relative = _SIDES * gamma(n_features + width + _SPARE_TERMS)
        relative += gamma(width + _SPARE_TERMS, self.network_unit)
        return self.slack * (relative * mass_GN + TINY)

    def of_hidden(
        self,
        mlp: MLPWeights,
        received_GN: FloatArray,
        lower_GN: FloatArray,
        upper_GN: FloatArray,
    ) -> FloatArray:
        """Rounding of hidden activations, and of differences of them, (G, N).

        Parameters
        ----------
        mlp : MLPWeights
            Whose neurons they are.
        received_GN : ndarray of shape (G, N)
            Rounding of what the neurons receive.
        lower_GN, upper_GN : ndarray of shape (G, N)
            Range of what they receive. What is evaluated in between is not off by more
            than at one of the ends.
        """
        evaluation_GN = np.maximum(
            evaluation_rounding(mlp.activation, lower_GN, self.network_unit),
            evaluation_rounding(mlp.activation, upper_GN, self.network_unit),
        )
        moved_GN = mlp.lipschitz * received_GN
        return _ENDS * moved_GN + self.slack * 2 * _ENDS * evaluation_GN

    def of_gated_hidden(
        self,
        mlp: MLPWeights,
        received_GN: FloatArray,
        lower_GN: FloatArray,
        upper_GN: FloatArray,
    ) -> FloatArray:
        """Rounding of the hidden activations of gated neurons, (G, N).

        A Lipschitz bound multiplies the radius of the gate with the linear factor. It
        passes on the rounding of that factor times the Lipschitz constant and the
        radius, which the width of the gate's range covers.

        Parameters
        ----------
        mlp : MLPWeights
            Whose neurons they are.
        received_GN : ndarray of shape (G, 2N)
            Rounding of what gates and linear factors receive.
        lower_GN, upper_GN : ndarray of shape (G, 2N)
            Range of what they receive.
        """
        gate_received_GN, linear_received_GN = np.split(received_GN, 2, axis=1)
        gate_lower_GN, linear_lower_GN = np.split(lower_GN, 2, axis=1)
        gate_upper_GN, linear_upper_GN = np.split(upper_GN, 2, axis=1)
        gate_GN = self.of_hidden(mlp, gate_received_GN, gate_lower_GN, gate_upper_GN)
        # At most |phi| at one end, and what the width can add: once for the largest
        # |phi|, once for the radius.
        open_GN = np.abs(nonlinearity_value(mlp.activation, gate_lower_GN)) + gate_GN
        open_GN += 2 * mlp.lipschitz * (gate_upper_GN - gate_lower_GN)
        linear_GN = np.maximum(np.abs(linear_lower_GN), np.abs(linear_upper_GN))
        linear_GN += linear_received_GN
        product_GN = self.slack * (self.network_unit * open_GN * linear_GN + TINY)
        passed_on_GN = gate_GN * linear_GN + _ENDS * linear_received_GN * open_GN
        return passed_on_GN + 2 * _ENDS * product_GN

    def of_probabilities(self) -> float:
        """Rounding of the probabilities that a classifier turns its logits into."""
        return self.slack * _PROBABILITY_ROUNDOFFS * self.network_unit
