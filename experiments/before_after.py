"""Test-time training on the patients of a run's split: masks, scores, numbers and a picture.

    python experiments/before_after.py runs/acdc_small --data DIR --out runs/acdc_small_test
    python experiments/before_after.py runs/acdc_small --data DIR --out runs/choose/slice \
        --part validation --patients 8 --set instance=slice --set precision=bf16-mixed

OUT then holds patients.csv, summary.json and examples.png, and the masks in plain/ and adapted/.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from cyclopts import App, Parameter
from rich.console import Console

from maskmend.atomic import write_atomically
from maskmend.before_after import SCORES, before_and_after, examples
from maskmend.checkpoint import RUN, read_split
from maskmend.data.layouts import find_cohort
from maskmend.environment import environment
from maskmend.evaluate.figures import contact_sheet
from maskmend.predict import load

app = App(help=__doc__, help_format="plaintext")


@app.default
def main(
    run: Path,
    *,
    data: Path,
    out: Path,
    part: Literal["validation", "test"] = "test",
    patients: int | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
) -> None:
    """Predict without and with adaptation, score both, and write what a result page needs.

    Args:
        run: Folder of a finished training.
        data: The data it was trained on.
        out: Folder of the results.
        part: Settings are chosen on validation patients; test patients are run once, afterwards.
        patients: Only so many, the first of the split.
        set_: field=value, over the run's section `adaptation`; may be repeated.
    """
    console = Console()
    model = load(run)
    given: dict[str, Any] = {k: yaml.safe_load(v) for k, _, v in (s.partition("=") for s in set_)}
    settings = model.settings(**given)
    cohort = find_cohort(data, model.config.data.layout)
    chosen = getattr(read_split(run), part)[:patients]
    evaluation = before_and_after(model, cohort, chosen, out, settings=settings, console=console)
    console.print(evaluation.table())
    trained = json.loads((run / RUN).read_text())
    summary = {
        "data": f"{model.config.data.layout}, split {model.config.data.split}, {part}",
        "patients": chosen,
        "seed": model.config.seed,
        "adaptation": dataclasses.asdict(settings),
        "environment": environment(model.device),
        "training": trained,
        "scores": evaluation.summary,
    }
    write_atomically(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    write_atomically(out / "patients.csv", (out / SCORES / "patients.csv").read_text())
    rows = examples(evaluation, cohort, out, (1.0, 0.5, 0.0))
    contact_sheet(out / "examples.png", rows, structures=model.config.data.structures)
    console.print(f"picture: {out / 'examples.png'}", soft_wrap=True)


if __name__ == "__main__":
    app()
