"""The shift benchmark at a tiny size: whole, resumed, and never done twice."""

from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest

from experiments.shift import run as shift_run
from experiments.shift.methods import METHODS, NEEDS, method_of
from experiments.shift.run import Row
from maskmend.config_file import to_yaml
from maskmend.data.phantom import write_cohort
from maskmend.errors import ConfigError, RunError
from tests.tiny import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The arguments of a finished table, and the table."""
    root = tmp_path_factory.mktemp("shift")
    write_cohort(root / "hearts", patients=10, seed=0, size=32, spacing_mm=9.5)
    config = tiny(
        training={"iterations": 30, "batch": 4, "learning_rate": 0.01},
        adaptation={"student_iterations": 2},
    )
    (root / "small.yaml").write_text(to_yaml(config))
    arguments = {
        "data": root / "hearts",
        "out": root / "runs",
        "csv_": root / "shift.csv",
        "segmentors": ("small",),
        "seeds": (0,),
        "families": ("noise",),
        "severities": (2,),
        "patients": 2,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shift_run, "HERE", root)
        for name, small in {"rotation": {}, "dae": {"width": 1}}.items():
            file, train = NEEDS[name]
            patch.setitem(NEEDS, name, (file, partial(train, iterations=2, **small)))
        shift_run.main(**arguments)
        yield arguments, pd.read_csv(root / "shift.csv", keep_default_na=False)


def test_every_method_meets_every_volume_under_every_shift(made):
    _, table = made
    assert len(table) == len(METHODS) * 2 * 2 * 2  # shifts, patients, phases
    assert not table.duplicated(["method", "shift", "severity", "patient", "phase"]).any()
    assert set(table["method"]) == set(METHODS)
    assert set(zip(table["shift"], table["severity"], strict=True)) == {("none", 0), ("noise", 2)}
    assert table["dice"].between(0, 1).all()
    assert (table["steps"][table["method"] == "paper"] == 50).all()


def test_shifts_move_the_masks(made):
    _, table = made
    plain = table[table["method"] == "none"].pivot_table(
        index=["patient", "phase"], columns="shift", values="realism"
    )
    assert (plain["none"] != plain["noise"]).any()


def test_a_table_that_was_cut_is_completed_and_no_line_made_twice(made):
    arguments, table = made
    path = arguments["csv_"]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))
    shift_run.main(**arguments)
    again = pd.read_csv(path, keep_default_na=False)
    keys = ["method", "shift", "severity", "patient", "phase"]
    a, b = (t.sort_values(keys).reset_index(drop=True) for t in (table, again))
    pd.testing.assert_frame_equal(a.drop(columns="seconds"), b.drop(columns="seconds"))
    shift_run.main(**arguments)
    assert len(pd.read_csv(path)) == len(table)


@pytest.mark.parametrize(
    ("families", "runs", "shifts"),
    [
        (("3T", "noise"), ["gan1", "gan_3T_1"], [("none", 0), ("noise", 2), ("3T", 0)]),
        (("3T",), ["gan_3T_1"], [("3T", 0)]),
        ((), ["gan1"], [("none", 0)]),
    ],
)
def test_the_real_shift_is_a_training_of_its_own(monkeypatch, tmp_path, families, runs, shifts):
    """On the published split of scanners, for the patients of which a stand-in is enough here."""
    trained = []

    def remember(segmentor, seed, data, run, overrides, console):
        trained.append((segmentor, seed, run.name, overrides))
        return SimpleNamespace(run=run, config=SimpleNamespace(seed=seed))

    monkeypatch.setattr(shift_run, "_trained", remember)
    monkeypatch.setattr(shift_run, "prepare", lambda *_: None)
    monkeypatch.setattr(shift_run, "method_of", lambda name, model: name)
    monkeypatch.setattr(
        shift_run, "cases_of", lambda model, *_: [SimpleNamespace(patient="patient1", phase="ED")]
    )

    def row(model, methods, case, family, severity, seed, segmentor):
        for name in methods:
            yield Row(segmentor, name, family, severity, seed, case.patient, case.phase,
                      0.5, 9.0, 0.1, 0, 1.0, 0.1)  # fmt: skip

    monkeypatch.setattr(shift_run, "_rows", row)
    shift_run.main(
        data=tmp_path, out=tmp_path, csv_=tmp_path / "shift.csv", segmentors=("gan",), seeds=(1,),
        methods=("none",), families=families, severities=(2,), set_=("training.batch=2",),
    )  # fmt: skip
    given = ["training.batch=2"]
    overrides = {"gan1": given, "gan_3T_1": [*given, "data.split=scanner_1p5T_to_3T"]}
    assert trained == [("gan", 1, name, overrides[name]) for name in runs]
    table = pd.read_csv(tmp_path / "shift.csv", keep_default_na=False)
    assert list(zip(table["shift"], table["severity"], strict=True)) == shifts


def test_without_data_the_remedy_is_named():
    with pytest.raises(ConfigError, match="--data: name ACDC's training set, or ask for --hearts"):
        shift_run.main()


def test_hearts_are_drawn_once_and_are_the_data(monkeypatch, tmp_path):
    asked = []

    def remember(segmentor, seed, data, run, overrides, console):
        asked.append((segmentor, data, run.name))
        raise InterruptedError

    monkeypatch.setattr(shift_run, "_trained", remember)
    monkeypatch.setattr(shift_run, "HEARTS", 1)
    for _ in range(2):
        with pytest.raises(InterruptedError):
            shift_run.main(hearts=True, out=tmp_path, csv_=tmp_path / "shift.csv")
        drawn = sorted((tmp_path / "hearts" / "images").iterdir())
    assert asked == [("hearts", tmp_path / "hearts", "hearts0")] * 2
    assert len(drawn) == 2


def test_a_run_without_students_is_told_how_to_get_them(tmp_path):
    with pytest.raises(RunError, match="has no students; calibrate it with students"):
        method_of("student", SimpleNamespace(students=[], run=tmp_path))
