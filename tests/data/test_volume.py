"""Reading and writing volumes: values, geometry, and the bytes on disk."""

import errno
import gzip
import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import unit_codes

from maskmend.data.volume import Volume, read_image, read_mask, write_mask
from maskmend.errors import InputError

SHAPE = (5, 4, 3)
GEOMETRY = ("dim", "pixdim", "qform_code", "sform_code", "xyzt_units", "srow_x", "srow_y", "srow_z")
QFORM = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return about_z @ about_x


def affine_of(directions: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = -31.5, 12.25, 7
    return affine


AFFINES = {
    "isotropic": affine_of(np.eye(3), (1, 1, 1)),
    "anisotropic": affine_of(np.eye(3), (1.37, 1.37, 10)),
    "oblique": affine_of(rotation(25), (1.25, 1.5, 8)),
    "flipped": affine_of(rotation(25) @ np.diag([-1, 1, 1]), (1.25, 1.5, 8)),
}


def ramp(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def save(
    path: Path, data: np.ndarray, affine: np.ndarray, *, codes: tuple[int, int] = (1, 1), **fields
) -> Path:
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, code=codes[0])
    image.set_sform(affine if codes[1] else None, code=codes[1])
    image.header.set_xyzt_units("mm", "sec")
    for field, value in fields.items():
        image.header[field] = value
    nib.save(image, path)
    return path


def patch(path: Path, **fields) -> None:
    """Write header fields without nibabel's mending."""
    content = path.read_bytes()
    header = nib.Nifti1Header(content[:348], check=False)
    for field, value in fields.items():
        header[field] = value
    path.write_bytes(header.binaryblock + content[348:])


def some_labels(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, shape)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_image_is_what_nibabel_reads(tmp_path: Path, affine: np.ndarray, suffix: str) -> None:
    path = save(tmp_path / f"patient.01{suffix}", ramp(), affine)
    image = read_image(path)
    np.testing.assert_array_equal(image.voxels, ramp())
    assert image.voxels.dtype == np.float32
    np.testing.assert_array_equal(image.affine, nib.load(path).affine)
    np.testing.assert_allclose(image.spacing_mm, nib.load(path).header.get_zooms(), rtol=1e-6)
    assert image.path == path
    assert image.name == "patient.01"


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1), (1, 2), (2, 1), (3, 4)])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_mask_keeps_the_geometry_bit_for_bit(
    tmp_path: Path, affine: np.ndarray, codes: tuple[int, int]
) -> None:
    image = read_image(save(tmp_path / "image.nii.gz", ramp(), affine, codes=codes))
    assert (image.header["qform_code"], image.header["sform_code"]) == codes
    labels = some_labels(SHAPE)
    write_mask(tmp_path / "mask.nii.gz", labels, image)

    before, after = nib.load(image.path), nib.load(tmp_path / "mask.nii.gz")
    for field in (*GEOMETRY, *QFORM):
        assert before.header[field].tobytes() == after.header[field].tobytes(), field
    np.testing.assert_array_equal(before.affine, after.affine)
    np.testing.assert_array_equal(after.dataobj, labels)
    assert after.get_data_dtype() == np.uint8

    mask = read_mask(tmp_path / "mask.nii.gz", labels=range(4), like=image)
    np.testing.assert_array_equal(mask.voxels, labels)
    assert mask.voxels.dtype == np.uint8


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3, 1), (5, 4, 1, 1, 1)])
def test_mask_has_the_shape_of_the_image_on_disk(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = read_image(save(tmp_path / "image.nii", ramp(shape), AFFINES["oblique"]))
    spatial = (*shape, 1)[:3]
    assert image.voxels.shape == spatial
    write_mask(tmp_path / "mask.nii.gz", some_labels(spatial), image)
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == shape
    np.testing.assert_array_equal(np.reshape(mask.dataobj, spatial), some_labels(spatial))


def test_2d_slice_without_thickness_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "slice.nii", ramp((5, 4)), AFFINES["anisotropic"], codes=(1, 0))
    patch(path, pixdim=[1, 1.37, 1.37, 0, 0, 0, 0, 0])
    image = read_image(path)
    assert image.spacing_mm == pytest.approx((1.37, 1.37, 1))
    assert image.header["pixdim"][3] == 0


def test_qform_handedness_of_zero_means_right_handed(tmp_path: Path) -> None:
    path = save(tmp_path / "image.nii", ramp(), AFFINES["oblique"], codes=(1, 0))
    patch(path, pixdim=[0, 1.25, 1.5, 8, 0, 0, 0, 0])
    image = read_image(path)
    np.testing.assert_allclose(image.affine, AFFINES["oblique"], atol=1e-5)
    assert image.header["pixdim"][0] == 0


