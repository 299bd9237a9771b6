"""Procedural hearts: what makes up a patient, and how one is drawn at random.

A chest is a list of ellipsoids, painted one over the other. The heart is described in polar
coordinates about the left ventricle's axis; `painting.py` paints both.

Slices are short-axis. Columns run to the patient's left, rows to the back, z from base to apex;
the origin lies in the left ventricle's axis, at its base at end-diastole.
"""

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Self

import numpy as np

_HARMONICS = 4
_THROUGHOUT = 1e4
"""A radius for what goes through all slices."""


class Tissue(IntEnum):
    """What a scanner gives an intensity to."""

    AIR = 0
    LUNG = 1
    FAT = 2
    MUSCLE = 3
    BONE = 4
    LIVER = 5
    STOMACH = 6
    BLOOD = 7
    MYOCARDIUM = 8


@dataclass(frozen=True, kw_only=True)
class Ellipsoid:
    """A lump of one tissue, its axes along those of the image."""

    tissue: Tissue
    centre_mm: tuple[float, float, float]
    """Column, row and z."""
    radii_mm: tuple[float, float, float]
    """Along column, row and z."""
    outside: bool = False
    """Whether the tissue is around it instead."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where the radiographer put the slices."""

    slices: int
    slice_mm: float
    """Distance between slices, which is their thickness as well."""
    first_slice_mm: float
    """z of the first slice's centre; negative above the base."""
    centre_mm: tuple[float, float]
    """Column and row of the field of view's centre."""
    zoom: float
    """The patient's factor on the cohort's pixel size."""
    tilt_deg: tuple[float, float, float]
    """Rotation of the slices about the scanner's three axes."""
    breath_mm: np.ndarray
    """Array [slice, 2]: column and row by which each breath-hold moved the patient."""

    @property
    def z_mm(self) -> np.ndarray:
        """Centres of the slices."""
        return self.first_slice_mm + self.slice_mm * np.arange(self.slices)


@dataclass(frozen=True, kw_only=True)
class HeartParameters:
    """All that a patient's masks depend on, and where each tissue is."""

    base_mm: float = 0.0
    """z of the base; it moves towards the apex in systole."""
    length_mm: float
    """From the base to the end of the left cavity."""
    cavity_mm: float
    """Radius of the left cavity at its widest."""
    wall_mm: float
    """Mean thickness of the left myocardium."""
    rv_width_mm: float
    """From the septum to the right ventricle's free wall at the base."""
    rv_length: float
    """The right ventricle's length as a share of the left one's."""
    rv_half_angle: float
    """Half of the angle, in radians, over which the right ventricle embraces the left one."""
    rv_skew: float
    """How much wider the right ventricle is towards the front than towards the diaphragm."""
    septum_angle: float
    """Direction of the septum's middle from the left cavity, in radians from column to row."""
    axis_slope: tuple[float, float]
    """Shift of the left ventricle in column and row by mm of z."""
    cavity_shape: np.ndarray
    """Complex array [2, harmonics]: relative change of the cavity's radius at base and apex."""
    wall_shape: np.ndarray
    """Complex array [2, harmonics]: relative change of the wall's thickness at base and apex."""
    fat_shape: np.ndarray
    """Complex array [2, harmonics]: relative change of the epicardial fat at base and apex."""
    fat_mm: float
    """Mean thickness of the epicardial fat."""
    papillary_angles: tuple[float, ...]
    """Directions of the papillary muscles from the left cavity's centre, in radians."""
    papillary_size: float
    """Their radius as a share of the cavity's."""
    trabeculae_mm: float
    """Depth of the muscle ridges that blur the inner boundary of both cavities at the apex."""
    ejection_fraction: float
    """Share of the left cavity's blood that a beat throws out."""
    vessels: tuple[Ellipsoid, ...]
    """Atria and great vessels above the base, z counted from there."""
    chest: tuple[Ellipsoid, ...] = field(repr=False)
    """Everything else but the lungs, which are what is left, in the order of painting."""
    warp_mm: np.ndarray
    """Array [2, 6, 6]: column and row displacement, up to 5 mm, at the knots of a lattice over the
    view; it makes all outlines organic."""
    plan: Plan

    def at_end_systole(self) -> Self:
        """The same heart contracted: the base comes down, the cavities shrink, the wall thickens.

        The myocardium keeps its volume, as it does in the body.
        """
        shortening = 1 - 0.2 * self.ejection_fraction
        cavity = self.cavity_mm * np.sqrt((1 - self.ejection_fraction) / shortening)
        ring = (self.cavity_mm + self.wall_mm) ** 2 - self.cavity_mm**2
        return replace(
            self,
            base_mm=self.length_mm * (1 - shortening),
            length_mm=self.length_mm * shortening,
            cavity_mm=cavity,
            wall_mm=np.sqrt(cavity**2 + ring / shortening) - cavity,
            rv_width_mm=self.rv_width_mm * np.sqrt(1 - 0.8 * self.ejection_fraction),
        )


