"""The command line: thin verbs over public functions. torch is imported late: help is instant."""

from __future__ import annotations

import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal, TextIO

from cyclopts import App, CycloptsError, Parameter, validators
from rich.console import Console

from maskmend.errors import ConfigError, MaskmendError

app = App(
    name="maskmend",
    help="Mend segmentation masks at test time with the discriminator they were trained with.\n\n"
    "Errors are one line; --debug, after any verb, shows the traceback.",
    version=lambda: metadata.version("maskmend"),
    version_flags=["--version"],
    default_parameter=Parameter(negative=()),  # no --empty-images
    suppress_keyboard_interrupt=False,  # `main` says what is kept
)
Out = Annotated[Path, Parameter(name="--out")]
Data = Annotated[Path, Parameter(name="--data")]
Count = Annotated[int, Parameter(validator=validators.Number(gte=1))]

DONE, SOME_FAILED, WRONG_CALL, STOPPED = 0, 1, 2, 130

_SAME = "all files are whole, and the same command goes on"
_GOES_ON = {
    "train": f"{_SAME} at the last look at the validation patients",
    "predict": f"{_SAME} with the images that are left",
    "demo": f"{_SAME} where it was",
    "calibrate": "the run is as it was, and the same command goes on with finished students",
    "reproduce": f"{_SAME} where it was",
    "evaluate": "no scores were written, and the same command starts again",
}
"""After Ctrl-C, by verb."""


@app.command
def demo(*, out: Out = Path("demo"), seed: int = 0) -> int:
    """Train, predict, adapt and evaluate on procedural hearts, in a quarter of an hour.

    Args:
        out: Folder of everything that the demo makes.
        seed: Seed of the hearts and of the training.
    """
    from maskmend.demo import run_demo

    run_demo(out, seed=seed, console=Console())
    return DONE


@app.command
def train(
    config: Path,
    *,
    data: Data,
    out: Out,
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    accelerator: Literal["auto", "cpu", "cuda"] = "auto",
    devices: Count = 1,
    num_nodes: Count = 1,
) -> int:
    """Train a segmentor and its mask discriminator; goes on by itself where a run stopped.

    Args:
        config: YAML configuration; see `maskmend config`.
        data: Folder of the data: ACDC, LVSC, or images/ and masks/.
        out: Run folder.
        set_: section.field=value, over the file; may be repeated.
        accelerator: Where to compute.
        devices: Processes on this machine that share each batch, one a GPU.
        num_nodes: Machines; the command is started on each, as Lightning Fabric documents.
    """
    from maskmend.config_file import read_config
    from maskmend.train import train as run

    best = run(
        read_config(config, set_),
        data,
        out,
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
    )
    _say(f"{out}: best validation Dice {best['val_dice']:.4f}, iteration {best['iteration']:.0f}")
    return DONE


@app.command
def calibrate(
    run: Path,
    *,
    data: Data,
    model: Path | None = None,
    draws: Count = 3,
    device: str | None = None,
) -> int:
    """Learn from the validation patients how far a run's masks, or a model's, can be trusted.

    Needed once, for predict --method guarded; a training whose configuration asks for that method
    ends with it.

    Args:
        run: Run folder of a training; with --model the folder of a prior for that model.
        data: Folder of the data that it was trained on.
        model: A model that was not trained here. The prior's held-out patients validate it.
        draws: Degraded copies of each validation image to learn from, and as many with artefacts.
        device: cpu, cuda, cuda:1, ... By default a GPU if there is one.
    """
    from maskmend.calibrate.run import calibrate_run
    from maskmend.foreign.calibrate_model import calibrate_model

    console = Console(stderr=True)
    if model is None:
        calibration = calibrate_run(run, data, draws=draws, device=device, console=console)
    else:
        calibration = calibrate_model(model, run, data, draws=draws, device=device, console=console)
    print(
        f"{run}: predicted and true Dice correlate by {calibration.correlation:.2f};"
        f" {calibration.guard.rule}"
    )
    return DONE


