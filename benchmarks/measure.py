"""What `benchmarks.adaptation` measures, each function in a process of its own.

What is timed together is what `predict` adapts to together: on a CPU one patient after another, on
a GPU all of them.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.floor import convolution_floor
from benchmarks.paper_loop import paper_loop
from maskmend.checkpoint import read_split
from maskmend.config import AdaptationConfig
from maskmend.data.cohort import Case
from maskmend.data.layouts import find_cohort
from maskmend.data.preprocess import labels_on_grid
from maskmend.data.volume import read_mask
from maskmend.devices import resolve_precision
from maskmend.evaluate.metrics import dice
from maskmend.frozen import frozen
from maskmend.predict import Model, load
from maskmend.priors import DiscriminatorPrior

METHODS = ("paper_loop", "fast", "auto", "none")
_ORDER = ("paper_loop", "floor", "fast", "floor", "auto", "none")

Stacks = Sequence[Tensor]
"""Slices of patients, [slice, channel, height, width] each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What is adapted to, with which networks."""

    run: Path
    """Folder of a trained run."""
    data: Path
    """The data it was trained on."""
    device: str
    """cpu, cuda, ..."""
    patients: int
    """So many of its validation patients."""
    steps: int
    """Of the paper's loop and of the fast path."""

    def load(self) -> tuple[Model, list[list[Case]]]:
        """The model, and the cases of each patient."""
        torch.manual_seed(0)
        cohort = find_cohort(self.data)
        chosen = read_split(self.run).validation[: self.patients]
        patients = [[case for case in cohort.cases if case.patient == one] for one in chosen]
        return load(self.run, self.device), patients


def measure_rounds(subject: Subject, rounds: int) -> dict[str, Any]:
    """Time all methods side by side.

    Returns:
        Seconds a patient in each round, by method, with the floor of the fast path measured before
        and after it; arithmetic of a step, a patient; precision of fast path and floor.
    """
    model, patients = subject.load()
    turns = _turns(model, patients)
    measures = {name: _timed(_method(name, model, subject.steps), model) for name in METHODS}
    operations = [_floor(model, stacks)[1] for stacks in turns]
    measures["floor"] = lambda stacks: subject.steps * _floor(model, stacks)[0]
    for name in METHODS:  # the first call plans and folds
        _method(name, model, 1)(turns[0])
    found = []
    for _ in range(rounds):
        seconds = dict.fromkeys(_ORDER, 0.0)
        for stacks in turns:
            for name in _ORDER:
                seconds[name] += measures[name](stacks) / _ORDER.count(name) / len(patients)
        found.append(seconds)
    return {
        "rounds": found,
        "operations_a_step": sum(operations) / len(patients),
        "precision": resolve_precision("auto", model.device),
    }


def measure_alone(subject: Subject, method: str) -> dict[str, float]:
    """Peak memory of a method above what was there before it, in bytes, and its mean Dice."""
    model, patients = subject.load()
    turns = _turns(model, patients)
    before = _reset_peak(model.device)
    predict = _method(method, model, subject.steps)
    masks = [one for stacks in turns for one in predict(stacks)]
    peak = _peak(model.device) - before
    scores = [_dice(model, *pair) for pair in zip(patients, masks, strict=True)]
    return {"peak_bytes": peak, "dice": float(np.mean(scores))}


def measure_cost(subject: Subject) -> dict[str, list[tuple[int, float]]]:
    """Seconds by slices, patients, steps and image side, on noise, five steps where not said."""
    model, _ = subject.load()
    size, unit = model.config.preprocess.size, 2 ** (model.config.segmentor.depth - 1)
    settings = model.settings(steps=5, precision="auto", instance="patient")

    def seconds(stacks: list[Tensor], with_settings: AdaptationConfig = settings) -> float:
        return _timed(lambda given: list(model.adapt(given, with_settings)), model)(stacks)

    def noise(slices: int, side: int = size) -> Tensor:
        return torch.randn(slices, 1, side, side, device=model.device)

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


# ------------------------------------------------------------------- methods


def _method(name: str, model: Model, steps: int) -> Callable[[Stacks], list[Tensor]]:
    """Stacks of slices to probabilities."""
    networks = model.networks

    def literally(stacks: Stacks) -> list[Tensor]:
        parts = (networks.segmentor, networks.adaptor, networks.discriminator)
        rate, target = model.settings().learning_rate, model.config.adversarial.target
        return [
            paper_loop(*parts, stack, steps=steps, learning_rate=rate, target=target)[0]
            for stack in stacks
        ]

    def ours(stacks: Stacks) -> list[Tensor]:
        wanted = {"none": 0, "fast": steps, "auto": "auto"}[name]
        settings = model.settings(steps=wanted, precision="auto", instance="patient")
        return [made.masks for _, made in sorted(model.adapt(stacks, settings), key=itemgetter(0))]

    return literally if name == "paper_loop" else ours


def _floor(model: Model, stacks: Stacks) -> tuple[float, float]:
    """Seconds and operations of a step's convolutions alone, in the fast path's precision."""
    mixed = resolve_precision("auto", model.device) == "bf16-mixed"
    adaptor, dtype = model.networks.adaptor, torch.bfloat16 if mixed else torch.float32
    segmentor, discriminator = (
        frozen(network, dtype)
        for network in (model.networks.segmentor, model.networks.discriminator)
    )

    def forward(images: Tensor) -> Tensor:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=mixed):
            masks = segmentor(adaptor(images)).float().softmax(1)
            return DiscriminatorPrior(discriminator)(masks)

    parts = [(adaptor, True), (segmentor, False), (discriminator, False)]
    return convolution_floor(parts, torch.cat(list(stacks)), forward)


# -------------------------------------------------------------------- around


def _turns(model: Model, patients: Sequence[Sequence[Case]]) -> list[Stacks]:
    """Slices of the patients that are adapted to together."""
    stacks = [
        torch.cat([model.prepare(case.image).slices for case in patient if case.image])
        for patient in patients
    ]
    there = [stack.to(model.device) for stack in stacks]
    return [[stack] for stack in there] if model.device.type == "cpu" else [there]


def _timed(function: Callable[[Stacks], Any], model: Model) -> Callable[[Stacks], float]:
    """Seconds of a call."""

    def seconds(stacks: Stacks) -> float:
        _synchronise(model.device)
        start = time.perf_counter()
        function(stacks)
        _synchronise(model.device)
        return time.perf_counter() - start

    return seconds


def _dice(model: Model, patient: Sequence[Case], masks: Tensor) -> float:
    """Mean over volumes and structures, on the images' own grid."""
    prepared = [model.prepare(case.image) for case in patient if case.image]
    parts = masks.split([len(one.slices) for one in prepared])
    scores = []
    for case, one, part in zip(patient, prepared, parts, strict=True):
        assert case.mask is not None
        labels, truth = labels_on_grid(part, one.grid), read_mask(case.mask).voxels
        scores += [dice(labels == k, truth == k) for k in model.config.data.structures]
    return float(np.mean(scores))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> int:
    """Start to watch memory anew; returns the bytes in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return _peak(device)


def _peak(device: torch.device) -> int:
    """Most bytes that were in use since `_reset_peak`; of a CPU's process under Linux."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
