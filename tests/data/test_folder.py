from pathlib import Path

import pytest

from maskmend.data.layouts import find_cohort
from maskmend.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pairs, an image and a mask alone, and files that are no data."""
    for file in (
        "images/heart2.nii",
        "masks/heart2.nii.gz",
        "images/heart1_frame03.nii.gz",
        "masks/heart1_frame03.nii.gz",
        "unlabelled/heart3.nii.gz",
        "unpaired_masks/heart4.nii.gz",
        "images/._heart2.nii",
        "images/notes.txt",
    ):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def test_every_file_finds_its_place(root: Path) -> None:
    cohort = find_cohort(root)

    assert cohort.layout == "folder"
    assert [(case.name, case.patient) for case in cohort.cases] == [
        ("heart1_frame03", "heart1"),
        ("heart2", "heart2"),
    ]
    assert cohort.cases[1].image == root / "images" / "heart2.nii"
    assert cohort.cases[1].mask == root / "masks" / "heart2.nii.gz"
    (image,), (mask,) = cohort.unlabelled, cohort.unpaired_masks
    assert (image.image, image.mask) == (root / "unlabelled" / "heart3.nii.gz", None)
    assert (mask.image, mask.mask) == (None, root / "unpaired_masks" / "heart4.nii.gz")


@pytest.mark.parametrize(
    ("missing", "left", "remedy"),
    [
        ("masks/heart2.nii.gz", "images/heart2.nii", "unlabelled/"),
        ("images/heart2.nii", "masks/heart2.nii.gz", "unpaired_masks/"),
    ],
)
def test_half_a_pair_says_where_to_move_it(
    root: Path, missing: str, left: str, remedy: str
) -> None:
    (root / missing).unlink()

    with pytest.raises(InputError) as error:
        find_cohort(root)

    assert str(error.value).startswith(f"{root / left}: has no ")
    assert str(error.value).endswith(f"move this file to {remedy}")


def test_two_files_of_one_name(root: Path) -> None:
    (root / "images" / "heart2.nii.gz").touch()

    with pytest.raises(InputError, match=r"heart2\.nii\.gz: has the name of heart2\.nii,"):
        find_cohort(root)


def test_one_name_in_two_folders(root: Path) -> None:
    (root / "unlabelled" / "heart2.nii.gz").touch()

    with pytest.raises(InputError, match="holds heart2 more than once"):
        find_cohort(root)


def test_patients_csv_keeps_files_of_a_patient_together(root: Path) -> None:
    # As Excel saves it: with a byte order mark and CRLF. More columns do no harm.
    (root / "patients.csv").write_text(
        "\ufeffname,patient,scanner\r\nheart2, heart1 ,A\r\nheart3,third,B\r\n", newline=""
    )

    cohort = find_cohort(root)

    assert [case.patient for case in cohort.everything] == ["heart1", "heart1", "third", "heart4"]
    assert cohort.patients == ("heart1",)
    assert [case.phase for case in cohort.everything] == [""] * 4


def test_patients_csv_may_tell_the_phase(root: Path) -> None:
    (root / "patients.csv").write_text("name,patient,phase\nheart2,a, ES\nheart3,b,\nheart4,c,ED\n")

    phases = {case.name: case.phase for case in find_cohort(root).everything}

    assert phases == {"heart1_frame03": "", "heart2": "ES", "heart3": "", "heart4": "ED"}


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("name,patient\nhaert2,a\n", "line 2 names 'haert2'"),
        ("name,patient\n\nhaert2,a\n", "line 3 names 'haert2'"),
        ('name,patient\n"heart2\nheart3",a\n', r"line 3 names 'heart2\\nheart3'"),
        ("name,patient\nheart2,a\nheart2,b\n", "line 3 gives heart2 a second patient"),
        (
            "name,patient,phase\nheart2,a,ED\nheart2,a,ES\n",
            "line 3 gives heart2 a second patient or",
        ),
        ("name,patient\nheart2,\n", "line 2 lacks"),
        ("name,patient\nheart2\n", "line 2 lacks"),
        ("file;patient\nheart2;a\n", "columns name,patient"),
    ],
)
def test_a_wrong_patients_csv(root: Path, table: str, complaint: str) -> None:
    (root / "patients.csv").write_text(table)

    with pytest.raises(InputError, match=complaint) as error:
        find_cohort(root)

    assert str(error.value).startswith(f"{root / 'patients.csv'}: ")
    assert "\n" not in str(error.value)


def test_a_patients_csv_that_is_no_text(root: Path) -> None:
    (root / "patients.csv").write_bytes(b"name,patient\nheart2,\xe9\n")

    with pytest.raises(InputError, match="save it as CSV in UTF-8"):
        find_cohort(root)
