"""What each way of making a mask gains on the validation patients, and what the guard makes of it.

    python -m experiments.shift.candidates runs/shift/gan* --out docs/results/shift_candidates.md

From RUN/trials.csv, which `maskmend calibrate` writes: validation patients, as they are, degraded
and with artefacts. Settings are chosen on this page, never on test patients.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from cyclopts import App

from experiments.shift import held_out
from experiments.shift.table import FAILED, HARMED, about, auc
from experiments.shift.trials import arrays
from maskmend.calibrate.run import TRIALS
from maskmend.guard.calibration import read_calibration
from maskmend.guard.choice import Guard

app = App(help=__doc__, help_format="plaintext")
IMAGE = ["patient", "case", "draw"]
_PREFACE = (
    "Gains in points over the plain mask, on images as they are and on copies that are degraded or"
    " have artefacts; harmed are images that lost more than a point. Dice is"
    " predicted of every patient by a regression on the others."
)
_HELD_OUT = (
    "Guards that are chosen on some of these images and measured on others: by folds of the"
    f" patients ({held_out.FOLDS}, drawn {held_out.TIMES_FOLDED} times), and by halves"
    f" ({held_out.TIMES_HALVED} times)."
)


@app.default
def main(*runs: Path, out: Path, title: str = "Candidates on the validation patients") -> None:
    """Write the page, a part for each run.

    Args:
        runs: Calibrated runs.
        out: The page.
        title: The page's title.
    """
    parts = [f"# {title}", _PREFACE]
    for run in runs:
        calibration = read_calibration(run)
        if calibration is None:
            raise SystemExit(f"{run}: is not calibrated; maskmend calibrate it")
        trials = pd.read_csv(run / TRIALS)
        parts.append(f"## {run.name}\n\n{about(run)}\n\n{tell(trials, calibration.guard)}")
        parts.append(f"{_HELD_OUT}\n\n{held_out.tell(arrays(trials))}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n\n".join(parts), encoding="utf-8")


def tell(trials: pd.DataFrame, guard: Guard) -> str:
    """The page's text."""
    images = arrays(trials)
    trials = numbered(trials)
    plain = trials[trials["mask"] == "none"]
    told, true = plain["predicted"], plain["dice"]
    found = auc(list(told), list(true < FAILED))
    trusted = "any mask" if guard.trusted is None else "means alone"
    lines = [
        f"{trials['patient'].nunique()} patients, {len(plain)} images. Predicted and true Dice of"
        f" plain masks correlate by {told.corr(true):.3f}; the area under the curve for those below"
        f" {FAILED} is {found:.3f}.\n",
        "| mask | as they are | harmed | copies | harmed | worst |",
        "| --- | --- | --- | --- | --- | --- |",
        *_rows(trials),
        _row("**the guard**", images.draw, images.gains(guard)),
        f"\nThe guard: gate {guard.gate:.3f}, steady {guard.steady:.3f}, caution"
        f" {guard.caution:.3f}, outvoted {guard.outvoted:.3f}; it trusts {trusted}.",
    ]
    return "\n".join(lines) + "\n"


def numbered(trials: pd.DataFrame) -> pd.DataFrame:
    """With the number of a patient's image, which draw 0 begins, and gains in points."""
    first = (trials["mask"] == "none") & (trials["draw"] == 0)
    trials = trials.assign(case=first.cumsum())
    plain = trials[trials["mask"] == "none"].set_index(IMAGE)["dice"].rename("plain")
    trials = trials.join(plain, on=IMAGE)
    return trials.assign(gain=100 * (trials["dice"] - trials["plain"]))


def _rows(trials: pd.DataFrame) -> Iterator[str]:
    for mask, rows in trials.groupby("mask", sort=False):
        yield _row(str(mask), rows["draw"].to_numpy(), rows["gain"].to_numpy())
    best = trials.groupby(IMAGE)["gain"].max()
    yield _row(
        "the best of each image", best.index.get_level_values("draw").to_numpy(), best.to_numpy()
    )


def _row(name: str, draws: np.ndarray, gains: np.ndarray) -> str:
    cells = [name]
    for some in (gains[draws == 0], gains[draws > 0]):
        harmed = f"{100 * np.mean(some < HARMED):.0f}%"
        cells += [f"{some.mean():+.1f}", harmed] if len(some) else ["", ""]
    return f"| {' | '.join([*cells, f'{gains.min():+.1f}'])} |"


if __name__ == "__main__":
    app()