@pytest.mark.parametrize("units", ["meter", "mm", "micron", "unknown"])
def test_lengths_are_in_mm_whatever_the_file_counts_in(tmp_path: Path, units: str) -> None:
    mm = {"meter": 1000, "micron": 0.001}.get(units, 1)
    path = save(tmp_path / "image.nii", ramp(), AFFINES["oblique"], xyzt_units=unit_codes[units])
    image = read_image(path)
    assert image.spacing_mm == pytest.approx((1.25 * mm, 1.5 * mm, 8 * mm))
    write_mask(tmp_path / "mask.nii.gz", some_labels(SHAPE), image)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz").affine, image.affine)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_every_real_type_either_byte_order_both_versions(
    tmp_path: Path, dtype: str, endianness: str, image_class: type
) -> None:
    header = image_class.header_class(endianness=endianness)
    header.set_data_dtype(dtype)
    nib.save(image_class(ramp().astype(dtype), np.eye(4), header), tmp_path / "image.nii.gz")
    image = read_image(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(image.voxels, ramp())
    assert image.header.endianness == endianness

    write_mask(tmp_path / "mask.nii.gz", some_labels(SHAPE), image)
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert type(mask) is image_class
    np.testing.assert_array_equal(mask.dataobj, some_labels(SHAPE))


@pytest.mark.parametrize(
    ("slope", "inter"), [(0.37, -12.5), (-2, 1), (1e-6, 0), (0, 5), (np.nan, np.nan), (np.nan, 3)]
)
def test_stored_integers_are_scaled(tmp_path: Path, slope: float, inter: float) -> None:
    path = save(tmp_path / "image.nii", ramp(), np.eye(4))
    patch(path, scl_slope=slope, scl_inter=inter)
    voxels = read_image(path).voxels
    unscaled = slope == 0 or np.isnan(slope)
    expected = ramp() if unscaled else ramp() * np.float64(np.float32(slope)) + inter
    np.testing.assert_allclose(voxels, expected, rtol=1e-6)
    np.testing.assert_array_equal(voxels, nib.load(path).get_fdata(dtype=np.float32))


def test_image_larger_than_one_piece(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(-1000, 1000, (129, 130, 70)).astype(np.int16)
    assert data.size > 2**20
    image = read_image(save(tmp_path / "image.nii", data, np.eye(4)))
    np.testing.assert_array_equal(image.voxels, data)


def test_content_decides_about_compression_not_the_suffix(tmp_path: Path) -> None:
    plain = save(tmp_path / "image.nii", ramp(), np.eye(4))
    (tmp_path / "plain.nii.gz").write_bytes(plain.read_bytes())
    (tmp_path / "packed.nii").write_bytes(gzip.compress(plain.read_bytes()))
    for name in ("plain.nii.gz", "packed.nii"):
        np.testing.assert_array_equal(read_image(tmp_path / name).voxels, ramp())


def test_header_is_untouched(tmp_path: Path) -> None:
    path = save(tmp_path / "image.nii", ramp(), AFFINES["flipped"], descrip=b"kept", cal_max=9)
    image = read_image(path)
    write_mask(tmp_path / "mask.nii.gz", some_labels(SHAPE), image)
    assert image.header.binaryblock == path.read_bytes()[:348]


def test_mask_header_says_mask_and_nothing_of_the_image(tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    save(path, ramp(), np.eye(4), descrip=b"private", aux_file=b"private", cal_max=9)
    write_mask(tmp_path / "mask.nii.gz", some_labels(SHAPE), read_image(path))
    assert b"private" not in gzip.decompress((tmp_path / "mask.nii.gz").read_bytes())
    header = nib.load(tmp_path / "mask.nii.gz").header
    assert header.get_intent()[0] == "label"
    assert (header["cal_min"], header["cal_max"]) == (0, 0)
    assert header["vox_offset"] == 0 or header["vox_offset"] == 352


def test_header_extensions_of_the_image_are_skipped(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"private" * 20))
    nib.save(image, tmp_path / "image.nii")
    read = read_image(tmp_path / "image.nii")
    np.testing.assert_array_equal(read.voxels, ramp())
    write_mask(tmp_path / "mask.nii.gz", some_labels(SHAPE), read)
    np.testing.assert_array_equal(nib.load(tmp_path / "mask.nii.gz").dataobj, some_labels(SHAPE))
    assert b"private" not in gzip.decompress((tmp_path / "mask.nii.gz").read_bytes())


def test_mask_saved_with_a_slope_is_rounded_back(tmp_path: Path) -> None:
    labels = some_labels(SHAPE)
    image = nib.Nifti1Image(labels.astype(np.float64), np.eye(4))
    image.set_data_dtype(np.int16)  # nibabel now spreads 0..3 over the whole range of int16
    nib.save(image, tmp_path / "mask.nii")
    assert (nib.load(tmp_path / "mask.nii").get_fdata() != labels).any()
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii").voxels, labels)


def test_mask_may_be_empty_and_like_forgives_rounding(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "image.nii", ramp(), AFFINES["oblique"], codes=(0, 1)))
    nudged = AFFINES["oblique"] + np.random.default_rng(0).uniform(-1e-4, 1e-4, (4, 4))
    nudged[3] = 0, 0, 0, 1
    save(tmp_path / "mask.nii", np.zeros(SHAPE, np.uint8), nudged, codes=(0, 2))
    assert not read_mask(tmp_path / "mask.nii", labels=[0, 1], like=image).voxels.any()


def test_like_accepts_a_3d_mask_of_a_2d_image(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "image.nii", ramp((5, 4)), np.eye(4)))
    save(tmp_path / "mask.nii", np.ones((5, 4, 1), np.uint8), np.eye(4))
    assert read_mask(tmp_path / "mask.nii", like=image).voxels.shape == (5, 4, 1)


