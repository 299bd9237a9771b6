"""Train into a run folder: load, resume, save, show."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from maskmend.adversary import Row
from maskmend.atomic import write_atomically, writing
from maskmend.build import build
from maskmend.calibrate.fit import check_enough
from maskmend.checkpoint import (
    CALIBRATION,
    CHECKPOINT,
    CONFIG,
    HISTORY,
    RUN,
    SPLIT,
    WEIGHTS,
    network_tensors,
    quiet_generator,
    read_tensors,
    write_tensors,
)
from maskmend.config import Config
from maskmend.config_file import differences, read_config, to_yaml
from maskmend.data.layouts import find_cohort
from maskmend.data.slices import count_reads, load_training_data, split_of
from maskmend.data.split import Split
from maskmend.devices import resolve_precision
from maskmend.diagnosis import diagnose
from maskmend.environment import environment
from maskmend.errors import ConfigError, RunError
from maskmend.progress import progress_bar
from maskmend.training import Trainer


def train(
    config: Config,
    data: Path,
    out: Path,
    *,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    console: Console | None = None,
) -> Row:
    """Train a segmentor and its discriminator; go on where an unfinished run of `out` stopped.

    Args:
        config: What to train and how.
        data: A folder with images and masks (see `maskmend.data.layouts`).
        out: The run folder, made if need be.
        accelerator: "cpu", "cuda" or "auto".
        devices: Processes on this machine, each with a GPU if there are GPUs. More than one makes
            the script or command that calls this function run once for each.
        num_nodes: Machines.
        console: Where progress is shown; standard error by default.

    Returns:
        The figures at the best look at the validation patients.

    Raises:
        ConfigError: There is no such accelerator, or a batch cannot be shared evenly.
        InputError: A file of the data cannot be used, or there are too few validation patients for
            the guarded method.
        RunError: `out` holds a run of another configuration or cannot be written.
    """
    console = console or Console(stderr=True)
    fabric = _fabric(accelerator, devices, num_nodes, config)
    first = fabric.is_global_zero  # the one process that writes and speaks
    console.quiet |= not first
    _check(out / CONFIG, config)
    cohort = find_cohort(data, config.data.layout)
    split = split_of(cohort, config)
    _check_split(out / SPLIT, split)
    if config.adaptation.method == "guarded":
        check_enough(split.validation)
    with progress_bar(console, "reading", count_reads(cohort, split)) as advance:
        slices = load_training_data(cohort, split, config, advance)
    with quiet_generator(config.seed):
        trainer = Trainer(config, build(config), slices, fabric)
    if (out / CHECKPOINT).exists():
        tensors, state = read_tensors(out / CHECKPOINT)
        trainer.restore(tensors, state["progress"], out / CHECKPOINT)
        console.print(f"resuming {out} at iteration {trainer.progress.iteration}")
    # After all that a setting may not fit, so that it can be changed with the same folder.
    if first:
        write_atomically(out / CONFIG, to_yaml(config))
        write_atomically(out / SPLIT, json.dumps(split.to_dict(), indent=2))
    progress = trainer.progress
    tensorboard = out / "tensorboard"
    if first:
        with writing(tensorboard):
            # What a killed run drew after its checkpoint is drawn again; its own look is not.
            board = SummaryWriter(str(tensorboard), purge_step=progress.iteration + 1)
    with progress_bar(
        console, "training", config.training.iterations, completed=progress.iteration
    ) as advance:
        shown: Row = dict(progress.history[-1]) if progress.history else {}

        def on_iteration(losses: Row) -> None:
            shown.update(losses)
            figures = f"loss {shown['supervised']:.3f}"
            figures += f"  Dice {shown['val_dice']:.3f}" if "val_dice" in shown else ""
            advance(figures)

        def on_validation(row: Row, improved: bool) -> None:
            if not first:
                return
            shown.update(row)
            if improved:
                write_tensors(out / WEIGHTS, network_tensors(trainer.networks))
            write_atomically(out / HISTORY, pd.DataFrame(progress.history).to_csv(index=False))
            with writing(tensorboard):
                for name, value in row.items():
                    board.add_scalar(name.replace("_", "/", 1), value, progress.iteration)
                board.flush()
            console.print(_describe(row, improved), soft_wrap=True)
            if warning := diagnose(progress.history, config.adversarial):
                console.print(f"[yellow]warning:[/] {warning}", soft_wrap=True)
            # Last of all, so that whatever it speaks of is on disk.
            write_tensors(
                out / CHECKPOINT, trainer.tensors(), progress=dataclasses.asdict(progress)
            )

        trainer.run(on_iteration, on_validation)
    if first:
        board.close()
    best = next(r for r in progress.history if r["iteration"] == progress.best_iteration)
    # A run that was finished before keeps what it was made with.
    if first and not (out / RUN).exists():
        ended = {**environment(fabric.device), "best": best}
        write_atomically(out / RUN, json.dumps(ended, indent=2))
    if first and config.adaptation.method == "guarded" and not (out / CALIBRATION).exists():
        from maskmend.calibrate.run import calibrate_run  # imports MONAI, for seconds

        draws, device = config.adaptation.draws, str(fabric.device)
        calibrate_run(out, data, draws=draws, device=device, console=console)
    return best


def _fabric(accelerator: str, devices: int, num_nodes: int, config: Config) -> Fabric:
    """The device of this process, after the others have been started."""
    processes, batch = devices * num_nodes, config.training.batch
    if processes < 1 or batch % processes:
        raise ConfigError(
            f"training.batch: {batch} cannot be shared evenly by {processes} processes; change one"
        )
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    precision = resolve_precision(
        config.training.precision, torch.device("cuda" if on_gpu else "cpu")
    )
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy="ddp" if processes > 1 else "auto",
            precision=precision,
        )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        several = f" with {devices} devices" if devices > 1 else ""
        raise ConfigError(
            f"accelerator: {accelerator}{several} is not available on this machine; choose auto or"
            f" cpu{', or fewer --devices' if several else ''}"
        ) from error
    if processes > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // devices))
        fabric.launch()
    return fabric


def _check(path: Path, config: Config) -> None:
    """Make sure that a run that is there has this configuration."""
    if path.exists() and (changed := differences(read_config(path), config)):
        raise RunError(
            f"{path.parent}: holds a run with another configuration ({changed[0]}"
            f"{f' and {len(changed) - 1} more' if changed[1:] else ''}); choose another --out"
        )


def _check_split(path: Path, split: Split) -> None:
    """Make sure that a run that is there has these patients."""
    if path.exists() and json.loads(path.read_text()) != split.to_dict():
        raise RunError(f"{path}: the patients in the data have changed since; choose another --out")


def _describe(row: Row, improved: bool) -> str:
    text = f"iteration {row['iteration']:.0f}: validation Dice {row['val_dice']:.4f}"
    text += f", loss {row['val_supervised']:.4f}"
    scores = [f"{k} {row[n]:+.2f}" for k in _KINDS if (n := f"val_score_{k}") in row]
    text += f"; scores {', '.join(scores)}" if scores else ""
    return text + (" (best)" if improved else "")


_KINDS = ("real", "predicted", "corrupted")
