"""Fake anchors: corrupted real masks that the discriminator never forgets (section 3.1).

Parameters are drawn first (`draw_corruption`) and applied later (`corrupt`), so that a corruption
can be replayed bit for bit. Masks are label maps with the axes height, width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from maskmend.config import AnchorConfig

Labels = UInt8[np.ndarray, "height width"]
Corner = tuple[int, int]


class Step(Protocol):
    """One corruption with its parameters drawn."""

    def apply(self, labels: Labels, clean: Labels) -> None:
        """Change `labels` in place; `clean` is the real mask."""


@dataclass(frozen=True)
class Swap:
    """Exchange two square patches."""

    first: Corner
    second: Corner
    side: int

    def apply(self, labels: Labels, clean: Labels) -> None:
        """See `Step`."""
        a, b = _patch(self.first, self.side), _patch(self.second, self.side)
        labels[a], labels[b] = labels[b].copy(), labels[a].copy()


@dataclass(frozen=True)
class Copy:
    """Overwrite a square patch by one from elsewhere in the real mask."""

    source: Corner
    target: Corner
    side: int

    def apply(self, labels: Labels, clean: Labels) -> None:
        """See `Step`."""
        labels[_patch(self.target, self.side)] = clean[_patch(self.source, self.side)]


@dataclass(frozen=True)
class Fill:
    """Give a square patch one label; label 0 makes a hole."""

    corner: Corner
    side: int
    label: int

    def apply(self, labels: Labels, clean: Labels) -> None:
        """See `Step`."""
        labels[_patch(self.corner, self.side)] = self.label


@dataclass(frozen=True)
class Noise:
    """Give a share of all pixels a random label: binary noise in each channel of the mask."""

    share: float
    classes: int
    seed: int

    def apply(self, labels: Labels, clean: Labels) -> None:
        """See `Step`."""
        rng = np.random.default_rng(self.seed)
        hit = rng.random(labels.shape) < self.share
        labels[hit] = rng.integers(self.classes, size=int(hit.sum()), dtype=np.uint8)


@dataclass(frozen=True)
class Blobs:
    """Give smooth random regions one label, as a segmentor's confident mistakes look."""

    cells: int
    threshold: float
    label: int
    seed: int

    def apply(self, labels: Labels, clean: Labels) -> None:
        """See `Step`."""
        coarse = np.random.default_rng(self.seed).standard_normal((self.cells, self.cells))
        factors = [n / self.cells for n in labels.shape]
        labels[ndimage.zoom(coarse, factors, order=1) > self.threshold] = self.label


def corrupt(labels: Labels, steps: Sequence[Step]) -> Labels:
    """The mask after all steps; the given one stays as it is."""
    corrupted = labels.copy()
    for step in steps:
        step.apply(corrupted, labels)
    return corrupted


def draw_corruption(
    labels: Labels, config: AnchorConfig, classes: int, rng: np.random.Generator
) -> list[Step]:
    """Draw what will be done to a real mask.

    Args:
        labels: The mask; "local" anchors look where its structures are.
        config: Which recipe, and its sizes.
        classes: Number of classes, the background included.
        rng: The source of all randomness.
    """
    if config.kind == "paper":
        return _draw_paper(labels, config, classes, rng)
    if config.kind == "local":
        return _draw_local(labels, config, classes, rng)
    if config.kind == "authors":
        return _draw_authors(labels, classes, rng)
    return []


def _draw_paper(
    labels: Labels, config: AnchorConfig, classes: int, rng: np.random.Generator
) -> list[Step]:
    """Swapped patches of 10% of the image and binary noise (section 3.1)."""
    side = max(1, round(config.patch * labels.shape[0]))
    swaps = [
        Swap(_anywhere(labels, side, rng), _anywhere(labels, side, rng), side)
        for _ in range(rng.integers(config.swaps[0], config.swaps[1] + 1))
    ]
    return [*swaps, _draw_noise(config, classes, rng)]


def _draw_local(
    labels: Labels, config: AnchorConfig, classes: int, rng: np.random.Generator
) -> list[Step]:
    """Swaps near the structures, noise, blobs and holes: some of each, at least one swap or two.

    A patch anywhere mostly swaps background with background, which corrupts nothing.
    """
    side = max(1, round(config.patch * labels.shape[0]))
    foreground = np.argwhere(labels)
    swap, noise, blob = rng.random(3) < (0.6, 0.4, 0.4)
    steps: list[Step] = []
    if swap or not (noise or blob):
        steps += [
            Swap(_near(labels, foreground, side, rng), _near(labels, foreground, side, rng), side)
            for _ in range(rng.integers(config.swaps[0], config.swaps[1] + 1))
        ]
    if noise:
        steps.append(_draw_noise(config, classes, rng))
    if blob:
        steps += [
            Blobs(
                cells=int(rng.integers(4, 14)),
                threshold=float(rng.uniform(1.2, 2.2)),
                label=int(rng.integers(classes)),
                seed=_seed(rng),
            )
            for _ in range(rng.integers(1, 4))
        ]
    return steps


def _draw_authors(labels: Labels, classes: int, rng: np.random.Generator) -> list[Step]:
    """The authors' code: ten rounds of a dot, a copied square and a hole, in pixels of 224."""
    scale = labels.shape[0] / 224
    steps: list[Step] = []
    for _ in range(10):
        dot, square, hole = (
            max(0, round(scale * rng.integers(low, high + 1)))
            for low, high in ((0, 2), (22, 42), (0, 8))
        )
        steps += [
            Fill(_anywhere(labels, dot, rng), dot, int(rng.integers(classes))),
            Copy(_anywhere(labels, square, rng), _anywhere(labels, square, rng), square),
            Fill(_anywhere(labels, hole, rng), hole, 0),
        ]
    return steps


def _draw_noise(config: AnchorConfig, classes: int, rng: np.random.Generator) -> Noise:
    return Noise(share=float(rng.uniform(*config.noise)), classes=classes, seed=_seed(rng))


def _anywhere(labels: Labels, side: int, rng: np.random.Generator) -> Corner:
    height, width = labels.shape
    return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))


def _near(labels: Labels, foreground: np.ndarray, side: int, rng: np.random.Generator) -> Corner:
    """Mostly within a patch's side of a structure."""
    if len(foreground) == 0 or rng.random() < 0.2:
        return _anywhere(labels, side, rng)
    centre = foreground[rng.integers(len(foreground))] + rng.integers(-side, side + 1, size=2)
    limits = [n - side for n in labels.shape]
    row, column = np.clip(centre - side // 2, 0, limits)
    return int(row), int(column)


def _patch(corner: Corner, side: int) -> tuple[slice, slice]:
    return slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63))
