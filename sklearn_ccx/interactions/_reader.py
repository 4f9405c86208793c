"""The one reader of features at neurons: codes once for all MLPs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._engine._sparse_codes import SparseCodes
from .._engine._tensors import to_tensor, torch_dtype
from .._engine.neurons import Contributions, FrozenMLP, at_most_all
from .._validation import check_int
from ..activations._row_range import RowRange
from ..coders import find_coder
from ..networks import MLPs, MLPWeights, check_mlps, freeze_mlps

# Samples encoded at a time.
_DEFAULT_BATCH_SIZE = 512

# Samples whose codes are held, as active entries, while the MLPs take their turns.
_CHUNK_ROWS = 16_384

# Bytes that the dominant contributions of a batch may take, and how many arrays of
# their shape and eight bytes a number are held at once.
_MAX_CONTRIBUTION_BYTES = 2**28
_N_ARRAYS = 6

# Bytes up to which what the features write to the neurons is kept between chunks.
_MAX_KEPT_BYTES = 2**28


class NeuronReader:
    """Reads activations through the coder inside an estimator and its MLPs.

    Each sample is encoded once, however many MLPs there are. Pickled, it is arrays that
    joblib and dask send once, however many tasks there are, without activations.

    Parameters
    ----------
    estimator : estimator
        Anything with a fitted coder inside; see :func:`find_coder`.
    X : array-like
        What `estimator` takes.
    mlp : MLPWeights, list of MLPWeights or None
        The MLPs; None takes those of the coder.
    n_dominant : int or None
        How many contributions a neuron keeps; None takes the coder's.
    batch_size : int or None
        Samples read at a time.

    Attributes
    ----------
    coder : InteractionCrosscoder or InteractionSAE
        The coder.
    X : array of shape (n_samples, F)
        The validated activations.
    first_row : int
        The number of the first of them among all samples.
    weights : list of MLPWeights or None
        The MLPs, None for identity neurons.
    mlps : list of FrozenMLP
        The same as tensors, in the user's units.
    n_dominant : int
        How many contributions a neuron keeps.
    batch_size : int
        Samples read at a time.
    chunk_length : int
        Samples of a chunk, which are whole batches.
    device : torch.device
        Where the tensors are.
    """

    def __init__(
        self,
        estimator: Any,
        X: npt.ArrayLike,
        *,
        mlp: MLPs = None,
        n_dominant: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.batch_size = _DEFAULT_BATCH_SIZE
        if batch_size is not None:
            self.batch_size = check_int(batch_size, "batch_size")
        if n_dominant is not None:
            n_dominant = check_int(n_dominant, "n_dominant")
        coder, X = find_coder(estimator, X)
        self.coder = coder
        self.n_dominant = coder.n_dominant_ if n_dominant is None else n_dominant
        self.X: Any = coder._validate_activations(X)
        self.first_row = 0
        self.batch_size = min(self.batch_size, len(self.X))
        self.chunk_length = -(-_CHUNK_ROWS // self.batch_size) * self.batch_size
        n_sites = coder.n_sites_
        self.weights: list[MLPWeights] | None = check_mlps(
            coder.mlp_ if mlp is None else mlp, n_sites, self.X.shape[1] // n_sites
        )
        self.numpy_dtype = coder._output_dtype(self.X)
        self._make_tensors()

    def _make_tensors(self) -> None:
        self._dtype = torch_dtype(self.numpy_dtype)
        self.device = self.coder._torch_device()
        self.mlps: list[FrozenMLP] = freeze_mlps(
            self.weights,
            self.coder.intercept_,
            self.coder.n_sites_,
            dtype=self._dtype,
            device=self.device,
        )
        self._written: dict[int, Tensor] = {}

    def over(self, rows: RowRange) -> Self:
        """The same for some of the activations."""
        if not hasattr(self, "mlps"):
            # Not when it is unpickled: an error there would end joblib's workers.
            self._make_tensors()
        reader = type(self).__new__(type(self))
        reader.__dict__.update(self.__dict__)
        reader.X, reader.first_row = rows, rows.first
        return reader

    def __getstate__(self) -> dict[str, Any]:
        return {
            "coder": self.coder._for_reading(),
            "weights": self.weights,
            "n_dominant": self.n_dominant,
            "batch_size": self.batch_size,
            "chunk_length": self.chunk_length,
            "numpy_dtype": self.numpy_dtype,
        }

    def __sizeof__(self) -> int:
        # dask asks, and sends what is large once.
        arrays = [*vars(self.coder).values()]
        for weights in self.weights or []:
            arrays += weights.__getstate__().values()
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))

    @property
    def n_components(self) -> int:
        """Number of features."""
        return len(self.coder.components_)

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """Tensor in the precision and on the device of the computation."""
        return to_tensor(array, self._dtype, self.device)

    def output_bias(self, mlp_index: int) -> Tensor:
        """Output bias of an MLP, (O,)."""
        if self.weights is None:
            return torch.zeros((), dtype=self._dtype, device=self.device)
        return self.tensor(self.weights[mlp_index].b_out)

    def centred_batches(self) -> Iterator[Tensor]:
        """The activations without the decoder's bias, (B, F)."""
        for start in range(0, len(self.X), self.batch_size):
            yield self.centred(slice(start, start + self.batch_size))

    def centred(self, rows: slice) -> Tensor:
        """Some activations without the decoder's bias, (B, F)."""
        return self.tensor(self.X[rows]) - self.tensor(self.coder.intercept_)

    def codes(self) -> Iterator[tuple[slice, SparseCodes]]:
        """The samples' codes, batch by batch: the one place where X is encoded."""
        for rows, codes_BM in self.coder._encode_batches(self.X, self.batch_size):
            yield rows, SparseCodes.from_dense(codes_BM)

    def chunks(self) -> Iterator["EncodedChunk"]:
        """Encoded samples, of which the contributions to each MLP can be had.

        Chunks begin at the same samples wherever a task begins that reads several.
        """
        batches: list[tuple[slice, SparseCodes]] = []
        for rows, codes in self.codes():
            batches.append((rows, codes))
            if rows.stop - batches[0][0].start >= self.chunk_length:
                yield EncodedChunk(self, batches)
                batches = []
        if batches:
            yield EncodedChunk(self, batches)

    def mlp_on(self, mlp_index: int, rows: slice) -> FrozenMLP:
        """An MLP for some samples, of which a norm before it takes the scale."""
        mlp = self.mlps[mlp_index]
        return mlp if mlp.norm is None else mlp.on(self.centred(rows))

    def written(self, mlp_index: int) -> Tensor:
        """What one unit of each feature writes to the neurons of an MLP, (M, N)."""
        if mlp_index in self._written:
            return self._written[mlp_index]
        M_MN = self.mlps[mlp_index].neuron_inputs(self.tensor(self.coder.components_))
        if len(self.mlps) * M_MN.nbytes <= _MAX_KEPT_BYTES:
            self._written[mlp_index] = M_MN
        return M_MN


