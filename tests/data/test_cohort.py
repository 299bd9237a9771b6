from pathlib import Path

import pytest

from maskmend.data.cohort import Case, Cohort, find_cohort, patient_of
from maskmend.errors import ConfigError, InputError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def pair(name: str, patient: str) -> Case:
    return Case(name=name, patient=patient, image=Path("image"), mask=Path("mask"))


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("patient001_frame01", "patient001"),
        ("DET0000101_frame00", "DET0000101"),
        ("a_frame1_frame22", "a_frame1"),
        ("heart", "heart"),
        ("heart_frame", "heart_frame"),
        ("heart_frame01_late", "heart_frame01_late"),
        ("_frame01", "_frame01"),
    ],
)
def test_patient_of_a_name(name: str, patient: str) -> None:
    assert patient_of(name) == patient


def test_patients_are_those_with_pairs_each_once() -> None:
    cohort = Cohort(
        layout="folder",
        root=Path("data"),
        cases=(pair("b_frame01", "b"), pair("b_frame02", "b"), pair("a_frame01", "a")),
        unlabelled=(Case(name="c", patient="c", image=Path("image"), mask=None),),
    )

    assert cohort.patients == ("a", "b")
    assert [case.name for case in cohort.everything] == ["b_frame01", "b_frame02", "a_frame01", "c"]


def test_a_name_may_occur_once_only() -> None:
    with pytest.raises(InputError, match=r"^data: holds b more than once"):
        Cohort(
            layout="folder",
            root=Path("data"),
            cases=(pair("b", "b"),),
            unlabelled=(Case(name="b", patient="b", image=Path("image"), mask=None),),
        )


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