def draw_heart(rng: np.random.Generator) -> HeartParameters:
    """Draw a patient at end-diastole: healthy, dilated or hypertrophic, in a chest of their own."""
    length = rng.uniform(62, 86)
    cavity, wall, ejection_fraction = [
        (rng.uniform(21, 26), rng.uniform(7, 10), rng.uniform(0.5, 0.68)),  # healthy
        (rng.uniform(27, 33), rng.uniform(6.5, 8.5), rng.uniform(0.25, 0.4)),  # dilated
        (rng.uniform(19, 24), rng.uniform(11, 15), rng.uniform(0.55, 0.7)),  # hypertrophic
    ][rng.choice(3, p=[0.6, 0.2, 0.2])]
    rv_width = rng.uniform(24, 38)
    septum = np.pi + rng.uniform(-0.3, 0.5)
    return HeartParameters(
        length_mm=length,
        cavity_mm=cavity,
        wall_mm=wall,
        rv_width_mm=rv_width,
        rv_length=rng.uniform(0.75, 0.95),
        rv_half_angle=rng.uniform(0.95, 1.25),
        rv_skew=rng.uniform(0, 0.4),
        septum_angle=septum,
        axis_slope=(rng.uniform(-0.05, 0.25), rng.uniform(-0.1, 0.15)),
        cavity_shape=_draw_harmonics(rng, 0.05),
        wall_shape=_draw_harmonics(rng, 0.15),
        fat_shape=_draw_harmonics(rng, 0.6),
        fat_mm=rng.uniform(1, 5),
        papillary_angles=(septum + rng.uniform(1.9, 2.4), septum - rng.uniform(1.9, 2.4)),
        papillary_size=rng.uniform(0.16, 0.3),
        trabeculae_mm=rng.uniform(2, 6),
        ejection_fraction=ejection_fraction,
        vessels=_draw_vessels(rng),
        chest=_draw_chest(rng, cavity + wall + rv_width),
        warp_mm=rng.uniform(-5, 5, (2, 6, 6)),
        plan=_draw_plan(rng, length),
    )


