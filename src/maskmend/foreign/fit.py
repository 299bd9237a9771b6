"""Fit a prior into a folder: load, resume, save, show."""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from maskmend.adversary import Row
from maskmend.atomic import write_atomically
from maskmend.checkpoint import CHECKPOINT, CONFIG, SPLIT, read_split, read_tensors, write_tensors
from maskmend.config import AdversarialConfig, PriorConfig
from maskmend.config_file import config_from, differences, read_config, set_field, to_yaml
from maskmend.data.cohort import Cohort
from maskmend.data.layouts import find_cohort
from maskmend.data.slices import read_mask_slices
from maskmend.data.volume import read_image
from maskmend.diagnosis import diagnose
from maskmend.errors import ConfigError, InputError, RunError
from maskmend.foreign.fit_prior import frozen_segment
from maskmend.foreign.fitted import FittedPrior
from maskmend.foreign.fitting import Fitter, FittingData, Images, Labels, Segment
from maskmend.foreign.prior_folder import PRIOR, load_prior, save_prior
from maskmend.frozen import frozen
from maskmend.models import own
from maskmend.models.formats import read_model
from maskmend.models.sliced import SlicedImages
from maskmend.outputs import Probabilities
from maskmend.predict import Model, load
from maskmend.probe import check_masks
from maskmend.progress import progress_bar


@dataclass(frozen=True, kw_only=True)
class Source:
    """A segmentor whose predictions are fakes."""

    segment: Segment
    """Images to probabilities, without gradients."""
    prepare: Callable[[Path], Images]
    """An image's slices, as it wants them; raises InputError."""
    device: torch.device
    digest: str
    """SHA-256 of its weights."""
    sections: dict[str, dict[str, Any]]
    """Of `PriorConfig`, so that the prior fits it."""
    patients: Mapping[str, Sequence[str]] | None = None
    """Those to fit to and those to hold out, where it was trained on some of them."""


def source_of(model: Path, overrides: Sequence[str], device: torch.device) -> Source:
    """A model as a source of fakes.

    Args:
        model: A run folder, or a model that was brought (see `maskmend.models`).
        overrides: "section.field=value" each, of `PriorConfig`; they tell what the files of a
            model that was brought do not.
        device: Where to compute.

    Raises:
        ConfigError: What must be known of the model is said nowhere, or its slices differ from
            image to image.
        RunError: It cannot be read.
    """
    if own.fits(model) or not model.exists():
        return _own_source(load(model, device))
    told = _config({}, overrides)
    brought = read_model(model, told)
    images = brought.images
    if not isinstance(images, SlicedImages) or brought.channels != 1:
        raise ConfigError(
            f"model: {model}: its images have several channels or slices of several sizes; leave"
            " --model out, and the prior is fitted to masks alone"
        )
    return Source(
        segment=frozen_segment(brought.network.to(device), brought.activation),
        prepare=lambda image: images.prepare([read_image(image)]).slices,
        device=device,
        digest=brought.digest,
        sections={
            "data": {"structures": dict(brought.structures)},
            "preprocess": dataclasses.asdict(images.preprocess),
        },
    )


def _own_source(model: Model) -> Source:
    assert model.run is not None
    config, networks = model.config, model.networks
    split = read_split(model.run)
    training = {*split.train_annotated, *split.train_unpaired_images, *split.train_unpaired_masks}
    patients = {"fitted": sorted(training), "held_out": sorted(split.validation)}
    network = nn.Sequential(networks.adaptor, frozen(networks.segmentor))
    return Source(
        segment=torch.no_grad()(Probabilities(network)),
        prepare=lambda image: model.prepare(image).slices,
        device=model.device,
        digest=model.digest,
        sections={
            "data": {"layout": config.data.layout, "structures": dict(config.data.structures)},
            "preprocess": dataclasses.asdict(config.preprocess),
            "discriminator": dataclasses.asdict(config.discriminator) | {"sees_image": False},
            "mask_augmentation": dataclasses.asdict(config.mask_augmentation),
        },
        patients=patients,
    )


def fit_folder(
    data: Path,
    out: Path,
    *,
    source: Source | None = None,
    overrides: Sequence[str] = (),
    device: torch.device = torch.device("cpu"),  # noqa: B008  # a constant
    console: Console | None = None,
) -> FittedPrior:
    """Fit a prior to a data folder; go on where an unfinished fit into `out` stopped.

    Args:
        data: A folder with masks, and images if there is a source (see `maskmend.data.layouts`).
        out: The prior folder, made if need be.
        source: Whose predictions are fakes beside fake anchors.
        overrides: "section.field=value" each, over the defaults or the source's.
        device: Where to compute without a source.
        console: Where progress is shown; standard error by default.

    Raises:
        ConfigError: A setting is wrong, or the source's masks are not such as the prior judges.
        InputError: A file cannot be used, or there are too few patients.
        RunError: `out` holds another fit, or cannot be written.
    """
    console = console or Console(stderr=True)
    config = _config(source.sections if source else {}, overrides)
    device = source.device if source else device
    predicting = source if config.fitting.predictions else None
    cohort = find_cohort(data, config.data.layout)
    patients = _patients(cohort, config, source)
    made_with = json.dumps({"model_sha256": source and source.digest, **patients}, indent=2)
    _check(out, config, made_with)
    if (out / PRIOR).exists():
        console.print(f"{out}: is fitted already", soft_wrap=True)
        return load_prior(out, device)
    slices = _load(cohort, config, patients, predicting, console)
    write_atomically(out / CONFIG, to_yaml(config))
    write_atomically(out / SPLIT, made_with)
    fitter = Fitter(config, slices, predicting.segment if predicting else None, device)
    if (out / CHECKPOINT).exists():
        tensors, state = read_tensors(out / CHECKPOINT)
        fitter.restore(tensors, state["progress"], out / CHECKPOINT)
        console.print(f"resuming {out} at iteration {fitter.progress.iteration}", soft_wrap=True)
    progress = fitter.progress
    with progress_bar(
        console, "fitting", config.fitting.iterations, completed=progress.iteration
    ) as advance:

        def on_look(row: Row) -> None:
            console.print(_describe(row), soft_wrap=True)
            if warning := diagnose(progress.history, AdversarialConfig()):
                console.print(f"[yellow]warning:[/] {warning}", soft_wrap=True)
            write_tensors(out / CHECKPOINT, fitter.tensors(), progress=dataclasses.asdict(progress))

        fitter.run(lambda loss: advance(f"loss {loss:.3f}"), on_look)
    prior = fitter.prior()
    save_prior(prior, out)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return prior


