"""A model that was not trained here, with a prior, ready to make masks of images.

It is used just as a trained run (`predict.py`): by `predict_files`, with the same tables and masks.

Axes: slice, channel or class, height, width.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskmend.adapt import adapt
from maskmend.config import AdaptationConfig
from maskmend.config_file import adaptation_of
from maskmend.data.source import read_source, shown
from maskmend.data.volume import Volume
from maskmend.devices import device_of
from maskmend.errors import ConfigError, InputError
from maskmend.foreign.fitted import FittedPrior
from maskmend.foreign.onto import Onto, order_of
from maskmend.foreign.prior_folder import load_prior
from maskmend.foreign.standard import Standard
from maskmend.foreign.ward import Ward, calibration_of
from maskmend.guard.calibration import Calibration
from maskmend.guard.patients import check_figures, is_calibrated, mend_patients
from maskmend.instance import Adapted
from maskmend.models import own
from maskmend.models.brought import BroughtModel
from maskmend.models.formats import read_model
from maskmend.plane import Plane
from maskmend.predict import Model, load
from maskmend.prediction import Prediction, Shown, finish
from maskmend.priors import EntropyPrior, Prior
from maskmend.stream import adapt_onward


class Guest:
    """A model that somebody brought. Predicting changes nothing in it.

    Args:
        model: The model.
        prior: What judges its masks; without it, their entropy does.
        device: Where to compute.
        folder: Where the prior came from; with its calibration, if that is of this model.

    Raises:
        ConfigError: Model and prior have other structures.
        RunError: The calibration is damaged.
    """

    def __init__(
        self,
        model: BroughtModel,
        prior: FittedPrior | None,
        device: torch.device,
        folder: Path | None = None,
    ):
        self.model, self.prior, self.device, self.folder = model, prior, device, folder
        self.order = order_of(model, prior) if prior else []
        for network in (model.network, model.exact):
            if network is not None:
                network.to(device)
        self.ward: Ward | None = None
        self.calibration: Calibration | None = None
        if prior:
            prior.to(device)
        if prior and folder and (calibration := calibration_of(model, prior, folder)):
            self.ward, self.calibration = Ward(model, prior, folder, device), calibration

    def predict(self, image: str | Path, **adaptation: Any) -> Prediction:
        """Segment one image file, as `Model.predict`."""
        settings = self.settings(**adaptation)
        prepared = [self.prepare(Path(image))]
        ((_, adapted),) = self.adapt_patients([prepared], settings)
        return finish(prepared, adapted)[0]

    def settings(self, **adaptation: Any) -> AdaptationConfig:
        """The prior's settings, but for the fields that are given and not None.

        Raises:
            ConfigError: There is no such field, its value is wrong, or the model cannot have it.
        """
        base = self.prior.config.adaptation if self.prior else AdaptationConfig()
        settings = adaptation_of(base, adaptation, judged=self.prior is not None)
        self.check(settings)
        return settings

    def check(self, settings: AdaptationConfig) -> None:
        """Make sure that the model can have these settings.

        Raises:
            ConfigError: The method is guarded and there is no calibration of this model, or there
                is no such prior.
        """
        if settings.method == "guarded" and settings.steps != 0:
            self._guard()
            return
        judged_here = settings.prior == "entropy" or self.prior is not None
        if settings.prior == "denoiser" or not (judged_here or settings.steps == 0):
            raise ConfigError(
                f"prior: {self.model.path} comes without a {settings.prior}; give --prior the"
                " folder of maskmend fit-prior, --prior entropy, or --steps 0"
            )

    @property
    def structures(self) -> Mapping[int, str]:
        """Name of each label but the background's."""
        return self.model.structures

    def made_by(self, settings: AdaptationConfig) -> dict[str, Any]:
        """What masks depend on, but for the images."""
        calibration = self.calibration if settings.method == "guarded" else None
        return {
            "weights_sha256": self.model.digest,
            "prior_sha256": self.prior.digest if self.prior else None,
            "structures": {str(label): name for label, name in self.model.structures.items()},
            "adaptation": dataclasses.asdict(settings),
            "calibration": calibration and calibration.to_dict(),
        }

    def loader(self) -> Callable[[], "Guest"]:
        """Loads the same model in another process."""
        return functools.partial(bring, self.model.path, self.folder, self.device.type)

    def prepare(self, image: Path) -> Shown:
        """Read an image and slice it; raises InputError if it cannot be used."""
        return self.model.images.prepare(self._channels(image))

    def _channels(self, image: Path) -> list[Volume]:
        if self.model.channels == 1:
            return [read_source(image)]
        name = re.fullmatch(r"(.+)_0000(\.nii(?:\.gz)?)", image.name)
        if not name:
            raise InputError(
                f"{shown(image)}: the model wants {self.model.channels} channels; name the first"
                " NAME_0000.nii.gz, with the others, NAME_0001.nii.gz ..., beside it"
            )
        paths = [
            image.with_name(f"{name[1]}_{channel:04d}{name[2]}")
            for channel in range(self.model.channels)
        ]
        volumes = [read_source(path) for path in paths]
        for path, volume in zip(paths, volumes, strict=True):
            same = volume.voxels.shape == volumes[0].voxels.shape
            if not (same and torch.allclose(_affine(volume), _affine(volumes[0]), atol=1e-3)):
                raise InputError(f"{path}: is not on the grid of {paths[0]}; resample it onto that")
        return volumes

    def adapt_patients(
        self, patients: Iterable[Sequence[Shown]], settings: AdaptationConfig
    ) -> Iterator[tuple[int, list[Adapted]]]:
        """Adapt to patients, one after another; their images together where they lie alike.

        Args:
            patients: The images of each.
            settings: How to adapt.

        Yields:
            Number of a patient, from 0, and what adaptation made of its instances, for `finish`.

        Raises:
            ConfigError: Model, prior and images do not fit each other.
        """
        if settings.method == "guarded" and settings.steps != 0:
            yield from self._mend_patients(patients, settings)
            return
        carried: nn.Module | None = None
        for number, prepared in enumerate(patients):
            made = []
            for plane, images in _instances(prepared, settings):
                made.append(self._adapt(images.to(self.device), plane, settings, carried))
                carried = made[-1].adaptor if settings.continual else None
            yield number, made

    def _mend_patients(
        self, patients: Iterable[Sequence[Shown]], settings: AdaptationConfig
    ) -> Iterator[tuple[int, list[Adapted]]]:
        ward, calibration = self._guard()
        mender_of = ward.menders(calibration.quantiles)
        without = dataclasses.replace(settings, method="paper", steps=0, continual=False)

        def mend(one: Shown, carried: nn.Module | None) -> Adapted:
            seen = Standard.of(one)
            mender = mender_of(calibration.realistic, seen)
            check_figures(mender, calibration, *self._called)
            made = mender.mend(seen.slices.to(self.device), calibration, carried)
            # Of the slices as they are, so that a mask that is left alone is so to the last bit.
            plain = self._adapt(one.slices.to(self.device), one.plane, without, None).plain
            masks = plain if made.shown is None else made.masks
            return dataclasses.replace(made, plain=plain, masks=masks)

        yield from mend_patients(mend, patients, continual=settings.continual)

    def _guard(self) -> tuple[Ward, Calibration]:
        calibration = is_calibrated(self.calibration, *self._called)
        assert self.ward is not None  # as there is a calibration
        return self.ward, calibration

    @property
    def _called(self) -> tuple[str, str]:
        """Who would have to be calibrated, and how."""
        path = self.model.path
        if self.folder is None:
            return str(path), "maskmend fit-prior and calibrate (--model), and give --prior"
        return f"{path} with {self.folder}", f"maskmend calibrate that with --model {path}"

    def _adapt(
        self,
        images: Tensor,
        plane: Plane,
        settings: AdaptationConfig,
        carried: nn.Module | None,
    ) -> Adapted:
        def tune(images: Tensor, start: nn.Module | None, steps: int | None) -> Adapted:
            chosen = settings if steps is None else dataclasses.replace(settings, steps=steps)
            try:
                return adapt(
                    self.model.network,
                    self._judge(plane, chosen),
                    images,
                    chosen,
                    adaptor=start,
                    activation=self.model.activation,
                )
            except ConfigError as error:
                raise ConfigError(f"{self.model.path}: {error}") from error

        if carried is None:
            return self._exactly(images, tune(images, None, None))
        fresh = tune(images, None, 0).adaptor
        assert fresh is not None  # what was tuned no step
        return self._exactly(images, adapt_onward(tune, images, fresh, carried))

    def _judge(self, plane: Plane, settings: AdaptationConfig) -> Prior:
        if self.prior is None or settings.prior == "entropy":
            return EntropyPrior()
        return Onto(self.prior, self.prior.config.preprocess, plane, self.order)

    def _exactly(self, images: Tensor, adapted: Adapted) -> Adapted:
        """The same, with masks that are the logits of the tool that trained the model."""
        exact = self.model.exact
        if exact is None:
            return adapted
        plain = masks = exact(images)
        if adapted.shown is not None:  # also by what was carried, without a step of its own
            masks = exact(adapted.shown)
        return dataclasses.replace(adapted, plain=plain, masks=masks)


