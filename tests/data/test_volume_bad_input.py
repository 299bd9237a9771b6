"""Whatever is wrong with a file ends in one line that names it, and never costs much memory."""

import gzip
import io
import logging
import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskmend.data.nifti import MAX_VOXELS
from maskmend.data.volume import read_image, read_mask
from maskmend.errors import InputError

SHAPE = (5, 4, 3)
RAMP = np.arange(60, dtype=np.int16).reshape(SHAPE)
LABELS = (RAMP % 4).astype(np.uint8)
PLAIN_PNG = b"\x89PNG\r\n\x1a\n" + bytes(400)


def content_of(data: np.ndarray = RAMP, affine: np.ndarray | None = None, **fields) -> bytes:
    """A NIfTI-1 file as bytes, with header fields overwritten past nibabel's mending."""
    image = nib.Nifti1Image(data, np.diag([1.5, 1.5, 8, 1]) if affine is None else affine)
    content = image.to_bytes()
    header = nib.Nifti1Header(content[:348], check=False)
    for field, value in fields.items():
        header[field] = value
    return header.binaryblock + content[348:]


def dim(*sizes: int) -> list[int]:
    return [len(sizes), *sizes, *[1] * (7 - len(sizes))]


def pixdim(*spacing: float) -> list[float]:
    return [1, *spacing, 1, 1, 1, 1]


def with_voxel(value: float) -> np.ndarray:
    data = RAMP.astype(np.float32)
    data[1, 2, 1] = value
    return data


def flipped_checksum(packed: bytes) -> bytes:
    return packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]