@app.command
def fit_prior(
    *,
    data: Data,
    out: Out,
    model: Path | None = None,
    held_out: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    device: str | None = None,
) -> int:
    """Train a mask discriminator after the fact, for a model that came without one; resumes.

    Real masks are told from corrupted ones and, with --model, from the model's predictions on the
    images as they are and degraded. Use it with predict --prior.

    Args:
        data: Folder of the data: ACDC, LVSC, or images/ and masks/, or unpaired_masks/ alone.
        out: Folder of the prior.
        model: Whose predictions are fakes too: a run folder, whose validation patients are held
            out, a TorchScript or torch.export file, or a MONAI bundle. The prior gets its grid.
        held_out: Patients that the model was not trained on, which a guard is then fitted to
            (maskmend calibrate --model). By default a fifth of all, and no guard.
        set_: section.field=value, over the defaults or the model's; may be repeated. The sections
            are those of PRIOR/config.yaml.
        device: cpu, cuda, cuda:1, ... By default a GPU if there is one.
    """
    from maskmend.devices import device_of
    from maskmend.foreign.fit import fit_folder, source_of

    where = device_of(device)
    names = [f"data.held_out_patients={json.dumps(held_out)}"] if held_out else []
    overrides = [*names, *set_]
    source = source_of(model, overrides, where) if model else None
    prior = fit_folder(data, out, source=source, overrides=overrides, device=where)
    print(f"{out}: masks that score {prior.enough:+.2f} are realistic enough")
    return DONE


@app.command
def predict(
    model: Path,
    images: Annotated[list[Path], Parameter(consume_multiple=True)],
    *,
    out: Out,
    method: Literal["paper", "guarded"] | None = None,
    steps: int | Literal["auto"] | None = None,
    prior: str | None = None,
    instance: Literal["patient", "slice"] | None = None,
    learning_rate: float | None = None,
    continual: bool | None = None,
    device: str | None = None,
    engine: Literal["local", "ray"] = "local",
    workers: Count | None = None,
    dicom_seg: bool = False,
    report: bool = False,
) -> int:
    """Segment images, the adaptor tuned on each patient; writes NAME_mask.nii.gz, predictions.csv.

    A call that was stopped is continued by the same call. With another run or other settings images
    are done anew, and all whose masks are in the folder must be named.

    Args:
        model: Run folder of a training; or a model that was not trained here: a TorchScript or
            torch.export file, a MONAI bundle, or an nnU-Net v2 results folder.
        images: NIfTI files, or folders of one DICOM series each (pip install 'maskmend[dicom]').
        out: Folder of the masks.
        method: paper tunes the adaptor; guarded tries several corrections and mends
            only where that promises enough. By default the run's.
        steps: Updates of the adaptor; 0 is plain inference; auto leaves realistic masks alone and
            stops by itself, after the paper's 50 at the latest. By default the run's.
        prior: What judges the masks: discriminator, entropy, denoiser, or the folder of a prior
            that was fitted afterwards (maskmend fit-prior). By default the run's.
        instance: Adapt to all slices of a patient together, or to each alone. By default the run's.
        learning_rate: Step size of the adaptor. By default the run's.
        continual: Learn from a stream: start at what was tuned on the patient before, unless that
            has the higher loss. By default the run's.
        device: cpu, cuda, cuda:1, ... By default a GPU if there is one.
        engine: In this process, or by several workers on Ray (pip install 'maskmend[ray]').
        workers: How many on Ray. By default one a GPU, without GPUs one a core.
        dicom_seg: Of DICOM series also write NAME_mask.dcm, a DICOM segmentation. It holds what the
            series says of the patient; nothing else that is written does.
        report: Keep what there is to see of each image in details/, and write report.html.
    """
    from maskmend.data.source import shown
    from maskmend.files import check_names, finished_rows, predict_files
    from maskmend.foreign.guest import open_model
    from maskmend.progress import progress_bar
    from maskmend.table import Row

    fitted = prior is not None and prior not in ("discriminator", "entropy", "denoiser")
    segmentor = open_model(model, prior if fitted else None, device)
    settings = segmentor.settings(
        method=method,
        steps=steps,
        prior=None if fitted else prior,
        instance=instance,
        learning_rate=learning_rate,
        continual=continual,
    )
    check_names(images)
    if dicom_seg:
        from maskmend.segmentations import check_series, write_segmentations

        check_series(images)
    console = Console(stderr=True)
    for number, image in enumerate(images, start=1):
        if (other := shown(image).name) not in (image.name, image.resolve().name):
            line = f"image {number}: its folder tells who the patient is; called {other} instead"
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    if there := len(finished_rows(segmentor, images, out, settings, details=report)):
        console.print(f"{out}: {there} of {len(images)} images are done already", soft_wrap=True)
    with progress_bar(console, "predicting", len(images)) as advance:

        def tell(row: Row) -> None:
            advance()
            if row.message:
                console.print(row.message, soft_wrap=True, highlight=False, markup=False)

        rows = predict_files(
            segmentor,
            images,
            out,
            settings,
            tell,
            engine=engine,
            workers=workers,
            details=report,
        )
    failures: list[str] = []
    if dicom_seg:
        with progress_bar(console, "writing DICOM", len(images)) as advance:
            failures = write_segmentations(images, out, segmentor.structures, advance)
    for line in failures:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if report:
        from maskmend.report.page import write_report

        print(f"report: {write_report(out)}")
    troubled = sum(row.status != "done" for row in rows)
    print(f"{out}: {len(rows) - troubled} of {len(rows)} images done")
    return SOME_FAILED if troubled or failures else DONE


