"""The most cautious guard that pays, found on masks whose truth is known."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from maskmend.guard.choice import NEVER, OUT_OF_REACH, PLAIN, Guard, Several
from maskmend.guard.quality import Judged

HARM = 0.005
"""Loss of Dice that counts as harm where a guard is chosen, half of what users should not see: what
is just harmless enough on some images is not on others."""
FEW = 0.005
"""Share of the validation images that may be harmed; so none of fewer than 200."""
WORST = 0.03
"""Loss that none of them may have."""
_NEARLY = 0.97
_MARGIN = 1.25
"""Times the most disagreement at which outvoting harmed a validation image."""
_MOST_OUTVOTED = 0.6
"""And no higher: that of few images can be too high by luck (docs/log.md)."""
_GATES = (0.0, *np.linspace(0.4, 1, 25))
"""With the first no promise counts; advice, votes and steadying may still pay."""
_CAUTIONS = 2.0 ** np.arange(2, 4.5, 0.5)
"""With less, guards that did well on some validation patients harmed others (docs/log.md)."""
_ADVICE_CAUTIONS = (0.0, *2.0 ** np.arange(-1, 4.5, 0.5))
_STEADIES = (*np.linspace(0.4, 1, 7), OUT_OF_REACH)

Gains = Float[np.ndarray, "guard trial"]


def best_guard(
    dice: Several,
    judged: Sequence[Judged],
    *,
    means: Sequence[int] = (),
    advised: int | None = None,
    committee: int | None = None,
    shared: Float[np.ndarray, " trial"] | None = None,
) -> Guard:
    """The most cautious that gains nearly as much as any that harms few masks.

    A new scanner shows what no validation image did, and caution is what covers it: so half as
    much of it, towards advice as well, has to be enough on these, if that can be had.

    Args:
        dice: True Dice of every trial's masks, in the order of `Judged`.
        judged: What was predicted of each trial's masks, without its patient.
        means: Places of the masks that are means of several: if there are any, no others are taken
            for their promise.
        advised: Place of the mask by students' advice, if there is one.
        committee: Place of the mask that the committee outvotes the plain one with, if any.
        shared: Each trial's Dice between the plain mask and the committee's; needed with it.
    """
    gains = dice - dice[:, [PLAIN]]
    shared = np.ones(len(dice)) if shared is None else shared
    promised = (np.array([one.dice for one in judged]), np.array([one.doubt for one in judged]))
    rows = np.arange(len(dice))

    def gained(promise: Guard, otherwise: Gains) -> Gains:
        best = promise.best_promise(*promised, shared)
        return np.where(best == PLAIN, otherwise, gains[rows, best])

    outvoted = 0.0 if committee is None else _outvoted(gains[:, committee], shared)
    rest = list(_otherwise(advised, committee, outvoted))
    kept, kept_by_half = (
        np.array([gains[rows, guard.otherwise(*promised, shared)] for guard in some])
        for some in (rest, [_daring(guard) for guard in rest])
    )
    harmless: list[tuple[float, Guard, Guard]] = []
    by_far: list[tuple[float, Guard, Guard]] = []
    for promise in _promises(tuple(means) or None, committee):
        gain = gained(promise, kept)
        mean = gain.mean(1)
        pays = (mean > 0) & _harm_few(gain)
        daring = pays & _harm_few(gained(_daring(promise), kept_by_half))
        for found, which in ((harmless, pays), (by_far, daring)):
            found.extend((mean[number], promise, rest[number]) for number in np.flatnonzero(which))
    found = by_far or harmless
    if not found:
        return NEVER
    enough = _NEARLY * max(gain for gain, _, _ in found)
    _, promise, otherwise = max(
        (one for one in found if one[0] >= enough),
        key=lambda one: (one[1].caution, one[0]),
    )
    return replace(otherwise, gate=promise.gate, caution=promise.caution, trusted=promise.trusted)


def _promises(trusted: Sequence[int] | None, committee: int | None) -> Iterator[Guard]:
    """Guards by which masks may be taken for their promise, and else the plain one stays."""
    for gate, caution in itertools.product(_GATES, _CAUTIONS):
        yield Guard(
            gate=float(gate),
            steady=OUT_OF_REACH,
            caution=float(caution),
            trusted=trusted,
            committee=committee,
        )


def _otherwise(advised: int | None, committee: int | None, outvoted: float) -> Iterator[Guard]:
    """Guards that take none for its promise."""
    advice = (
        [(None, 0.0)]
        if advised is None
        else [(None, 0.0), *((advised, c) for c in _ADVICE_CAUTIONS)]
    )
    for steady, (place, caution) in itertools.product(_STEADIES, advice):
        yield Guard(
            gate=0.0,
            steady=float(steady),
            caution=0.0,
            advised=place,
            advice_caution=float(caution),
            committee=committee,
            outvoted=outvoted,
        )


def _daring(guard: Guard) -> Guard:
    return replace(guard, caution=guard.caution / 2, advice_caution=guard.advice_caution / 2)


def _harm_few(gain: Gains) -> Bool[np.ndarray, " guard"]:
    few = FEW * gain.shape[1]
    return (np.count_nonzero(gain < -HARM, axis=1) <= few) & (gain.min(1) >= -WORST)


def _outvoted(gains: Float[np.ndarray, " trial"], shared: Float[np.ndarray, " trial"]) -> float:
    """So much less is agreed than in any trial that outvoting harmed, by a quarter."""
    harmed = shared[gains < -HARM]
    least = harmed.min() if len(harmed) else 1.0
    return float(np.clip(1 - _MARGIN * (1 - least), 0, _MOST_OUTVOTED))