def refusal(read: Callable, path: Path, **options) -> str:
    """What the reader says, after checking the form of it."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert ";" in message, "the remedy is missing"
    return message


BAD_CONTENT = {
    "empty": (b"", "empty"),
    "text": (b"these are my notes\n" * 40, "not a NIfTI file"),
    "short text": (b"note", "not a NIfTI file"),
    "png": (PLAIN_PNG, "not a NIfTI file"),
    "gzipped text": (gzip.compress(b"these are my notes\n" * 40), "not a NIfTI file"),
    "dicom": (bytes(128) + b"DICM" + bytes(400), "name the folder of the series"),
    "wrong magic": (content_of(magic=b"nii"), "not a NIfTI file"),
    "header of a pair": (content_of(magic=b"ni1"), ".hdr/.img pair"),
    "truncated header": (content_of()[:200], "200 bytes"),
    "truncated voxels": (content_of()[:-1], "promises 60 voxels"),
    "no voxels": (content_of()[:352], "promises 60 voxels"),
    "truncated gzip": (gzip.compress(content_of())[:-40], "ends early"),
    "truncated gzip trailer": (gzip.compress(content_of())[:-3], "ends early"),
    "gzip of truncated voxels": (gzip.compress(content_of()[:-9]), "55 voxels, expected 60"),
    "damaged gzip": (gzip.compress(content_of())[:10] + b"\xff" * 200, "gzip stream"),
    "wrong checksum": (flipped_checksum(gzip.compress(content_of())), "gzip stream"),
    "promises more than it has": (content_of(dim=dim(5, 4, 4)), "promises 80 voxels"),
    "30000 cubed": (content_of(dim=dim(30000, 30000, 30000)), f"at most {MAX_VOXELS}"),
    "30000 cubed, gzip": (gzip.compress(content_of(dim=dim(30000, 30000, 30000))), "at most"),
    "just below the limit, gzip": (gzip.compress(content_of(dim=dim(800, 800, 800))), "too small"),
    "zero dimension": (content_of(dim=dim(5, 0, 3)), "5x0x3"),
    "negative dimension": (content_of(dim=dim(5, -4, 3)), "5x-4x3"),
    "two negative dimensions": (content_of(dim=dim(-5, -4, 3)), "-5x-4x3"),
    "one dimension": (content_of(dim=dim(60)), "1 dimensions"),
    "no dimensions": (content_of(dim=[0] * 8), "0 dimensions"),
    "a thousand dimensions": (content_of(dim=[1000, *[1] * 7]), "1000 dimensions"),
    "several volumes": (content_of(dim=dim(5, 4, 1, 3)), "holds 3 volumes"),
    "vector voxels": (content_of(dim=dim(5, 4, 1, 1, 3)), "holds 3 volumes"),
    "zero spacing": (content_of(pixdim=pixdim(1.5, 0, 8)), "spacing 1.5, 0.0, 8.0"),
    "negative spacing": (content_of(pixdim=pixdim(1.5, -1.5, 8)), "spacing 1.5, -1.5, 8.0"),
    "nan spacing": (content_of(pixdim=pixdim(np.nan, 1, 8)), "spacing nan"),
    "infinite spacing": (content_of(pixdim=pixdim(1, 1, np.inf)), "inf"),
    "nan affine": (content_of(srow_x=[1, np.nan, 0, 0]), "affine"),
    "infinite origin": (content_of(srow_y=[0, 1.5, 0, np.inf]), "affine"),
    "singular affine": (content_of(srow_z=[0, 1.5, 0, 0]), "affine"),
    "zero affine": (content_of(srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4), "affine"),
    "nan quaternion": (content_of(sform_code=0, qform_code=1, quatern_b=np.nan), "affine"),
    "no rotation": (content_of(sform_code=0, qform_code=1, quatern_b=3), "NIfTI file"),
    "infinite slope": (content_of(scl_slope=np.inf), "slope inf"),
    "nan intercept": (content_of(scl_slope=2, scl_inter=np.nan), "intercept nan"),
    "infinite intercept": (content_of(scl_slope=2, scl_inter=-np.inf), "intercept -inf"),
    "nan voxel": (content_of(with_voxel(np.nan)), "voxel of nan"),
    "infinite voxel": (content_of(with_voxel(-np.inf)), "voxel of -inf"),
    "complex": (content_of(RAMP.astype(np.complex64)), "type complex64"),
    "colour": (content_of(np.zeros(SHAPE, [(c, "u1") for c in "RGB"])), "type RGB"),
    "unknown type": (content_of(datatype=77), "type unknown (code 77)"),
    "one bit": (content_of(datatype=1), "type binary"),
    "voxels inside the header": (content_of(vox_offset=100), "at byte 100"),
    "voxels nowhere": (content_of(vox_offset=np.nan), "at byte nan"),
    "voxels beyond the end": (content_of(vox_offset=1e12), "too small"),
    "voxels before the start": (content_of(vox_offset=-352), "at byte -352"),
}


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize(("content", "complaint"), BAD_CONTENT.values(), ids=BAD_CONTENT)
def test_bad_content_is_refused(
    tmp_path: Path, read: Callable, content: bytes, complaint: str
) -> None:
    for suffix in (".nii", ".nii.gz"):
        path = tmp_path / f"case{suffix}"
        path.write_bytes(content)
        assert complaint in refusal(read, path)


BAD_IMAGES = {
    "constant": (content_of(np.full(SHAPE, 7, np.int16)), "every voxel is 7"),
    "constant by its slope": (content_of(scl_slope=1e-38, scl_inter=1), "every voxel is 1"),
    "one voxel": (content_of(np.ones((1, 1, 1), np.int16)), "every voxel is 1"),
    "beyond float32": (content_of(RAMP.astype(np.float64) * 1e300), "finite float32"),
    "overflowing slope": (content_of(scl_slope=3e38, scl_inter=0), "finite float32"),
}


@pytest.mark.parametrize(("content", "complaint"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_image_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "image.nii").write_bytes(content)
    assert complaint in refusal(read_image, tmp_path / "image.nii")


BAD_MASKS = {
    "fraction": (content_of(LABELS + np.float32(0.5)), "voxel of 0.5"),
    "negative": (content_of(LABELS.astype(np.int16) - 1), "voxel of -1"),
    "beyond uint8": (content_of(LABELS.astype(np.int16) + 253), "voxel of 256"),
    "fraction by its slope": (content_of(LABELS, scl_slope=0.25, scl_inter=1), "voxel of 1.75"),
    "unknown": (content_of(LABELS), "holds unknown labels 2, 3, expected only 0, 1;"),
}


@pytest.mark.parametrize(("content", "complaint"), BAD_MASKS.values(), ids=BAD_MASKS)
def test_bad_mask_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "mask.nii").write_bytes(content)
    assert complaint in refusal(read_mask, tmp_path / "mask.nii", labels={1, 0})


GRID = np.diag([1.5, 1.5, 8, 1.0])
OTHER_GRIDS = {
    "shape": (LABELS[:4], GRID, "shape (4, 4, 3) instead of (5, 4, 3)"),
    "spacing": (LABELS, np.diag([1.5, 1.5, 7, 1]), "(1.5, 1.5, 7.0) instead of (1.5, 1.5, 8.0)"),
    "axes": (LABELS, np.diag([-1.5, 1.5, 8, 1]), "axes LAS instead of RAS"),
    "origin": (LABELS, GRID + np.eye(4, k=3), "corners up to 1 mm apart"),
}


@pytest.mark.parametrize(("labels", "grid", "complaint"), OTHER_GRIDS.values(), ids=OTHER_GRIDS)
def test_mask_on_another_grid_is_refused(
    tmp_path: Path, labels: np.ndarray, grid: np.ndarray, complaint: str
) -> None:
    (tmp_path / "image.nii").write_bytes(content_of(affine=GRID))
    (tmp_path / "mask.nii").write_bytes(content_of(labels, grid))
    image = read_image(tmp_path / "image.nii")
    message = refusal(read_mask, tmp_path / "mask.nii", like=image)
    assert str(image.path) in message
    assert complaint in message


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_bad_places_are_named(tmp_path: Path, read: Callable) -> None:
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "image.mgz").write_bytes(content_of())
    (tmp_path / "loop.nii").symlink_to("loop.nii")
    os.mkfifo(tmp_path / "pipe.nii")
    complaints = {
        "missing.nii.gz": "no such file",
        "folder.nii.gz": "is a folder",
        "image.mgz": "expected .nii or .nii.gz",
        "image.mgz/image.nii": "Not a directory",
        "loop.nii": "symbolic links",
        "pipe.nii": "not a regular file",
        "n" * 300 + ".nii": "File name too long",
        "null\0.nii": "null",
    }
    for name, complaint in complaints.items():
        assert complaint in refusal(read, tmp_path / name)


def test_line_breaks_in_a_file_name_stay_out_of_the_message(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_image(tmp_path / "two\nlines.nii")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (PermissionError(13, "Permission denied"), "permission denied"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (MemoryError(), "does not fit into memory"),
    ],
)
def test_failures_of_the_system_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, complaint: str
) -> None:
    (tmp_path / "image.nii").write_bytes(content_of())

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Path, "open", fail)
    assert complaint in refusal(read_image, tmp_path / "image.nii")


def test_nothing_is_logged_about_odd_headers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    content = content_of(sform_code=77, qform_code=-5, bitpix=3, pixdim=[0, 1, 1, 1, 1, 1, 1, 1])
    (tmp_path / "image.nii").write_bytes(content)
    with caplog.at_level(logging.DEBUG):
        read_image(tmp_path / "image.nii")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def bomb(header: bytes) -> bytes:
    """256 MB of zeros after a header, gzipped to 256 kB; made piecewise, to cost no memory here."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as stream:
        stream.write(header)
        for _ in range(256):
            stream.write(bytes(2**20))
    return packed.getvalue()


