"""A trained run, and masks of images by it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from maskmend.adapt import adapt_all
from maskmend.build import Networks
from maskmend.checkpoint import WEIGHTS, digest_of, load_run, validation_realism
from maskmend.config import AdaptationConfig, Config, config_from
from maskmend.data.preprocess import SliceGrid, grid_of, image_slices, labels_on_grid, touches_crop
from maskmend.data.volume import Volume, read_image, write_mask
from maskmend.errors import ConfigError
from maskmend.frozen import frozen
from maskmend.instance import Adapted
from maskmend.passes import resolve_precision
from maskmend.priors import DiscriminatorPrior, EntropyPrior, Prior

_SLICES = {False: 32, True: 512}
"""Slices in one pass, without and with a GPU; halved when memory runs out."""


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
    """Time of adaptation; a patient's images share theirs evenly."""
    message: str = ""
    """What a person ought to know; with `check` set, what to look at."""
    check: bool = False
    """Whether the mask needs a look: empty, or cut by the crop."""

    def save(self, path: str | Path) -> None:
        """Write the mask, uint8, with the image's geometry; raises InputError if it cannot be."""
        write_mask(Path(path), self.labels, self.volume)


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
        digest: SHA-256 of the file that the weights come from.
        run: The folder that it was loaded from.
    """

    def __init__(
        self,
        config: Config,
        networks: Networks,
        device: torch.device,
        enough: float | None = None,
        digest: str = "",
        run: Path | None = None,
    ):
        self.config, self.networks, self.device = config, networks, device
        self.enough, self.digest, self.run = enough, digest, run
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
        """
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

    def _instances(
        self, prepared: Sequence[Prepared], settings: AdaptationConfig
    ) -> tuple[Tensor, ...]:
        """A patient's slices, together or each alone."""
        slices = torch.cat([one.slices for one in prepared]).to(self.device)
        return slices.split(1) if settings.instance == "slice" else (slices,)

    def adapt(
        self, instances: Iterable[Tensor], settings: AdaptationConfig
    ) -> Iterator[tuple[int, Adapted]]:
        """`adapt_all` with the run's networks, on stacks of slices on the model's device."""
        segmentor, prior = self._judged(settings)
        full = self._folded(torch.float32)[0]
        return adapt_all(
            segmentor,
            self.networks.adaptor,
            prior,
            instances,
            settings,
            enough=self.enough,
            slices=_SLICES[self.device.type == "cuda"],
            # Masks have 32 bits whatever adaptation had, so that plain ones are plain inference.
            exact=None if settings.batch_norm == "train" or segmentor is full else full,
        )

    def _folded(self, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
        """Segmentor and discriminator in their fastest form."""
        if dtype not in self._frozen:
            networks = (self.networks.segmentor, self.networks.discriminator)
            self._frozen[dtype] = (frozen(networks[0], dtype), frozen(networks[1], dtype))
        return self._frozen[dtype]

    def _judged(self, settings: AdaptationConfig) -> tuple[nn.Module, Prior]:
        """The segmentor that is adapted to, and what judges its masks."""
        mixed = resolve_precision(settings.precision, self.device) == "bf16-mixed"
        segmentor, discriminator = self._folded(torch.bfloat16 if mixed else torch.float32)
        if settings.batch_norm == "train":  # which a folded one has not
            segmentor = self.networks.segmentor
        if settings.prior == "entropy":
            return segmentor, EntropyPrior()
        return segmentor, DiscriminatorPrior(discriminator, self.config.adversarial.target)


def finish(prepared: Sequence[Prepared], adapted: Sequence[Adapted]) -> list[Prediction]:
    """A patient's predictions on the grids of its images.

    Args:
        prepared: The patient's images.
        adapted: What adaptation made of their slices, one after another.
    """
    lengths = [len(p.slices) for p in prepared]
    masks, plain, scores, plain_scores = (
        torch.cat([getattr(one, name) for one in adapted]).split(lengths)
        for name in ("masks", "plain", "scores", "plain_scores")
    )
    given_up = next((one.message for one in adapted if one.message), "")
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
            steps=round(sum(one.steps for one in adapted) / len(adapted)),
            seconds=sum(one.seconds for one in adapted) / len(prepared),
            message="; ".join(filter(None, (problem, given_up))),
            check=bool(problem),
        )
        made.append(prediction)
    return made


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
        enough, digest = validation_realism(Path(run)), digest_of(Path(run) / WEIGHTS)
        return Model(config, networks, torch.device(device), enough, digest, Path(run).absolute())
    except (RuntimeError, AssertionError) as error:  # what torch raises without CUDA
        raise ConfigError(f"device: {device} is not available on this machine; try cpu") from error
