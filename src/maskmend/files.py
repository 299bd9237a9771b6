"""From image files to mask files: the next images are read while these are adapted to.

read, resample  ->  adapt (the device)  ->  resample back, write
a thread ahead      this thread             a thread behind
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from maskmend.atomic import as_input_error, write_atomically
from maskmend.cluster import predict_on_ray
from maskmend.config import AdaptationConfig
from maskmend.data.cohort import patient_of
from maskmend.data.source import modified_ns, name_of, shown
from maskmend.details import Details, details_of, has_details, remove_details, write_details
from maskmend.errors import ConfigError, InputError
from maskmend.instance import Adapted
from maskmend.prediction import Prediction, Predictor, Shown, finish
from maskmend.table import (
    MASK,
    PREDICTIONS,
    SETTINGS,
    Row,
    masked_in,
    open_table,
    read_table,
)

_AHEAD = 2
"""Patients that are read, or wait to be written, beside those that are adapted to."""


def predict_files(
    model: Predictor,
    images: Sequence[Path],
    out: Path,
    settings: AdaptationConfig,
    report: Callable[[Row], None] = lambda row: None,
    *,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    details: bool = False,
) -> list[Row]:
    """Segment image files into NAME_mask.nii.gz, and say in predictions.csv how each went.

    Rows are written as patients are done, so that nothing finished is lost. An image that cannot
    be used has its own failed row, and the others are done. A call that was stopped is continued by
    the same call; see `finished_rows`.

    Args:
        model: A trained run (`load`), or a model that was not trained here (`bring`).
        images: NIfTI files, or folders of one DICOM series each. Those named as frames of one
            patient are adapted to together where the instance is a patient; their order does not
            matter.
        out: Folder of the masks, made if need be.
        settings: How to adapt.
        report: Called with every row.
        engine: In this process, or with several workers on Ray (see `maskmend.cluster`).
        workers: How many on Ray; by default one a GPU, without GPUs one a core.
        details: Keep what a report shows of each image (see `maskmend.details`).

    Returns:
        The rows, one an image; those of other images in the folder stay in the table.

    Raises:
        ConfigError: Two images have the same name, so that their masks would collide; or a package
            is not installed that Ray or DICOM needs; or Ray cannot keep the order of a stream; or
            the model cannot have these settings; or the folder holds masks of other images, made
            with other settings, or masks that nobody predicted.
        InputError: The folder cannot be written.
        RunError: Something that the settings need is missing in the run.
    """
    if engine == "ray" and settings.continual:
        raise ConfigError("engine: ray keeps no order, which --continual learns from; choose local")
    check_names(images)
    model.check(settings)
    others = _others(model, images, out, settings)
    rows = finished_rows(model, images, out, settings, details=details)
    finished = {row.image for row in rows}
    left = [path for path in images if name_of(path) not in finished]
    from_ray: Iterable[Row] = ()
    if engine == "ray":
        one = partial(_predict_one, details=details)
        from_ray = predict_on_ray(one, model, _by_patient(left), out, settings, workers)
    with open_table(out / PREDICTIONS, [*others, *rows]) as write:
        for path in left:  # else a call that is stopped would leave masks of two settings
            _remove_mask(out, name_of(path))
        with as_input_error():  # before any mask, and after those that were made otherwise are gone
            write_atomically(out / SETTINGS, json.dumps(model.made_by(settings), indent=2))
        for row in rows:
            report(row)

        def record(row: Row) -> None:
            if row.status == "failed":  # a mask of a worker that died would belie the row
                _remove_mask(out, row.image)
            if row.status == "failed" or not details:
                remove_details(out, row.image)
            write(row)
            report(row)
            rows.append(row)

        for row in from_ray:
            record(row)
        if engine == "local":
            _predict(model, _by_patient(left), out, settings, record, details)
    return rows


def finished_rows(
    model: Predictor,
    images: Sequence[Path],
    out: Path,
    settings: AdaptationConfig,
    *,
    details: bool = False,
) -> list[Row]:
    """Rows of images that an earlier call into the same folder finished, and that stay as they are.

    They are those with a mask that is younger than the image, made by the same weights with the
    same settings, and with details if these are wanted. Where the instance is a patient, all images
    of the patient must be finished.
    """
    if not _made_alike(model, out, settings):
        return []
    rows = {row.image: row for row in read_table(out / PREDICTIONS) if row.status != "failed"}

    def finished(path: Path) -> bool:
        mask = mask_file(out, name_of(path))
        changed = modified_ns(path)
        if name_of(path) not in rows or not (mask.is_file() and changed):
            return False
        if details and not has_details(out, name_of(path)):
            return False
        return mask.stat().st_mtime_ns >= changed

    units = _by_patient(images) if settings.instance == "patient" else [[path] for path in images]
    return [rows[name_of(path)] for unit in units if all(map(finished, unit)) for path in unit]


def _made_alike(model: Predictor, out: Path, settings: AdaptationConfig) -> bool:
    """Whether what a folder holds was made by the same weights with the same settings."""
    try:
        made_by = dict(json.loads((out / SETTINGS).read_text(encoding="utf-8")))
        # A setting that an earlier version did not know was then as it is by default.
        unsaid = dataclasses.asdict(AdaptationConfig())
        made_by["adaptation"] = {**unsaid, **made_by["adaptation"]}
    except (OSError, ValueError, TypeError, KeyError):
        return False
    now = json.loads(json.dumps(model.made_by(settings)))
    return bool({**now, **made_by} == now)  # what it did not write down it did not change


def _others(
    model: Predictor, images: Sequence[Path], out: Path, settings: AdaptationConfig
) -> list[Row]:
    """Rows of images with a mask in the folder that the call does not name.

    Raises:
        ConfigError: Their masks were made otherwise, and nobody could tell them from the new ones;
            or masks are there that nobody predicted, which would be written over.
    """
    there, named = masked_in(out), {name_of(path) for path in images}
    others = [name for name in there if name not in named]
    found = there if not (out / SETTINGS).exists() else others
    if found and not _made_alike(model, out, settings):
        more = f" and {len(found) - 1} more" if found[1:] else ""
        whose = "other images" if found is others else "somebody else"
        how = ", made with other settings or weights" if found is others else ""
        raise ConfigError(
            f"{out}: holds masks of {whose} ({found[0]}{more}){how}; choose another --out, or"
            " remove them"
        )
    rows = {row.image: row for row in read_table(out / PREDICTIONS)}
    return [rows[name] for name in others if name in rows]


def _predict(
    model: Predictor,
    patients: Sequence[Sequence[Path]],
    out: Path,
    settings: AdaptationConfig,
    record: Callable[[Row], None],
    details: bool,
) -> None:
    """The thread behind records the rows, and ends its work even if the others are stopped."""
    inside: dict[int, list[Shown]] = {}
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead: list[Future[tuple[list[Shown], list[Row]]]] = []
        behind: list[Future[None]] = []
        waiting = iter(patients)

        def stream() -> Iterator[list[Shown]]:
            number = 0
            while True:
                few = itertools.islice(waiting, 1 + _AHEAD - len(ahead))
                ahead.extend(reader.submit(_read, model, paths) for paths in few)
                if not ahead:
                    return
                prepared, unreadable = ahead.pop(0).result()
                behind.extend(writer.submit(record, row) for row in unreadable)
                if prepared:
                    inside[number] = prepared
                    number += 1
                    yield prepared

        def write(prepared: list[Shown], adapted: list[Adapted]) -> None:
            behind.append(writer.submit(_write, prepared, adapted, out, record, details))
            while len(behind) > _AHEAD:
                behind.pop(0).result()

        finished = False
        while not finished:
            try:
                for number, adapted in model.adapt_patients(stream(), settings):
                    write(inside.pop(number), adapted)
                finished = True
            except torch.OutOfMemoryError:  # with a single slice in a pass: one by one, then
                for prepared in inside.values():
                    try:
                        ((_, adapted),) = model.adapt_patients([prepared], settings)
                    except torch.OutOfMemoryError:
                        behind.extend(writer.submit(record, _too_large(one)) for one in prepared)
                    else:
                        write(prepared, adapted)
                inside.clear()
        for future in behind:
            future.result()


def _predict_one(
    model: Predictor,
    paths: Sequence[Path],
    out: Path,
    settings: AdaptationConfig,
    *,
    details: bool,
) -> list[Row]:
    """The masks of one patient, as a worker makes them."""
    rows: list[Row] = []
    _predict(model, [paths], out, settings, rows.append, details)
    return rows


def _too_large(prepared: Shown) -> Row:
    message = f"{prepared.volume.path}: does not fit into the device's memory; use another device"
    return Row(prepared.volume.name, "failed", message=message)


def _read(model: Predictor, paths: Sequence[Path]) -> tuple[list[Shown], list[Row]]:
    """A patient's images, and a row for each that cannot be used."""
    prepared, failed = [], []
    for path in paths:
        try:
            prepared.append(model.prepare(path))
        except InputError as error:
            failed.append(Row(name_of(path), "failed", message=str(error)))
        except MemoryError:
            message = f"{shown(path)}: does not fit into memory; crop it or use another machine"
            failed.append(Row(name_of(path), "failed", message=message))
    return prepared, failed


