"""Activations of a language model, and how to open those on disk."""

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .._validation import check_bool, check_path
from ._shard_directory import ShardDirectory
from ._sharded import ShardedActivations


@dataclass(frozen=True)
class Harvest:
    """Activations of a language model and the tokens they belong to.

    Attributes
    ----------
    activations : {ndarray, ShardedActivations} of shape (n_tokens, n_sites, d)
        One row for each token, by sequence and position: the X of the estimators.

    token_ids : ndarray of shape (n_tokens,), int64
        The token at which the row was recorded.

    positions : ndarray of shape (n_tokens,), int64
        Its position in its sequence, from 0, special tokens counted.

    sequence_ids : ndarray of shape (n_tokens,), int64
        Which of the inputs it is from.

    sites : tuple of str
        Full name of each site, in the order of the second axis of `activations`.

    See Also
    --------
    sklearn_ccx.lm.harvest : Record activations.
    load_harvest : Open activations that were written to a directory.

    Examples
    --------
    The rows of one token:

    >>> import numpy as np
    >>> from sklearn_ccx.activations import Harvest
    >>> harvest = Harvest(
    ...     np.arange(12.0).reshape(3, 1, 4),
    ...     token_ids=np.array([5, 7, 5]),
    ...     positions=np.array([0, 1, 2]),
    ...     sequence_ids=np.array([0, 0, 0]),
    ...     sites=("blocks.0.mlp_in",),
    ... )
    >>> harvest.activations[harvest.token_ids == 5][:, 0]
    array([[ 0.,  1.,  2.,  3.],
           [ 8.,  9., 10., 11.]])
    """

    activations: npt.NDArray[np.floating] | ShardedActivations
    token_ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    sequence_ids: npt.NDArray[np.int64]
    sites: tuple[str, ...]


def load_harvest(directory: str | os.PathLike[str], *, verify: bool = True) -> Harvest:
    """Open activations that :func:`~sklearn_ccx.lm.harvest` wrote to a directory.

    It needs no transformers: a directory can be read where no language model runs.

    Parameters
    ----------
    directory : str or path-like
        The `out` of :func:`~sklearn_ccx.lm.harvest`.

    verify : bool, default=True
        Whether to read all shards once and compare their checksums. Their sizes, and
        what their headers say of dtype, shape and making, are compared in either case.

    Returns
    -------
    harvest : Harvest
        The activations are a :class:`ShardedActivations`, which leaves them on disk.

    Raises
    ------
    ValueError
        If the directory is not one of :func:`~sklearn_ccx.lm.harvest` or is not
        complete, if the manifest is malformed, if a shard is damaged, or if the header
        of a shard does not agree with the manifest. The file is named.
    TypeError
        If a parameter has the wrong type.

    See Also
    --------
    sklearn_ccx.lm.harvest : Write such a directory.

    Examples
    --------
    >>> import tempfile
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from sklearn_ccx.activations import load_harvest
    >>> from sklearn_ccx.lm import harvest
    >>> config = GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=16)
    >>> model = GPT2LMHeadModel(config)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     _ = harvest(model, [[1, 2, 3], [4, 5]], out=directory, dtype="bfloat16")
    ...     load_harvest(directory).activations
    ShardedActivations(shape=(5, 2, 8), storage_dtype='bfloat16', n_files=1)
    """
    verify = check_bool(verify, "verify")
    shards = ShardDirectory.open(check_path(directory, "directory", of="directory"))
    shards.verify(checksums=None if verify else ())
    missing = shards.missing()
    if missing:
        raise ValueError(
            f"{os.fspath(directory)!r} is not complete: {len(missing)} shards are "
            f"missing, the first is {shards.shard_path(missing[0]).name}; call harvest "
            "again with the same arguments, which writes them."
        )
    return Harvest(
        activations=shards.activations(),
        **shards.token_arrays(),
        sites=tuple(shards.settings["sites"]),
    )
