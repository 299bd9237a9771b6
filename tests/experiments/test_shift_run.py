"""The shift benchmark at a tiny size: whole, resumed, and never done twice."""

from functools import partial

import pandas as pd
import pytest
from rich.console import Console

from experiments.shift import run as shift_run
from experiments.shift.methods import METHODS, NEEDS, prepare
from maskmend.config import to_yaml
from maskmend.data.phantom import write_cohort
from tests.tiny import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The arguments of a finished table, and the table."""
    root = tmp_path_factory.mktemp("shift")
    write_cohort(root / "hearts", patients=10, seed=0, size=32, spacing_mm=9.5)
    config = tiny(training={"iterations": 30, "batch": 4, "learning_rate": 0.01})
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
        shift_run.main(**arguments, methods=("none",))
        for name, small in {"rotation": {}, "dae": {"width": 1}}.items():
            file, train = NEEDS[name]
            patch.setitem(NEEDS, name, (file, partial(train, iterations=2, **small)))
        prepare(root / "runs" / "small0", root / "hearts", Console(quiet=True))
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
