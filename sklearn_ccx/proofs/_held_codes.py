"""The codes of all samples: encoded once, held as their active entries."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ..coders import BaseInteractionCoder


class HeldCodes:
    """Codes of samples, encoded once.

    The active entries are held in the precision of the encoder, with 4 bytes for the
    feature of each.

    Parameters
    ----------
    coder : InteractionCrosscoder or InteractionSAE
        A fitted coder.
    X : ndarray of shape (n_samples, F)
        Validated activations.
    batch_size : int
        Samples encoded at a time.

    Attributes
    ----------
    n_active_B : ndarray of shape (n_samples,), int64
        Number of active features of each sample.
    n_features : int
        Number of features.
    """

    def __init__(self, coder: BaseInteractionCoder, X: Any, batch_size: int) -> None:
        parts = [
            sparse.csr_array(codes_BM.cpu().numpy())
            for _, codes_BM in coder._encode_batches(X, batch_size)
        ]
        self.n_features = len(coder.components_)
        self.n_active_B = np.concatenate([np.diff(part.indptr) for part in parts])
        self.n_active_B = self.n_active_B.astype(np.int64)
        first_entry_B = np.concatenate([[0], np.cumsum(self.n_active_B)])
        # One after the other, so that not all is there twice at once.
        of_parts = [[part.data for part in parts], [part.indices for part in parts]]
        del parts
        feature_A = np.concatenate(of_parts.pop())
        value_A = np.concatenate(of_parts.pop())
        self._codes = sparse.csr_array(
            (value_A, feature_A, first_entry_B),
            shape=(len(self.n_active_B), self.n_features),
        )

    def __len__(self) -> int:
        return len(self.n_active_B)

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> sparse.csr_array:
        """The codes of some samples in float64, (B, M)."""
        return self._codes[rows].astype(np.float64)