def open_model(
    path: Path, prior: str | Path | None = None, device: str | None = None
) -> Model | Guest:
    """A trained run with its own prior (`load`), or any model with another (`bring`).

    Raises:
        ConfigError: There is no such prior or device, or model and prior do not fit.
        RunError: A file is missing or damaged.
    """
    if prior is not None and not Path(prior).is_dir():
        raise ConfigError(
            f"--prior {prior}: is none of discriminator, entropy, denoiser, and a folder of"
            " maskmend fit-prior; check the path"
        )
    ours = own.fits(path) or not path.exists()
    return load(path, device) if ours and prior is None else bring(path, prior, device)


def _instances(
    prepared: Sequence[Shown], settings: AdaptationConfig
) -> Iterator[tuple[Plane, Tensor]]:
    """Slices of a patient, together as far as they are alike, or each alone."""
    for (plane, _), group in itertools.groupby(prepared, lambda p: (p.plane, p.slices.shape[1:])):
        slices = torch.cat([one.slices for one in group])
        for images in slices.split(1) if settings.instance == "slice" else (slices,):
            yield plane, images


def _affine(volume: Volume) -> Tensor:
    return torch.from_numpy(volume.affine)


def bring(path: str | Path, prior: str | Path | None, device: str | None = None) -> Guest:
    """A model that was not trained here, with a prior.

    Args:
        path: A TorchScript or torch.export file, a MONAI bundle or an nnU-Net v2 results folder.
        prior: Folder of `maskmend fit-prior`; without it, masks can be judged by their entropy.
        device: "cpu", "cuda", ...; by default a GPU if there is one.

    Raises:
        RunError: Either is no such thing, or damaged.
        ConfigError: They do not fit each other, or there is no such device.
    """
    where = device_of(device)
    fitted = load_prior(prior) if prior else None
    model = read_model(Path(path).absolute(), fitted.config if fitted else None)
    folder = Path(prior).absolute() if prior else None
    return Guest(model, fitted, where, folder)