def test_gzip_bomb_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(bomb(content_of()[:352]))
    tracemalloc.start()
    try:
        # The file promises 60 voxels, all zero; what follows them is never expanded.
        assert "every voxel is 0" in refusal(read_image, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**22


VALID = content_of()
FIELDS = nib.Nifti1Header.template_dtype.fields
INTERESTING = [0, 1, 2, 3, 4, 7, 8, 16, 64, 255, 256, 512, 1024, 30000, 32767, -1, -2, -32768]
ODD_FLOATS = st.floats(width=32) | st.sampled_from([0.0, 1.0, -1.0, 352.0, 348.0, 1e30, -1e-40])


@st.composite
def corrupted_files(draw: st.DrawFn) -> bytes:
    """A valid file with any of: wild fields, flipped bytes, a cut, or a wrapping in gzip."""
    header = nib.Nifti1Header(VALID[:348], check=False)
    for _ in range(draw(st.integers(0, 3))):
        field = draw(st.sampled_from(["dim", "pixdim", "datatype", "vox_offset", *FIELDS]))
        kind = header[field].dtype.kind
        if kind == "S":
            continue
        values = ODD_FLOATS if kind == "f" else st.sampled_from(INTERESTING)
        if header[field].ndim:
            place = draw(st.integers(0, header[field].size - 1))
            header[field][place] = np.array(draw(values)).astype(header[field].dtype)
        else:
            header[field] = np.array(draw(values)).astype(header[field].dtype)
    content = bytearray(header.binaryblock + VALID[348:])
    for place, value in draw(
        st.dictionaries(st.integers(0, len(content) - 1), st.integers(0, 255), max_size=4)
    ).items():
        content[place] = value
    if draw(st.booleans()):
        content = bytearray(gzip.compress(bytes(content), 1, mtime=0))
        if draw(st.booleans()):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        content = content[: draw(st.integers(0, len(content)))]
    return bytes(content)


def promised_shape(content: bytes) -> tuple[int, ...]:
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    swapped = int.from_bytes(content[:4], "little") != 348
    n_dims, *sizes = np.frombuffer(content[40:56], ">i2" if swapped else "<i2").tolist()
    return tuple([*sizes[:n_dims], 1][:3])


@settings(
    max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=corrupted_files())
def test_any_corruption_gives_a_sound_volume_or_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "case.nii.gz"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        image = read_image(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
    else:
        assert image.voxels.shape == promised_shape(content)
        assert image.voxels.dtype == np.float32
        assert np.isfinite(image.voxels).all()
        assert np.isfinite(image.affine).all()
        assert all(math.isfinite(mm) and mm > 0 for mm in image.spacing_mm)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**24, "memory must stay in proportion to the file"
