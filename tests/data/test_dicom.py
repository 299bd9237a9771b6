"""A series and the NIfTI file of the same volume are the same image; and nobody learns whose."""

import os
import re
import sys
import warnings

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import MPEG2MPML, JPEGLossless, JPEGLSLossless, RLELossless, generate_uid

from maskmend.data.source import modified_ns, name_of, read_source, shown
from maskmend.data.volume import read_image, write_mask
from maskmend.errors import ConfigError, InputError
from tests.data.series import AFFINE, TOLD, voxels_of, write_nifti, write_series


def change(path, **tags):
    dicom = pydicom.dcmread(path)
    for keyword, value in tags.items():
        setattr(dicom, keyword, value)
    dicom.save_as(path)


def test_a_series_is_the_nifti_file_of_the_same_volume(tmp_path):
    write_series(tmp_path / "series")
    series = read_source(tmp_path / "series")
    file = read_image(write_nifti(tmp_path / "file.nii.gz"))
    np.testing.assert_allclose(series.affine, file.affine, atol=1e-4)
    np.testing.assert_array_equal(series.voxels, file.voxels)
    assert series.voxels.dtype == np.float32
    assert series.spacing_mm == pytest.approx((1.25, 1.5, 9))


def test_every_voxel_lies_where_itk_sees_it(tmp_path):
    itk = pytest.importorskip("SimpleITK")  # comes with medpy
    write_series(tmp_path)
    reader = itk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    other, ours = reader.Execute(), read_source(tmp_path)
    for index in np.ndindex(ours.voxels.shape):
        x, y, z = (ours.affine @ [*index, 1])[:3]
        there = other.TransformPhysicalPointToIndex((-x, -y, z))
        assert ours.voxels[index] == other[there]


def test_a_mask_of_a_series_lies_on_it(tmp_path):
    write_series(tmp_path / "series")
    volume = read_source(tmp_path / "series")
    write_mask(tmp_path / "mask.nii.gz", (volume.voxels > 90).astype(np.uint8), volume)
    mask = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-4)
    np.testing.assert_array_equal(mask.dataobj, voxels_of() > 90)
    assert mask.header.get_xyzt_units()[0] == "mm"


def test_the_file_of_every_slice_is_known(tmp_path):
    paths = write_series(tmp_path)
    assert paths != sorted(paths)
    assert list(read_source(tmp_path).sources) == paths


def test_one_slice_is_as_thick_as_it_says(tmp_path):
    write_series(tmp_path, voxels_of((6, 7, 1)))
    assert read_source(tmp_path).spacing_mm == pytest.approx((1.25, 1.5, 9))


def test_a_sheared_stack_keeps_its_shear(tmp_path):
    affine = AFFINE.copy()
    affine[:3, 2] += 2 * AFFINE[:3, 0]
    write_series(tmp_path, affine=affine)
    np.testing.assert_allclose(read_source(tmp_path).affine, affine, atol=1e-6)


def test_intensities_are_rescaled(tmp_path):
    write_series(tmp_path, RescaleSlope="2", RescaleIntercept="-5")
    np.testing.assert_array_equal(read_source(tmp_path).voxels, voxels_of() * 2.0 - 5)


def test_what_lies_beside_a_series_does_not_matter(tmp_path):
    (first, *_) = write_series(tmp_path)
    (tmp_path / "notes.txt").write_text("on the patient")
    (tmp_path / ".hidden").write_text("by the system")
    (tmp_path / "DICOMDIR").write_bytes(first.read_bytes())
    (tmp_path / "folder").mkdir()
    dicom = pydicom.dcmread(first)
    dicom.Modality, dicom.SeriesInstanceUID = "SEG", generate_uid()
    dicom.save_as(tmp_path / "mask.dcm")
    assert read_source(tmp_path).voxels.shape == voxels_of().shape


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEGLossless])
@pytest.mark.filterwarnings("ignore")
def test_compressed_pixels_are_decoded(tmp_path, syntax):
    for path in write_series(tmp_path):
        if syntax == JPEGLossless:
            gdcm_compress(path)
        else:
            dicom = pydicom.dcmread(path)
            dicom.compress(syntax, generate_instance_uid=False)
            dicom.save_as(path)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_source(tmp_path).voxels, voxels_of())


def gdcm_compress(path):
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def second_series(paths):
    for path in paths[:2]:
        change(path, SeriesInstanceUID=generate_uid())


def compressed_strangely(paths):
    dicom = pydicom.dcmread(paths[2])
    dicom.file_meta.TransferSyntaxUID = MPEG2MPML
    dicom["PixelData"].VR = "OB"
    dicom.PixelData = pydicom.encaps.encapsulate([b"film"])
    dicom.save_as(paths[2])


