from pathlib import Path

import pytest

from maskmend.data.cohort import Case, Cohort, patient_of
from maskmend.errors import InputError


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
