r"""A norm in front of an explained MLP, with the scale of each sample.

The scale :math:`s_b` of the true activations is known for a sample, so that what stands
behind the norm is an MLP without one, of which codes, residual and the part of the bias
that the decoder's bias writes are divided by :math:`s_b`.

*Rounding.* The network takes the mean away, divides by its own :math:`s_b` and
multiplies by :math:`\gamma` before it sums. Each coordinate :math:`|r_d - \bar r|` is
made of magnitudes :math:`m_d = |r_d| + \overline{|r|}`, and so is what it contributes
to a neuron. The squared scale is a sum of squares of such coordinates, so that with
relative roundings of :math:`\gamma_n` for each

.. math::

    \frac{|\delta s_b|}{s_b}
    \le \gamma_n \Bigl(1 + \frac{\sqrt{\overline{m^2}}}{s_b}\Bigr),

by which everything that is divided by it is off. This and the rounding of the sums are
covered by ``1 + 1 + sqrt(mean(m**2)) / s`` times the bound on the latter.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ..networks import MLPWeights

FloatArray = npt.NDArray[np.float64]


class ExplainedNorm:
    """The norm of an MLP, in float64.

    Parameters
    ----------
    weights : MLPWeights
        An MLP with a norm.
    """

    def __init__(self, weights: MLPWeights) -> None:
        self._is_centred = weights.norm == "layernorm"
        self._eps = weights.eps

    def scales(self, x_BD: FloatArray) -> FloatArray:
        """Scale of each sample, (B,)."""
        if self._is_centred:
            x_BD = x_BD - x_BD.mean(axis=1, keepdims=True)
        return np.hypot(_root_mean_square(x_BD), np.sqrt(self._eps))

    def magnitudes(self, size_BD: FloatArray) -> FloatArray:
        """Sums of the magnitudes that centred coordinates are made of, (B, D)."""
        if not self._is_centred:
            return size_BD
        return size_BD + size_BD.mean(axis=1, keepdims=True)

    def rounding_factor(self, x_BD: FloatArray, scale_B: FloatArray) -> FloatArray:
        """How many times the rounding of the sums covers that of the norm, (B,)."""
        ratio_B: FloatArray = _root_mean_square(self.magnitudes(np.abs(x_BD))) / scale_B
        return 2.0 + ratio_B


def _root_mean_square(rows_BD: npt.NDArray[Any]) -> FloatArray:
    """Of each row, without overflow or underflow in between, (B,)."""
    largest_B1 = np.abs(rows_BD).max(axis=1, keepdims=True)
    largest_B1[largest_B1 == 0.0] = 1.0
    mean_B = np.square(rows_BD / largest_B1).mean(axis=1)
    root_B: FloatArray = largest_B1[:, 0] * np.sqrt(mean_B)
    return root_B
