"""What bfloat16 does to the time of a step on this device: 32 bits and 16 side by side.

    python -m benchmarks.precision --config experiments/acdc/small.yaml --json FILE

The networks have random weights, on which time does not depend. What is reported is the median
over rounds of the ratio within a round. Time is the processor's on a CPU, which other work on the
machine disturbs less than the clock.
"""

import dataclasses
import json
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
from cyclopts import App, Parameter

from maskmend.build import build
from maskmend.config_file import read_config
from maskmend.environment import environment
from maskmend.predict import Model

app = App(help=__doc__, help_format="plaintext")


@app.default
def main(
    *,
    config: Path,
    device: str = "cpu",
    slices: int = 10,
    steps: int = 3,
    rounds: int = 7,
    threads: int | None = None,
    file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """Measure, print and write.

    Args:
        config: Sizes of images and networks.
        device: cpu or cuda.
        slices: Of the instance.
        steps: Updates in a round.
        rounds: How often both take their turn; one before them is not counted.
        threads: Of a CPU; by default all.
        file: Where the numbers go.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    settings = read_config(config)
    model = Model(settings, build(settings), torch.device(device))
    images = torch.randn(slices, 1, settings.preprocess.size, settings.preprocess.size)
    images = images.to(model.device)

    def seconds(precision: str, steps: int) -> float:
        adaptation = dataclasses.replace(settings.adaptation, precision=precision, steps=steps)
        start = _clock(model.device)
        for _ in model.adapt([images], adaptation):
            pass
        return _clock(model.device) - start

    def a_step(precision: str) -> float:  # without the masks, which are made in 32 bits
        return (seconds(precision, 1 + steps) - seconds(precision, 1)) / steps

    timed = [(a_step("32-true"), a_step("bf16-mixed")) for _ in range(1 + rounds)][1:]
    result = {
        "config": str(config),
        "slices": slices,
        "steps": steps,
        "seconds_a_step": {
            "32-true": median(full for full, _ in timed),
            "bf16-mixed": median(half for _, half in timed),
        },
        "speedup": median(full / half for full, half in timed),
        "speedups": [round(full / half, 3) for full, half in timed],
        "environment": environment(model.device),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


if __name__ == "__main__":
    app()
