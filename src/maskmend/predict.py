"""From image files to mask files with a trained run."""

import csv
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from maskmend.adapt import Adapted, adapt_all, resolve_precision
from maskmend.build import Networks
from maskmend.checkpoint import load_run, validation_realism
from maskmend.config import AdaptationConfig, Config, config_from
from maskmend.data.cohort import patient_of
from maskmend.data.preprocess import SliceGrid, grid_of, image_slices, labels_on_grid, touches_crop
from maskmend.data.volume import Volume, read_image, write_mask
from maskmend.errors import ConfigError, InputError
from maskmend.frozen import frozen
from maskmend.priors import DiscriminatorPrior, EntropyPrior, Prior

PREDICTIONS = "predictions.csv"
Status = Literal["done", "check", "failed"]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The mask of one image."""

    volume: Volume
    """The image."""
    labels: UInt8[np.ndarray, "x y z"]
    """Mask on the image's own grid."""
    plain: UInt8[np.ndarray, "x y z"]
    """Mask before adaptation."""
    realism_before: float
    """Prior's mean score of the plain mask's slices."""
    realism_after: float
    """Its mean score of the mask's slices."""
    steps: int
    """Updates of the adaptor; their mean where every slice has its own."""
    seconds: float
    """Time for the image; a patient's images share theirs evenly."""
    message: str = ""
    """What a person ought to know; with `check` set, what to look at."""
    check: bool = False
    """Whether the mask needs a look: empty, or cut by the crop."""

    def save(self, path: str | Path) -> None:
        """Write the mask, uint8, with the image's geometry; raises InputError if it cannot be."""
        write_mask(Path(path), self.labels, self.volume)


@dataclass(frozen=True)
class Row:
    """One line of predictions.csv."""

    image: str
    status: Status
    realism_before: float | str = ""
    realism_after: float | str = ""
    steps: float | str = ""
    seconds: float | str = ""
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An image that is ready for the networks."""

    volume: Volume
    grid: SliceGrid
    slices: Float[Tensor, "slice 1 height width"]


class Model:
    """A trained run, ready for images. Predicting changes nothing in it.

    Args:
        config: The run's configuration.
        networks: Its networks, in evaluation mode.
        device: Where to compute.
        enough: Mean score from which automatic adaptation leaves masks alone: that of the
            validation patients' predictions.
    """

    def __init__(
        self,
        config: Config,
        networks: Networks,
        device: torch.device,
        enough: float | None = None,
    ):
        self.config, self.networks, self.device = config, networks, device
        self.enough = enough
        self._frozen: dict[torch.dtype, tuple[nn.Module, nn.Module]] = {}
        for module in networks.modules().values():
            module.to(device).eval().requires_grad_(False)

    def predict(self, image: str | Path, **adaptation: Any) -> Prediction:
        """Segment one image file, as an instance of its own.

        Args:
            image: A NIfTI file.
            **adaptation: Fields of `AdaptationConfig` that differ from the run's, such as steps=0.

        Raises:
            ConfigError: There is no such field, or its value is wrong.
            InputError: The file cannot be used.
        """
        return self.predict_patient([self.prepare(Path(image))], self.settings(**adaptation))[0]

    def settings(self, **adaptation: Any) -> AdaptationConfig:
        """The run's settings of adaptation, but for the fields that are given and not None.

        Raises:
            ConfigError: There is no such field, or its value is wrong.
        """
        given = {name: value for name, value in adaptation.items() if value is not None}
        chosen = asdict(self.config.adaptation) | given
        return config_from({"adaptation": chosen}, source="settings").adaptation

    def prepare(self, image: Path) -> Prepared:
        """Read an image and slice it; raises InputError if it cannot be used."""
        volume = read_image(image)
        grid = grid_of(volume, self.config.preprocess)
        slices = image_slices(volume, grid, self.config.preprocess)
        return Prepared(volume=volume, grid=grid, slices=slices)

    def predict_patient(
        self, prepared: Sequence[Prepared], settings: AdaptationConfig
    ) -> list[Prediction]:
        """Segment the volumes of one patient, as one instance or as many as there are slices."""
        start = time.perf_counter()
        lengths = [len(p.slices) for p in prepared]
        slices = torch.cat([p.slices for p in prepared]).to(self.device)
        instances = slices.split(1) if settings.instance == "slice" else [slices]
        adapted = self.adapt(instances, settings)
        masks, plain, scores, plain_scores = (
            torch.cat([getattr(one, name) for one in adapted]).split(lengths)
            for name in ("masks", "plain", "scores", "plain_scores")
        )
        given_up = next((one.message for one in adapted if one.message), "")
        steps = round(sum(one.steps for one in adapted) / len(adapted))
        made = []
        for number, image in enumerate(prepared):
            labels = labels_on_grid(masks[number], image.grid)
            problem = _problem(labels, masks[number], image.grid)
            prediction = Prediction(
                volume=image.volume,
                labels=labels,
                plain=labels_on_grid(plain[number], image.grid),
                realism_before=plain_scores[number].mean().item(),
                realism_after=scores[number].mean().item(),
                steps=steps,
                seconds=0.0,
                message="; ".join(filter(None, (problem, given_up))),
                check=bool(problem),
            )
            made.append(prediction)
        seconds = (time.perf_counter() - start) / len(made)
        return [replace(prediction, seconds=seconds) for prediction in made]

    def adapt(self, instances: Iterable[Tensor], settings: AdaptationConfig) -> list[Adapted]:
        """Adapt to stacks of slices, [slice channel height width] each, on the model's device."""
        segmentor, prior = self._judged(settings)
        adaptor, enough = self.networks.adaptor, self.enough
        done = dict(adapt_all(segmentor, adaptor, prior, instances, settings, enough=enough))
        return [done[number] for number in sorted(done)]

    def _judged(self, settings: AdaptationConfig) -> tuple[nn.Module, Prior]:
        """The segmentor and what judges its masks, in their fastest form."""
        mixed = resolve_precision(settings.precision, self.device) == "bf16-mixed"
        dtype = torch.bfloat16 if mixed else torch.float32
        if dtype not in self._frozen:
            networks = (self.networks.segmentor, self.networks.discriminator)
            self._frozen[dtype] = (frozen(networks[0], dtype), frozen(networks[1], dtype))
        segmentor, discriminator = self._frozen[dtype]
        if settings.batch_norm == "train":  # which a folded one has not
            segmentor = self.networks.segmentor
        if settings.prior == "entropy":
            return segmentor, EntropyPrior()
        return segmentor, DiscriminatorPrior(discriminator, self.config.adversarial.target)


