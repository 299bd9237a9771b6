"""The page itself: what was read, put into the template, in one file that needs nothing else."""

import base64
import gzip
import itertools
from datetime import date
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from maskmend.atomic import as_input_error, write_atomically
from maskmend.details import DETAILS
from maskmend.evaluate.scores import MEAN
from maskmend.report.charts import MARKS, before_and_after, loss_curve, score_bar, violins
from maskmend.report.entries import Entry, Folder, read_folder
from maskmend.report.words import how, reading, score_of, verdict, why

REPORT = "report.html"

_FILES = resources.files("maskmend.report")
_SCRIPTS = ("outlines.js", "table.js", "part.js", "viewer.js")
_DASHES = ("", "7 3", "3 2", "9 3 2 3")  # as in part.js
_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; font-src data:;"
    " script-src 'unsafe-inline' 'wasm-unsafe-eval'; connect-src data: blob:; worker-src blob:"
)
"""The page itself forbids the browser to load anything from anywhere."""


_NO_PICTURES = (
    f"There are no pictures, because {DETAILS}/ holds none: maskmend predict --report keeps them."
)


def write_report(
    folder: Path,
    *,
    references: Path | None = None,
    out: Path | None = None,
    title: str | None = None,
) -> Path:
    """Write the page about a folder of masks: one HTML file, with its pictures and its viewer.

    Args:
        folder: What `predict` filled; with `--report` there are pictures to show.
        references: Folder of the data or of reference masks, as for `evaluate`: Dice is shown too.
        out: The file; by default report.html in the folder.
        title: By default the folder's name.

    Returns:
        The file.

    Raises:
        InputError: The folder holds no predictions, or the file cannot be written.
        RunError: What `predict` left is damaged.
    """
    path = out or folder / REPORT
    page = _render(read_folder(folder, references), title or folder.resolve().name)
    with as_input_error():
        write_atomically(path, page)
    return path


def _render(folder: Folder, title: str) -> str:
    entries = sorted(folder.entries, key=_urgency)
    score, scale = score_of(folder), _scale(folder)
    pictures = any(entry.pictures for entry in entries)
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(_template),
    )
    return environment.get_template("report.html.j2").render(
        folder=folder,
        title=title,
        how=how(folder),
        verdict=verdict(folder),
        reading=reading(folder),
        tiles=_tiles(folder),
        marks={**MARKS, "failed": "✕"},
        score=score,
        lines=[_line(number, entry, folder, scale) for number, entry in enumerate(entries)],
        no_pictures="" if pictures else _NO_PICTURES,
        scatter=_scatter(folder, score, scale),
        **_against_references(folder),
        structures=[
            {"label": label, "name": name, "colour": folder.colours[label], "dashes": dashes}
            for (label, name), dashes in zip(
                folder.structures.items(), itertools.cycle(_DASHES), strict=False
            )
        ],
        policy=_POLICY,
        css=Markup(_template("report.css")),
        script=Markup("\n".join(map(_template, _SCRIPTS))),
        niivue=_niivue() if pictures else "",
        niivue_licence=(_FILES / "niivue" / "LICENSES.txt").read_text(encoding="utf-8"),
        version=version("maskmend"),
        date=f"{date.today():%d %B %Y}",
    )


def _urgency(entry: Entry) -> tuple[int, str]:
    """What to look at first comes first."""
    order = ("failed", "mended", "steadied", "left alone").index(entry.outcome)
    return (0 if entry.check else 1 + order, entry.name)


def _tiles(folder: Folder) -> list[tuple[str, str, int]]:
    """Kind, name and number of the images that can be filtered for."""
    kinds = [
        ("mended", "mended"),
        *([("steadied", "steadied")] if folder.method == "guarded" else []),
        ("left alone", "left alone"),
        ("check", "to look at"),
        ("failed", "failed"),
    ]
    counts = folder.counts
    return [("all", "images", len(folder.entries)), *((k, name, counts[k]) for k, name in kinds)]


def _line(number: int, entry: Entry, folder: Folder, scale: tuple[float, float]) -> dict[str, Any]:
    """One image, ready for the template."""
    bar = ""
    if entry.before is not None and entry.after is not None:
        bar = score_bar(entry.before, entry.after, scale)
    seen = entry.pictures
    points = {name: [100 * value for value in values] for name, values in entry.dice.items()}
    return {
        "number": number,
        "entry": entry,
        "why": why(entry),
        "bar": bar,
        "loss": loss_curve(seen.losses) if seen and seen.losses.shape[1:] > (1,) else "",
        "change": f"{100 * seen.most_change:.0f} %" if seen and seen.most_change else "",
        "dice": points.get(MEAN, []),
        "dice_of": points,
        "structures": list(points) or list(folder.structures.values()),
    }


def _scale(folder: Folder) -> tuple[float, float]:
    """Least and largest score to draw."""
    scores = [s for entry in folder.entries for s in (entry.before, entry.after) if s is not None]
    if folder.method == "guarded":
        return min([0.0, *scores]), max([1.0, *scores])
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    room = 0.05 * (high - low) or 0.5
    return low - room, high + room


def _scatter(folder: Folder, score: str, scale: tuple[float, float]) -> Markup | str:
    points = [
        (entry.name, "check" if entry.check else entry.outcome, entry.before, entry.after)
        for entry in folder.entries
        if entry.before is not None and entry.after is not None
    ]
    return before_and_after(points, score, scale) if points else ""


def _against_references(folder: Folder) -> dict[str, Any]:
    """Dice of all images, drawn and in a table."""
    nothing = {"dice_chart": "", "dice_table": [], "dice_images": 0, "paired": False}
    if folder.evaluation is None or folder.evaluation.rows.empty:
        return nothing
    rows, summary = folder.evaluation.rows, folder.evaluation.summary
    paired = "dice_before" in rows
    columns = ["dice_before", "dice_after"] if paired else ["dice"]
    table = []
    for name, group in rows.groupby("structure", sort=False):
        means = [f"{100 * group[column].mean():.1f}" for column in columns]
        if paired:
            numbers = summary["structures"][name]
            means += [f"{numbers['dice']['p_value']:.2g}", str(numbers["harm"]["count"])]
        table.append({"name": name, "cells": means})
    values = {
        str(name): [group[column].to_numpy(np.float64) for column in columns]
        for name, group in rows.groupby("structure", sort=False)
    }
    return {
        "dice_chart": violins(values, "Dice"),
        "dice_table": table,
        "dice_images": summary["images"],
        "paired": paired,
    }


def _template(name: str) -> str:
    return (_FILES / "templates" / name).read_text(encoding="utf-8")


@cache
def _niivue() -> str:
    """The viewer's code, gzipped, in base64."""
    code = (_FILES / "niivue" / "niivue.umd.js").read_bytes()
    return base64.b64encode(gzip.compress(code, 9, mtime=0)).decode()
