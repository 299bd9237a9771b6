"""The shift benchmark's table as a page and two pictures.

    python -m experiments.shift.table docs/results/shift.csv --runs runs/shift --out docs/results

A run that is gone is told of as the page told before. Gains are in points (100 x Dice by volume,
the mean over structures) over no adaptation of the same image; intervals and tests count patients
(see `maskmend.evaluate.statistics`). Harmed are volumes that lost more than a point.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from cyclopts import App
from scipy import stats

from experiments.shift.legend import METHODS, SEGMENTORS
from experiments.shift.pictures import draw_gains, draw_realism
from experiments.shift.sequences import SEQUENCES
from experiments.shift.shifts import FAMILIES, HEADER, SCANNER, UNSEEN, label, middle, order
from maskmend.calibrate.run import TRIALS
from maskmend.checkpoint import CONFIG, RUN
from maskmend.config_file import read_config
from maskmend.evaluate.statistics import ONE_POINT, compare, harm
from maskmend.foreign.prior_folder import PRIOR, load_prior

IMAGE = ["segmentor", "seed", "shift", "severity", "patient", "phase"]
"""What a line of the table is about, but for the method."""
KINDS = {"all shifts": FAMILIES, "all sequences": SEQUENCES, "headers that lie": (HEADER,)}
"""Shifts that are summed up together."""
BROUGHT = "prior"
"""Folder of a prior beside a model that was not trained here; see `experiments.brought`."""
FAILED = 0.7
"""Dice below which a mask is a failure that ought to be found."""
HARMED = -100 * ONE_POINT
"""Gain in points below which a volume is harmed."""

app = App(help=__doc__, help_format="plaintext")


@app.default
def main(
    table: Path, *, runs: Path, out: Path, title: str = "Shifts", note: str | None = None
) -> None:
    """Write shift.md, shift_gains.png where there are several shifts, and shift_realism.png.

    Args:
        table: What `experiments.shift.run` wrote.
        runs: Folder of the runs behind it: what they were trained with stands on the page.
        out: Folder of the page.
        title: The page's title.
        note: What else a reader must know, in Markdown.
    """
    rows = beside_plain(pd.read_csv(table, keep_default_na=False))
    out.mkdir(parents=True, exist_ok=True)
    page = out / "shift.md"
    parts = [f"# {title}\n\n", f"{note}\n\n" if note else "", _preface(rows, table.name), "\n"]
    parts += [f"- {line}\n" for line in _told(_runs(rows), runs, page)]
    parts += ["\n", _legend(rows)]
    for segmentor in rows["segmentor"].unique():
        ours = rows[rows["segmentor"] == segmentor]
        parts += [f"\n## Segmentor: {segmentor}\n\n{SEGMENTORS.get(segmentor, '')}\n\n"]
        parts += [_by_method(ours), "\n", _in_detail(ours)]
    parts += ["\n## Finding failures\n\n", _failures(rows)]
    if len(order(rows)) > 1:
        draw_gains(rows, out / "shift_gains.png")
        parts += ["\n![gains](shift_gains.png)\n"]
    draw_realism(rows, out / "shift_realism.png")
    parts += ["\n![predicted Dice](shift_realism.png)\n"]
    page.write_text("".join(parts), encoding="utf-8")


def _told(names: Sequence[str], runs: Path, page: Path) -> list[str]:
    """What stands behind each run's numbers: of one that is gone, what the page knows."""
    before = page.read_text(encoding="utf-8") if page.is_file() else ""
    lines = re.findall(r"^- ((\w+): split .*)$", before, flags=re.MULTILINE)
    known = {name: line for line, name in lines}
    return [
        known[name] if name in known and not (runs / name).is_dir() else about(runs / name)
        for name in names
    ]


def _runs(rows: pd.DataFrame) -> list[str]:
    """Names of the runs behind the lines: for the real shift there is one of its own."""
    real = np.where(rows["shift"] == SCANNER, f"_{SCANNER}_", "")
    names = rows["segmentor"] + real + rows["seed"].astype(str)
    return list(names.unique())


def about(run: Path) -> str:
    """What stands behind a run's numbers, for people."""
    for prior in (run, run / BROUGHT):
        if (prior / PRIOR).is_file():
            return _about_brought(run.name, prior)
    config, ended = read_config(run / CONFIG), json.loads((run / RUN).read_text())
    best, grid, guard = ended["best"], config.preprocess, config.adaptation
    return (
        f"{run.name}: split {config.data.split}, seed {config.seed}, {grid.size} x {grid.size} at"
        f" {grid.spacing_mm} mm, validation Dice {best['val_dice']:.3f} at iteration"
        f" {best['iteration']:.0f} of {config.training.iterations}; guard: {guard.students}"
        f" students of {guard.student_iterations} updates, {guard.draws} degraded copies and as"
        f" many with artefacts; trained on {ended['device']}, {ended['threads']}"
        f" thread{'s' if ended['threads'] > 1 else ''}, torch {ended['torch']}."
    )


