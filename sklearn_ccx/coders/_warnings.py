"""What a fit warns of."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from .._engine._measure_sites import Outliers
from .._engine._site_scaling import SiteScaling


def warn_of_constant_sites(scaling: SiteScaling) -> None:
    if scaling.is_constant_L.any():
        sites = np.flatnonzero(scaling.is_constant_L).tolist()
        warnings.warn(
            f"The activations do not vary at site(s) {sites}, which take no part in "
            "the reconstruction loss; leave them out of X.",
            UserWarning,
            stacklevel=6,
        )


def warn_of_outliers(outliers: Outliers) -> None:
    if outliers.n_found:
        more = "" if outliers.n_found <= len(outliers.named) else ", ..."
        rows = ", ".join(map(str, outliers.named)) + more
        warnings.warn(
            f"{outliers.n_found} row(s) of X have a norm more than "
            f"{outliers.threshold:g} times the median (up to {outliers.largest:.3g} "
            f"times): {rows}. They dominate scales, losses and score. Leave them out "
            "of X, or set outlier_threshold to train without them.",
            UserWarning,
            stacklevel=6,
        )


def warn_of_divergence(i_pass: int) -> None:
    warnings.warn(
        f"The training diverged in pass {i_pass}; the weights from before that "
        "pass are kept. Lower learning_rate_init or the penalties, or look for extreme "
        "values in X.",
        ConvergenceWarning,
        stacklevel=5,
    )
