"""All masks of a validation patient's image, measured beside the truth, and a file of several."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from maskmend.checkpoint import read_tensors, write_tensors

UNFINISHED = "trials.part.safetensors"
"""Those that a calibration has made so far; the next takes them up if it is stopped."""


@dataclass(frozen=True)
class Trial:
    """All masks of one image of a validation patient."""

    patient: str
    features: Float[np.ndarray, "mask feature"]
    """See `maskmend.guard.quality.describe`."""
    dice: Float[np.ndarray, " mask"]
    draw: int = 0
    """Which degraded copy it is of; 0 is the image as it is."""
    shared: float = 1.0
    """Dice between the plain mask and the committee's, if there is one."""


def write_trials(path: Path, trials: Sequence[Trial], **metadata: Any) -> None:
    """Keep one or more in a file, atomically."""
    tensors = {
        "features": torch.tensor(np.stack([one.features for one in trials])),
        "dice": torch.tensor(np.stack([one.dice for one in trials])),
        "shared": torch.tensor([one.shared for one in trials], dtype=torch.float64),
    }
    write_tensors(
        path,
        tensors,
        patients=[one.patient for one in trials],
        draws=[one.draw for one in trials],
        decisive=metadata,
    )


def read_trials(path: Path, **metadata: Any) -> list[Trial]:
    """The trials in a file; none if there is no file, or if it was kept with other metadata.

    Raises:
        RunError: The file is damaged.
    """
    if not path.exists():
        return []
    tensors, kept = read_tensors(path)
    if kept.get("decisive") != metadata:
        return []
    features, dice, shared = (tensors[name].numpy() for name in ("features", "dice", "shared"))
    return [
        Trial(patient, features[number], dice[number], draw, float(shared[number]))
        for number, (patient, draw) in enumerate(zip(kept["patients"], kept["draws"], strict=True))
    ]
