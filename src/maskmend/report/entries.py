"""What a folder of masks has to tell, image by image.

Nothing of a path leaves the folder: messages keep the file's name alone.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from rich.console import Console

from maskmend.data.preprocess import mask_slices
from maskmend.data.volume import read_mask
from maskmend.details import DETAILS, Details, read_details
from maskmend.errors import InputError, RunError
from maskmend.evaluate.scores import Evaluation, evaluate, find_references
from maskmend.palette import OKABE_ITO
from maskmend.progress import progress_bar
from maskmend.report.pictures import (
    View,
    atlas,
    crop_around,
    grey_change,
    middle_of,
    packed,
    pooled,
    thumbnail,
)
from maskmend.table import PREDICTIONS, SETTINGS, Row, masked_in, read_table

Outcome = Literal["mended", "steadied", "left alone", "failed"]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What is to be seen of one image."""

    before: str
    """A slice in the middle of the masks, with outlines, as a data URL."""
    after: str
    slices: dict[str, Any]
    """All slices, for the page's script."""
    shown: int
    """Slices on the page."""
    there: int
    """Slices of the image."""
    changed: float
    """Voxels with another label, as a share of those that either mask covers."""
    most_change: float | None
    """Change of the image that has the full colour, as a share of what is from black to white; 0 if
    the image was shown as it is, None if that is not known."""
    losses: np.ndarray
    volumes_ml: dict[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image."""

    name: str
    outcome: Outcome
    check: bool
    """Whether somebody should look at the mask."""
    before: float | None
    """Its score before; None if it failed."""
    after: float | None
    steps: int | None
    seconds: float | None
    reason: str
    """Why the mask is what it is."""
    message: str
    """What a person ought to know."""
    pictures: Pictures | None
    dice: dict[str, tuple[float, ...]]
    """Against a reference, by structure: before and after, or after alone."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of masks."""

    method: Literal["paper", "guarded", ""]
    """Empty where that is not known."""
    settings: dict[str, Any]
    """Of the adaptation."""
    structures: dict[int, str]
    colours: dict[int, str]
    entries: list[Entry]
    evaluation: Evaluation | None
    """With references."""

    @property
    def counts(self) -> Counter[str]:
        """Images by outcome, and those to be looked at as "check"."""
        kinds: list[str] = [entry.outcome for entry in self.entries]
        return Counter(kinds + ["check" for entry in self.entries if entry.check])


def read_folder(folder: Path, references: Path | None = None) -> Folder:
    """Read what `predict` left in a folder.

    Args:
        folder: It has a predictions.csv; pictures are made of what is in its details/.
        references: Folder of the data or of reference masks, as for `evaluate`.

    Raises:
        InputError: The folder holds no predictions, or the references are no masks.
        RunError: settings.json is damaged.
    """
    rows = read_table(folder / PREDICTIONS)
    if not rows:
        raise InputError(
            f"{folder / PREDICTIONS}: there is none, or none of this version; name a folder that"
            " maskmend predict filled"
        )
    made_by = _settings(folder / SETTINGS)
    structures = {int(k): str(name) for k, name in made_by.get("structures", {}).items()}
    evaluation, dice, notes, truths = None, {}, {}, {}
    if references is not None:
        evaluation = _evaluate(folder, references, structures)
        dice = _dice(evaluation)
        notes = dict(evaluation.failures)
        truths = {name: found.mask for name, found in find_references(references).items()}
    colours = dict(zip(structures, cycle(OKABE_ITO), strict=False))
    entries = []
    with progress_bar(Console(stderr=True), "drawing", len(rows)) as advance:
        for row in rows:
            kept = read_details(folder, row.image) if row.status != "failed" else None
            truth = _truth(truths.get(row.image), kept, len(structures) + 1)
            pictures = _pictures(kept, truth, structures, colours) if kept else None
            note = notes.get(row.image, "") if row.status != "failed" else ""
            entries.append(_entry(row, kept, pictures, note, dice.get(row.image, {})))
            advance()
    adaptation = made_by.get("adaptation", {})
    method = adaptation.get("method", "")
    return Folder(
        method="paper" if method and adaptation.get("steps") == 0 else method,
        settings=adaptation,
        structures=structures,
        colours=colours,
        entries=entries,
        evaluation=evaluation,
    )


def _entry(
    row: Row,
    kept: Details | None,
    pictures: Pictures | None,
    note: str,
    dice: dict[str, tuple[float, ...]],
) -> Entry:
    """What is said of one image; the note says why it has no Dice."""
    message = _without_folders(row.message, row.image)
    unscored = f"not scored: {_without_folders(note, row.image)}" if note else ""
    return Entry(
        name=row.image,
        outcome=_outcome(row, kept),
        check=row.status == "check",
        before=_number(row.realism_before),
        after=_number(row.realism_after),
        steps=int(float(row.steps)) if row.steps != "" else None,
        seconds=_number(row.seconds),
        reason=row.decision,
        message="; ".join(filter(None, (message, unscored))),
        pictures=pictures,
        dice=dice,
    )


def _settings(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: is damaged; predict again, or remove it") from error


def _outcome(row: Row, kept: Details | None) -> Outcome:
    if row.status == "failed":
        return "failed"
    if kept is not None and not kept.changed:
        return "left alone"
    if row.decision.startswith("steadied"):
        return "steadied"
    if kept is not None or row.decision.startswith("mended"):
        return "mended"
    if row.decision:
        return "left alone"
    return "mended" if float(row.steps or 0) else "left alone"


def _number(value: float | str) -> float | None:
    return None if value == "" else float(value)


def _without_folders(message: str, name: str) -> str:
    """A message without the path that it begins with, or of that path the file's name."""
    start = message.lower().find(f"{name.lower()}")
    path, colon, rest = message.partition(": ")
    return rest if colon and 0 <= start < len(path) else message


# With references


def _evaluate(folder: Path, references: Path, structures: Mapping[int, str]) -> Evaluation:
    plain = folder / DETAILS
    baseline = plain if masked_in(plain) else None
    with TemporaryDirectory() as unused:
        return evaluate(
            folder, references, Path(unused), baseline=baseline, structures=structures or None
        )


def _dice(evaluation: Evaluation) -> dict[str, dict[str, tuple[float, ...]]]:
    columns = [name for name in evaluation.rows.columns if name.split("_")[0] == "dice"]
    dice: dict[str, dict[str, tuple[float, ...]]] = {}
    for row in evaluation.rows.to_dict("records"):
        values = tuple(float(row[column]) for column in columns)
        dice.setdefault(row["image"], {})[row["structure"]] = values
    return dice


def _truth(path: Path | None, kept: Details | None, classes: int) -> np.ndarray | None:
    """The reference as the networks would see it, if there is one that fits."""
    if path is None or kept is None:
        return None
    try:
        truth = mask_slices(read_mask(path), kept.grid, classes).numpy()
    except InputError:
        return None
    return truth if truth.shape == kept.mask.shape else None


# What is to be seen


def _pictures(
    kept: Details,
    truth: np.ndarray | None,
    structures: Mapping[int, str],
    colours: Mapping[int, str],
) -> Pictures:
    view = View.of(kept.grid, _covered(kept.plain, kept.mask))
    image = view.slices(kept.image)
    labels = {"before": view.labels(kept.plain), "after": view.labels(kept.mask)}
    crop = crop_around(list(labels.values()))
    if truth is not None:
        labels["truth"] = view.labels(truth)
    middle = _middle(labels["before"], labels["after"])
    before, after = (
        thumbnail(image[middle], labels[when][middle], crop, colours)
        for when in ("before", "after")
    )
    sheet, across = atlas(image)
    slices: dict[str, Any] = {
        "count": len(image),
        "size": image.shape[1],
        "across": across,
        "middle": middle,
        "crop": crop,
        "axes": view.axes,
        "pixelMm": kept.grid.spacing_mm * view.coarser,
        "sliceMm": kept.slice_mm * view.every,
        "image": sheet,
        "labels": {name: packed(array) for name, array in labels.items()},
    }
    most_change = None if kept.change is None else 0.0
    if kept.change is not None and kept.change.any():
        # Half as fine: noise at full contrast would take more room than the image.
        grey, most = grey_change(pooled(view.slices(kept.change), 2) * kept.change_step)
        most_change = most / 255
        slices["change"], _ = atlas(grey)
    return Pictures(
        before=before,
        after=after,
        slices=slices,
        shown=len(image),
        there=len(kept.image),
        changed=kept.changed,
        most_change=most_change,
        losses=kept.losses,
        volumes_ml={
            structures[k]: (float(before_ml), float(after_ml))
            for k, (before_ml, after_ml) in enumerate(kept.volumes_ml.T, start=1)
            if k in structures
        },
    )


def _middle(before: np.ndarray, after: np.ndarray) -> int:
    """The slice that changed most; if none did, the middle one of those that a mask covers."""
    changes = (before != after).sum(axis=(1, 2))
    return int(changes.argmax()) if changes.any() else middle_of(_covered(before, after))


def _covered(before: np.ndarray, after: np.ndarray) -> list[bool]:
    """Whether there is a mask on each slice."""
    return [bool(one.any()) for one in (before > 0) | (after > 0)]
