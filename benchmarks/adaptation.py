"""Speed, memory and quality of adaptation against the paper's loop, all in one run.

    python -m benchmarks.adaptation --run runs/acdc_small --data ACDC --json FILE
    python -m benchmarks.adaptation --device cuda --json FILE

Without a run, a small network is trained on procedural hearts first (kept in runs/benchmark). Each
method works in a process of its own, so that its peak of memory is its own; ratios are of times
measured one after the other on the same machine. A plot of the cost goes beside the JSON.
"""

import dataclasses
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from importlib import resources
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import App, Parameter
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from benchmarks.floor import convolution_floor
from benchmarks.paper_loop import paper_loop
from maskmend.checkpoint import SPLIT
from maskmend.config import AdaptationConfig, read_config
from maskmend.data.cohort import Case
from maskmend.data.layouts import find_cohort
from maskmend.data.phantom import write_cohort
from maskmend.data.preprocess import labels_on_grid
from maskmend.data.volume import read_mask
from maskmend.environment import environment
from maskmend.evaluate.metrics import dice
from maskmend.frozen import frozen
from maskmend.passes import resolve_precision
from maskmend.predict import Model, load
from maskmend.priors import DiscriminatorPrior
from maskmend.train import train

app = App(help=__doc__, help_format="plaintext")
METHODS = ("none", "paper_loop", "fast", "auto")
Patient = list[Case]