@app.command
def export(run: Path, *, out: Out) -> int:
    """Write a run as a MONAI bundle, which other tools can run, adaptation included.

    Args:
        run: Run folder of a training.
        out: Folder of the bundle.
    """
    from maskmend.export import export_bundle

    export_bundle(run, out)
    print(f"{out}: a MONAI bundle; {out / 'docs' / 'README.md'} says how it is run")
    return DONE


@app.command
def evaluate(
    *,
    predictions: Path,
    references: Path,
    out: Out,
    baseline: Path | None = None,
    unit: Literal["volume", "slice"] = "volume",
) -> int:
    """Score masks against references: Dice, IoU and Hausdorff distances, before and after.

    Args:
        predictions: Folder that `predict` filled.
        references: Folder of the data, or of masks alone.
        out: Folder of patients.csv and summary.json.
        baseline: Folder of the masks before adaptation (`predict --steps 0`).
        unit: What is counted as one: a volume, or a slice as the paper does.
    """
    from maskmend.evaluate.scores import evaluate as score

    evaluation = score(predictions, references, out, baseline=baseline, unit=unit)
    Console().print(evaluation.table())
    for _, message in evaluation.failures:
        print(message, file=sys.stderr)
    return SOME_FAILED if evaluation.failures else DONE


@app.command
def report(
    predictions: Path,
    *,
    references: Path | None = None,
    out: Annotated[Path | None, Parameter(name="--out")] = None,
) -> int:
    """Write report.html about a folder of masks: one file, for any browser, that needs no network.

    It shows which masks were mended, how, and which to look at; with pictures where `predict
    --report` has kept them.

    Args:
        predictions: Folder that `predict` filled.
        references: Folder of the data, or of masks alone: Dice before and after is shown too.
        out: The file. By default report.html in the folder.
    """
    from maskmend.report.page import write_report

    print(f"report: {write_report(predictions, references=references, out=out)}")
    return DONE


