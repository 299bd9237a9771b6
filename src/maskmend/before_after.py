"""What adaptation does to annotated patients: predict without and with it, score, show."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from maskmend.config import AdaptationConfig
from maskmend.data.cohort import Cohort
from maskmend.data.volume import read_image, read_mask
from maskmend.evaluate.figures import Row
from maskmend.evaluate.scores import MEAN, Evaluation, evaluate
from maskmend.files import mask_file, predict_files
from maskmend.predict import Model
from maskmend.progress import progress_bar

PLAIN, ADAPTED, SCORES = "plain", "adapted", "scores"


def before_and_after(
    model: Model,
    cohort: Cohort,
    patients: Collection[str],
    out: Path,
    *,
    settings: AdaptationConfig,
    console: Console,
    details: bool = False,
) -> Evaluation:
    """Predict patients without and with adaptation, and score both.

    Args:
        model: The trained run.
        cohort: Annotated data.
        patients: Who of it.
        out: Folder for plain/ and adapted/, the masks, and for scores/.
        settings: How to adapt.
        console: Where progress is shown.
        details: Keep what a report shows of the adapted masks.

    Raises:
        InputError: The folder cannot be written.
    """
    images = [c.image for c in cohort.cases if c.patient in patients and c.image]
    for kind, how in ((PLAIN, replace(settings, steps=0)), (ADAPTED, settings)):
        _predict(model, images, out / kind, how, console, details=details and kind == ADAPTED)
    return evaluate(
        out / ADAPTED,
        cohort.root,
        out / SCORES,
        baseline=out / PLAIN,
        structures=model.config.data.structures,
    )


def examples(
    evaluation: Evaluation, cohort: Cohort, out: Path, ranks: Sequence[float], *, name: str = ""
) -> list[Row]:
    """Cases chosen by rank and not by hand, for `contact_sheet`.

    Args:
        evaluation: What `before_and_after` found.
        cohort: The data it was given.
        out: Its folder.
        ranks: 0 is the case whose mean Dice lost most, 0.5 the median one, 1 the one that gained
            most.
        name: Put before the cases' names.

    Returns:
        The middle slice of the organ in each.
    """
    scores = evaluation.rows[evaluation.rows["structure"] == MEAN]
    gains = (scores["dice_after"] - scores["dice_before"]).to_numpy()
    order = np.argsort(gains, kind="stable")
    cases = {case.name: case for case in cohort.cases}
    rows = []
    for rank in ranks:
        score = scores.iloc[order[round(rank * (len(order) - 1))]]
        case = cases[score["image"]]
        assert case.image is not None
        assert case.mask is not None
        image, truth = read_image(case.image).voxels, read_mask(case.mask).voxels
        before, after = (
            read_mask(mask_file(out / kind, case.name)).voxels for kind in (PLAIN, ADAPTED)
        )
        organ = np.flatnonzero(truth.any(axis=(0, 1)))
        middle = int(organ[len(organ) // 2]) if len(organ) else truth.shape[2] // 2
        rows.append(
            Row(
                name=f"{name}{case.name}",
                image=_slice(image, middle),
                before=_slice(before, middle),
                after=_slice(after, middle),
                truth=_slice(truth, middle),
                dice_before=score["dice_before"],
                dice_after=score["dice_after"],
            )
        )
    return rows


def _predict(
    model: Model,
    images: Sequence[Path],
    out: Path,
    settings: AdaptationConfig,
    console: Console,
    *,
    details: bool,
) -> None:
    with progress_bar(console, f"{out.parent.name}, {out.name}", len(images)) as advance:
        predict_files(model, images, out, settings, lambda _: advance(), details=details)


def _slice(voxels: NDArray, index: int) -> NDArray:
    return voxels[:, :, index]
