"""All slices that a training run needs, read once and kept in memory."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maskmend.config import Config, PreprocessConfig
from maskmend.data.cohort import Case, Cohort
from maskmend.data.preprocess import grid_of, image_slices, mask_slices
from maskmend.data.split import Split, published_split, random_split
from maskmend.data.uses import uses_of
from maskmend.data.volume import read_image, read_mask
from maskmend.errors import ConfigError, InputError

Images = Float[Tensor, "slice 1 height width"]
Masks = UInt8[Tensor, "slice height width"]
Report = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Annotated volumes: slices one after another, and how many each volume has."""

    images: Images
    masks: Masks
    lengths: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What the alternation of section 3.2 draws from, and what it is validated on."""

    annotated: Pairs
    unpaired_images: Images
    unpaired_masks: Masks
    validation: Pairs


def split_of(cohort: Cohort, config: Config) -> Split:
    """The split that a configuration asks for.

    Raises:
        InputError: A patient of a published split is not in the folder.
    """
    split = _split_of(cohort, config)
    if config.data.mask_patients:
        few = split.train_unpaired_masks[: config.data.mask_patients]
        split = dataclasses.replace(split, train_unpaired_masks=few)
    if config.data.annotated == "split":
        return split
    everybody = split.train_annotated + split.train_unpaired_images
    return dataclasses.replace(split, train_annotated=everybody, train_unpaired_images=())


def _split_of(cohort: Cohort, config: Config) -> Split:
    if config.data.split == "random":
        return random_split(
            cohort.patients, fold=config.data.fold, seed=config.seed, folds=config.data.folds
        )
    split = published_split(config.data.split)
    wanted = {p for patients in split.to_dict().values() for p in patients}
    if missing := sorted(wanted - set(cohort.patients)):
        raise InputError(
            f"{cohort.root}: {missing[0]} and {len(missing) - 1} more patients of the split"
            f" {config.data.split} are missing; complete the folder or set data.split to random"
        )
    return split


def load_training_data(
    cohort: Cohort, split: Split, config: Config, report: Report = lambda: None
) -> TrainingData:
    """Read and preprocess all cases of the training and validation patients.

    Args:
        cohort: Where the files are.
        split: Who is trained and validated on; nothing of a test patient is read.
        config: How slices are made.
        report: Called after each case, for a progress bar.

    Raises:
        ConfigError: The segmentor does not take images of one channel.
        InputError: A file cannot be used, or a set is empty.
    """
    if config.segmentor.in_channels != 1:
        channels = config.segmentor.in_channels
        raise ConfigError(f"segmentor.in_channels: {channels}, but image files have one channel")
    uses = uses_of(cohort, split)
    # Without unannotated patients, the annotated ones serve both losses.
    images = uses.images or uses.annotated
    for name, cases in (("annotated training", uses.annotated), ("validation", uses.validation)):
        if not cases:
            raise InputError(f"{cohort.root}: no {name} patient; add annotated patients")
    read_mask_of = partial(_mask, config=config, report=report)
    return TrainingData(
        annotated=_pairs(uses.annotated, config, report),
        unpaired_images=torch.cat([_image(case, config, report) for case in images]),
        unpaired_masks=torch.cat([read_mask_of(case) for case in uses.masks]),
        validation=_pairs(uses.validation, config, report),
    )


def count_reads(cohort: Cohort, split: Split) -> int:
    """How often `load_training_data` reports."""
    uses = uses_of(cohort, split)
    images = uses.images or uses.annotated
    return sum(map(len, (uses.annotated, images, uses.masks, uses.validation)))


def _image(case: Case, config: Config, report: Report) -> Images:
    assert case.image is not None
    volume = read_image(case.image)
    slices = image_slices(volume, grid_of(volume, config.preprocess), config.preprocess)
    report()
    return slices


def read_mask_slices(path: Path, config: PreprocessConfig, classes: int) -> Masks:
    """Slices of a mask that needs no image beside it; raises InputError as `read_mask`."""
    volume = read_mask(path, labels=range(classes))
    return mask_slices(volume, grid_of(volume, config), classes)


def _mask(case: Case, config: Config, report: Report) -> Masks:
    assert case.mask is not None
    slices = read_mask_slices(case.mask, config.preprocess, config.data.classes)
    report()
    return slices


def _pairs(cases: Sequence[Case], config: Config, report: Report) -> Pairs:
    images, masks = [], []
    for case in cases:
        assert case.image is not None
        assert case.mask is not None
        image = read_image(case.image)
        grid = grid_of(image, config.preprocess)
        mask = read_mask(case.mask, labels=range(config.data.classes), like=image)
        images.append(image_slices(image, grid, config.preprocess))
        masks.append(mask_slices(mask, grid, config.data.classes))
        report()
    return Pairs(
        images=torch.cat(images), masks=torch.cat(masks), lengths=tuple(len(m) for m in masks)
    )
