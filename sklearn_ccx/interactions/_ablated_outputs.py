"""What comes out of an MLP whose neurons keep some features, chunk by chunk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._engine._sparse_codes import SparseCodes
from .._engine.neurons import Contributions, OutputShift, ScaleSums
from ..activations._row_range import RowRange
from ._reader import EncodedChunk, NeuronReader
from ._row_tasks import Workers, chunk_rows

FloatArray = npt.NDArray[np.floating]

# What goes from one process to another must not need a device.
_CPU = torch.device("cpu")

_Batches = list[tuple[slice, SparseCodes]]


@dataclass(frozen=True)
class RowDraws:
    """Random numbers for each sample and neuron, whoever asks for which of them first.

    Parameters
    ----------
    seed : int
        Where they come from.
    """

    seed: int

    @classmethod
    def for_mlps(cls, random: np.random.RandomState, n_mlps: int) -> list["RowDraws"]:
        """Independent draws for each MLP."""
        return [cls(int(seed)) for seed in random.randint(2**31 - 1, size=n_mlps)]

    def uniform(self, first_row: int, n_rows: int, n_neurons: int) -> FloatArray:
        """Numbers from 0 to 1 for consecutive samples, (B, N)."""
        # PCG64 takes one step for each of these numbers.
        bits = np.random.PCG64(self.seed).advance(first_row * n_neurons)
        return np.random.Generator(bits).random((n_rows, n_neurons))


def kept_input(
    contributions: Contributions, scheme: str, rank: int, draws_BN: FloatArray | None
) -> Tensor:
    """What the neurons receive from the features that a scheme keeps, (B, N).

    Parameters
    ----------
    contributions : Contributions
        What all features write, and the largest of it.
    scheme : str
        As in :func:`ablation_fidelity`.
    rank : int
        How many of the largest contributions the scheme has to know.
    draws_BN : ndarray of shape (B, N)
        Numbers from 0 to 1 that choose what "drop_random" drops.
    """
    dominant_RBN = contributions.dominant_RBN
    if scheme == "keep_largest":
        return dominant_RBN[0]
    if scheme.startswith("keep_top_"):
        return dominant_RBN[: min(rank, len(dominant_RBN))].sum(dim=0)
    all_BN = contributions.all_inputs()
    if scheme == "drop_largest":
        return all_BN - dominant_RBN[0]
    if scheme == "drop_second":  # of a single feature there is no second
        return all_BN - dominant_RBN[1:2].sum(dim=0)
    if draws_BN is not None:
        entry_BN = _random_entries(contributions, draws_BN)
        return all_BN - contributions.inputs_of(entry_BN[None])[0]
    return all_BN


def _random_entries(contributions: Contributions, draws_BN: FloatArray) -> Tensor:
    """A random active entry for each neuron, (B, N), -1 where there is none."""
    codes = contributions.codes
    n_entries_B1 = codes.n_entries().unsqueeze(1)
    slot_BN = torch.from_numpy(draws_BN).to(n_entries_B1.device) * n_entries_B1
    entry_BN = codes.first_entry_B.unsqueeze(1) + slot_BN.long()
    return entry_BN.where(n_entries_B1 > 0, -1)


def _drawn(
    draws: RowDraws, scheme: str, first_row: int, contributions: Contributions
) -> FloatArray | None:
    if scheme != "drop_random":
        return None
    return draws.uniform(first_row, *contributions.entry_RBN[0].shape)


# What tasks do


def ablated_outputs(
    chunk: EncodedChunk, index: int, scheme: str, rank: int, draws: RowDraws
) -> FloatArray:
    """Output of an MLP on a chunk, its bias included, (B, O)."""
    reader = chunk.reader
    outputs = []
    for rows, mlp, batch in chunk.contributions(index, rank):
        draws_BN = _drawn(draws, scheme, reader.first_row + rows.start, batch)
        outputs.append(mlp.output(kept_input(batch, scheme, rank, draws_BN)))
    output: FloatArray = (torch.cat(outputs) + reader.output_bias(index)).cpu().numpy()
    return output


def network_outputs(chunk: EncodedChunk, index: int, with_input: bool) -> FloatArray:
    """True output of an MLP on a chunk, or that without any feature, (B, O)."""
    reader = chunk.reader
    outputs = []
    for rows, _ in chunk.batches:
        x_BF = reader.centred(rows)
        mlp = reader.mlps[index].on(x_BF)
        input_BN = mlp.received(x_BF)
        outputs.append(
            mlp.output(input_BN if with_input else torch.zeros_like(input_BN))
        )
    output: FloatArray = (torch.cat(outputs) + reader.output_bias(index)).cpu().numpy()
    return output


@dataclass(frozen=True)
class FidelitySums:
    """Sums over samples from which the fidelities come.

    Parameters
    ----------
    squared_error : dict of str to ndarray of shape (n_mlps,)
        For each scheme.
    scales : list of ScaleSums
        For each MLP.
    """

    squared_error: dict[str, npt.NDArray[np.float64]]
    scales: list[ScaleSums]

    def __add__(self, other: "FidelitySums") -> "FidelitySums":
        error = other.squared_error
        return FidelitySums(
            {scheme: e + error[scheme] for scheme, e in self.squared_error.items()},
            [a + b for a, b in zip(self.scales, other.scales, strict=True)],
        )


def output_shifts(reader: NeuronReader) -> list[OutputShift]:
    """What the outputs of each MLP are shifted by and divided by."""
    x_BF = reader.centred(slice(0, reader.batch_size))
    return [OutputShift.near(mlp.on(x_BF), x_BF).to(_CPU) for mlp in reader.mlps]


def fidelity_sums(
    chunk: EncodedChunk,
    ranks: dict[str, int],
    draws: list[RowDraws],
    shifts: list[OutputShift],
) -> FidelitySums:
    """Sums over the samples of a chunk."""
    reader = chunk.reader
    zero_F = reader.tensor(np.zeros(reader.X.shape[1]))
    n_dominant = max(ranks.values(), default=1)
    squared_error = {scheme: np.zeros(len(reader.mlps)) for scheme in ranks}
    scales = []
    for index, shift in enumerate(shifts):
        shift = shift.to(reader.device)
        scale = ScaleSums.of_nothing()
        for rows, mlp, batch in chunk.contributions(index, n_dominant):
            x_BF = reader.centred(rows)
            scale += ScaleSums.of_batch(mlp, x_BF, zero_F, shift)
            true_BO = mlp.output(mlp.received(x_BF)).double()
            for scheme, rank in ranks.items():
                draws_BN = _drawn(
                    draws[index], scheme, reader.first_row + rows.start, batch
                )
                output_BO = mlp.output(kept_input(batch, scheme, rank, draws_BN))
                difference_BO = (output_BO.double() - true_BO) / shift.unit
                squared_error[scheme][index] += float(difference_BO.square().sum())
        scales.append(scale.to(_CPU))
    return FidelitySums(squared_error, scales)


@dataclass(frozen=True)
class HeldChunks:
    """All samples, encoded, to be gone through more than once.

    Parameters
    ----------
    reader : NeuronReader
        Has the samples.
    parts : list of (RowRange, list of (slice, SparseCodes))
        The rows of each chunk, and their codes by batches of these.
    workers : Workers
        Who goes through them.
    """

    reader: NeuronReader
    parts: list[tuple[RowRange, _Batches]]
    workers: Workers

    @classmethod
    @contextmanager
    def encoded(
        cls, reader: NeuronReader, n_jobs: int | None
    ) -> Iterator["HeldChunks"]:
        """Encode the samples of a reader, and keep the workers."""
        rows = chunk_rows(reader)
        with Workers(n_jobs, len(rows)) as workers:
            tasks = [(chunk,) for chunk in rows]
            batches = workers.run(_encoded_batches, reader, tasks)
            yield cls(reader, list(zip(rows, batches, strict=True)), workers)

    def outputs(
        self, function: Callable[..., FloatArray], *arguments: Any
    ) -> FloatArray:
        """What a function gives for each chunk, one below the other."""
        tasks = [(*part, function, *arguments) for part in self.parts]
        return np.concatenate(self.workers.run(_of_held, self.reader, tasks))


def _encoded_batches(reader: NeuronReader) -> _Batches:
    return list(reader.codes())


def _of_held(
    reader: NeuronReader,
    batches: _Batches,
    function: Callable[..., FloatArray],
    *arguments: Any,
) -> FloatArray:
    here = [(rows, codes.to(reader.device)) for rows, codes in batches]
    return function(EncodedChunk(reader, here), *arguments)