def _problem(labels: UInt8[np.ndarray, "x y z"], masks: Tensor, grid: SliceGrid) -> str:
    """Why a person ought to look at a mask; nothing if there is no reason."""
    if not labels.any():
        return "no structure was found: the mask is empty; look at the image"
    if touches_crop(masks.argmax(1).cpu(), grid):
        side = grid.size * grid.spacing_mm
        return (
            f"the mask runs into the edge of the {side:.0f} mm square that the network sees;"
            " crop the image around the organ, or train with a larger preprocess.size"
        )
    return ""


def load(run: str | Path, device: str | torch.device | None = None) -> Model:
    """Load a run folder.

    Args:
        run: The folder that `maskmend train` made.
        device: "cpu", "cuda", ...; by default a GPU if there is one.

    Raises:
        ConfigError: There is no such device.
        RunError: The folder is no run, or its weights are missing, truncated or foreign.
    """
    config, networks = load_run(Path(run))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return Model(config, networks, torch.device(device), validation_realism(Path(run)))
    except (RuntimeError, AssertionError) as error:  # what torch raises without CUDA
        raise ConfigError(f"device: {device} is not available on this machine; try cpu") from error


def predict_files(
    model: Model,
    images: Sequence[Path],
    out: Path,
    settings: AdaptationConfig,
    report: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Segment image files into NAME_mask.nii.gz, and say in predictions.csv how each went.

    Rows are written as patients are done, so that nothing finished is lost. An image that cannot be
    used has its own failed row, and the others are done.

    Args:
        model: The trained run.
        images: NIfTI files. Files named as frames of one patient are adapted to together where the
            instance is a patient; their order does not matter.
        out: Folder of the masks, made if need be.
        settings: How to adapt.
        report: Called with every row.

    Returns:
        The rows, one an image.

    Raises:
        ConfigError: Two images have the same name, so that their masks would collide.
        InputError: The folder cannot be written.
    """
    check_names(images)
    rows = []
    with _table(out) as write:
        for paths in _by_patient(images):
            for row in _predict_patient(model, paths, out, settings):
                write(row)
                report(row)
                rows.append(row)
    return rows


def _predict_patient(
    model: Model, paths: Sequence[Path], out: Path, settings: AdaptationConfig
) -> Iterator[Row]:
    prepared = []
    for path in paths:
        try:
            prepared.append(model.prepare(path))
        except InputError as error:
            yield Row(name_of(path), "failed", message=str(error))
    if not prepared:
        return
    try:
        predictions = model.predict_patient(prepared, settings)
    except torch.OutOfMemoryError:
        remedy = "choose another device, or slice rather than patient as the instance"
        for one in prepared:
            message = f"{one.volume.path}: does not fit into the device's memory; {remedy}"
            yield Row(one.volume.name, "failed", message=message)
        return
    for prediction in predictions:
        yield _save(prediction, out)


def _save(prediction: Prediction, out: Path) -> Row:
    name = prediction.volume.name
    try:
        prediction.save(out / f"{name}_mask.nii.gz")
    except InputError as error:
        return Row(name, "failed", message=str(error))
    message = prediction.message
    return Row(
        name,
        "check" if prediction.check else "done",
        round(prediction.realism_before, 4),
        round(prediction.realism_after, 4),
        prediction.steps,
        round(prediction.seconds, 3),
        f"{prediction.volume.path}: {message}" if message else "",
    )


def name_of(path: Path) -> str:
    """File name without .nii or .nii.gz, in letters of any case."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def _by_patient(images: Iterable[Path]) -> list[list[Path]]:
    """Files of a patient together, patients in the order they were first named."""
    groups: dict[str, list[Path]] = {}
    for path in images:
        groups.setdefault(patient_of(name_of(path)), []).append(path)
    # Sorted within a patient, so that results do not depend on the order of the call.
    return [sorted(paths, key=name_of) for paths in groups.values()]


def check_names(images: Sequence[Path]) -> None:
    """Raises ConfigError if the masks of two images would have the same name."""
    for a, b in itertools.combinations(images, 2):
        if name_of(a) == name_of(b):
            raise ConfigError(f"{a} and {b} would both become {name_of(a)}_mask.nii.gz; rename one")


@contextmanager
def _table(out: Path) -> Iterator[Callable[[Row], None]]:
    """Opens predictions.csv and gives a function that adds a row and flushes it."""
    path = out / PREDICTIONS
    try:
        out.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(field.name for field in fields(Row))

            def write(row: Row) -> None:
                writer.writerow(astuple(row))
                file.flush()

            yield write
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free space or choose another --out"
        ) from error
