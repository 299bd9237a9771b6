"""How a run keeps its students and asks them."""

import pytest
import torch

from maskmend.errors import ConfigError, RunError
from maskmend.guard.student import STUDENTS, UNFINISHED, read_students, write_students
from maskmend.predict import load
from tests.tiny import random_segmentor, tiny


def student(number=0):
    """Like its teacher, but for one layer."""
    made = random_segmentor()
    with torch.no_grad():
        made.head.bias += number + 1
    return made


def untaught(number):
    return random_segmentor().train()


def test_a_run_keeps_them(tmp_path):
    students = [student(number) for number in range(3)]
    path = tmp_path / STUDENTS
    assert not read_students(path, untaught)
    write_students(path, students)
    for one, kept in zip(students, read_students(path, untaught), strict=True):
        assert not kept.training
        assert not any(p.requires_grad for p in kept.parameters())
        for name, tensor in one.state_dict().items():
            assert torch.equal(kept.state_dict()[name], tensor)


def test_students_of_another_segmentor_are_named(tmp_path):
    write_students(tmp_path / STUDENTS, [student()])
    other = tiny(segmentor={"width": 6})
    with pytest.raises(RunError, match=rf"{STUDENTS}: is of another segmentor; remove it"):
        read_students(tmp_path / STUDENTS, lambda number: random_segmentor(other))


def test_students_of_another_teacher_are_not_taken_up(tmp_path):
    path = tmp_path / UNFINISHED
    write_students(path, [student()], weights="a", config="b")
    assert len(read_students(path, untaught, weights="a", config="b")) == 1
    assert not read_students(path, untaught, weights="a", config="c")


def test_a_calibrated_run_asks_them_for_their_opinions(run, hearts):
    model = load(run, "cpu")
    calibration = model.calibration
    mender = model.mender(calibration.quantiles, calibration.realistic, model.settings())
    names = [way.name for way in mender.ways]
    assert names[-4:] == [
        "student 1", "student 1 + own statistics", "student 2", "student 2 + own statistics"
    ]  # fmt: skip
    slices = model.prepare(min((hearts / "images").iterdir())).slices
    candidates = mender.candidates(slices)
    assert [one.name for one in candidates[:-1]] == list(mender.names[:-2])
    masks = {one.name: one.masks for one in candidates}
    one = masks["student 1"]
    logits = model.students[0](model.networks.adaptor(slices))
    torch.testing.assert_close(one, logits.softmax(1), atol=1e-5, rtol=1e-4)
    assert (masks["student 1 + own statistics"] - one).abs().max() > 1e-3
    assert (masks["student 2"] - one).abs().max() > 1e-4
    for own in ("", " + own statistics"):
        members = [masks[f"{name}{own}"] for name in ("none", "student 1", "student 2")]
        torch.testing.assert_close(masks[f"committee{own}"], torch.stack(members).mean(0))
    torch.testing.assert_close(
        masks["students' advice"],
        0.6 * masks["none"] + 0.2 * masks["student 1"] + 0.2 * masks["student 2"],
    )
    assert mender.ways[0] in [one.way for one in candidates if one.name == "committee"]


def test_a_calibration_with_other_students_is_named(run, hearts):
    model = load(run, "cpu")
    model.students = model.students[:1]
    with pytest.raises(ConfigError, match=f"{run} was calibrated with other masks .* calibrate it"):
        model.predict(min((hearts / "images").iterdir()))
