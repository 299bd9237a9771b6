"""Score a folder of masks against references, with a baseline beside it if there is one."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from maskmend.atomic import as_input_error, write_atomically
from maskmend.data.layouts import find_cohort
from maskmend.data.volume import read_mask
from maskmend.errors import InputError, RunError
from maskmend.evaluate.metrics import Scores, score
from maskmend.evaluate.statistics import Spread, compare, harm
from maskmend.progress import progress_bar
from maskmend.table import MASK, PREDICTIONS, SETTINGS, masked_in

Unit = Literal["volume", "slice"]

MEAN = "mean"
"""The row that averages an image's structures."""

METRICS = tuple(field.name for field in fields(Scores))

_FILES: dict[Unit, tuple[str, str]] = {
    "volume": ("patients.csv", "summary.json"),
    "slice": ("slices.csv", "summary_slices.json"),
}
_SHOWN = {  # column of the printed table: metric, factor
    "Dice %": ("dice", 100),
    "IoU %": ("iou", 100),
    "Hausdorff mm": ("hausdorff_mm", 1),
    "HD95 mm": ("hausdorff95_mm", 1),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What `evaluate` found; all of it but the table is also in the files that it wrote."""

    unit: Unit
    rows: pd.DataFrame
    """One row per image (or slice) and structure, as in `patients.csv` (or `slices.csv`)."""
    summary: dict[str, Any]
    """As in `summary.json`: for each structure and metric the fields of `Change`, and `Harm` of
    the Dice; without a baseline n, patients, mean and sd."""
    failures: list[tuple[str, str]]
    """Name and one-line message of each image that could not be scored."""

    def table(self) -> Table:
        """Means for a terminal: before -> after and what was harmed, or mean (sd) if unpaired."""
        structures: dict[str, dict[str, Any]] = self.summary["structures"]
        paired = any("harm" in numbers for numbers in structures.values())
        n = len(self.rows) // max(1, len(structures))
        table = Table(
            title=f"{n} {self.unit}s of {self.summary['patients']} patients",
            box=box.SIMPLE_HEAD,
            collapse_padding=True,  # with a baseline, too, it fits into 80 columns
            pad_edge=False,
        )
        table.add_column("")
        for heading in _SHOWN:
            table.add_column(heading, justify="right")
        if paired:
            table.add_column("p, Dice", justify="right")
            table.add_column("lost > 1 point", justify="right")
        for structure, numbers in structures.items():
            cells = [_cell(numbers[metric], factor) for metric, factor in _SHOWN.values()]
            if paired:
                cells += [f"{numbers['dice']['p_value']:.2g}", str(numbers["harm"]["count"])]
            table.add_row(structure, *cells)
        return table


def evaluate(
    predictions: Path,
    references: Path,
    out: Path,
    *,
    baseline: Path | None = None,
    unit: Unit = "volume",
    structures: Mapping[int, str] | None = None,
) -> Evaluation:
    """Score every mask of a folder with Dice, IoU and Hausdorff distances.

    An image whose masks are missing, damaged or on another grid is left out and named in
    `Evaluation.failures`; the others are scored. Masks are expected for every image in
    `predictions/predictions.csv`, or without that file for every reference.

    Writes into `out` the scores, `patients.csv` (for slices `slices.csv`), and `summary.json` (for
    slices `summary_slices.json`). Each file appears whole or not at all.

    Slices lie along `Volume.slice_axis`, as those of a run whose `preprocess.slice_axis` is auto.
    One without the structure in either mask counts as perfect; `metrics` says what empty masks get.

    Args:
        predictions: Folder of `NAME_mask.nii.gz`.
        references: Root of a cohort (see `find_cohort`), where NAME is that of the case; or a flat
            folder of masks, `NAME_gt.nii.gz`, `NAME_mask.nii.gz` or `NAME.nii.gz`, each of which
            counts as a patient of its own.
        out: Folder for the results, made if needed.
        baseline: Folder of the masks before adaptation, named like `predictions`.
        unit: What a row is: a whole volume, or a slice scored in its plane.
        structures: Label -> name; by default those in `predictions/settings.json`, without it every
            label that a reference holds, as "label 1" and so on.

    Raises:
        InputError: A folder holds no masks, or the results cannot be written.
        RunError: `settings.json` or `predictions.csv` is damaged.
    """
    cases = find_references(references)
    names = _names(predictions, cases)
    structures = structures or _structures_of(predictions)
    if not structures:
        structures = _labels_in(cases[name] for name in names if name in cases)
    if not structures:
        raise InputError(f"{references}: every mask is empty; name the structures to score")
    folders = {"": predictions}
    if baseline is not None:
        folders = {"_before": baseline, "_after": predictions}

    failed = {
        (folder, name)
        for folder in folders.values()
        for name, status in _listed(folder).items()
        if status == "failed"
    }
    records: list[dict[str, Any]] = []
    failures: list[tuple[str, str]] = []
    for name in _with_progress(names):
        try:
            if name not in cases:
                raise InputError(
                    f"{predictions / name}{MASK}: has no reference in {references}; "
                    "add the reference or remove the mask"
                )
            for folder in folders.values():
                if (folder, name) in failed:  # a mask of an earlier call may be there still
                    raise InputError(
                        f"{folder / name}{MASK}: the last predict failed on this image; "
                        f"{folder / 'predictions.csv'} says why"
                    )
            masks = {suffix: folder / f"{name}{MASK}" for suffix, folder in folders.items()}
            records += _score_image(cases[name], masks, unit, structures)
        except InputError as error:
            failures.append((name, str(error)))

    place = ["image", "slice"] if unit == "slice" else ["image"]
    metrics = [f"{metric}{suffix}" for metric in METRICS for suffix in folders]
    rows = pd.DataFrame(records, columns=[*place, "patient", "phase", "structure", *metrics])
    summary = {
        "unit": unit,
        "images": rows["image"].nunique(),
        "patients": rows["patient"].nunique(),
        "structures": _summarise(rows, paired=baseline is not None),
        "failures": [{"image": name, "message": message} for name, message in failures],
    }
    rows_file, summary_file = _FILES[unit]
    _write(out / rows_file, rows.to_csv(index=False))
    _write(out / summary_file, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return Evaluation(unit=unit, rows=rows, summary=summary, failures=failures)


# Scoring


@dataclass(frozen=True)
class Reference:
    """What the mask of an image is scored against."""

    name: str
    patient: str
    phase: str
    mask: Path


def _score_image(
    case: Reference, masks: Mapping[str, Path], unit: Unit, structures: Mapping[int, str]
) -> list[dict[str, Any]]:
    """The rows of one image; `masks` is keyed by the suffix of the columns."""
    reference = read_mask(case.mask)
    predicted = {suffix: read_mask(path, like=reference).voxels for suffix, path in masks.items()}
    parts: dict[int | None, tuple[slice, ...]] = {None: ()}
    if unit == "slice":
        before = [slice(None)] * reference.slice_axis
        depth = reference.voxels.shape[reference.slice_axis]
        parts = {n: (*before, slice(n, n + 1)) for n in range(depth)}
    rows = []
    for number, part in parts.items():
        place = {"image": case.name, "slice": number, "patient": case.patient, "phase": case.phase}
        scored: list[dict[str, float]] = []
        for label, structure in structures.items():
            truth = reference.voxels[part] == label
            scored.append(
                {
                    f"{metric}{suffix}": value
                    for suffix, labels in predicted.items()
                    for metric, value in asdict(
                        score(labels[part] == label, truth, reference.spacing_mm)
                    ).items()
                }
            )
            rows.append({**place, "structure": structure, **scored[-1]})
        mean = {column: float(np.mean([row[column] for row in scored])) for column in scored[0]}
        rows.append({**place, "structure": MEAN, **mean})
    return rows


def _summarise(rows: pd.DataFrame, *, paired: bool) -> dict[str, dict[str, Any]]:
    """Structure -> metric -> numbers, and with a baseline structure -> "harm"."""
    summary: dict[str, dict[str, Any]] = {}
    for structure, group in rows.groupby("structure", sort=False):
        patients = group["patient"].tolist()
        numbers: dict[str, Any] = {}
        for metric in METRICS:
            if paired:
                change = compare(group[f"{metric}_before"], group[f"{metric}_after"], patients)
                numbers[metric] = asdict(change)
            else:
                counts = {"n": len(group), "patients": len(set(patients))}
                numbers[metric] = counts | asdict(Spread.of(group[metric]))
        if paired:
            numbers["harm"] = asdict(harm(group["dice_before"], group["dice_after"]))
        summary[str(structure)] = numbers
    return summary


def _cell(numbers: Mapping[str, Any], factor: float) -> str:
    if "gain" in numbers:
        before, after = (factor * numbers[when]["mean"] for when in ("before", "after"))
        return f"{before:.1f} → {after:.1f}"
    return f"{factor * numbers['mean']:.1f} ({factor * numbers['sd']:.1f})"


# What is to be scored


def find_references(root: Path) -> dict[str, Reference]:
    """Name -> reference, from a cohort or a flat folder of masks."""
    try:
        references = [
            Reference(case.name, case.patient, case.phase or "", case.mask)
            for case in find_cohort(root).cases
            if case.mask is not None
        ]
    except InputError:
        if not _flat_masks(root):
            raise
        references = []
    if not references:
        # A lone mask does not say whose it is, so each counts as a patient.
        references = [Reference(name, name, "", path) for name, path in _flat_masks(root).items()]
    if not references:
        raise InputError(f"{root}: holds no masks; name the folder of the references")
    return {reference.name: reference for reference in references}


def _flat_masks(root: Path) -> dict[str, Path]:
    files = sorted(root.glob("[!.]*.nii.gz"))  # systems hide files of their own, such as ._NAME
    stems = {path.name.removesuffix(".nii.gz"): path for path in files}
    marked = {
        stem.removesuffix(mark): path
        for mark in ("_mask", "_gt")
        for stem, path in stems.items()
        if stem.endswith(mark)
    }
    return marked or stems  # beside marked masks, plain names are those of images


def _names(predictions: Path, references: Iterable[str]) -> list[str]:
    """Every image of which a mask is there or expected."""
    found = set(masked_in(predictions))
    if not found:
        raise InputError(f"{predictions}: holds no NAME{MASK}; name the folder of the predictions")
    images = _listed(predictions)
    return sorted(found.union(images or references))


def _listed(predictions: Path) -> dict[str, str]:
    """Status of each image in predictions.csv; nothing without that file."""
    index = predictions / PREDICTIONS
    if not index.exists():
        return {}
    try:
        table = pd.read_csv(index, dtype=str).dropna(subset=["image"])
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{index}: has no readable column image; predict again") from error
    names = (re.sub(r"\.nii(\.gz)?$", "", Path(image).name) for image in table["image"])
    return dict(zip(names, table.get("status", table["image"]), strict=True))


def _structures_of(predictions: Path) -> dict[int, str]:
    """Label -> name as `predict` wrote them; empty if it did not."""
    settings = predictions / SETTINGS
    try:
        named = json.loads(settings.read_text(encoding="utf-8")).get("structures", {})
        return {int(label): str(name) for label, name in named.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(
            f"{settings}: is damaged, expected structures such as "
            '{"1": "RV"}; predict again or name the structures'
        ) from error


def _labels_in(references: Iterable[Reference]) -> dict[int, str]:
    labels: set[int] = set()
    for reference in references:
        with suppress(InputError):  # it is named when its turn comes to be scored
            labels.update(np.unique(read_mask(reference.mask).voxels).tolist())
    return {label: f"label {label}" for label in sorted(labels - {0})}


# Around it


def _with_progress(names: Sequence[str]) -> Iterator[str]:
    with progress_bar(Console(stderr=True), "scoring", len(names)) as advance:
        for name in names:
            yield name
            advance()


def _write(path: Path, text: str) -> None:
    with as_input_error():
        write_atomically(path, text)
