"""What a run knows of its own mistakes: predicted Dice, and the gain that is worth the risk.

Fitted once, after training; see `maskmend.calibrate`.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from maskmend.checkpoint import CALIBRATION
from maskmend.errors import RunError
from maskmend.guard.choice import Guard
from maskmend.guard.quality import Quality

SEGMENTOR = "segmentor_sha256"
"""In the file: whose masks these are."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """All that choosing among masks needs beside the networks."""

    quantiles: Float[Tensor, " quantile"]
    """Mean quantiles of the training images."""
    realistic: float
    """The discriminator's mean score of true masks."""
    quality: Quality
    """Predicts the Dice of masks."""
    guard: Guard
    """When to leave the plain mask."""
    correlation: float
    """Between predicted and true Dice of the plain masks, every patient predicted by the others."""

    def to_dict(self) -> dict[str, Any]:
        """As lists and numbers, for JSON."""
        return {
            "quantiles": self.quantiles.tolist(),
            "realistic": self.realistic,
            "quality": self.quality.to_dict(),
            **dataclasses.asdict(self.guard),
            "correlation": self.correlation,
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Calibration":
        """What `to_dict` made."""
        return cls(
            quantiles=torch.tensor(saved["quantiles"]),
            realistic=saved["realistic"],
            quality=Quality.from_dict(saved["quality"]),
            guard=Guard(**{field.name: saved[field.name] for field in dataclasses.fields(Guard)}),
            correlation=saved["correlation"],
        )


def read_calibration(run: Path) -> Calibration | None:
    """A run's calibration, if it has one.

    Raises:
        RunError: The file is damaged, or of another version.
    """
    try:
        return Calibration.from_dict(json.loads((run / CALIBRATION).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        lacks = isinstance(error, KeyError)
        what = f"is of another version, without {error}" if lacks else "is damaged"
        raise RunError(
            f"{run / CALIBRATION}: {what}; remove it and calibrate the run again"
        ) from error