def _about_brought(name: str, folder: Path) -> str:
    """The same of a model that was not trained by Maskmend, with the prior in a folder."""
    config, made = load_prior(folder).config, json.loads((folder / PRIOR).read_text())
    draws = pd.read_csv(folder / TRIALS)["draw"].max() // 2
    guard, grid = config.adaptation, config.preprocess
    return (
        f"{name}: prior of {config.fitting.iterations} iterations, {grid.size} x {grid.size} at"
        f" {grid.spacing_mm} mm; {guard.students} students of {guard.student_iterations} updates,"
        f" {draws} degraded copies of the images of {len(config.data.held_out_patients)} held-out"
        f" patients and as many with artefacts; fitted on {made['device']}, torch {made['torch']}."
    )


def beside_plain(table: pd.DataFrame) -> pd.DataFrame:
    """Every line with the Dice of no adaptation (`before`) and the gain over it, in points.

    Raises:
        ValueError: An image has no line without adaptation.
    """
    plain = table[table["method"] == "none"].set_index(IMAGE)["dice"].rename("before")
    rows = table.join(plain, on=IMAGE)
    if rows["before"].isna().any():
        raise ValueError("images without a line of method none cannot be compared")
    rows["gain"] = 100 * (rows["dice"] - rows["before"])
    # Lines of a table that knew no score of plain masks have none.
    rows["realism_before"] = pd.to_numeric(rows["realism_before"], errors="coerce")
    return rows


def auc(score: Sequence[float], failed: Sequence[bool]) -> float:
    """Chance that a failed mask has a lower score than one that did not fail; nan without both."""
    scores, bad = np.asarray(score, dtype=float), np.asarray(failed, dtype=bool)
    n_bad, n_good = int(bad.sum()), int((~bad).sum())
    if not n_bad or not n_good:
        return float("nan")
    ranks = stats.rankdata(scores)
    return float((ranks[~bad].sum() - n_good * (n_good + 1) / 2) / (n_bad * n_good))


def _preface(rows: pd.DataFrame, name: str) -> str:
    patients = rows.groupby("segmentor")["patient"].nunique().max()
    seeds = rows.groupby(["segmentor", "seed"])["patient"].nunique().groupby("seed").max()
    by_seed = ", ".join(f"{count} of seed {seed}" for seed, count in seeds.items())
    data = "procedural hearts" if set(rows["segmentor"]) == {"hearts"} else "ACDC"
    return (
        f"From [`{name}`]({name}) by `python -m experiments.shift.table`: {data}, {patients}"
        f" patients ({by_seed} of training), Dice by volume on the"
        " images' own grid. Gains are in points over no adaptation; intervals (95%, bootstrap) and"
        " Wilcoxon tests count patients; harmed are volumes that lost more than a point."
        " On shifts marked unseen no network and no calibration was trained.\n"
    )


def _legend(rows: pd.DataFrame) -> str:
    """What the methods are that have lines."""
    used = [method for method in METHODS if method in set(rows["method"])]
    return "".join(f"- `{method}`: {METHODS[method]}\n" for method in used)


def _by_method(rows: pd.DataFrame) -> str:
    """Mean gain of every method, under each shift at the middle severity and under all at each."""
    methods = [m for m in rows["method"].unique() if m != "none"]
    lines = [_line("middle severity", "before", *methods), _rule(2 + len(methods))]
    for shift in order(rows):
        at = middle(rows[rows["shift"] == shift])
        if at.empty:
            continue
        gains = at.groupby("method")["gain"]
        means, counts = gains.mean(), gains.size()
        compared = counts[counts == counts["none"]].index
        shown = {m: _mean(at, m) for m in methods if m in means}
        best = max((m for m in methods if m in compared), key=lambda m: means[m], default=None)
        cells = [f"**{shown[m]}**" if m == best else shown.get(m, "") for m in methods]
        before = 100 * at.loc[at["method"] == "none", "dice"].mean()
        lines.append(_line(label(shift), f"{before:.1f}", *cells))
    for kind, families in KINDS.items():
        for severity, at in rows[rows["shift"].isin(families)].groupby("severity"):
            lines += _in_all(f"{kind}, severity {severity}", at, methods)
    counts = rows[rows["method"] != "none"].groupby("method", sort=False).size()
    if counts.nunique() == 1:
        note = f"Volumes of each method: {counts.iloc[0]}."
    else:
        volumes = ", ".join(f"{method} {count}" for method, count in counts.items())
        note = (
            f"Volumes of each method: {volumes}. In brackets: the number of volumes, where a method"
            " has fewer, and what ours gains on those."
        )
    return "\n".join([*lines, "", note]) + "\n"


