import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

from maskmend.data import lvsc
from maskmend.data.layouts import find_cohort
from maskmend.data.volume import read_image, read_mask
from maskmend.errors import InputError

ROWS, COLUMNS = 6, 5
ROW_SPACING_MM, COLUMN_SPACING_MM = 1.5, 1.25
SLICE_DISTANCE_MM = 9.0
ORIGIN_MM = np.array([-31.0, 22.0, 47.0])  # LPS
# An oblique stack, as every short-axis stack is: columns are the directions of x, y and the normal.
DIRECTIONS = Rotation.from_euler("zyx", [25, -40, 15], degrees=True).as_matrix()


def pixels_of(number: int) -> np.ndarray:
    """Pixels [row, column] that all differ, in all slices."""
    return np.arange(ROWS * COLUMNS, dtype=np.uint16).reshape(ROWS, COLUMNS) + 100 * number


def position_mm(number: int) -> np.ndarray:
    return ORIGIN_MM + DIRECTIONS[:, 2] * SLICE_DISTANCE_MM * number


def dicom_point_mm(row: int, column: int, number: int) -> np.ndarray:
    """Where a pixel is, in LPS: equation C.7.6.2.1-1 of the DICOM standard."""
    along_row, along_column = DIRECTIONS[:, 0], DIRECTIONS[:, 1]
    return (
        position_mm(number)
        + along_row * COLUMN_SPACING_MM * column
        + along_column * ROW_SPACING_MM * row
    )


