"""How many floating-point operations a proof and its alternatives take.

A multiplication, an addition, a comparison and one evaluation of the nonlinearity
count as one each. What only guards against rounding is not counted.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._dense_network import DenseNetwork
from ._explained_mlp import ExplainedMLP

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ProofLength:
    """Operations of a proof and of its alternative.

    Attributes
    ----------
    proof : int
        Checking the bounds: of each sample, or of each set of codes.
    membership : int
        Encoding the samples and checking that each is in its set; 0 for samples,
        whose codes are part of the statement.
    brute_force : int
        Running network and explanation on every sample instead, and comparing.
    """

    proof: int
    membership: int
    brute_force: int


@dataclass(frozen=True)
class _Operations:
    """Operations at one neuron.

    Parameters
    ----------
    interval, lipschitz : int
        From radii to a bound on the hidden activation.
    contribution : int
        For each active feature of a sample: to contribute, to be compared and added.
    dominance : int
        The part of these that the explanation itself takes.
    feature, sorting : int
        For each feature of a box, and for each as often as sorting visits it.
    """

    interval: int
    lipschitz: int
    contribution: int
    dominance: int
    feature: int
    sorting: int


_PLAIN = _Operations(14, 5, 3, 2, 6, 4)

# Both factors have ends (8), the gate goes through the nonlinearity (4), then come the
# four products and their comparisons with the explanation (14), the Lipschitz bounds of
# interaction (6) and residual (7), both intersections (4) and the norm (5). A feature
# contributes twice (4) to what decides the order: the largest linear contribution (1),
# sizes (3) and their comparison (1); then both interactions grow (2). In a box all of
# this has two ends, and seven sums want what is largest first.
_GATED = _Operations(48, 16, 11, 9, 38, 14)


def proof_length(
    mlps: list[ExplainedMLP],
    n_active: IntArray,
    n_possible: IntArray | None,
    n_columns: int,
    bound: str,
) -> ProofLength:
    """Count the operations of :func:`certify`.

    Parameters
    ----------
    mlps : list of ExplainedMLP
        The MLPs.
    n_active : ndarray of shape (n_samples,)
        Active features of each sample.
    n_possible : ndarray of shape (n_sets,) or None
        Features that can be active in each set of codes; None for samples.
    n_columns : int
        Columns of the activations.
    bound : {"interval", "lipschitz"}
        Which bound.
    """
    n_samples, total_active = len(n_active), int(n_active.sum())
    proof = brute_force = 0
    for mlp in mlps:
        n_features, width = mlp.W_dec_MD.shape
        n_neurons, n_outputs = mlp.W_out_NO.shape
        n_inputs = len(mlp.bias_N)
        count = _PLAIN if n_inputs == n_neurons else _GATED
        setup = 2 * n_features * width * n_inputs + 2 * width * n_inputs
        if bound == "interval":
            output = count.interval * n_neurons + 4 * n_neurons * n_outputs
            output += 4 * n_outputs
        else:
            output = count.lipschitz * n_neurons
        # The mean, the scale, and what is divided by it.
        norm = 0 if mlp.norm is None else 5 * width + 2 * n_inputs
        if n_possible is None:
            proof += n_samples * norm + total_active * (mlp.norm is not None)
            proof += total_active * (count.contribution * n_neurons + 2 * width)
            proof += n_samples * (2 * width * n_inputs + output)
        else:
            depth = np.ceil(np.log2(np.maximum(n_possible, 2))).astype(np.int64)
            of_features = n_possible * (count.feature + count.sorting * depth)
            proof += int(of_features.sum()) * n_neurons
            proof += len(n_possible) * output
        proof += setup + 2 * n_neurons * n_outputs
        # Weights, biases and the nonlinearity; a gated neuron multiplies as well.
        hidden = n_inputs + n_neurons
        network = 2 * n_inputs * width + 2 * n_neurons * n_outputs + hidden + norm
        explanation = 2 * n_neurons * n_outputs + hidden
        brute_force += setup + n_samples * (network + explanation + 3 * n_outputs)
        brute_force += total_active * count.dominance * n_neurons
    membership = _membership(mlps, n_active, n_possible, n_columns)
    return ProofLength(proof, membership, brute_force)


def prediction_proof_length(
    mlp: ExplainedMLP,
    network: DenseNetwork,
    n_active: IntArray,
    n_possible: IntArray | None,
    n_columns: int,
    bound: str,
    n_margins: int,
) -> ProofLength:
    """Count the operations of :func:`certify_classifier`.

    Parameters
    ----------
    mlp : ExplainedMLP
        The explained hidden layer.
    network : DenseNetwork
        The network from that layer on.
    n_active : ndarray of shape (n_samples,)
        Active features of each sample.
    n_possible : ndarray of shape (n_sets,) or None
        Features that can be active in each set of codes; None for samples.
    n_columns : int
        Columns of the activations.
    bound : {"interval", "lipschitz"}
        Which bound.
    n_margins : int
        For how many pairs of a sample or set and a predicted class the worst margins
        are computed.
    """
    first = proof_length([mlp], n_active, n_possible, n_columns, bound)
    later = sum(2 * layer.W_in.size + 2 * len(layer.W_out) for layer in network.later)
    # The output layer of the first MLP is that of the last.
    later += 2 * (network.last.W_out.size - network.first.W_out.size)
    n_samples = len(n_active)
    n_sets = n_samples if n_possible is None else len(n_possible)
    n_neurons = len(mlp.bias_N)
    explanation = int(n_active.sum()) * 2 * n_neurons
    explanation += n_samples * (2 * network.first.W_out.size + 2 * n_neurons + later)
    # An interval is a centre and a radius: twice the products.
    proof = first.proof + n_sets * 4 * sum(layer.W_in.size for layer in network.later)
    proof += n_margins * 6 * network.last.W_out.size + explanation
    brute_force = first.brute_force + 2 * n_samples * later
    return ProofLength(proof, first.membership, brute_force)


def _membership(
    mlps: list[ExplainedMLP],
    n_active: IntArray,
    n_possible: IntArray | None,
    n_columns: int,
) -> int:
    if n_possible is None:
        return 0
    n_features = len(mlps[0].M_MN)
    encoding = len(n_active) * (2 * n_columns * n_features + 3 * n_columns)
    residuals = sum(2 * mlp.W_in_DN.size + len(mlp.bias_N) for mlp in mlps)
    reconstruction = int(n_active.sum()) * (2 * n_columns + 2)
    return encoding + len(n_active) * residuals + reconstruction
