"""Speed, memory and quality of adaptation against the paper's loop, all in one run.

    python -m benchmarks.adaptation --run runs/acdc_small --data ACDC --json FILE
    python -m benchmarks.adaptation --device cuda --json FILE

Without a run, a small network is trained on procedural hearts first (kept in runs/benchmark).

A machine that has other work changes its speed within a minute, so what is divided by one another
is measured side by side: in each round every patient is given to the paper's loop, the fast path,
automatic stopping and plain inference in turn, and the floor is measured directly before and after
the fast path. A round's ratio is that of its sums over the patients; what is reported is the median
of the rounds' ratios. Dice and the peak of memory come from another run of each method, in a
process of its own. A plot of the cost goes beside the JSON.
"""

import json
import multiprocessing
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
from cyclopts import App, Parameter
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.measure import METHODS, Subject, measure_alone, measure_cost, measure_rounds
from maskmend.checkpoint import CONFIG
from maskmend.config_file import read_config
from maskmend.data.phantom import write_cohort
from maskmend.environment import environment
from maskmend.train import train

app = App(help=__doc__, help_format="plaintext")


@app.default
def main(
    *,
    run: Path | None = None,
    data: Path | None = None,
    device: str = "cpu",
    patients: int = 3,
    steps: int = 50,
    repeats: int = 3,
    file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """Measure, print and write.

    Args:
        run: Folder of a trained run; by default one that is made on procedural hearts.
        data: The data it was trained on.
        device: cpu or cuda.
        patients: So many validation patients.
        steps: Of the paper's loop and of the fast path.
        repeats: Rounds.
        file: Where the numbers go; the plot beside it.
    """
    console = Console()
    if run is None or data is None:
        run, data = _hearts(Path("runs/benchmark"), console)
    subject = Subject(run=run, data=data, device=device, patients=patients, steps=steps)
    methods: dict[str, dict[str, float]] = {}
    for name in METHODS:
        console.print(f"memory and Dice: {name} ...")
        methods[name] = _alone(measure_alone, subject, name)
    console.print(f"{repeats} rounds of all methods ...")
    timed = _alone(measure_rounds, subject, repeats)
    console.print("cost ...")
    cost = _alone(measure_cost, subject)
    rounds = timed.pop("rounds")
    for name in METHODS:
        methods[name]["seconds_a_patient"] = median(one[name] for one in rounds)
    floor = median(one["floor"] for one in rounds)
    result = {
        "ratio_same_steps": median(one["paper_loop"] / one["fast"] for one in rounds),
        "ratio_auto": median(one["paper_loop"] / one["auto"] for one in rounds),
        "fraction_of_floor": median(one["floor"] / one["fast"] for one in rounds),
        "peak_memory_ratio": methods["fast"]["peak_bytes"] / methods["paper_loop"]["peak_bytes"],
        **{
            f"dice_{name}": methods[name]["dice"] for name in ("none", "paper_loop", "fast", "auto")
        },
        "methods": methods,
        "floor": {
            "seconds_a_patient": floor,
            "operations_a_second": steps * timed["operations_a_step"] / floor,
            **timed,
        },
        "rounds": rounds,
        "cost": cost,
        "steps": steps,
        "patients": patients,
        "run": run.name,
        "seed": read_config(run / CONFIG).seed,
        "environment": environment(torch.device(device)),
    }
    for name, value in result.items():
        if isinstance(value, float):
            console.print(f"{name:20} {value:.4g}")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n")
        _plot(file.with_suffix(".png"), cost)
        console.print(f"{file}, {file.with_suffix('.png')}", soft_wrap=True)


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _hearts(folder: Path, console: Console) -> tuple[Path, Path]:
    """A run of the demo's configuration."""
    with resources.as_file(resources.files("maskmend") / "configs" / "demo.yaml") as path:
        config = read_config(path)
    if not (folder / "hearts" / "patients.csv").exists():
        write_cohort(folder / "hearts", patients=30, seed=0)
    train(config, folder / "hearts", folder / "run", console=console)
    return folder / "run", folder / "hearts"


def _plot(path: Path, cost: dict[str, list[tuple[int, float]]]) -> None:
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    for axis, (name, points) in zip(figure.subplots(1, len(cost)), cost.items(), strict=True):
        axis.plot(*zip(*points, strict=True), marker="o", color="#0072B2")
        axis.set_xlabel(name)
        axis.set_xlim(left=0)
        axis.set_xticks([number for number, _ in points][1:])  # the first stand close together
        axis.set_ylim(bottom=0)
    figure.axes[0].set_ylabel("seconds")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    app()