def write_dicom(path: Path, number: int, **changes: object) -> None:
    dicom = Dataset()
    dicom.file_meta = FileMetaDataset()
    dicom.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dicom.SOPClassUID = dicom.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dicom.SOPInstanceUID = dicom.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dicom.Rows, dicom.Columns = ROWS, COLUMNS
    dicom.PixelSpacing = [ROW_SPACING_MM, COLUMN_SPACING_MM]
    dicom.ImageOrientationPatient = DIRECTIONS[:, :2].T.ravel().round(12).tolist()
    dicom.ImagePositionPatient = position_mm(number).round(10).tolist()
    dicom.SliceThickness = 8.0
    dicom.SamplesPerPixel = 1
    dicom.PhotometricInterpretation = "MONOCHROME2"
    dicom.BitsAllocated = dicom.BitsStored = 16
    dicom.HighBit, dicom.PixelRepresentation = 15, 0
    dicom.PixelData = pixels_of(number).tobytes()
    for keyword, value in changes.items():
        setattr(dicom, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dicom.save_as(path, enforce_file_format=True)


def write_png(path: Path, row: int, column: int, shape: tuple[int, int] = (ROWS, COLUMNS)) -> None:
    """A mask that is white at one pixel."""
    pixels = np.zeros(shape, np.uint8)
    pixels[row, column] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_patient(root: Path, patient: str = "DET0000101", n_slices: int = 3) -> Path:
    """A stack with masks. Slices are numbered from 1, against the normal; the mask is in the row
    of its position's number.
    """
    folder = root / patient
    for number in range(n_slices):
        stem = f"{patient}_SA{n_slices - number}_ph0"
        write_dicom(folder / f"{stem}.dcm", number)
        write_png(folder / f"{stem}.png", row=number, column=4)
    return folder


def test_masks_that_arrive_later_make_a_pair(tmp_path: Path) -> None:
    root = tmp_path / "data"
    folder = make_patient(root)
    for png in list(folder.glob("*.png")):
        png.rename(tmp_path / png.name)
    assert len(find_cohort(root).unlabelled) == 1
    for png in list(tmp_path.glob("*.png")):
        png.rename(folder / png.name)
    for _ in range(2):
        cohort = find_cohort(root)
        assert (len(cohort.cases), len(cohort.unlabelled)) == (1, 0)


def test_every_voxel_lies_where_dicom_says(tmp_path: Path) -> None:
    make_patient(tmp_path)

    (case,) = find_cohort(tmp_path).cases

    assert case.image
    image = read_image(case.image)
    assert image.voxels.shape == (COLUMNS, ROWS, 3)
    for number, row, column in np.ndindex(3, ROWS, COLUMNS):
        ras_mm = dicom_point_mm(row, column, number) * [-1, -1, 1]
        np.testing.assert_allclose(image.affine @ [column, row, number, 1], [*ras_mm, 1], atol=1e-4)
        assert image.voxels[column, row, number] == pixels_of(number)[row, column]
    np.testing.assert_allclose(
        image.spacing_mm, [COLUMN_SPACING_MM, ROW_SPACING_MM, SLICE_DISTANCE_MM], rtol=1e-6
    )


def test_the_mask_lies_on_the_image(tmp_path: Path) -> None:
    make_patient(tmp_path)

    (case,) = find_cohort(tmp_path).cases

    assert case.image
    assert case.mask
    mask = read_mask(case.mask, labels=(0, 1), like=read_image(case.image))
    assert np.argwhere(mask.voxels).tolist() == [[4, 0, 0], [4, 1, 1], [4, 2, 2]]


def test_the_cohort_names_patient_phase_and_layout(tmp_path: Path) -> None:
    make_patient(tmp_path, "DET0000201")
    make_patient(tmp_path, "DET0000101")
    write_dicom(tmp_path / "DET0000101" / "DET0000101_LA1_ph0.dcm", 0)  # long axis: ignored
    write_dicom(tmp_path / "DET0000101" / "DET0000101_SA1_ph7.dcm", 0)  # not ED: ignored

    cohort = find_cohort(tmp_path, "lvsc")

    assert (cohort.layout, cohort.root) == ("lvsc", tmp_path)
    assert [(case.name, case.patient, case.phase) for case in cohort.cases] == [
        ("DET0000101_frame00", "DET0000101", "ED"),
        ("DET0000201_frame00", "DET0000201", "ED"),
    ]
    assert cohort.cases[0].image == (
        tmp_path / "maskmend_nifti" / "images" / "DET0000101_frame00.nii.gz"
    )


def test_masks_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    folder = make_patient(tmp_path / "Training")
    (tmp_path / "Training" / "masks").mkdir()
    for png in folder.glob("*.png"):
        png.rename(tmp_path / "Training" / "masks" / png.name)
    for dicom in folder.glob("*.dcm"):
        dicom.rename(dicom.with_suffix(".DCM"))

    assert len(find_cohort(tmp_path).cases) == 1


def test_other_phases_on_request(tmp_path: Path) -> None:
    folder = make_patient(tmp_path / "data")
    write_dicom(folder / "DET0000101_SA1_ph12.dcm", 1)

    cohort = lvsc.convert(tmp_path / "data", tmp_path / "out", phases=None)

    assert [case.name for case in cohort.cases] == ["DET0000101_frame00"]
    (alone,) = cohort.unlabelled
    assert alone.name == "DET0000101_frame12"
    assert alone.image
    assert read_image(alone.image).spacing_mm[2] == pytest.approx(8)  # one slice: its thickness
    with pytest.raises(InputError, match="no short-axis image of phase 3, 4"):
        lvsc.convert(tmp_path / "data", tmp_path / "out", phases={4, 3})


def test_slices_without_a_mask_are_left_out(tmp_path: Path) -> None:
    folder = make_patient(tmp_path)
    (folder / "DET0000101_SA3_ph0.png").unlink()  # the one at ORIGIN_MM

    (case,) = find_cohort(tmp_path).cases

    assert case.image
    image = read_image(case.image)
    assert image.voxels.shape == (COLUMNS, ROWS, 2)
    np.testing.assert_allclose(image.affine[:3, 3], position_mm(1) * [-1, -1, 1], atol=1e-4)


def test_rescaling_is_applied(tmp_path: Path) -> None:
    write_dicom(tmp_path / "A_SA1_ph0.dcm", 0, RescaleSlope="2", RescaleIntercept="-5")

    (case,) = find_cohort(tmp_path).unlabelled

    assert case.image
    np.testing.assert_array_equal(read_image(case.image).voxels[..., 0], pixels_of(0).T * 2.0 - 5.0)


def test_empty_rescale_tags_change_nothing(tmp_path: Path) -> None:
    write_dicom(tmp_path / "A_SA1_ph0.dcm", 0, RescaleSlope=None, RescaleIntercept=None)

    (case,) = find_cohort(tmp_path).unlabelled

    assert case.image
    np.testing.assert_array_equal(read_image(case.image).voxels[..., 0], pixels_of(0).T)


@pytest.mark.parametrize(("kind", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_a_mask_is_what_is_nearer_to_white(tmp_path: Path, kind: type, white: int) -> None:
    write_dicom(tmp_path / "A_SA1_ph0.dcm", 0)
    grey = np.zeros((ROWS, COLUMNS), kind)
    grey[1, 2], grey[3, 4], grey[5, 0] = white, white // 2 + 1, white // 2
    Image.fromarray(grey).save(tmp_path / "A_SA1_ph0.png")

    (case,) = find_cohort(tmp_path).cases

    assert case.image
    assert case.mask
    mask = read_mask(case.mask, labels=(0, 1), like=read_image(case.image))
    assert np.argwhere(mask.voxels).tolist() == [[2, 1, 0], [4, 3, 0]]


def test_what_is_converted_is_kept_and_needs_no_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_patient(tmp_path)
    first = find_cohort(tmp_path)
    image = tmp_path / "maskmend_nifti" / "images" / "DET0000101_frame00.nii.gz"
    written_ns = image.stat().st_mtime_ns
    monkeypatch.setitem(sys.modules, "pydicom", None)

    assert find_cohort(tmp_path) == first
    assert image.stat().st_mtime_ns == written_ns
    assert sorted(path.name for path in image.parent.iterdir()) == [image.name]

    image.unlink()  # as if the first visit had been interrupted
    with pytest.raises(InputError, match=r'run: pip install "maskmend\[lvsc\]"$'):
        find_cohort(tmp_path)
    monkeypatch.undo()
    assert find_cohort(tmp_path) == first


def test_a_sheared_stack_keeps_its_shear(tmp_path: Path) -> None:
    drift_mm = DIRECTIONS[:, 0] * 2
    for number in range(3):
        position = (position_mm(number) + drift_mm * number).round(10).tolist()
        write_dicom(tmp_path / f"A_SA{number}_ph0.dcm", number, ImagePositionPatient=position)

    (case,) = find_cohort(tmp_path).unlabelled

    assert case.image
    np.testing.assert_allclose(
        read_image(case.image).affine[:3, 2],
        (DIRECTIONS[:, 2] * SLICE_DISTANCE_MM + drift_mm) * [-1, -1, 1],
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ImagePositionPatient": [0, 0, 0]}, "off the grid of its stack"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "off the grid of its stack"),
        ({"PixelSpacing": [3, 3]}, "off the grid of its stack"),
        ({"Rows": 5, "Columns": 6}, r"has \(6, 5\) pixels, expected the \(5, 6\)"),
        ({"PixelSpacing": None}, "is no usable DICOM image"),
        ({"PixelData": b"short"}, "is no usable DICOM image"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_an_irregular_slice_is_named_and_the_rest_is_done(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = make_patient(tmp_path)
    bad = folder / "DET0000101_SA2_ph0.dcm"
    write_dicom(bad, 1, **changes)
    make_patient(tmp_path, "DET0000201")

    with pytest.raises(InputError, match=message) as error:
        find_cohort(tmp_path)

    assert str(error.value).startswith(str(folder))
    assert "\n" not in str(error.value)
    converted = (tmp_path / "maskmend_nifti").rglob("*.nii.gz")
    assert {path.name for path in converted} == {"DET0000201_frame00.nii.gz"}


def test_a_missing_slice_is_noticed(tmp_path: Path) -> None:
    folder = make_patient(tmp_path, n_slices=5)
    (folder / "DET0000101_SA2_ph0.dcm").unlink()

    with pytest.raises(InputError, match="look for a missing slice"):
        find_cohort(tmp_path)


def test_slices_in_one_place_are_no_volume(tmp_path: Path) -> None:
    for number in (1, 2):
        write_dicom(tmp_path / f"A_SA{number}_ph0.dcm", 0)

    with pytest.raises(InputError, match="its stack has no volume"):
        find_cohort(tmp_path)


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    folder = make_patient(tmp_path)
    png = folder / "DET0000101_SA1_ph0.png"

    write_png(png, 0, 0, shape=(COLUMNS, ROWS))
    with pytest.raises(InputError, match=r"_SA1_ph0\.png: has \(6, 5\) pixels, expected"):
        find_cohort(tmp_path)
    png.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"_SA1_ph0\.png: is no usable PNG"):
        find_cohort(tmp_path)
    for number in (1, 2, 3):
        (folder / f"DET0000101_SA{number}_ph0.png").rename(
            folder / f"DET0000101_SA{number + 3}_ph0.png"
        )
    with pytest.raises(InputError, match="no mask of DET0000101_frame00 has the slice number"):
        find_cohort(tmp_path)


def test_one_slice_in_two_places(tmp_path: Path) -> None:
    make_patient(tmp_path)
    make_patient(tmp_path / "copy")

    with pytest.raises(InputError, match="is the same slice as"):
        find_cohort(tmp_path)


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    make_patient(tmp_path)
    (tmp_path / "maskmend_nifti").write_text("a file in the way")

    with pytest.raises(
        InputError, match=r"cannot be written \(.*\); convert into a folder of your"
    ):
        find_cohort(tmp_path)