@app.default
def main(
    *,
    run: Path | None = None,
    data: Path | None = None,
    device: str = "cpu",
    patients: int = 3,
    steps: int = 50,
    repeats: int = 2,
    file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """Measure, print and write.

    Args:
        run: Folder of a trained run; by default one that is made on procedural hearts.
        data: The data it was trained on.
        device: cpu or cuda.
        patients: So many validation patients.
        steps: Of the paper's loop and of the fast path.
        repeats: Each method is timed so often; the quickest counts.
        file: Where the numbers go; the plot beside it.
    """
    console = Console()
    if run is None or data is None:
        run, data = _hearts(Path("runs/benchmark"), console)
    found: dict[str, dict[str, Any]] = {}
    for method in METHODS:
        console.print(f"{method} ...")
        found[method] = _alone(_measure, method, run, data, device, patients, steps, repeats)
    floor = _alone(_measure_floor, run, data, device, patients, steps)
    cost = _alone(_measure_cost, run, data, device)
    paper, fast, auto = (found[name] for name in ("paper_loop", "fast", "auto"))
    result = {
        "ratio_same_steps": paper["seconds_a_patient"] / fast["seconds_a_patient"],
        "ratio_auto": paper["seconds_a_patient"] / auto["seconds_a_patient"],
        "fraction_of_floor": floor["seconds_a_patient"] / fast["seconds_a_patient"],
        "peak_memory_ratio": fast["peak_bytes"] / paper["peak_bytes"],
        **{f"dice_{name}": found[name]["dice"] for name in METHODS},
        "methods": found,
        "floor": floor,
        "cost": cost,
        "steps": steps,
        "patients": patients,
        "run": str(run),
        "seed": load(run, device).config.seed,
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


# ------------------------------------------------------------------- methods


def _measure(
    method: str, run: Path, data: Path, device: str, patients: int, steps: int, repeats: int
) -> dict[str, Any]:
    """Seconds a patient, peak memory above what was there before, and mean Dice of a method."""
    model, cohort = _load(run, device), _patients(run, data, patients)
    stacks = [_slices(model, patient) for patient in cohort]
    predict = _method(method, model, steps)
    before = _reset_peak(device)
    predict(stacks[:1], 1)  # the first call plans and folds
    times, masks = [], list[Tensor]()
    for _ in range(repeats):
        start = time.perf_counter()
        masks = predict(stacks, None)
        _synchronise(device)
        times.append(time.perf_counter() - start)
    return {
        "seconds_a_patient": min(times) / len(cohort),
        "peak_bytes": _peak(device) - before,
        "dice": float(np.mean([_dice(model, *pair) for pair in zip(cohort, masks, strict=True)])),
    }


def _method(
    method: str, model: Model, steps: int
) -> Callable[[Sequence[Tensor], int | None], list[Tensor]]:
    """Stacks of slices, and a number of steps other than the method's, to probabilities."""
    networks = model.networks

    def literally(stacks: Sequence[Tensor], few: int | None) -> list[Tensor]:
        settings = model.settings()
        parts = (networks.segmentor, networks.adaptor, networks.discriminator)
        rate, target = settings.learning_rate, model.config.adversarial.target
        count = steps if few is None else few
        return [
            paper_loop(*parts, stack, steps=count, learning_rate=rate, target=target)[0]
            for stack in stacks
        ]

    def ours(stacks: Sequence[Tensor], few: int | None) -> list[Tensor]:
        wanted: int | str = {"none": 0, "fast": steps, "auto": "auto"}[method]
        settings = model.settings(
            steps=wanted if few is None else min(few, steps), precision="auto", instance="patient"
        )
        return [made.masks for _, made in sorted(model.adapt(stacks, settings), key=itemgetter(0))]

    return literally if method == "paper_loop" else ours


def _measure_floor(run: Path, data: Path, device: str, patients: int, steps: int) -> dict[str, Any]:
    """What the convolutions alone take in the precision of the fast path."""
    model = _load(run, device)
    networks, at = model.networks, torch.device(device)
    precision = resolve_precision("auto", at)
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    segmentor, discriminator = (
        frozen(n, dtype) for n in (networks.segmentor, networks.discriminator)
    )
    seconds = operations = 0.0
    for patient in _patients(run, data, patients):

        def forward(images: Tensor) -> Tensor:
            with torch.autocast(at.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                masks = segmentor(networks.adaptor(images)).float().softmax(1)
                return DiscriminatorPrior(discriminator)(masks)

        parts = [(networks.adaptor, True), (segmentor, False), (discriminator, False)]
        one = convolution_floor(parts, _slices(model, patient), forward)
        seconds, operations = seconds + one[0], operations + one[1]
    return {
        "seconds_a_patient": steps * seconds / patients,
        "operations_a_step": operations / patients,
        "operations_a_second": operations / seconds,
        "precision": precision,
    }


def _measure_cost(run: Path, data: Path, device: str) -> dict[str, list[tuple[int, float]]]:
    """Seconds by slices, patients, steps and image side, on noise, five steps where not said."""
    model = _load(run, device)
    size, unit = model.config.preprocess.size, 2 ** (model.config.segmentor.depth - 1)
    settings = model.settings(steps=5, precision="auto", instance="patient")

    def seconds(stacks: list[Tensor], with_settings: AdaptationConfig = settings) -> float:
        start = time.perf_counter()
        for _ in model.adapt(stacks, with_settings):
            pass
        _synchronise(device)
        return time.perf_counter() - start

    def noise(slices: int, side: int = size) -> Tensor:
        return torch.randn(slices, 1, side, side, device=device)

    seconds([noise(2)])
    entropy = dataclasses.replace(settings, prior="entropy")  # a discriminator has one image size
    return {
        "slices": [(n, seconds([noise(n)])) for n in (1, 5, 10, 20, 40)],
        "patients": [(n, seconds([noise(10)] * n)) for n in (1, 2, 4, 8)],
        "steps": [
            (n, seconds([noise(10)], dataclasses.replace(settings, steps=n)))
            for n in (1, 5, 10, 20, 40)
        ],
        "image side": [
            (side, seconds([noise(5, side)], entropy))
            for side in (size // 2 // unit * unit, size, 2 * size)
        ],
    }


# -------------------------------------------------------------------- around


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _load(run: Path, device: str) -> Model:
    torch.manual_seed(0)
    return load(run, device)


def _patients(run: Path, data: Path, count: int) -> list[Patient]:
    cohort = find_cohort(data)
    chosen = json.loads((run / SPLIT).read_text())["validation"][:count]
    return [[case for case in cohort.cases if case.patient == patient] for patient in chosen]


def _slices(model: Model, patient: Patient) -> Tensor:
    return torch.cat([model.prepare(c.image).slices for c in patient if c.image]).to(model.device)


def _dice(model: Model, patient: Patient, masks: Tensor) -> float:
    """Mean over volumes and structures, on the images' own grid."""
    prepared = [model.prepare(case.image) for case in patient if case.image]
    parts = masks.split([len(one.slices) for one in prepared])
    scores = []
    for case, one, part in zip(patient, prepared, parts, strict=True):
        assert case.mask is not None
        labels, truth = labels_on_grid(part, one.grid), read_mask(case.mask).voxels
        scores += [dice(labels == k, truth == k) for k in model.config.data.structures]
    return float(np.mean(scores))


def _hearts(folder: Path, console: Console) -> tuple[Path, Path]:
    """A run of the demo's configuration."""
    with resources.as_file(resources.files("maskmend") / "configs" / "demo.yaml") as path:
        config = read_config(path)
    if not (folder / "hearts" / "patients.csv").exists():
        write_cohort(folder / "hearts", patients=30, seed=0)
    train(config, folder / "hearts", folder / "run", console=console)
    return folder / "run", folder / "hearts"


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _reset_peak(device: str) -> int:
    """Start to watch memory anew; returns the bytes in use."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _peak(device)


def _peak(device: str) -> int:
    """Most bytes that were in use since `_reset_peak`; of a CPU's process under Linux."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _plot(path: Path, cost: dict[str, list[tuple[int, float]]]) -> None:
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    for axis, (name, points) in zip(figure.subplots(1, len(cost)), cost.items(), strict=True):
        axis.plot(*zip(*points, strict=True), marker="o", color="#0072B2")
        axis.set_xlabel(name)
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
    figure.axes[0].set_ylabel("seconds")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    app()
