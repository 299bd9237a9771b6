from pathlib import Path

import pytest

from maskmend.data.layouts import find_cohort
from maskmend.data.split import published_split
from maskmend.data.volume import read_image, read_mask
from maskmend.errors import InputError


def make_patient(parent: Path, patient: str, *endings: str, info: str | None = None) -> Path:
    """The files PATIENT_ENDING, empty, and Info.cfg."""
    folder = parent / patient
    folder.mkdir(parents=True)
    for ending in endings:
        (folder / f"{patient}_{ending}").touch()
    if info is not None:
        (folder / "Info.cfg").write_text(info)
    return folder


@pytest.mark.parametrize("parent", ["", "training", "testing"])
def test_pairs_with_phases(tmp_path: Path, parent: str) -> None:
    folder = make_patient(
        tmp_path / parent,
        "patient007",
        "4d.nii.gz",
        "frame01.nii.gz",
        "frame01_gt.nii.gz",
        "frame08.nii.gz",
        "frame08_gt.nii.gz",
        "frame12.nii.gz",
        "frame12_gt.nii.gz",
        info="ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\n",
    )

    cohort = find_cohort(tmp_path)

    assert (cohort.layout, cohort.root) == ("acdc", tmp_path)
    assert [(case.name, case.patient, case.phase) for case in cohort.cases] == [
        ("patient007_frame01", "patient007", "ED"),
        ("patient007_frame08", "patient007", ""),
        ("patient007_frame12", "patient007", "ES"),
    ]
    assert cohort.cases[0].image == folder / "patient007_frame01.nii.gz"
    assert cohort.cases[0].mask == folder / "patient007_frame01_gt.nii.gz"
    assert cohort.unlabelled == cohort.unpaired_masks == ()


def test_training_and_testing_together_are_sorted(tmp_path: Path) -> None:
    make_patient(tmp_path / "testing", "patient101", "frame01.nii.gz", "frame01_gt.nii.gz")
    make_patient(tmp_path / "training", "patient002", "frame01.nii", "frame01_gt.nii")

    assert find_cohort(tmp_path).patients == ("patient002", "patient101")


def test_half_a_pair_is_unlabelled_or_an_unpaired_mask(tmp_path: Path) -> None:
    make_patient(tmp_path, "patient001", "frame01.nii.gz", "frame09_gt.nii.gz", info="ED: 1\nES: 9")

    cohort = find_cohort(tmp_path)

    assert cohort.cases == ()
    (image,), (mask,) = cohort.unlabelled, cohort.unpaired_masks
    assert (image.name, image.phase, image.mask) == ("patient001_frame01", "ED", None)
    assert (mask.name, mask.phase, mask.image) == ("patient001_frame09", "ES", None)


@pytest.mark.parametrize("info", [None, "", "ED: first\nES 12", "\x00\xff"])
def test_without_a_usable_info_the_phase_is_unknown(tmp_path: Path, info: str | None) -> None:
    make_patient(tmp_path, "patient001", "frame01.nii.gz", "frame01_gt.nii.gz", info=info)

    assert [case.phase for case in find_cohort(tmp_path).cases] == [""]


def test_a_patient_without_frames_is_named(tmp_path: Path) -> None:
    make_patient(tmp_path, "patient001", "frame01.nii.gz")
    empty = make_patient(tmp_path, "patient002", "4d.nii.gz", info="ED: 1")
    (empty / "patient001_frame02.nii.gz").touch()  # of somebody else

    with pytest.raises(InputError) as error:
        find_cohort(tmp_path)

    assert str(error.value).startswith(f"{empty}: holds no frame")
    assert "remove the folder" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", ["frame01", "frame01_gt"])
def test_one_frame_in_two_files(tmp_path: Path, ending: str) -> None:
    make_patient(tmp_path, "patient001", f"{ending}.nii", f"{ending}.nii.gz")

    with pytest.raises(InputError, match=rf"{ending}\.nii\.gz: is the same frame as .*\.nii,"):
        find_cohort(tmp_path)


def test_one_patient_in_two_places(tmp_path: Path) -> None:
    make_patient(tmp_path / "training", "patient001", "frame01.nii.gz")
    make_patient(tmp_path / "testing", "patient001", "frame01.nii.gz")

    with pytest.raises(InputError, match="holds patient001_frame01 more than once"):
        find_cohort(tmp_path)


def test_an_unreadable_info_is_named(tmp_path: Path) -> None:
    folder = make_patient(tmp_path, "patient001", "frame01.nii.gz")
    (folder / "Info.cfg").mkdir()

    with pytest.raises(InputError, match=r"Info\.cfg: cannot be read"):
        find_cohort(tmp_path)


def test_the_real_data(acdc_root: Path) -> None:
    cohort = find_cohort(acdc_root)

    assert cohort.layout == "acdc"
    assert cohort.patients == tuple(f"patient{n:03d}" for n in range(1, 101))
    assert len(cohort.cases) == 200
    assert {(case.patient, case.phase) for case in cohort.cases} == {
        (patient, phase) for patient in cohort.patients for phase in ("ED", "ES")
    }
    for name in ("semi_supervised_fold0", "scanner_1p5T_to_3T"):
        split = published_split(name)
        assert {*split.train_unpaired_masks, *split.validation, *split.test} == {*cohort.patients}
    case = cohort.cases[0]
    assert case.image
    assert case.mask
    mask = read_mask(case.mask, labels=range(4), like=read_image(case.image))
    assert set(mask.voxels.flat) == {0, 1, 2, 3}