def _draw_plan(rng: np.random.Generator, length_mm: float) -> Plan:
    slice_mm = rng.uniform(max(8, length_mm / 9), 10)
    first = rng.uniform(-1.1, 0.4) * slice_mm
    below_apex = rng.integers(1, 3)
    slices = int(np.clip((length_mm - first) // slice_mm + below_apex, 6, 10))
    return Plan(
        slices=slices,
        slice_mm=slice_mm,
        first_slice_mm=first,
        centre_mm=(rng.uniform(-10, 25), rng.uniform(-20, 20)),
        zoom=rng.uniform(0.95, 1.05),
        tilt_deg=(rng.uniform(-25, 25), rng.uniform(-25, 25), rng.uniform(-15, 15)),
        breath_mm=rng.normal(0, 1.0, (slices, 2)),
    )


def _draw_harmonics(rng: np.random.Generator, scale: float) -> np.ndarray:
    """Complex weights of the orders 1, 2, ... at base and apex; higher orders are weaker."""
    real, imaginary = rng.normal(0, scale, (2, 2, _HARMONICS))
    return (real + 1j * imaginary) / np.arange(1, _HARMONICS + 1)


def _draw_vessels(rng: np.random.Generator) -> tuple[Ellipsoid, ...]:
    """What lies above the base: round and bright as the left ventricle, and no part of the mask."""
    u = rng.uniform
    aorta = u(11, 15)
    return (
        Ellipsoid(tissue=Tissue.FAT, centre_mm=(-10, -5, -20), radii_mm=(u(40, 50), u(40, 50), 60)),
        *_vessel(rng, (14, 14, -14), (u(20, 28), u(16, 24), 22)),  # left atrium
        *_vessel(rng, (-32, 10, -16), (u(16, 24), u(18, 26), 24)),  # right atrium
        *_vessel(rng, (-8, -12, -30), (aorta, aorta, 40)),
        *_vessel(rng, (-24, -36, -16), (u(12, 18), u(10, 14), 24)),  # pulmonary trunk
    )


def _draw_chest(rng: np.random.Generator, heart_mm: float) -> tuple[Ellipsoid, ...]:
    """A body whose long axis is that of the rows, its front left in the image, its belly below.

    Args:
        rng: Draws it.
        heart_mm: Distance of the right ventricle's free wall from the origin, where the chest
            wall begins.
    """
    u = rng.uniform
    width, height = u(85, 100), u(130, 155)  # within the chest wall
    x, y = width - heart_mm - u(2, 12), u(5, 20)
    muscle, fat = u(7, 12), u(6, 22)

    def lump(
        tissue: Tissue, centre_mm: tuple[float, float], radii_mm: tuple[float, float]
    ) -> Ellipsoid:
        """Through some of the slices."""
        return Ellipsoid(
            tissue=tissue, centre_mm=(*centre_mm, u(20, 80)), radii_mm=(*radii_mm, u(40, 90))
        )

    def beyond(tissue: Tissue, depth: float) -> Ellipsoid:
        return Ellipsoid(
            tissue=tissue,
            centre_mm=(x, y, 0),
            radii_mm=(width + depth, height + depth, _THROUGHOUT),
            outside=True,
        )

    lung = [
        lump(Tissue.BLOOD, (x + u(-80, 80), y + u(-120, 20)), (u(1, 3.5), u(1, 3.5)))
        for _ in range(40)
    ]
    mediastinum = [
        Ellipsoid(
            tissue=Tissue(rng.choice([Tissue.FAT, Tissue.MUSCLE, Tissue.BLOOD])),
            centre_mm=(u(10, 60), u(-30, 50), u(-40, 20)),
            radii_mm=(u(6, 18), u(6, 18), u(20, 50)),
        )
        for _ in range(6)
    ]
    # The diaphragm's dome rises towards the apex, which lies on it.
    diaphragm = u(32, 50)
    belly = [
        Ellipsoid(
            tissue=tissue,
            centre_mm=(x, diaphragm + 95, u(70, 90)),
            radii_mm=(width + 5 - thickness, 95 - thickness, u(130, 160)),
        )
        for tissue, thickness in ((Tissue.MUSCLE, 0.0), (Tissue.FAT, 2.5), (Tissue.MUSCLE, 7.0))
    ]
    organs = [
        *(
            lump(
                Tissue(rng.choice([Tissue.FAT, Tissue.STOMACH, Tissue.BLOOD, Tissue.AIR])),
                (x + u(-70, 80), diaphragm + u(30, 120)),
                (u(4, 18), u(4, 18)),
            )
            for _ in range(25)
        ),
        lump(Tissue.LIVER, (x - u(40, 70), diaphragm + u(45, 60)), (u(50, 70), u(38, 55))),
        lump(Tissue.LIVER, (x - u(-20, 20), diaphragm + u(35, 50)), (u(30, 50), u(20, 32))),
        lump(Tissue.STOMACH, (x + u(30, 55), diaphragm + u(22, 45)), (u(18, 32), u(14, 26))),
    ]
    aorta, cava = u(9, 13), u(8, 12)
    vessels = [
        *_vessel(rng, (u(48, 62), u(28, 42), 0), (aorta, aorta, _THROUGHOUT)),
        *_vessel(rng, (u(5, 25), u(50, 62), 0), (cava, 0.8 * cava, _THROUGHOUT)),
    ]
    ribs = [
        lump(
            Tissue.BONE,
            (
                x + (width + muscle / 2) * np.cos(angle),
                y + (height + muscle / 2) * np.sin(angle),
            ),
            (u(3, 6), u(3, 8)),
        )
        for angle in np.arange(0, 2 * np.pi, 0.25) + u(0, 0.25)
    ]
    return (
        *(*lung, *mediastinum, *belly, *organs, *vessels),
        beyond(Tissue.MUSCLE, 0),
        *ribs,
        beyond(Tissue.FAT, muscle),
        beyond(Tissue.AIR, muscle + fat),
    )


def _vessel(
    rng: np.random.Generator,
    centre_mm: tuple[float, float, float],
    radii_mm: tuple[float, float, float],
) -> tuple[Ellipsoid, Ellipsoid]:
    """Blood in a wall of 2 to 3 mm, a few mm from where it is expected."""
    wall = rng.uniform(2, 3)
    x, y, z = centre_mm
    centre = (x + rng.uniform(-5, 5), y + rng.uniform(-5, 5), z)
    return (
        Ellipsoid(
            tissue=Tissue.MUSCLE,
            centre_mm=centre,
            radii_mm=(radii_mm[0] + wall, radii_mm[1] + wall, radii_mm[2] + wall),
        ),
        Ellipsoid(tissue=Tissue.BLOOD, centre_mm=centre, radii_mm=radii_mm),
    )
