"""predict on DICOM series: the masks of the NIfTI files, segmentations that lie on the series, and
no trace of the patient."""

import gzip
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest

from maskmend.cli import main
from maskmend.data.dicom import read_series
from maskmend.data.dicom_seg import write_segmentation
from maskmend.data.phantom import write_cohort
from tests.data.series import AFFINE, SECRET, TOLD, write_nifti, write_series
from tests.tiny import tiny, write_run

NAME = "Zwiebelfisch"
LARGE = AFFINE @ np.diag([7, 7, 2, 1])
"""As large as a thorax, at the few pixels of the tests."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = tiny(adaptation={"steps": 1, "precision": "32-true"})
    return write_run(tmp_path_factory.mktemp("run"), config)


@pytest.fixture(scope="module")
def heart(tmp_path_factory):
    """Voxels of a heart."""
    root = tmp_path_factory.mktemp("hearts")
    write_cohort(root, patients=1, seed=0, size=32, spacing_mm=9.5)
    voxels = nib.load(min((root / "images").iterdir())).get_fdata()
    return (1000 * (voxels - voxels.min()) / np.ptp(voxels)).astype(np.uint16)


@pytest.fixture
def series(tmp_path, heart):
    return write_series(tmp_path / "in" / NAME / "series", heart, LARGE)[0].parent


@pytest.fixture
def call(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return ended.value.code, printed.out + printed.err

    return run


def predict(call, run, images, out, *more):
    return call("predict", run, *images, "--out", out, "--device", "cpu", *more)


def mask_of(out, name):
    return nib.load(out / f"{name}_mask.nii.gz")


def test_the_mask_of_a_series_is_that_of_the_file(call, run, heart, series, tmp_path):
    file = write_nifti(tmp_path / "file.nii.gz", heart, LARGE)
    assert predict(call, run, [series, file], tmp_path / "out")[0] in (0, 1)  # 1: to be looked at
    ours, theirs = mask_of(tmp_path / "out", "series"), mask_of(tmp_path / "out", "file")
    assert np.asanyarray(theirs.dataobj).any()
    np.testing.assert_array_equal(ours.dataobj, theirs.dataobj)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-3)


def test_a_segmentation_lies_on_its_series(call, run, series, tmp_path):
    out = tmp_path / "out"
    assert predict(call, run, [series], out, "--dicom-seg")[0] in (0, 1)
    labels = np.asanyarray(mask_of(out, "series").dataobj)
    assert set(np.unique(labels)) > {0}
    seg = pydicom.dcmread(out / "series_mask.dcm")
    assert (seg.Modality, seg.SegmentationType) == ("SEG", "BINARY")
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["RV", "MYO", "LV"]
    found = np.zeros_like(labels)
    for frame, place in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(place.PlanePositionSequence[0].ImagePositionPatient) * [-1, -1, 1]
        z = np.linalg.inv(LARGE) @ [*position, 1]
        np.testing.assert_allclose(z[:2], 0, atol=1e-4)
        segment = place.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[:, :, round(z[2])][frame.T > 0] = segment
    np.testing.assert_array_equal(found, labels)
    # It belongs to the patient's study, and is the one thing that says so.
    first = pydicom.dcmread(next(series.iterdir()))
    assert seg.StudyInstanceUID == first.StudyInstanceUID
    assert seg.SeriesInstanceUID != first.SeriesInstanceUID
    assert (seg.PatientName, seg.PatientID) == (SECRET["PatientName"], SECRET["PatientID"])


def test_structures_without_a_code_and_empty_masks_are_written(tmp_path, series):
    volume = read_series(series)
    labels = np.zeros(volume.voxels.shape, np.uint8)
    for path in (tmp_path / "empty.dcm", tmp_path / "spleen.dcm"):
        write_segmentation(path, labels, volume, {1: "spleen", 4: "MYO"})
        labels[0, 0, 0] = 4
    seg = pydicom.dcmread(tmp_path / "spleen.dcm")
    kinds = [s.SegmentedPropertyTypeCodeSequence[0] for s in seg.SegmentSequence]
    assert [(kind.CodeMeaning, kind.CodingSchemeDesignator) for kind in kinds] == [
        ("spleen", "99MASKMEND"),
        ("Left Ventricle Myocardium", "SCT"),
    ]
    assert seg.pixel_array.sum() == 1
    assert pydicom.dcmread(tmp_path / "empty.dcm").pixel_array.sum() == 0


def test_segmentations_are_added_kept_and_made_anew(call, run, series, tmp_path):
    out = tmp_path / "out"
    predict(call, run, [series], out)
    assert not (out / "series_mask.dcm").exists()
    predict(call, run, [series], out, "--dicom-seg")
    first = (out / "series_mask.dcm").read_bytes()
    predict(call, run, [series], out, "--dicom-seg")
    assert (out / "series_mask.dcm").read_bytes() == first
    predict(call, run, [series], out, "--steps", 0)  # another mask
    assert not (out / "series_mask.dcm").exists()


def test_no_segmentation_of_a_nifti_file(call, run, heart, tmp_path):
    file = write_nifti(tmp_path / "file.nii.gz", heart, LARGE)
    status, said = predict(call, run, [file], tmp_path / "out", "--dicom-seg")
    assert status == 2
    assert said.startswith(f"maskmend: {file}: is no folder of a DICOM series")
    assert not (tmp_path / "out").exists()


def test_headers_that_no_segmentation_can_repeat_are_one_line(call, run, heart, tmp_path):
    write_series(tmp_path / "series", heart, LARGE, SOPClassUID="1.2.3.4")
    status, said = predict(call, run, [tmp_path / "series"], tmp_path / "out", "--dicom-seg")
    assert status == 1
    assert f"{tmp_path / 'out' / 'series_mask.dcm'}: cannot be written, the headers" in said
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".gz", ".csv", ".json"}


def test_nothing_tells_the_patient(call, run, heart, series, tmp_path):
    named = series.parent / "19290317_quirina"
    bad = series.parent / "ID9173XZ"
    twin = tmp_path / "in" / "twin" / "series"
    shutil.copytree(series, named)
    write_series(bad, heart, LARGE)[2].unlink()
    out = tmp_path / "out"
    status, said = predict(call, run, [series, named, bad], out, "--dicom-seg", "--debug")
    assert status == 1
    assert "image 2: its folder tells who the patient is; called series_" in said
    assert "slices are missing" in said
    shutil.copytree(series, twin)
    status, complaint = predict(call, run, [series, twin], out)
    assert status == 2
    assert "would both become series_mask.nii.gz" in complaint
    table = pd.read_csv(out / "predictions.csv")
    assert sorted(table["status"] == "failed") == [False, False, True]
    written = b""
    for path in out.iterdir():
        if path.suffix == ".gz":
            written += gzip.decompress(path.read_bytes())
        elif path.suffix != ".dcm":
            written += path.read_bytes()
        written += path.name.encode()
    everything = (said + complaint).lower().encode() + written.lower()
    assert not [secret for secret in TOLD if secret.encode() in everything]