BAD = {
    "several series": (second_series, "holds 3 series (of 3, 1, 1 images), expected one"),
    "a missing slice": (
        lambda paths: paths[2].unlink(),
        "slices are missing, two neighbours lie 18",
    ),
    "a copy": (
        lambda paths: paths[2].with_name("copy").write_bytes(paths[2].read_bytes()),
        "1 of 6 slices lie in the place of another",
    ),
    "another direction": (
        lambda paths: change(paths[2], ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        "its slices point in several directions",
    ),
    "another size": (
        lambda paths: change(paths[2], Rows=6, Columns=7),
        "has (7, 6) pixels, expected the (6, 7)",
    ),
    "off the grid": (
        lambda paths: change(paths[2], PixelSpacing=[2, 2]),
        "off the grid of its stack",
    ),
    "no spacing": (
        lambda paths: change(paths[2], PixelSpacing=None),
        "its PixelSpacing is missing or damaged",
    ),
    "no place": (
        lambda paths: change(paths[2], ImagePositionPatient=None),
        "its ImagePositionPatient is missing or damaged",
    ),
    "several frames": (lambda paths: change(paths[2], NumberOfFrames=2), "holds several frames"),
    "colour": (lambda paths: change(paths[2], SamplesPerPixel=3), "is in colour"),
    "cut off": (
        lambda paths: paths[2].write_bytes(paths[2].read_bytes()[:-9]),
        "its pixels are missing or cut off",
    ),
    "cut to nothing": (lambda paths: paths[2].write_bytes(b""), "is no DICOM file; copy it again"),
    "film": (
        compressed_strangely,
        "its pixels, MPEG2 Main Profile / Main Level, cannot be decoded",
    ),
    "constant": (
        lambda paths: [change(path, PixelData=bytes(84)) for path in paths],
        "every voxel is 0",
    ),
    "huge": (
        lambda paths: change(paths[2], Rows=60000, Columns=60000),
        "promises 3600000168 voxels",
    ),
    "no images": (lambda paths: [path.unlink() for path in paths], "holds no DICOM images"),
}


@pytest.mark.parametrize(("spoil", "complaint"), BAD.values(), ids=BAD)
def test_an_unusable_series_is_one_line_that_does_not_tell_the_patient(tmp_path, spoil, complaint):
    folder = tmp_path / "Quirina_2024-02-29" / "ZWIEBELFISCH-series"
    with warnings.catch_warnings(action="ignore"):
        spoil(write_series(folder))
    with pytest.raises(InputError) as raised:
        read_source(folder)
    line = str(raised.value)
    assert complaint in line
    assert "\n" not in line
    assert "; " in line, "the remedy is missing"
    assert raised.value.__suppress_context__  # what --debug shows
    if complaint != "holds no DICOM images":  # or there is nobody to be told from
        assert line.startswith(str(tmp_path / "***_***" / "series_"))
        assert not [secret for secret in TOLD if secret in line.lower()]


def test_a_name_that_tells_the_patient_gives_way(tmp_path):
    for name in ("Zwiebelfisch", "scan-of-quirina", "ID9173XZ", "x_29.02.2024", "1929_03_17", "ok"):
        write_series(tmp_path / name)
    names = {path.name: name_of(path) for path in tmp_path.iterdir()}
    assert names.pop("ok") == "ok"
    assert all(re.fullmatch("series_[0-9a-f]{10}", name) for name in names.values())
    assert len(set(names.values())) == 5
    assert shown(tmp_path / "Zwiebelfisch") == tmp_path / names["Zwiebelfisch"]


def test_a_damaged_file_does_not_let_the_name_out(tmp_path):
    paths = write_series(tmp_path / "Zwiebelfisch")
    paths[0].write_bytes(b"")
    assert name_of(tmp_path / "Zwiebelfisch").startswith("series_")


def test_short_names_count_as_words_alone(tmp_path):
    for name in ("li", "x-LI-1", "slices"):
        write_series(tmp_path / name, PatientName="Li^X", PatientID="7")
    assert name_of(tmp_path / "slices") == "slices"
    assert {name_of(tmp_path / name)[:7] for name in ("li", "x-LI-1")} == {"series_"}


def test_pseudonyms_stay_where_the_identity_was_removed(tmp_path):
    write_series(tmp_path / "p07", PatientName="p07", PatientID="p07", PatientIdentityRemoved="YES")
    assert name_of(tmp_path / "p07") == "p07"


def test_the_folder_one_stands_in_has_a_name(tmp_path, monkeypatch):
    write_series(tmp_path / "ok")
    monkeypatch.chdir(tmp_path / "ok")
    assert name_of(type(tmp_path)()) == "ok"
    assert read_source(type(tmp_path)()).name == "ok"


def test_no_warning_and_no_log_quotes_a_header(tmp_path, recwarn, caplog):
    with warnings.catch_warnings(action="ignore"):
        for path in write_series(tmp_path):
            change(path, PatientID="ID9173XZ" * 20, SeriesDescription="Zwiebelfisch" * 20)
    caplog.clear()
    read_source(tmp_path)
    assert not [str(one.message) for one in recwarn]
    assert not caplog.records


def test_a_series_is_as_young_as_its_youngest_file(tmp_path):
    first, *_ = write_series(tmp_path)
    os.utime(first, ns=(0, 2**62))
    assert modified_ns(tmp_path) == 2**62
    assert modified_ns(tmp_path / "gone") == 0


def test_without_pydicom_the_remedy_is_told(tmp_path, monkeypatch):
    write_series(tmp_path / "Zwiebelfisch")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.setattr("maskmend.data.dicom.find_spec", lambda name: None)
    for use in (read_source, name_of, shown):
        with pytest.raises(ConfigError, match=r'run: pip install "maskmend\[dicom\]"$') as raised:
            use(tmp_path / "Zwiebelfisch")
        assert "Zwiebelfisch" not in str(raised.value)
