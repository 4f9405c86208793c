"""What is measured on the data of a fit and kept for the calls after it."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np

from .._engine._fit import LossScales
from .._engine._measure_sites import TypicalNorms
from .._engine._site_scaling import SiteScaling
from .._engine.neurons import DataScale


@dataclass(frozen=True)
class MeasuredScales:
    """Scales of the sites and of the losses, and what norms are typical.

    Parameters
    ----------
    scaling : SiteScaling
        Between the user's units and those of training.
    losses : LossScales
        What the loss terms are divided by.
    typical : TypicalNorms
        What outliers are compared with.
    """

    scaling: SiteScaling
    losses: LossScales
    typical: TypicalNorms

    def to_dict(self) -> dict[str, Any]:
        """Arrays and numbers only, so that any format can keep them."""
        return {
            "scaling": asdict(self.scaling),
            "typical": asdict(self.typical),
            "code_scale": self.losses.code_scale,
            "mlp_scales": np.array(
                [list(asdict(scale).values()) for scale in self.losses.mlp_scales]
            ),
        }

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Self:
        """Undo :meth:`to_dict`."""
        n_numbers = len(fields(DataScale))
        rows = kept["mlp_scales"].reshape(-1, n_numbers).tolist()
        mlp_scales = tuple(DataScale(*row) for row in rows)
        return cls(
            SiteScaling(**kept["scaling"]),
            LossScales(mlp_scales, kept["code_scale"]),
            TypicalNorms(**kept["typical"]),
        )
