"""The fitted attributes of a coder that has been trained."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from .._engine._fit import Training
from .._engine._settings import FitSettings
from .._engine._tensors import to_numpy
from ..networks import check_mlps
from ._parameters import CoderParameters
from ._scales import MeasuredScales

FloatArray = npt.NDArray[np.floating]

_NO_HISTORY: Mapping[str, FloatArray] = MappingProxyType({})


def fitted_attributes(
    run: Training,
    scales: MeasuredScales,
    layout: dict[str, Any],
    history: Mapping[str, FloatArray] = _NO_HISTORY,
) -> dict[str, Any]:
    """What the training has made, in the user's units.

    Parameters
    ----------
    run : Training
        The training.
    scales : MeasuredScales
        Between its units and the user's.
    layout : dict
        Attributes that describe the activations, which are among the result.
    history : mapping of ndarray
        Of the passes before.
    """
    evaluation = run.evaluate()
    model, dtype = run.model, to_numpy(run.model.b_enc_M).dtype
    W_dec_MF = to_numpy(model.W_dec_MF).astype(np.float64)
    folded = scales.scaling.fold(
        to_numpy(model.W_enc_MF).astype(np.float64),
        to_numpy(model.b_enc_M).astype(np.float64),
        W_dec_MF,
    )
    encoder, encoder_intercept, components = (w.astype(dtype) for w in folded)
    threshold = model.activation.threshold
    by_site = W_dec_MF.reshape(len(W_dec_MF), layout["n_sites_"], -1)
    new = run.history()
    joined = {name: np.append(history.get(name, []), new[name]) for name in new}
    return layout | {
        "components_": components,
        "intercept_": scales.scaling.offset_F.astype(dtype),
        "encoder_components_": encoder,
        "encoder_intercept_": encoder_intercept,
        "threshold_": to_numpy(threshold) if threshold.ndim else float(threshold),
        "decoder_norms_": np.linalg.norm(by_site, axis=2).astype(dtype),
        "site_fvu_": evaluation.site_fvu,
        "site_norm_ratio_": evaluation.site_norm_ratio,
        "activation_frequency_": evaluation.activation_frequency,
        "history_": joined,
        "loss_curve_": joined["loss"].tolist(),
        "n_iter_": len(joined["loss"]),
    }


def kept_attributes(
    coder: CoderParameters,
    settings: FitSettings,
    scales: MeasuredScales,
    layout: dict[str, Any],
) -> dict[str, Any]:
    """What decides after the fit, whatever becomes of the coder's parameters."""
    n_sites = layout["n_sites_"]
    mlps = check_mlps(coder.mlp, n_sites, len(scales.scaling.offset_F) // n_sites)
    return {
        "k_": settings.k,
        "activation_": settings.activation,
        "mlp_": None if mlps is None else tuple(mlps),
        "n_dominant_": int(coder.n_dominant),
        "_scales": scales.to_dict(),
        "_fixed": {"center": coder.center, "normalize": coder.normalize},
    }