def _in_all(name: str, shifted: pd.DataFrame, methods: Sequence[str]) -> list[str]:
    """Mean gain, the share of volumes that are harmed, the worst."""
    volumes = shifted.groupby("method")["gain"]
    worst, harmed = volumes.min(), volumes.agg(lambda gains: np.mean(gains < HARMED))
    before = 100 * shifted.loc[shifted["method"] == "none", "dice"].mean()
    return [
        _line(what, first, *(text(m) if m in worst else "" for m in methods))
        for what, first, text in (
            (name, f"{before:.1f}", lambda m: _mean(shifted, m)),
            ("harmed of these", "", lambda m: f"{100 * harmed[m]:.1f}%"),
            ("worst of these", "", lambda m: f"{worst[m]:+.1f}"),
        )
    ]


def _mean(at: pd.DataFrame, method: str) -> str:
    """Mean gain of a method; if it saw fewer volumes, how many, and what ours gained on these."""
    keyed = at.set_index(IMAGE)
    gains = keyed.loc[keyed["method"] == method, "gain"]
    told = f"{gains.mean():+.1f}"
    if len(gains) == (keyed["method"] == "none").sum():
        return told
    ours = keyed[(keyed["method"] == "ours") & keyed.index.isin(gains.index)]["gain"]
    same = f": {ours.mean():+.1f}" if len(ours) == len(gains) else ""
    return f"{told} ({len(gains)}{same})"


def _in_detail(rows: pd.DataFrame) -> str:
    """The guarded method at every severity, with its uncertainty and its harm."""
    lines = [
        _line("ours", "severity", "volumes", "before", "gain", "95%", "p", "harmed", "worst"),
        _rule(9),
    ]
    rows = rows[rows["method"] == "ours"]
    groups = [(label(s), k, rows[(rows["shift"] == s) & (rows["severity"] == k)])
              for s in order(rows) for k in sorted(rows["severity"].unique())]  # fmt: skip
    for kind, families in {**KINDS, "unseen shifts": UNSEEN}.items():
        if len(families) == 1:
            continue  # told above
        shifted = rows[rows["shift"].isin(families)]
        groups += [(kind, severity, at) for severity, at in shifted.groupby("severity")]
    for name, severity, at in groups:
        if at.empty:
            continue
        change = compare(at["before"], at["dice"], list(at["patient"]))
        hurt = harm(at["before"], at["dice"])
        low, high = change.gain_ci95 or (np.nan, np.nan)
        lines.append(
            _line(
                name, str(severity), str(change.n), f"{100 * change.before.mean:.1f}",
                f"{100 * change.gain:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}",
                f"{change.p_value:.2g}", f"{100 * hurt.share:.1f}%",
                f"{0 - 100 * hurt.worst_loss:.1f}",
            )
        )  # fmt: skip
    return "\n".join(lines) + "\n"


def _failures(rows: pd.DataFrame) -> str:
    """How well predicted Dice finds masks of low Dice, plain ones and those that ours leaves."""
    rows = rows[rows["method"] == "ours"]
    lines = [
        _line("", "", "", "plain masks", "", "", "ours", "", ""),
        _rule(9),
        _line("segmentor", "shift", "volumes", *2 * [f"below {FAILED}", "AUC", "correlation"]),
    ]
    for segmentor in rows["segmentor"].unique():
        own = rows[rows["segmentor"] == segmentor]
        for shift in [*order(own), None]:
            at = own if shift is None else own[own["shift"] == shift]
            name = "all" if shift is None else label(shift)
            found = [
                *_found(at["realism_before"], at["before"]),
                *_found(at["realism"], at["dice"]),
            ]
            lines.append(_line(segmentor, name, str(len(at)), *found))
    return "\n".join(lines) + "\n"


def _found(predicted: pd.Series, dice: pd.Series) -> tuple[str, str, str]:
    """Failures, the area under the curve, and the correlation of predicted Dice with Dice."""
    failed = dice < FAILED
    area = auc(predicted, failed)
    shown = "" if np.isnan(area) else f"{area:.3f}"
    return str(int(failed.sum())), shown, f"{predicted.corr(dice):.2f}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(cells: int) -> str:
    return "|" + " --- |" * cells


if __name__ == "__main__":
    app()
