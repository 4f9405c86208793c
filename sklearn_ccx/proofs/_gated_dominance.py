r"""Dominant contributions of samples to gated neurons, whose factors share them.

A gated neuron is :math:`\varphi(g) v`. Feature :math:`h` contributes :math:`q_{bnh}` to
the gate :math:`g` and :math:`p_{bnh}` to the linear factor :math:`v`. Dominant in both
are the features of the largest sizes,

.. math::

    s_{bnh} = \mathrm{Lip}(\varphi) \bar v_{bn} |q_{bnh}|
              + |\varphi(\hat g_{bn})| |p_{bnh}|,
    \qquad \bar v_{bn} = |\gamma_n| + \max_h |p_{bnh}|,

where :math:`\hat g` is the gate on the reconstruction and :math:`\gamma` the linear
factor without features. With the features :math:`D` alone,

.. math::

    \varphi(\hat g) \hat v - \varphi(g_D) v_D
    = (\varphi(\hat g) - \varphi(g_D)) v_D + \varphi(\hat g) (\hat v - v_D)

is at most :math:`\mathrm{Lip}(\varphi) \bar v R_q + |\varphi(\hat g)| R_p`. Here
:math:`R_q` and :math:`R_p` are the sums of :math:`|q|` and :math:`|p|` over the other
features, and :math:`\bar v` has as many of the largest :math:`|p|` as :math:`D` has
features.

A feature of size 0 may or may not be in :math:`D`: the hidden activation is the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ._box_ranges import blocks, largest, padded_entries
from ._nonlinearity import NONLINEARITIES, nonlinearity_value

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]
FeatureArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class GatedInputs:
    """What gated neurons receive on samples: 2N columns, those of the gates first.

    Parameters
    ----------
    kept_BN : ndarray of shape (B, 2N)
        Dominant contributions and the bias.
    recon_BN : ndarray of shape (B, 2N)
        All contributions and the bias.
    interaction_BN : ndarray of shape (B, 2N)
        Sums of the magnitudes of the contributions that are not dominant.
    moved_BN : ndarray of shape (B, N)
        Most that these move the hidden activations.
    """

    kept_BN: FloatArray
    recon_BN: FloatArray
    interaction_BN: FloatArray
    moved_BN: FloatArray


def gated_contributions(
    codes_BM: sparse.csr_array,
    M_MN: FloatArray,
    bias_BN: FloatArray,
    activation: str,
    n_dominant: int,
) -> GatedInputs:
    """Contributions to gated neurons, dominant and others.

    Ties go to the feature with the lower index. What is not dominant is added up
    without what is, so that nothing cancels.

    Parameters
    ----------
    codes_BM : csr_array of shape (B, M)
        Codes, their active entries in the order of the features.
    M_MN : ndarray of shape (M, 2N)
        What one unit of each feature writes to the gates and the linear factors.
    bias_BN : ndarray of shape (2N,) or (B, 2N)
        What they receive without features.
    activation : str
        The gates' nonlinearity.
    n_dominant : int
        How many features a neuron keeps.
    """
    bias_BN = np.broadcast_to(bias_BN, (codes_BM.shape[0], M_MN.shape[1]))
    n_neurons = M_MN.shape[1] // 2
    lipschitz = NONLINEARITIES[activation].lipschitz
    recon_BN = codes_BM @ M_MN + bias_BN
    open_BN = np.abs(nonlinearity_value(activation, recon_BN[:, :n_neurons]))
    kept_BN, interaction_BN = bias_BN.copy(), np.zeros_like(bias_BN)
    moved_BN = np.zeros_like(open_BN)
    for block in _blocks(codes_BM, M_MN, bias_BN, open_BN, lipschitz, n_dominant):
        linear_tile = _linear(block.tile, n_neurons)
        for tile, value_KAT in (
            (block.tile, block.gate_KAT),
            (linear_tile, block.linear_KAT),
        ):
            dominant_KRT = np.take_along_axis(value_KAT, block.slot_KRT, axis=1)
            kept_BN[block.rows_K, tile] += dominant_KRT.sum(axis=1)
            size_KAT = np.abs(value_KAT)
            np.put_along_axis(size_KAT, block.slot_KRT, 0.0, axis=1)
            interaction_BN[block.rows_K, tile] = size_KAT.sum(axis=1)
        largest_KT = largest(np.abs(block.linear_KAT), n_dominant).sum(axis=1)
        linear_KT = np.abs(bias_BN[block.rows_K, linear_tile]) + largest_KT
        moved_KT = linear_KT * lipschitz * interaction_BN[block.rows_K, block.tile]
        moved_KT += (
            open_BN[block.rows_K, block.tile]
            * interaction_BN[block.rows_K, linear_tile]
        )
        moved_BN[block.rows_K, block.tile] = moved_KT
    return GatedInputs(kept_BN, recon_BN, interaction_BN, moved_BN)


def gated_dominant_features(
    codes_BM: sparse.csr_array,
    M_MN: FloatArray,
    bias_N: FloatArray,
    activation: str,
    n_dominant: int,
) -> Iterator[tuple[IntArray, FeatureArray]]:
    """Dominant features by falling size, for some samples and neurons after the other.

    Yields
    ------
    rows_K : ndarray of shape (K,)
        The samples.
    feature_KTR : ndarray of shape (K, T, R), int32
        Features that are dominant at `T` neurons, -1 for none. The neurons of a sample
        come in their order.
    """
    bias_BN = np.broadcast_to(bias_N, (codes_BM.shape[0], M_MN.shape[1]))
    n_neurons = M_MN.shape[1] // 2
    gate_BN = codes_BM @ M_MN[:, :n_neurons] + bias_BN[:, :n_neurons]
    open_BN = np.abs(nonlinearity_value(activation, gate_BN))
    lipschitz = NONLINEARITIES[activation].lipschitz
    for block in _blocks(codes_BM, M_MN, bias_BN, open_BN, lipschitz, n_dominant):
        slot_KTR = block.slot_KRT.transpose(0, 2, 1)
        feature_KTR = np.take_along_axis(
            block.feature_KA[:, np.newaxis, :], slot_KTR, axis=2
        )
        yield block.rows_K, np.ascontiguousarray(feature_KTR, dtype=np.int32)


@dataclass(frozen=True)
class _Block:
    """Contributions of some samples to some neurons, and which of them dominate.

    Parameters
    ----------
    rows_K : ndarray of shape (K,)
        The samples.
    tile : slice
        The neurons, of which there are T.
    feature_KA : ndarray of shape (K, A)
        Active features, -1 for none.
    gate_KAT, linear_KAT : ndarray of shape (K, A, T)
        What they write to gates and linear factors, 0 for none.
    slot_KRT : ndarray of shape (K, R, T)
        Places of the dominant ones among them.
    """

    rows_K: IntArray
    tile: slice
    feature_KA: IntArray
    gate_KAT: FloatArray
    linear_KAT: FloatArray
    slot_KRT: IntArray


def _blocks(
    codes_BM: sparse.csr_array,
    M_MN: FloatArray,
    bias_BN: FloatArray,
    open_BN: FloatArray,
    lipschitz: float,
    n_dominant: int,
) -> Iterator[_Block]:
    """All samples with an active feature and all neurons."""
    n_neurons = open_BN.shape[1]
    n_active_B = np.diff(codes_BM.indptr)
    for rows_K, n_slots, tile in blocks(n_active_B, n_active_B, n_neurons):
        entry_KA, is_entry_KA = padded_entries(codes_BM, rows_K, n_slots)
        feature_KA = codes_BM.indices[entry_KA]
        code_KA1 = np.where(is_entry_KA, codes_BM.data[entry_KA], 0.0)[:, :, np.newaxis]
        linear_tile = _linear(tile, n_neurons)
        gate_KAT = code_KA1 * M_MN[feature_KA, tile]
        linear_KAT = code_KA1 * M_MN[feature_KA, linear_tile]
        linear_size_KAT = np.abs(linear_KAT)
        bias_size_KT = np.abs(bias_BN[rows_K, linear_tile])
        gate_weight_KT = lipschitz * (bias_size_KT + linear_size_KAT.max(axis=1))
        linear_weight_KT = open_BN[rows_K, tile]
        # By a power of two, which is exact: sizes must neither overflow nor underflow
        # where contributions do not.
        _, exponent_KT = np.frexp(np.maximum(gate_weight_KT, linear_weight_KT))
        size_KAT = np.abs(gate_KAT)
        size_KAT *= np.ldexp(gate_weight_KT, -exponent_KT)[:, np.newaxis]
        linear_size_KAT *= np.ldexp(linear_weight_KT, -exponent_KT)[:, np.newaxis]
        size_KAT += linear_size_KAT
        if n_dominant == 1:
            slot_KRT = size_KAT.argmax(axis=1, keepdims=True)
        else:
            order_KAT = np.argsort(-size_KAT, axis=1, kind="stable")
            slot_KRT = order_KAT[:, :n_dominant]
        yield _Block(
            rows_K,
            tile,
            np.where(is_entry_KA, feature_KA, -1),
            gate_KAT,
            linear_KAT,
            slot_KRT,
        )


def _linear(tile: slice, n_neurons: int) -> slice:
    """The columns of the linear factors of some neurons."""
    return slice(n_neurons + tile.start, n_neurons + tile.stop)
