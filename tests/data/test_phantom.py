from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from maskmend.data.anatomy import HeartParameters, draw_heart
from maskmend.data.layouts import find_cohort
from maskmend.data.painting import LV, MYO, RV, paint
from maskmend.data.phantom import SCANNER_A, SCANNER_B, render, write_cohort
from maskmend.data.volume import read_image, read_mask

PATIENTS = 12
CROSS = ndimage.generate_binary_structure(2, 1)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cohort")
    write_cohort(root, patients=3, seed=5)
    return root


@pytest.fixture(scope="module")
def hearts() -> list[tuple[HeartParameters, np.ndarray, np.ndarray]]:
    """Parameters, labels at end-diastole and labels at end-systole."""
    diastoles = [draw_heart(np.random.default_rng(i)) for i in range(PATIENTS)]
    return [
        (
            heart,
            paint(heart, size=112, spacing_mm=2.7)[1],
            paint(heart.at_end_systole(), size=112, spacing_mm=2.7)[1],
        )
        for heart in diastoles
    ]


def millilitres(labels: np.ndarray, label: int, heart: HeartParameters) -> float:
    return (labels == label).sum() * 2.7**2 * heart.plan.slice_mm / 1000


def test_same_seed_same_bytes(root: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path, patients=3, seed=5)

    assert contents(tmp_path) == contents(root)
    assert len(contents(root)) == 2 * 3 * 2 + 1


def test_another_seed_another_patient(root: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path, patients=1, seed=6)

    name = "masks/heart000_frame01.nii.gz"
    assert contents(tmp_path)[name] != contents(root)[name]


def test_patient_does_not_depend_on_the_others(root: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path, patients=1, seed=5, first_patient=2)

    alone = {name: data for name, data in contents(tmp_path).items() if "heart002" in name}
    assert len(alone) == 4
    assert alone.items() <= contents(root).items()


def test_scanners_share_masks_and_differ_in_images(root: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path, patients=3, seed=5, scanner=SCANNER_B)

    a, b = contents(root), contents(tmp_path)
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name] == b[name]) == (not name.startswith("images"))


def test_layout_is_found_and_read_back(root: Path) -> None:
    cohort = find_cohort(root)

    assert cohort.layout == "folder"
    assert cohort.patients == ("heart000", "heart001", "heart002")
    assert [case.name for case in cohort.cases[:2]] == ["heart000_frame01", "heart000_frame10"]
    for case in cohort.cases:
        assert case.image and case.mask
        image = read_image(case.image)
        read_mask(case.mask, labels=(0, RV, MYO, LV), like=image)
    assert [case.phase for case in cohort.cases] == ["ED", "ES"] * 3


def test_geometry_on_disk(root: Path) -> None:
    for path in root.glob("*/*.nii.gz"):
        volume = nib.load(path)
        assert volume.get_data_dtype() == (np.int16 if path.parent.name == "images" else np.uint8)
        columns, rows, slices = volume.shape
        assert columns == rows == 112
        assert 6 <= slices <= 10
        pixel, row, slice_mm = volume.header.get_zooms()
        assert pixel == row == pytest.approx(2.7, rel=0.051)
        assert 8 <= slice_mm <= 10
        assert volume.header.get_xyzt_units()[0] == "mm"
        assert volume.header["qform_code"] == volume.header["sform_code"] == 1
        np.testing.assert_allclose(volume.get_qform(), volume.get_sform(), atol=1e-4)
        # Oblique, as short-axis slices are, but stored as left, posterior, superior.
        assert nib.aff2axcodes(volume.affine) == ("L", "P", "S")
        assert not np.allclose(volume.affine[:3, :3], np.diag(np.diag(volume.affine)[:3]))


def test_myocardium_encloses_the_left_cavity(
    hearts: list[tuple[HeartParameters, np.ndarray, np.ndarray]],
) -> None:
    for _, *phases in hearts:
        for labels in np.concatenate(phases):
            if (labels == LV).any():
                around = ndimage.binary_dilation(labels == LV, CROSS) & (labels != LV)
                assert (labels[around] == MYO).all()


def test_right_ventricle_lies_on_the_septum(
    hearts: list[tuple[HeartParameters, np.ndarray, np.ndarray]],
) -> None:
    for _, *phases in hearts:
        for labels in np.concatenate(phases):
            if (labels == RV).any():
                septum = ndimage.binary_dilation(labels == RV, CROSS) & (labels == MYO)
                assert septum.sum() >= 5


def test_structures_are_in_one_piece_from_base_to_apex(
    hearts: list[tuple[HeartParameters, np.ndarray, np.ndarray]],
) -> None:
    for _, *phases in hearts:
        for labels in phases:
            for label in (MYO, LV):
                areas = (labels == label).sum(axis=(1, 2))
                present = np.flatnonzero(areas)
                assert np.all(np.diff(present) == 1)
                assert all(ndimage.label(labels[z] == label)[1] == 1 for z in present)
            right, left = (np.flatnonzero((labels == x).any(axis=(1, 2))) for x in (RV, LV))
            assert right[0] == left[0]  # both begin at the base,
            assert right[-1] <= left[-1]  # and the right one ends first


def test_some_slices_hold_no_heart(
    hearts: list[tuple[HeartParameters, np.ndarray, np.ndarray]],
) -> None:
    empty = [[not labels.any() for labels in systole] for _, _, systole in hearts]

    assert sum(any(patient) for patient in empty) >= PATIENTS // 2
    assert not any(all(patient) for patient in empty)


def test_volumes_are_those_of_humans(
    hearts: list[tuple[HeartParameters, np.ndarray, np.ndarray]],
) -> None:
    for heart, diastole, systole in hearts:
        lv, rv, myo = (millilitres(diastole, label, heart) for label in (LV, RV, MYO))
        assert 60 < lv < 350
        assert 40 < rv < 300
        assert 50 < myo < 300
        ejected = 1 - millilitres(systole, LV, heart) / lv
        assert ejected == pytest.approx(heart.ejection_fraction, abs=0.12)
        # Muscle does not change its volume; slices are too thick to tell exactly.
        assert millilitres(systole, MYO, heart) == pytest.approx(myo, rel=0.25)


def test_heart_keeps_away_from_the_border(
    hearts: list[tuple[HeartParameters, np.ndarray, np.ndarray]],
) -> None:
    for _, diastole, _ in hearts:
        inner = diastole[:, 8:-8, 8:-8]
        assert inner.any() and inner.astype(bool).sum() == diastole.astype(bool).sum()


def test_scanner_b_has_less_contrast_to_noise() -> None:
    heart = draw_heart(np.random.default_rng(0))

    def contrast_to_noise(scanner):
        image, labels = render(heart, scanner, np.random.default_rng(1), size=112, spacing_mm=2.7)
        _, again = render(heart, scanner, np.random.default_rng(1), size=112, spacing_mm=2.7)
        assert np.array_equal(labels, again)
        return (image[labels == LV].mean() - image[labels == MYO].mean()) / scanner.noise

    assert 0 < contrast_to_noise(SCANNER_B) < 0.6 * contrast_to_noise(SCANNER_A)