@app.command
def reproduce(
    target: Literal[
        "table1", "figure2", "figure3", "figure4", "convergence", "supplement1", "cost", "all"
    ],
    *,
    data: Data,
    out: Out,
    scale: Literal["small", "paper"] = "small",
    preset: Literal["paper", "ours", "both"] = "both",
    folds: Annotated[tuple[int, ...] | None, Parameter(consume_multiple=True)] = None,
    seed: int = 0,
    no_train: bool = False,
    patients: Count | None = None,
) -> int:
    """Make the paper's tables and figures from raw data; goes on by itself after any stop.

    Args:
        target: What to make; runs are shared, so that all costs little more than table1.
        data: ACDC or LVSC as downloaded, or images/ and masks/ with ACDC's labels.
        out: Folder of runs, masks and results/, one for each scale.
        scale: small is 112 x 112 and narrow, for two cores; paper is the paper's, for a GPU.
        preset: The paper's settings, ours with guarded masks, or one beside the other.
        folds: Of the cross-validation, such as 0 1. By default all three; 0 is the published one.
        seed: Of training, and of the folds that were not published.
        no_train: Make do with the runs that are there; what others would give stays open.
        patients: Validation patients of the curve of cost. By default all.
    """
    from maskmend.reproduce import reproduce as run

    presets = ("paper", "ours") if preset == "both" else (preset,)
    page = run(
        target,
        data,
        out,
        scale=scale,
        presets=presets,
        folds=folds,
        seed=seed,
        training=not no_train,
        patients=patients,
    )
    print(f"{page}: done")
    return DONE


@app.command
def config(path: Path | None = None, /) -> int:
    """Print a whole configuration, defaults written out, or that of a YAML file.

    Args:
        path: The YAML file.
    """
    from maskmend.config import Config
    from maskmend.config_file import read_config, to_yaml

    print(to_yaml(read_config(path) if path else Config()), end="")
    return DONE


@app.command
def doctor(*, out: Out = Path()) -> int:
    """Tell what this machine has, what would be slow on it, and the remedy.

    Args:
        out: Where results would be written; must be there.
    """
    from maskmend.doctor import examine, table

    if not out.is_dir():
        raise ConfigError(f"{out}: is no folder; name one that is there")
    Console().print(table(examine(out)), markup=False)
    return DONE


@app.command
def completion(shell: Literal["bash", "zsh", "fish"], /, *, install: bool = False) -> int:
    """Print what lets a shell complete verbs, options and files on Tab.

    Args:
        shell: The shell.
        install: Put it where the shell finds it instead, with a line in its startup file.
    """
    if install:
        try:
            where = app.install_completion(shell=shell)
        except OSError as error:
            raise ConfigError(
                f"{error.filename}: cannot be written ({error.strerror}); print the script without"
                " --install and put it elsewhere"
            ) from error
        print(f"{where}: written; it works in new shells")
    else:
        print(app.generate_completion(shell=shell))
    return DONE


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status.

    0 done; 1 some inputs failed or need a look, each named, the others done; 2 the call itself was
    wrong; 130 stopped by Ctrl-C.
    """
    # Before torch is imported: its threads wait for each other by spinning, which on a machine that
    # has other work makes a step many times slower; a short spin costs little on an idle one.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    tokens = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in tokens
    try:
        status = app(
            [token for token in tokens if token != "--debug"],
            exit_on_error=False,
            print_error=False,  # in a box of several lines
            result_action="return_value",
        )
    except MaskmendError as error:
        if debug:
            raise
        _say(f"maskmend: {error}", file=sys.stderr)
        status = WRONG_CALL if isinstance(error, ConfigError) else SOME_FAILED
    except KeyboardInterrupt:
        how = _GOES_ON.get(tokens[0], "all files are whole, and the same command starts again")
        _say(f"maskmend: stopped; {how}", file=sys.stderr)
        status = STOPPED
    except CycloptsError as error:
        if debug:
            raise
        print(f"maskmend: {' '.join(str(error).split())}", file=sys.stderr)
        status = WRONG_CALL
    sys.exit(status or DONE)


def _say(line: str, file: TextIO | None = None) -> None:
    """Print, once where several processes train together."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, file=file)
