"""When a plain mask may be changed, and for which of the others.

A mask is known here by its place among those of a volume, and by what is expected of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from maskmend.guard.quality import Judged

PLAIN, STEADIED = 0, 1
"""Where these stand among the masks of a volume."""
OUT_OF_REACH = 2.0
"""No predicted Dice is as high."""
FITTING = 0.75
"""Dice between the plain mask and the committee's from which an image fits the statistics that the
segmentor was trained with. If its own ones promise most all the same, promises are deceived there,
and none counts (docs/log.md)."""

Several = Float[np.ndarray, "trial mask"]


@dataclass(frozen=True, kw_only=True)
class Guard:
    """When a plain mask may be changed."""

    gate: float
    """Predicted Dice of a plain mask from which no other is taken for its promise: there is little
    to gain. Votes and advice count all the same."""
    steady: float
    """And that from which it is steadied, where no other way is taken and this promises no loss: a
    structure in pieces would lose all but the largest."""
    caution: float
    """Standard errors of its prediction that the gain of another mask must be."""
    trusted: Sequence[int] | None = None
    """Places of the masks that may be taken for their promise; all by default. The best promise of
    many single masks is often one that flatters; a mean of several is seldom as wrong."""
    advised: int | None = None
    """Place of the mask by students' advice among those of a volume, if there is one."""
    advice_caution: float = 0.0
    """And the standard errors that its gain must be, whatever the gate says. Advice changes a mask
    only where the segmentor is unsure and seldom harms, so it may need less."""
    committee: int | None = None
    """Place of the mask that the committee puts in the place of a plain one, if there is one: that
    with the image's own statistics, whose promise counts below `FITTING` alone."""
    outvoted: float = 0.0
    """Dice between the plain mask and the committee's below which any promise of what the committee
    puts in its place is enough: a regression knows the shifts that it was fitted on, a vote needs
    to know none."""

    @property
    def rule(self) -> str:
        """For people, in a line."""
        if self == NEVER:
            return "no rule was found that does no harm, and every mask will be left alone"
        another = "another mask" if self.trusted is None else "a mean of several"
        parts = []
        if self.gate > 0:
            parts.append(
                f"mended below a predicted Dice of {self.gate:.2f} where {another} promises"
                f" {self.caution:.1f} times its doubt"
            )
        if self.outvoted > 0:
            parts.append(f"outvoted where the committee agrees by less than {self.outvoted:.2f}")
        if self.advised is not None:
            parts.append(f"advised where that promises {self.advice_caution:.1f} times its doubt")
        if self.steady < OUT_OF_REACH:
            parts.append(f"steadied from a predicted Dice of {self.steady:.2f} on")
        return f"a mask will be {', else '.join(parts)}, else left alone"

    def choose(self, judged: Judged, shared: float = 1.0) -> int:
        """The mask of the highest predicted Dice among those that promise enough.

        Args:
            judged: What is expected of each, the plain one and the steadied one first.
            shared: Dice between the plain mask and the committee's.

        Returns:
            Its number. If none does, or the plain mask is good enough, that of the committee, the
            advised, the steadied or the plain one.
        """
        return int(self.taken(judged.dice[None], judged.doubt[None], np.array([shared]))[0])

    def taken(
        self, dice: Several, doubt: Several, shared: Float[np.ndarray, " trial"]
    ) -> Int[np.ndarray, " trial"]:
        """What `choose` does, of several volumes."""
        best = self.best_promise(dice, doubt, shared)
        return np.where(best == PLAIN, self.otherwise(dice, doubt, shared), best)

    def best_promise(
        self, dice: Several, doubt: Several, shared: Float[np.ndarray, " trial"]
    ) -> Int[np.ndarray, " trial"]:
        """The mask that is taken for its promise, of several volumes; the plain one if none is."""
        plain = dice[:, [PLAIN]]
        enough = (plain < self.gate) & (dice - plain > self.caution * doubt)
        if self.trusted is not None:
            enough &= np.isin(np.arange(dice.shape[1]), self.trusted)
        best = np.where(enough.any(1), np.where(enough, dice, -1).argmax(1), PLAIN)
        if self.committee is None:
            return best
        return np.where((best == self.committee) & (shared >= FITTING), PLAIN, best)

    def otherwise(
        self, dice: Several, doubt: Several, shared: Float[np.ndarray, " trial"]
    ) -> Int[np.ndarray, " trial"]:
        """The mask that is taken where none is for its promise."""
        plain = dice[:, PLAIN]
        promised = dice - plain[:, None]
        steadied = (plain >= self.steady) & (promised[:, STEADIED] >= 0)
        taken = np.where(steadied, STEADIED, PLAIN)
        if self.advised is not None:
            needed = self.advice_caution * doubt[:, self.advised]
            asked = promised[:, self.advised] > needed
            taken[asked] = self.advised
        if self.committee is not None:
            taken[(shared < self.outvoted) & (promised[:, self.committee] > 0)] = self.committee
        return taken


NEVER = Guard(gate=0.0, steady=OUT_OF_REACH, caution=0.0)
"""Leaves every mask alone."""