@pytest.fixture
def image(tmp_path: Path) -> Volume:
    folder = tmp_path / "images"
    folder.mkdir()
    return read_image(save(folder / "image.nii", ramp(), AFFINES["oblique"]))


def test_equal_masks_give_equal_bytes(tmp_path: Path, image: Volume) -> None:
    labels = some_labels(SHAPE)
    variants = [labels, labels.astype(np.uint8), np.asfortranarray(labels), labels.astype(">i4")]
    digests = set()
    for number, variant in enumerate(variants):
        path = tmp_path / f"mask{number}.nii.gz"
        write_mask(path, variant, image)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_bool_labels_are_written_as_zero_and_one(tmp_path: Path, image: Volume) -> None:
    write_mask(tmp_path / "mask.nii.gz", some_labels(SHAPE) > 1, image)
    np.testing.assert_array_equal(
        read_mask(tmp_path / "mask.nii.gz").voxels, some_labels(SHAPE) > 1
    )


def test_write_replaces_an_older_mask_and_leaves_nothing_else(
    tmp_path: Path, image: Volume
) -> None:
    path = tmp_path / "mask.nii.gz"
    path.write_text("older")
    write_mask(path, some_labels(SHAPE), image)
    np.testing.assert_array_equal(read_mask(path).voxels, some_labels(SHAPE))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["images", "mask.nii.gz"]


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (np.zeros((4, 5, 3), int), "shape"),
        (np.zeros(SHAPE), "integers"),
        (np.full(SHAPE, -1), "0 to 255"),
        (np.full(SHAPE, 256), "0 to 255"),
    ],
)
def test_wrong_labels_are_the_callers_mistake(
    tmp_path: Path, image: Volume, labels: np.ndarray, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        write_mask(tmp_path / "mask.nii.gz", labels, image)
    assert not isinstance(caught.value, InputError)
    assert not (tmp_path / "mask.nii.gz").exists()


def test_header_of_another_shape_is_the_callers_mistake(tmp_path: Path, image: Volume) -> None:
    cropped = Volume(
        path=image.path, voxels=image.voxels[:2], affine=image.affine, header=image.header
    )
    with pytest.raises(ValueError, match="60 voxels, got 24"):
        write_mask(tmp_path / "mask.nii.gz", np.zeros((2, 4, 3), int), cropped)


class FullDisk(gzip.GzipFile):
    """Fails on the voxels, after the header has gone through."""

    def write(self, data: bytes) -> int:
        if len(data) <= 352:
            return super().write(data)
        raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_keeps_the_older_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = read_image(save(tmp_path / "image.nii", ramp((8, 8, 8)), np.eye(4)))
    path = tmp_path / "mask.nii.gz"
    write_mask(path, np.ones((8, 8, 8), int), image)
    older = path.read_bytes()
    monkeypatch.setattr(gzip, "GzipFile", FullDisk)
    with pytest.raises(InputError) as caught:
        write_mask(path, np.zeros((8, 8, 8), int), image)
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be written (No space left on device)")
    assert "free some space" in message
    assert path.read_bytes() == older
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["image.nii", "mask.nii.gz"]


def test_failing_replace_removes_the_temporary_file(
    tmp_path: Path, image: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(InputError, match="check that the folder exists and may be written to"):
        write_mask(tmp_path / "mask.nii.gz", some_labels(SHAPE), image)
    assert [entry.name for entry in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize("name", ["missing/mask.nii.gz", "mask.nii", "mask.png", "taken.nii.gz"])
def test_unwritable_places_are_named(tmp_path: Path, image: Volume, name: str) -> None:
    (tmp_path / "taken.nii.gz").mkdir()
    path = tmp_path / name
    with pytest.raises(InputError) as caught:
        write_mask(path, some_labels(SHAPE), image)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
