from pathlib import Path

import pytest

from maskmend.data.layouts import find_cohort
from maskmend.errors import ConfigError, InputError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_auto_recognises_acdc_and_folder(tmp_path: Path) -> None:
    touch(tmp_path / "acdc" / "patient001" / "patient001_frame01.nii.gz")
    touch(tmp_path / "own" / "images" / "a.nii.gz", tmp_path / "own" / "masks" / "a.nii.gz")

    assert find_cohort(tmp_path / "acdc").layout == "acdc"
    assert find_cohort(tmp_path / "own").layout == "folder"
    assert find_cohort(tmp_path / "own", "folder") == find_cohort(tmp_path / "own")


def test_an_explicit_layout_is_taken_at_its_word(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.nii.gz", tmp_path / "masks" / "a.nii.gz")

    with pytest.raises(InputError) as error:
        find_cohort(tmp_path, "acdc")

    assert str(error.value).startswith(f"{tmp_path}: ")
    assert "patient001_frame01.nii.gz" in str(error.value)
    assert "images/NAME.nii.gz" not in str(error.value)


def test_nothing_found_names_everything_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        find_cohort(tmp_path)

    message = str(error.value)
    assert message.startswith(f"{tmp_path}: ")
    assert "\n" not in message
    for expected in ("patient001_frame01.nii.gz", "images/NAME.nii.gz", "DET0000101_SA1_ph0.dcm"):
        assert expected in message


def test_a_missing_folder_and_an_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        find_cohort(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"^layout: 'dicom' is unknown; choose auto, acdc"):
        find_cohort(tmp_path, "dicom")


def test_what_the_system_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)

    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\); check its"):
        find_cohort(tmp_path)
