"""A trained run, ready to make masks of images."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskmend.adapt import adapt_all
from maskmend.build import Networks
from maskmend.checkpoint import WEIGHTS, digest_of, load_run, validation_realism
from maskmend.config import AdaptationConfig, Config
from maskmend.config_file import adaptation_of
from maskmend.data.preprocess import grid_of, image_slices
from maskmend.data.source import read_source
from maskmend.data.volume import Volume
from maskmend.denoiser import DENOISER, read_denoiser
from maskmend.devices import autocast, device_of, slices_a_pass, weights_dtype
from maskmend.errors import ConfigError, RunError
from maskmend.frozen import frozen
from maskmend.guard.assemble import assemble, opinion
from maskmend.guard.calibration import Calibration, read_calibration
from maskmend.guard.mend import Mender
from maskmend.guard.patients import check_figures, is_calibrated, mend_patients
from maskmend.guard.student import STUDENTS, read_students
from maskmend.instance import Adapted
from maskmend.prediction import Prediction, Prepared, finish
from maskmend.priors import DenoiserPrior, DiscriminatorPrior, EntropyPrior, Prior
from maskmend.rivals.follow import follow_denoiser
from maskmend.stream import adapt_onward


class Model:
    """A trained run, ready for images. Predicting changes nothing in it.

    Args:
        config: The run's configuration.
        networks: Its networks, in evaluation mode.
        device: Where to compute.
        enough: Mean score from which automatic adaptation leaves masks alone, where the run's own
            discriminator judges: that of the validation patients' predictions.
        digest: SHA-256 of the file that the weights come from.
        run: The folder that it was loaded from.
        calibration: What it knows of its own mistakes.
        students: Noisy students of its segmentor (see `maskmend.guard.student`).
    """

    def __init__(
        self,
        config: Config,
        networks: Networks,
        device: torch.device,
        enough: float | None = None,
        digest: str = "",
        run: Path | None = None,
        calibration: Calibration | None = None,
        students: Sequence[nn.Module] = (),
    ):
        self.config, self.networks, self.device = config, networks, device
        self.enough, self.digest, self.run = enough, digest, run
        self.calibration = calibration
        self.students = [student.to(device) for student in students]
        self._denoiser_prior: DenoiserPrior | None = None
        self._frozen: dict[torch.dtype, tuple[nn.Module, nn.Module]] = {}
        for module in networks.modules().values():
            module.to(device).eval().requires_grad_(False)

    def predict(self, image: str | Path, **adaptation: Any) -> Prediction:
        """Segment one image, as an instance of its own.

        Args:
            image: A NIfTI file, or the folder of a DICOM series.
            **adaptation: Fields of `AdaptationConfig` that differ from the run's, such as steps=0.

        Raises:
            ConfigError: There is no such field, or its value is wrong.
            InputError: The image cannot be used.
        """
        return self.predict_patient([self.prepare(Path(image))], self.settings(**adaptation))[0]

    def settings(self, **adaptation: Any) -> AdaptationConfig:
        """The run's settings of adaptation, but for the fields that are given and not None.

        Raises:
            ConfigError: There is no such field, or its value is wrong.
        """
        judged = self.config.adversarial.enabled
        return adaptation_of(self.config.adaptation, adaptation, judged=judged)

    def check(self, settings: AdaptationConfig) -> None:
        """Make sure that the run has what the settings ask for.

        Raises:
            ConfigError: It was trained without a discriminator, which is to judge; or the method is
                guarded, and it has no calibration, or one of other masks.
            RunError: The prior is a denoiser, and it has none.
        """
        self._check_judge(settings)
        if settings.method == "guarded" and settings.steps != 0:
            self._calibrated(settings)
        elif settings.prior == "denoiser":
            self._denoiser()

    def _check_judge(self, settings: AdaptationConfig) -> None:
        judge = "discriminator" if settings.method == "guarded" else settings.prior
        if judge == "discriminator" and not self.config.adversarial.enabled and settings.steps != 0:
            raise ConfigError(
                f"prior: {self.run or 'the run'} was trained without a discriminator"
                " (adversarial.enabled: false); choose --steps 0, --prior entropy, or --prior the"
                " folder of maskmend fit-prior"
            )

    @property
    def structures(self) -> Mapping[int, str]:
        """Name of each label but the background's."""
        return self.config.data.structures

    def made_by(self, settings: AdaptationConfig) -> dict[str, Any]:
        """What masks depend on, but for the images."""
        calibration = self.calibration if settings.method == "guarded" else None
        return {
            "weights_sha256": self.digest,
            "structures": {str(label): name for label, name in self.structures.items()},
            "preprocess": dataclasses.asdict(self.config.preprocess),
            "target": self.config.adversarial.target,
            "enough": self.enough,
            "denoiser_sha256": self._denoiser_digest(settings),
            "adaptation": dataclasses.asdict(settings),
            "calibration": calibration and calibration.to_dict(),
        }

    def loader(self) -> Callable[[], "Model"]:
        """Loads the same run in another process."""
        return functools.partial(load, str(self.run), self.device.type)

    def prepare(self, image: Path) -> Prepared:
        """Read an image and slice it; raises InputError if it cannot be used."""
        return self.prepare_volume(read_source(image))

    def prepare_volume(self, volume: Volume) -> Prepared:
        """Slice an image; raises InputError if it has no contrast."""
        grid = grid_of(volume, self.config.preprocess)
        slices = image_slices(volume, grid, self.config.preprocess)
        return Prepared(volume=volume, grid=grid, slices=slices)

    def predict_patient(
        self, prepared: Sequence[Prepared], settings: AdaptationConfig
    ) -> list[Prediction]:
        """Segment the volumes of one patient, as one instance or as many as there are slices."""
        ((_, adapted),) = self.adapt_patients([prepared], settings)
        return finish(prepared, adapted)

    def adapt_patients(
        self,
        patients: Iterable[Sequence[Prepared]],
        settings: AdaptationConfig,
        *,
        side_by_side: bool | None = None,
    ) -> Iterator[tuple[int, list[Adapted]]]:
        """Adapt to patients, drawn when there is room for another.

        Args:
            patients: The images of each.
            settings: How to adapt.
            side_by_side: Share passes among patients. By default on a GPU; a CPU gains nothing, and
                apart from others results are equal to the last bit whatever their order.

        Yields:
            Number of a patient, from 0, and what adaptation made of its instances, for `finish`.

        Raises:
            ConfigError: As `check`.
            RunError: As `check`.
        """
        self._check_judge(settings)  # what else `check` asks, each branch does
        if settings.method == "guarded" and settings.steps != 0:
            yield from self._mend_patients(patients, settings)
            return
        if settings.prior == "denoiser":
            for number, prepared in enumerate(patients):
                stacks = [one.slices.to(self.device) for one in prepared]
                yield number, [self.follow(images, settings) for images in stacks]
            return
        if settings.continual:
            yield from self._adapt_onward(patients, settings)
            return
        if not (self.device.type != "cpu" if side_by_side is None else side_by_side):
            for patient, prepared in enumerate(patients):
                done = dict(self.adapt(self._instances(prepared, settings), settings))
                yield patient, [done[number] for number in range(len(done))]
            return
        missing: dict[int, dict[int, Adapted | None]] = {}
        owners: list[int] = []

        def instances() -> Iterator[Tensor]:
            for patient, prepared in enumerate(patients):
                stacks = self._instances(prepared, settings)
                missing[patient] = dict.fromkeys(range(len(owners), len(owners) + len(stacks)))
                owners.extend([patient] * len(stacks))
                yield from stacks

        for number, adapted in self.adapt(instances(), settings):
            parts = missing[owners[number]]
            parts[number] = adapted
            if None not in parts.values():
                del missing[owners[number]]
                yield owners[number], [part for part in parts.values() if part]

    def _mend_patients(
        self, patients: Iterable[Sequence[Prepared]], settings: AdaptationConfig
    ) -> Iterator[tuple[int, list[Adapted]]]:
        mender, calibration = self._calibrated(settings)

        def mend(one: Prepared, carried: nn.Module | None) -> Adapted:
            return mender.mend(one.slices.to(self.device), calibration, carried)

        yield from mend_patients(mend, patients, continual=settings.continual)

    def _calibrated(self, settings: AdaptationConfig) -> tuple[Mender, Calibration]:
        who, remedy = str(self.run or "the run"), "maskmend calibrate it"
        known = is_calibrated(self.calibration, who, remedy)
        mender = self.mender(known.quantiles, known.realistic, settings)
        check_figures(mender, known, who, remedy)
        return mender, known

    def _adapt_onward(
        self, patients: Iterable[Sequence[Prepared]], settings: AdaptationConfig
    ) -> Iterator[tuple[int, list[Adapted]]]:
        def adapt(images: Tensor, start: nn.Module, steps: int | None) -> Adapted:
            chosen = settings if steps is None else dataclasses.replace(settings, steps=steps)
            ((_, adapted),) = self.adapt([images], chosen, start)
            return adapted

        fresh, carried = self.networks.adaptor, None
        for number, prepared in enumerate(patients):
            made = []
            for images in self._instances(prepared, settings):
                made.append(adapt_onward(adapt, images, fresh, carried or fresh))
                carried = made[-1].adaptor
            yield number, made

    def _instances(
        self, prepared: Sequence[Prepared], settings: AdaptationConfig
    ) -> tuple[Tensor, ...]:
        """A patient's slices, together or each alone."""
        slices = torch.cat([one.slices for one in prepared]).to(self.device)
        return slices.split(1) if settings.instance == "slice" else (slices,)

    def adapt(
        self,
        instances: Iterable[Tensor],
        settings: AdaptationConfig,
        adaptor: nn.Module | None = None,
    ) -> Iterator[tuple[int, Adapted]]:
        """`adapt_all` with the run's networks, on stacks of slices on the model's device.

        They start at the trained adaptor, or at another one.
        """
        segmentor = self._folded(self._dtype(settings))[0]
        if settings.batch_norm == "train":  # which a folded one has not
            segmentor = self.networks.segmentor
        full = self._folded(torch.float32)[0]
        return adapt_all(
            segmentor,
            adaptor or self.networks.adaptor,
            self.prior(settings),
            instances,
            settings,
            enough=self.enough if settings.prior == "discriminator" else None,
            slices=slices_a_pass(self.device),
            # Masks have 32 bits whatever adaptation had, so that plain ones are plain inference.
            exact=None if settings.batch_norm == "train" or segmentor is full else full,
        )

    def follow(self, images: Tensor, settings: AdaptationConfig) -> Adapted:
        """`follow_denoiser` with the run's networks, on the slices of one volume."""
        return follow_denoiser(
            self._folded(self._dtype(settings))[0],
            self.networks.adaptor,
            self._denoiser(),
            images,
            steps=settings.most_steps,
            autocast=lambda: autocast(settings.precision, self.device),
        )

    def _denoiser(self) -> DenoiserPrior:
        if self._denoiser_prior is None:
            if self.run is None:
                raise RunError("the model comes from no run folder, which would hold a denoiser")
            self._denoiser_prior = DenoiserPrior(read_denoiser(self.run).to(self.device))
        return self._denoiser_prior

    def _denoiser_digest(self, settings: AdaptationConfig) -> str | None:
        if settings.prior != "denoiser" or self.run is None or not (self.run / DENOISER).is_file():
            return None
        return digest_of(self.run / DENOISER)

    def mender(self, quantiles: Tensor, realistic: float, settings: AdaptationConfig) -> Mender:
        """The ways in which this run can segment a volume.

        Args:
            quantiles: Of its training images (see `maskmend.guard.corrections`).
            realistic: The discriminator's score of true masks.
            settings: Their precision counts.
        """
        adaptor, dtype = self.networks.adaptor, self._dtype(settings)
        trained, *students = (
            opinion(one, adaptor, dtype) for one in (self.networks.segmentor, *self.students)
        )
        exact = nn.Sequential(adaptor, self._folded(torch.float32)[0])
        return assemble(
            exact,
            trained,
            students,
            self._discriminator_prior(dtype),
            settings,
            self.device,
            quantiles=quantiles,
            realistic=realistic,
            classes=self.config.data.classes,
        )

    def _dtype(self, settings: AdaptationConfig) -> torch.dtype:
        return weights_dtype(settings.precision, self.device)

    def _folded(self, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
        """Segmentor and discriminator in their fastest form."""
        if dtype not in self._frozen:
            networks = (self.networks.segmentor, self.networks.discriminator)
            self._frozen[dtype] = (frozen(networks[0], dtype), frozen(networks[1], dtype))
        return self._frozen[dtype]

    def prior(self, settings: AdaptationConfig) -> Prior:
        """What judges masks."""
        if settings.prior == "entropy":
            return EntropyPrior()
        if settings.prior == "denoiser":
            return self._denoiser()
        return self._discriminator_prior(self._dtype(settings))

    def _discriminator_prior(self, dtype: torch.dtype) -> DiscriminatorPrior:
        return DiscriminatorPrior(
            self._folded(dtype)[1],
            self.config.adversarial.target,
            sees_image=self.config.discriminator.sees_image,
        )


def load(run: str | Path, device: str | torch.device | None = None) -> Model:
    """Load a run folder.

    Args:
        run: The folder that `maskmend train` made.
        device: "cpu", "cuda", ...; by default a GPU if there is one.

    Raises:
        ConfigError: There is no such device.
        RunError: The folder is no run, or its weights are missing, truncated or foreign.
    """
    run = Path(run)
    config, networks = load_run(run)
    return Model(
        config,
        networks,
        device_of(device),
        validation_realism(run),
        digest_of(run / WEIGHTS),
        run.absolute(),
        read_calibration(run),
        read_students(run / STUDENTS, lambda number: networks.segmentor),
    )
