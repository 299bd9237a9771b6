"""DICOM series as scanners write them, of a patient who is easily recognised."""

from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

SECRET = {
    "PatientName": "Zwiebelfisch^Quirina",
    "PatientID": "ID9173XZ",
    "PatientBirthDate": "19290317",
    "StudyDate": "20240229",
    "AccessionNumber": "ACC55721",
    "ReferringPhysicianName": "Knopfloch^Ottokar",
}
"""Of the patient, in every header."""
TOLD = ("zwiebelfisch", "quirina", "id9173xz", "19290317", "20240229", "acc55721", "knopfloch")
"""What must not be found anywhere, in small letters."""

# Oblique and anisotropic, as every short-axis stack is; columns are steps to the next x, y and z.
AFFINE = np.eye(4)
AFFINE[:3, :3] = Rotation.from_euler("zyx", [25, -40, 15], degrees=True).as_matrix() @ np.diag(
    [1.25, 1.5, 9.0]
)
AFFINE[:3, 3] = -31, 22, 47


def voxels_of(shape=(6, 7, 5)) -> np.ndarray:
    """Voxels [x, y, z] that all differ."""
    return np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)


def write_series(
    folder: Path, voxels: np.ndarray | None = None, affine: np.ndarray = AFFINE, **tags: object
) -> list[Path]:
    """A series whose files are in no order by name or number; its files, by z.

    Args:
        folder: Made if need be.
        voxels: Unsigned integers [x, y, z].
        affine: Voxel index -> mm, in NIfTI's axes.
        **tags: Of every header.
    """
    voxels = voxels_of() if voxels is None else voxels
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(len(voxels)).permutation(voxels.shape[2])
    series, study = generate_uid(), generate_uid()
    lps = np.diag([-1, -1, 1, 1]) @ affine
    sides_mm = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / sides_mm
    paths = []
    for z, name in enumerate(names):
        dicom = Dataset()
        dicom.file_meta = FileMetaDataset()
        dicom.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dicom.SOPClassUID = dicom.file_meta.MediaStorageSOPClassUID = MRImageStorage
        dicom.SOPInstanceUID = dicom.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dicom.SeriesInstanceUID, dicom.StudyInstanceUID = series, study
        dicom.FrameOfReferenceUID = study
        dicom.Modality, dicom.InstanceNumber = "MR", int(name) + 1
        dicom.PatientSex, dicom.StudyTime, dicom.StudyID = "O", "120000", "1"
        dicom.Columns, dicom.Rows = voxels.shape[:2]
        dicom.PixelSpacing = [sides_mm[1].round(10), sides_mm[0].round(10)]
        dicom.ImageOrientationPatient = directions[:, :2].T.ravel().round(12).tolist()
        dicom.ImagePositionPatient = (lps @ [0, 0, z, 1])[:3].round(10).tolist()
        dicom.SliceThickness = sides_mm[2].round(10)
        dicom.SamplesPerPixel = 1
        dicom.PhotometricInterpretation = "MONOCHROME2"
        dicom.BitsAllocated = dicom.BitsStored = 16
        dicom.HighBit, dicom.PixelRepresentation = 15, 0
        dicom.PixelData = np.ascontiguousarray(voxels[:, :, z].T).tobytes()
        for keyword, value in {**SECRET, **tags}.items():
            setattr(dicom, keyword, value)
        path = folder / f"IM{name:03d}"
        dicom.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_nifti(path: Path, voxels: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> Path:
    """The same volume in a NIfTI file."""
    nib.save(nib.Nifti1Image(voxels_of() if voxels is None else voxels, affine), path)
    return path
