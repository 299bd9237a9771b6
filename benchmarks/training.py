"""Images a second of training, against a plain loop in 32 bits, in one run.

    python -m benchmarks.training [--config FILE] [--iterations 20] [--json FILE]

Both see noise of the configuration's size, so that no data are needed. The plain loop has the same
networks and the same three steps, in the most direct PyTorch. The two take turns at every
iteration, since a machine with other work changes its speed within a minute.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import App, Parameter
from lightning_fabric import Fabric
from rich.console import Console

from maskmend.build import build
from maskmend.config import Config
from maskmend.config_file import read_config
from maskmend.data.slices import Pairs, TrainingData
from maskmend.environment import environment
from maskmend.training import Trainer

app = App(help=__doc__, help_format="plaintext")

_WARM_UP = 2
"""Iterations before those that count."""


@app.default
def main(
    *,
    config: Path = Path("experiments/acdc/small.yaml"),
    iterations: int = 20,
    accelerator: str = "cpu",
    file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """Measure, print and write.

    Args:
        config: What is trained.
        iterations: Of each loop.
        accelerator: cpu or cuda.
        file: Where the numbers go.
    """
    settings = read_config(config)
    fabric = Fabric(accelerator=accelerator, devices=1, precision=settings.training.precision)
    trainer = Trainer(settings, build(settings), _noise(settings), fabric)
    iterate = _plain(settings, fabric.device)
    ours = plain = 0.0
    for iteration in range(_WARM_UP + iterations):
        seconds = [
            _seconds(partial(trainer._iterate, iteration), fabric.device),
            _seconds(iterate, fabric.device),
        ]
        if iteration >= _WARM_UP:
            ours, plain = ours + seconds[0], plain + seconds[1]
    images = 2 * settings.training.batch * iterations  # annotated and unpaired
    result = {
        "ratio": plain / ours,
        "images_a_second": images / ours,
        "images_a_second_plain": images / plain,
        "iterations": iterations,
        "config": str(config),
        "precision": settings.training.precision,
        "environment": environment(fabric.device),
    }
    Console().print(result)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n")


def _noise(config: Config) -> TrainingData:
    torch.manual_seed(0)
    n, size = 4 * config.training.batch, config.preprocess.size
    masks = torch.randint(config.data.classes, (n, size, size), dtype=torch.uint8)
    pairs = Pairs(images=torch.randn(n, 1, size, size), masks=masks, lengths=(n,))
    return TrainingData(
        annotated=pairs, unpaired_images=pairs.images, unpaired_masks=masks, validation=pairs
    )


def _plain(config: Config, device: torch.device) -> Callable[[], None]:
    """An iteration of the same three steps without anything that makes them fast or good."""
    networks = build(config)
    segmentor, judge = networks.segmentor.to(device), networks.discriminator.to(device)
    first = torch.optim.Adam(segmentor.parameters())
    second = torch.optim.Adam(judge.parameters())
    batch, size = config.training.batch, config.preprocess.size
    images = torch.randn(batch, 1, size, size, device=device)
    labels = torch.randint(config.data.classes, (batch, size, size), device=device)
    real = torch.nn.functional.one_hot(labels, config.data.classes).movedim(-1, 1)[:, 1:].float()

    def iterate() -> None:
        first.zero_grad()
        torch.nn.functional.cross_entropy(segmentor(images), labels).backward()
        first.step()
        first.zero_grad()
        masks = segmentor(images).softmax(1)[:, 1:]
        judge(masks).square().mean().backward()
        first.step()
        second.zero_grad()
        scores = judge(torch.cat([real, masks.detach(), real]))
        ((scores[:batch] - 1).square().mean() + (scores[batch:] + 1).square().mean()).backward()
        second.step()

    return iterate


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    app()
