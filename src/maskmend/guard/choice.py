"""When a plain mask may be changed: the rule, and the most cautious one that pays.

A mask is known here by its place among those of a volume, and by what is expected of it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from maskmend.guard.quality import Judged

HARM = 0.01
"""Loss of Dice that counts as harm."""
FEW = 0.005
"""Share of the validation images that may be harmed, by three times as much at the most. So none of
fewer than 200: what is chosen to be just harmless enough on these is not on others."""
_NEARLY = 0.9
PLAIN, STEADIED = 0, 1
"""Where these stand among the masks of a volume."""
_NEVER = 2.0  # no predicted Dice is as high
_MARGIN = 1.25
"""Times the most disagreement with which the committee harmed a validation image."""
_MOST_OUTVOTED = 0.8
"""And no higher: that of few images can be too high by luck (docs/log.md)."""
_GATES = np.linspace(0.4, 1, 25)
_CAUTIONS = np.linspace(0, 15, 31)
_TRUSTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0)
_STEADIES = (*np.linspace(0.4, 1, 13), _NEVER)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """When a plain mask may be changed."""

    gate: float
    """Predicted Dice of a plain mask from which no other way is tried: there is little to gain."""
    steady: float
    """And that from which it is steadied, where no other way is taken."""
    caution: float
    """Standard errors of its prediction that the gain of another mask must be."""
    advised: int | None = None
    """Place of the mask by students' advice among those of a volume, if there is one."""
    trust: float = 0.0
    """And the standard errors that its gain must be, whatever the gate says. Advice changes a mask
    only where the segmentor is unsure and seldom harms, so it may need less."""
    committee: int | None = None
    """Place of the committee's mask, if there is one."""
    outvoted: float = 0.0
    """Dice between the plain mask and the committee's below which the committee is right, whatever
    is predicted: a regression knows the shifts that it was fitted on, a vote needs to know none."""

    def choose(self, judged: Judged, shared: float = 1.0) -> int:
        """The mask of the highest predicted Dice among those that promise enough.

        Args:
            judged: What is expected of each, the plain one and the steadied one first.
            shared: Dice between the plain mask and the committee's.

        Returns:
            Its number. If none does, or the plain mask is good enough, that of the committee, the
            advised, the steadied or the plain one.
        """
        plain, promised = judged.dice[PLAIN], judged.dice - judged.dice[PLAIN]
        enough = promised > self.caution * judged.doubt
        if plain < self.gate and enough.any():
            return int(np.where(enough, judged.dice, -1).argmax())
        if self.committee is not None and shared < self.outvoted:
            return self.committee
        place = self.advised
        if place is not None and promised[place] > self.trust * judged.doubt[place]:
            return place
        return STEADIED if plain >= self.steady else PLAIN


NEVER = Guard(gate=0.0, steady=_NEVER, caution=0.0)
"""Leaves every mask alone."""


def best_guard(
    dice: Float[np.ndarray, "trial mask"],
    judged: Sequence[Judged],
    *,
    advised: int | None = None,
    committee: int | None = None,
    shared: Float[np.ndarray, " trial"] | None = None,
) -> Guard:
    """The most cautious that gains nearly as much as any with which few masks are harmed.

    A new scanner shows what no validation image did; caution is what covers it.

    Args:
        dice: True Dice of every trial's masks, in the order of `Judged`.
        judged: What was predicted of each trial's masks, without its patient.
        advised: Place of the mask by students' advice, if there is one.
        committee: Place of the committee's mask, if there is one.
        shared: Each trial's Dice between the plain mask and the committee's; needed with it.
    """
    gains = dice - dice[:, [PLAIN]]
    outvoted, voted = 0.0, np.zeros(len(dice), dtype=bool)
    if committee is not None and shared is not None:
        outvoted = _outvoted(gains[:, committee], shared)
        voted = shared < outvoted
    predicted = np.array([one.dice for one in judged])
    doubt = np.array([one.doubt for one in judged])
    rows, plain = np.arange(len(dice)), predicted[:, PLAIN]
    promised = predicted - plain[:, None]
    asking = [(None, 0.0), *((advised, trust) for trust in _TRUSTS if advised)]
    harmless: list[tuple[float, Guard]] = [(0.0, NEVER)]
    for gate, caution in itertools.product(_GATES, _CAUTIONS):
        # As `Guard.choose` does, but for all trials at once.
        enough = promised > caution * doubt
        mended = (plain < gate) & enough.any(1)
        best = np.where(enough, predicted, -1).argmax(1)
        for place, trust in asking:
            asked = promised[:, place] > trust * doubt[:, place] if place else np.zeros_like(mended)
            for steady in _STEADIES:
                taken = np.where(plain >= steady, STEADIED, PLAIN)
                taken[asked] = place or PLAIN
                taken[voted] = committee or PLAIN
                taken[mended] = best[mended]
                gain = gains[rows, taken]
                if np.count_nonzero(gain < -HARM) <= FEW * len(dice) and gain.min() >= -3 * HARM:
                    guard = Guard(
                        gate=float(gate),
                        steady=float(steady),
                        caution=float(caution),
                        advised=place,
                        trust=trust,
                        committee=committee,
                        outvoted=outvoted,
                    )
                    harmless.append((float(gain.mean()), guard))
    enough_gain = _NEARLY * max(gain for gain, _ in harmless)
    near = [(guard.caution, gain, guard) for gain, guard in harmless if gain >= enough_gain]
    return max(near, key=lambda one: one[:2])[-1]


def _outvoted(gains: Float[np.ndarray, " trial"], shared: Float[np.ndarray, " trial"]) -> float:
    """So much less is agreed than in any trial that the committee harmed, by a quarter."""
    harmed = shared[gains < -HARM]
    least = harmed.min() if len(harmed) else 1.0
    return float(np.clip(1 - _MARGIN * (1 - least), 0, _MOST_OUTVOTED))
