"""Size of a report of many patients, and how long Chromium takes to open it.

    python -m benchmarks.report [--patients 100] [--size 224] [--json FILE]

Predictions are made up: procedural hearts, their masks, and as plain masks the same ones moved by
two pixels, so that no network is needed. Ten hearts are drawn; further patients are these again.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
from cyclopts import App, Parameter

from benchmarks.browser import browser
from maskmend.config import AdaptationConfig, PreprocessConfig
from maskmend.data.phantom import write_cohort
from maskmend.data.preprocess import grid_of, image_slices, mask_slices
from maskmend.data.volume import read_image, read_mask
from maskmend.details import details_of, write_details
from maskmend.environment import environment
from maskmend.instance import Adapted
from maskmend.prediction import Prepared, finish
from maskmend.report.page import write_report
from maskmend.table import PREDICTIONS, Row, open_table

app = App(help=__doc__, help_format="plaintext")

_DRAWN = 10
_CLASSES = 4


@app.default
def main(
    *,
    patients: int = 100,
    size: int = 224,
    repeats: int = 3,
    file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """Measure, print and write.

    Args:
        patients: Of two images each.
        size: Pixels of a slice along each side.
        repeats: Times that the page is opened.
        file: Where the numbers go.
    """
    with TemporaryDirectory() as folder:
        hearts, out = Path(folder) / "hearts", Path(folder) / "masks"
        spacing_mm = 300 / size
        drawn = min(_DRAWN, patients)
        write_cohort(hearts, patients=drawn, seed=0, size=size, spacing_mm=spacing_mm)
        images = sorted((hearts / "images").iterdir())
        again = (images[number % len(images)] for number in range(2 * patients))
        named = ((f"heart{n // 2:03d}_{n % 2}", image) for n, image in enumerate(again))
        write_predictions(named, out, PreprocessConfig(size=size, spacing_mm=spacing_mm))
        start = time.perf_counter()
        page = write_report(out)
        written_s = time.perf_counter() - start
        opened = [_opened_ms(page) for _ in range(repeats)]
        result = {
            "megabytes": round(page.stat().st_size / 1e6, 1),
            "opened_s": median(one["load"] for one in opened) / 1000,
            "first_paint_s": median(one["paint"] for one in opened) / 1000,
            "written_s": round(written_s, 1),
            "patients": patients,
            "images": 2 * patients,
            "size": size,
            "opened": opened,
            "environment": environment(torch.device("cpu")),
        }
    print(json.dumps(result, indent=2))
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n")


def write_predictions(
    images: Iterable[tuple[str, Path]], out: Path, preprocess: PreprocessConfig
) -> None:
    """A folder as `predict --method guarded --report` leaves it.

    Args:
        images: Names, and images of a cohort that `write_cohort` wrote.
        out: The folder.
        preprocess: How they are sliced.
    """
    structures = {"1": "RV", "2": "MYO", "3": "LV"}
    settings = {"structures": structures, "adaptation": asdict(AdaptationConfig(method="guarded"))}
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(json.dumps(settings))
    with open_table(out / PREDICTIONS) as write:
        for number, (name, path) in enumerate(images):
            volume = read_image(path)
            grid = grid_of(volume, preprocess)
            slices = image_slices(volume, grid, preprocess)
            truth = read_mask(path.parents[1] / "masks" / path.name, like=volume)
            labels = mask_slices(truth, grid, _CLASSES).long()
            prepared = [Prepared(volume=volume, grid=grid, slices=slices)]
            adapted = [_adapted(slices, labels, number)]
            (prediction,) = finish(prepared, adapted)
            (details,) = details_of(prepared, adapted, [prediction])
            write_details(out, name, details, prediction)
            prediction.save(out / f"{name}_mask.nii.gz")
            write(
                Row(
                    name,
                    "check" if prediction.check else "done",
                    prediction.realism_before,
                    prediction.realism_after,
                    prediction.steps,
                    prediction.seconds,
                    prediction.decision,
                    prediction.message,
                )
            )


def _adapted(slices: torch.Tensor, labels: torch.Tensor, number: int) -> Adapted:
    """Every third mask left alone, some only steadied, and the first of seven flagged."""
    masks = torch.nn.functional.one_hot(labels, _CLASSES).movedim(-1, 1).float()
    left, steadied = number % 3 == 0, number % 5 == 0
    before = 0.66 + 0.04 * (number % 7)
    after = before if left else before + (0.02 if steadied else 0.11)
    tuned = not left and not steadied
    if left:
        decision = "left alone: nothing promises more"
    elif steadied:
        decision = f"steadied: predicted Dice {before:.2f}"
    else:
        decision = f"mended by darken + own statistics, retouched: Dice +{after - before:.2f}"
    return Adapted(
        plain=masks if left else masks.roll((1, 0) if steadied else (2, 1), dims=(2, 3)),
        masks=masks,
        losses=tuple(0.3 * 0.8**step + 0.05 for step in range(5)) if tuned else (),
        plain_scores=torch.full((len(slices),), before),
        scores=torch.full((len(slices),), after),
        steps=4 if tuned else 0,
        seconds=12.5,
        decision=decision,
        plain_shown=slices,
        shown=slices + 0.1 * torch.sin(3 * slices) if tuned else None,
    )


def _opened_ms(page: Path) -> dict[str, float]:
    """Milliseconds until a fresh browser has loaded the page, and until it shows something."""
    with browser() as driver:
        driver.get(page.as_uri())
        figures: dict[str, Any] = driver.execute_async_script(
            "const done = arguments[0]; setTimeout(() => done({"
            " load: performance.getEntriesByType('navigation')[0].loadEventEnd,"
            " paint: performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN,"
            "}), 500)"
        )
    return {name: float(value) for name, value in figures.items()}


if __name__ == "__main__":
    app()
