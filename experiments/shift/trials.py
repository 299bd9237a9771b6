"""A run's trials.csv, as arrays that a guard can be chosen and measured on."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from maskmend.calibrate.search import best_guard
from maskmend.guard.choice import Guard
from maskmend.guard.quality import Judged
from maskmend.guard.ways import ADVISED, OUTVOTING, committees

Several = Float[np.ndarray, "image mask"]


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Images of the validation patients, and all masks of each; Dice in shares of one."""

    masks: tuple[str, ...]
    """Their names, the plain one first."""
    patient: np.ndarray
    draw: Int[np.ndarray, " image"]
    """Which copy; 0 is the image as it is, and of the others the first half is degraded and the
    second has artefacts."""
    dice: Several
    predicted: Several
    """By a regression on the other patients."""
    doubt: Several
    shared: Float[np.ndarray, " image"]
    """Dice between the plain mask and the committee's."""

    def of(self, which: Bool[np.ndarray, " image"]) -> "Trials":
        """Some of the images."""
        fields = ("patient", "draw", "dice", "predicted", "doubt", "shared")
        return replace(self, **{field: getattr(self, field)[which] for field in fields})

    def guard(self) -> Guard:
        """The one that calibration would choose on these."""
        means = [self.masks.index(mean) for mean in committees(1) if mean in self.masks]
        return best_guard(
            self.dice,
            [Judged(dice, doubt) for dice, doubt in zip(self.predicted, self.doubt, strict=True)],
            means=means,
            advised=self._place(ADVISED),
            committee=self._place(OUTVOTING),
            shared=self.shared,
        )

    def gains(self, guard: Guard) -> Float[np.ndarray, " image"]:
        """Of the masks that a guard takes over the plain ones, in points."""
        taken = guard.taken(self.predicted, self.doubt, self.shared)
        return 100 * (self.dice[np.arange(len(taken)), taken] - self.dice[:, 0])

    def _place(self, mask: str) -> int | None:
        return self.masks.index(mask) if mask in self.masks else None


def arrays(trials: pd.DataFrame) -> Trials:
    """The table's lines, image by image in its order."""
    plain = trials[trials["mask"] == "none"]

    def by_image(column: str) -> Several:
        return trials[column].to_numpy(float).reshape(len(plain), -1)

    return Trials(
        masks=tuple(trials["mask"].iloc[: len(trials) // len(plain)]),
        patient=plain["patient"].to_numpy(),
        draw=plain["draw"].to_numpy(),
        dice=by_image("dice"),
        predicted=by_image("predicted"),
        doubt=by_image("doubt"),
        shared=plain["shared"].to_numpy(float),
    )