def _config(sections: dict[str, dict[str, Any]], overrides: Sequence[str]) -> PriorConfig:
    tree: dict[str, Any] = copy.deepcopy(sections)
    for override in overrides:
        set_field(tree, override)
    return config_from(tree, source="fit-prior", kind=PriorConfig)


def _patients(
    cohort: Cohort, config: PriorConfig, source: Source | None
) -> dict[str, Sequence[str]]:
    """Whom to fit to and whom to hold out: the source's own, or a share that the seed draws."""
    cases = cohort.everything
    everybody = {case.patient for case in cases}
    named = {*config.data.held_out_patients}
    if source and source.patients and all(everybody & {*n} for n in source.patients.values()):
        if named:
            raise ConfigError(
                "data.held_out_patients: the run's validation patients are held out; leave it out"
            )
        return {use: sorted(everybody & {*names}) for use, names in source.patients.items()}
    if missing := sorted(named - everybody):
        raise InputError(f"{cohort.root}: {missing[0]}, who is to be held out, is missing")
    judged = [case.patient for case in cases if case.mask and (case.image or not source)]
    # Sorting by a hash gives the same order on every platform.
    order = sorted(
        {*judged}, key=lambda name: hashlib.sha256(f"{config.seed} {name}".encode()).digest()
    )
    held_out = named or {*order[: max(1, round(config.data.held_out * len(order)))]}
    if len(order) < 2:
        raise InputError(
            f"{cohort.root}: masks{' with an image' if source else ''} of {len(order)} patients,"
            " expected at least 2, of which one is held out; add some"
        )
    return {"fitted": sorted(everybody - held_out), "held_out": sorted(held_out)}


def _load(
    cohort: Cohort,
    config: PriorConfig,
    patients: dict[str, Sequence[str]],
    source: Source | None,
    console: Console,
) -> FittingData:
    """Masks, and images for the source, of those to fit to and of those held out."""
    parts = {
        use: [case for case in cohort.everything if case.patient in {*names}]
        for use, names in patients.items()
    }
    used = [case for cases in parts.values() for case in cases]
    total = sum(bool(case.mask) + bool(case.image and source) for case in used)
    with progress_bar(console, "reading", total) as advance:

        def masks(use: str) -> Labels:
            made = []
            for case in parts[use]:
                if case.mask:
                    classes = config.data.classes
                    made.append(read_mask_slices(case.mask, config.preprocess, classes))
                    advance()
            return torch.cat(made)

        def images(use: str) -> Images | None:
            made = []
            for case in parts[use]:
                if case.image and source:
                    made.append(source.prepare(case.image))
                    advance()
            return torch.cat(made) if made else None

        data = FittingData(
            masks=masks("fitted"),
            held_out_masks=masks("held_out"),
            images=images("fitted"),
            held_out_images=images("held_out"),
        )
    if source and data.images is not None:
        shown = data.images[:1].to(source.device)
        check_masks(source.segment, shown, config.data.classes, config.preprocess.size)
    return data


def _check(out: Path, config: PriorConfig, made_with: str) -> None:
    """Make sure that a fit that is there is this one."""
    if not (out / CONFIG).exists():
        return
    try:
        changed = differences(read_config(out / CONFIG, kind=PriorConfig), config)
    except ConfigError as error:
        raise RunError(f"{out}: holds something else; choose another --out") from error
    if changed:
        raise RunError(
            f"{out}: holds a prior with another configuration ({changed[0]}"
            f"{f' and {len(changed) - 1} more' if changed[1:] else ''}); choose another --out"
        )
    if (out / SPLIT).exists() and (out / SPLIT).read_text(encoding="utf-8") != made_with:
        raise RunError(
            f"{out}: was fitted to other patients or another model; choose another --out"
        )


def _describe(row: Row) -> str:
    scores = [
        f"{kind} {row[name]:+.2f}"
        for kind in ("real", "predicted", "corrupted")
        if (name := f"val_score_{kind}") in row
    ]
    return f"iteration {row['iteration']:.0f}: held-out scores {', '.join(scores)}"
