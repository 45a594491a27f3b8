"""How strongly norms scale their channels: what tells a trained network from one whose statistics lag behind."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from bnretrofit.affine import affine_of

__all__ = ["Scales", "scales_of"]


@dataclass(frozen=True, slots=True)
class Scales:
    """Figures of |weight| / sqrt(running_var + eps) over the channels of several norms; an inserted norm's are 1.

    Attributes:
        low: 1 % of the channels are below it.
        median: Half of them are.
        high: 99 % of them are.
        largest: The largest of all.
        norm: The name of the norm that has it.
    """

    low: float
    median: float
    high: float
    largest: float
    norm: str

    def __str__(self) -> str:
        shares = f"{self.low:.4g} (1 %), {self.median:.4g} (median), {self.high:.4g} (99 %)"
        # Where all are alike, which one is the largest is a matter of rounding.
        place = f" at '{self.norm}'" if self.largest > 1.001 * self.high else ""
        return f"{shares}, {self.largest:.4g} (largest){place}"


def scales_of(norms: Mapping[str, nn.Module]) -> Scales | None:
    """The figures of some norms with running statistics, by name; None if there is none."""
    found = {name: affine_of(norm).scale.abs().cpu() for name, norm in norms.items()}
    if not found:
        return None
    together = torch.cat(list(found.values())).sort().values
    # Ranks rather than torch.quantile, which takes no more than 16 million values.
    low, median, high = (float(together[round(share * (len(together) - 1))]) for share in (0.01, 0.5, 0.99))
    norm = max(found, key=lambda name: float(found[name].max()))
    return Scales(low, median, high, float(together[-1]), norm)
