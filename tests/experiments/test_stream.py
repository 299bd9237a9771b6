"""A stream of two scanners, seen by every method with and without carrying on."""

import pandas as pd
import pytest
from rich.console import Console

from experiments import stream
from maskmend.calibrate.run import calibrate_run
from maskmend.data.phantom import write_cohort
from tests.tiny import tiny, write_run


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    root = tmp_path_factory.mktemp("stream")
    write_cohort(root / "hearts", patients=10, seed=0, size=32, spacing_mm=9.5)
    (root / "run").mkdir()
    config = tiny(adaptation={"steps": 2, "precision": "32-true"})
    run = write_run(root / "run", config, root / "hearts")
    calibrate_run(run, root / "hearts", draws=1, device="cpu", console=Console(quiet=True))
    csv = root / "stream.csv"
    stream.main(run, data=root / "hearts", csv_=csv, patients=2, learning_rate=0.05)
    return pd.read_csv(csv)


def test_every_method_sees_every_image_twice_in_the_same_order(table):
    groups = [rows for _, rows in table.groupby(["method", "continual"])]
    assert len(groups) == 4
    for rows in groups:
        assert rows["position"].tolist() == [0, 1, 2, 3]
        assert rows["shift"].tolist() == ["gamma", "gamma", "noise", "noise"]
        assert rows["patient"].tolist() == groups[0]["patient"].tolist()


def test_plain_masks_do_not_depend_on_method_or_stream(table):
    before = table.pivot_table(
        index="position", columns=["method", "continual"], values="dice_before"
    )
    assert (before.nunique(axis=1) == 1).all()


def test_carrying_on_changes_the_start_from_the_second_image_on(table):
    paper = table[table["method"] == "paper"].pivot_table(
        index="position", columns="continual", values="first_loss"
    )
    assert paper[False][0] == paper[True][0]
    assert (paper[True] <= paper[False]).all()  # or it had begun anew
    assert (paper[True] < paper[False]).any()


def test_the_summary_counts_each_half(table):
    told = stream.summary(table)
    assert len(told) == 8
    rows = table[(table["method"] == "ours") & table["continual"] & (table["shift"] == "noise")]
    gain = 100 * (rows["dice"] - rows["dice_before"]).mean()
    assert told.loc[("ours", True, "noise"), "gain"] == pytest.approx(gain, abs=1e-3)