def _write(
    prepared: Sequence[Shown],
    adapted: Sequence[Adapted],
    out: Path,
    record: Callable[[Row], None],
    details: bool,
) -> None:
    predictions = finish(prepared, adapted)
    kept = details_of(prepared, adapted, predictions) if details else [None] * len(predictions)
    for prediction, one in zip(predictions, kept, strict=True):
        record(_save(prediction, one, out))


def _save(prediction: Prediction, details: Details | None, out: Path) -> Row:
    name = prediction.volume.name
    try:
        if details:
            write_details(out, name, details, prediction)
        prediction.save(mask_file(out, name))
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
        prediction.decision,
        f"{prediction.volume.path}: {message}" if message else "",
    )


def mask_file(out: Path, name: str) -> Path:
    """The mask of an image, by its name, in a folder of masks."""
    return out / f"{name}{MASK}"


def segmentation_file(out: Path, name: str) -> Path:
    """The same mask as a DICOM segmentation, where one was asked for."""
    return out / f"{name}_mask.dcm"


def _remove_mask(out: Path, name: str) -> None:
    for file in (mask_file(out, name), segmentation_file(out, name)):
        file.unlink(missing_ok=True)


def _by_patient(images: Iterable[Path]) -> list[list[Path]]:
    """Files of a patient together, patients in the order they were first named."""
    groups: dict[str, list[Path]] = {}
    for path in images:
        groups.setdefault(patient_of(name_of(path)), []).append(path)
    # Sorted within a patient, so that results do not depend on the order of the call.
    return [sorted(paths, key=name_of) for paths in groups.values()]


def check_names(images: Sequence[Path]) -> None:
    """Raises ConfigError if the masks of two images would have the same name."""
    paths: dict[str, Path] = {}
    for path in images:
        name = name_of(path)
        if name in paths:
            raise ConfigError(
                f"{shown(paths[name])} and {shown(path)} would both become"
                f" {mask_file(Path(), name)}; rename one"
            )
        paths[name] = path
