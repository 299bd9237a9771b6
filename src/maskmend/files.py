"""From image files to mask files: the next images are read while these are adapted to.

read, resample  ->  adapt (the device)  ->  resample back, write
a thread ahead      this thread             a thread behind
"""

import csv
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

import torch

from maskmend.adapt import Adapted
from maskmend.config import AdaptationConfig
from maskmend.data.cohort import patient_of
from maskmend.errors import ConfigError, InputError
from maskmend.predict import Model, Prediction, Prepared, finish

PREDICTIONS = "predictions.csv"
Status = Literal["done", "check", "failed"]

_AHEAD = 2
"""Patients that are read, or wait to be written, beside those that are adapted to."""


@dataclass(frozen=True)
class Row:
    """One line of predictions.csv."""

    image: str
    status: Status
    realism_before: float | str = ""
    realism_after: float | str = ""
    steps: float | str = ""
    seconds: float | str = ""
    message: str = ""


def predict_files(
    model: Model,
    images: Sequence[Path],
    out: Path,
    settings: AdaptationConfig,
    report: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Segment image files into NAME_mask.nii.gz, and say in predictions.csv how each went.

    Rows are written as patients are done, so that nothing finished is lost. An image that cannot be
    used has its own failed row, and the others are done.

    Args:
        model: The trained run.
        images: NIfTI files. Files named as frames of one patient are adapted to together where the
            instance is a patient; their order does not matter.
        out: Folder of the masks, made if need be.
        settings: How to adapt.
        report: Called with every row.

    Returns:
        The rows, one an image.

    Raises:
        ConfigError: Two images have the same name, so that their masks would collide.
        InputError: The folder cannot be written.
    """
    check_names(images)
    rows = []
    with _table(out) as write:
        for row in _predict(model, _by_patient(images), out, settings):
            write(row)
            report(row)
            rows.append(row)
    return rows


def _predict(
    model: Model, patients: Sequence[Sequence[Path]], out: Path, settings: AdaptationConfig
) -> Iterator[Row]:
    """Rows as patients are finished, in the order they finish."""
    failed: list[Row] = []
    inside: dict[int, list[Prepared]] = {}
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead: list[Future[tuple[list[Prepared], list[Row]]]] = []
        waiting = iter(patients)

        def stream() -> Iterator[list[Prepared]]:
            number = 0
            while True:
                few = itertools.islice(waiting, 1 + _AHEAD - len(ahead))
                ahead.extend(reader.submit(_read, model, paths) for paths in few)
                if not ahead:
                    return
                prepared, unreadable = ahead.pop(0).result()
                failed.extend(unreadable)
                if prepared:
                    inside[number] = prepared
                    number += 1
                    yield prepared

        behind: list[Future[list[Row]]] = []
        finished = False
        while not finished:
            try:
                for number, adapted in model.adapt_patients(stream(), settings):
                    behind.append(writer.submit(_write, inside.pop(number), adapted, out))
                    while behind and (behind[0].done() or len(behind) > _AHEAD):
                        yield from behind.pop(0).result()
                    yield from _drained(failed)
                finished = True
            except torch.OutOfMemoryError:  # with a single slice in a pass: one by one, then
                for prepared in inside.values():
                    try:
                        ((_, adapted),) = model.adapt_patients([prepared], settings)
                    except torch.OutOfMemoryError:
                        failed.extend(_too_large(one) for one in prepared)
                    else:
                        behind.append(writer.submit(_write, prepared, adapted, out))
                inside.clear()
            except (Exception, KeyboardInterrupt):
                for future in behind:  # whose masks are there already
                    yield from future.result()
                raise
        for future in behind:
            yield from future.result()
        yield from _drained(failed)


def _too_large(prepared: Prepared) -> Row:
    message = f"{prepared.volume.path}: does not fit into the device's memory; use another device"
    return Row(prepared.volume.name, "failed", message=message)


def _read(model: Model, paths: Sequence[Path]) -> tuple[list[Prepared], list[Row]]:
    """A patient's images, and a row for each that cannot be used."""
    prepared, failed = [], []
    for path in paths:
        try:
            prepared.append(model.prepare(path))
        except InputError as error:
            failed.append(Row(name_of(path), "failed", message=str(error)))
    return prepared, failed


def _write(prepared: Sequence[Prepared], adapted: Sequence[Adapted], out: Path) -> list[Row]:
    return [_save(prediction, out) for prediction in finish(prepared, adapted)]


def _drained(rows: list[Row]) -> Iterator[Row]:
    while rows:
        yield rows.pop(0)


def _save(prediction: Prediction, out: Path) -> Row:
    name = prediction.volume.name
    try:
        prediction.save(out / f"{name}_mask.nii.gz")
    except InputError as error:
        return Row(name, "failed", message=str(error))
    message = prediction.message
    return Row(
        name,
        "check" if prediction.check else "done",
        round(prediction.realism_before, 4),
        round(prediction.realism_after, 4),
        prediction.steps,
        round(prediction.seconds, 3),
        f"{prediction.volume.path}: {message}" if message else "",
    )


def name_of(path: Path) -> str:
    """File name without .nii or .nii.gz, in letters of any case."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def _by_patient(images: Iterable[Path]) -> list[list[Path]]:
    """Files of a patient together, patients in the order they were first named."""
    groups: dict[str, list[Path]] = {}
    for path in images:
        groups.setdefault(patient_of(name_of(path)), []).append(path)
    # Sorted within a patient, so that results do not depend on the order of the call.
    return [sorted(paths, key=name_of) for paths in groups.values()]


def check_names(images: Sequence[Path]) -> None:
    """Raises ConfigError if the masks of two images would have the same name."""
    for a, b in itertools.combinations(images, 2):
        if name_of(a) == name_of(b):
            raise ConfigError(f"{a} and {b} would both become {name_of(a)}_mask.nii.gz; rename one")


@contextmanager
def _table(out: Path) -> Iterator[Callable[[Row], None]]:
    """Opens predictions.csv and gives a function that adds a row and flushes it."""
    path = out / PREDICTIONS
    try:
        out.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(field.name for field in fields(Row))

            def write(row: Row) -> None:
                writer.writerow(astuple(row))
                file.flush()

            yield write
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free space or choose another --out"
        ) from error