@dataclass(frozen=True)
class EncodedChunk:
    """Some samples, encoded.

    Parameters
    ----------
    reader : NeuronReader
        Where they come from.
    batches : list of (slice, SparseCodes)
        Rows of X, and their codes.
    """

    reader: NeuronReader
    batches: list[tuple[slice, SparseCodes]]

    @property
    def rows(self) -> slice:
        """Which samples of the reader these are."""
        return slice(self.batches[0][0].start, self.batches[-1][0].stop)

    def contributions(self, mlp_index: int, n_dominant: int) -> Iterator["ReadBatch"]:
        """What the features write to the neurons of an MLP, batch by batch.

        Batches are split where a sample has so many dominant features that those of
        all would not fit.
        """
        reader, M_MN = self.reader, self.reader.written(mlp_index)
        mlp = reader.mlps[mlp_index]

        def read(rows: slice, codes: SparseCodes) -> ReadBatch:
            on_rows = reader.mlp_on(mlp_index, rows)
            return ReadBatch(
                rows, on_rows, on_rows.contributions(codes, M_MN, n_dominant)
            )

        for rows, codes in self.batches:
            n_numbers = at_most_all(n_dominant, codes) * len(mlp.bias_N)
            step = _MAX_CONTRIBUTION_BYTES // (8 * _N_ARRAYS * max(1, n_numbers))
            step = max(1, step)
            if step >= len(codes):
                yield read(rows, codes)
                continue
            for start in range(0, len(codes), step):
                part, _ = codes.rows(slice(start, start + step))
                first = rows.start + start
                yield read(slice(first, first + len(part)), part)


class ReadBatch(NamedTuple):
    """Some samples, the MLP for them, and what the features write to its neurons."""

    rows: slice
    mlp: FrozenMLP
    contributions: Contributions


def refuse_overflow(values: npt.ArrayLike, name: str) -> None:
    """Raise if a result is more than its precision can hold.

    Raises
    ------
    ValueError
        If it is not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} is not finite: X or the weights of mlp are too large for the "
            "precision. Divide X by a constant and fit again, and multiply the input "
            "weights by it, or pass X in float64."
        )
