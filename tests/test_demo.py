"""The demo at a tiny size: the same steps, files, table and picture."""

import io
from functools import partial
from importlib import resources

import pandas as pd
import pytest
from matplotlib.image import imread
from rich.console import Console

from maskmend import demo
from maskmend.before_after import examples
from maskmend.config_file import read_config
from maskmend.data.layouts import find_cohort
from maskmend.data.volume import read_mask
from maskmend.evaluate.scores import Evaluation
from tests.tiny import tiny

TINY = tiny(training={"iterations": 2, "batch": 2}, adaptation={"steps": 1})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny demo, run twice: its folder and what both runs printed."""
    out, printed = tmp_path_factory.mktemp("demo"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "PATIENTS", 5)
        patch.setattr(demo, "read_config", lambda path, sets: TINY)
        smaller = partial(demo.write_cohort, size=32, spacing_mm=9.5)
        patch.setattr(demo, "write_cohort", smaller)
        for _ in range(2):
            file = io.StringIO()
            demo.run_demo(out, seed=0, console=Console(file=file, width=100))
            printed.append(file.getvalue())
    return out, printed


def test_the_table_shows_the_means_before_and_after_in_both_domains(made):
    out, printed = made
    for name in ("in-domain", "shifted"):
        (line,) = (line for line in printed[0].splitlines() if name in line and "->" in line)
        scores = pd.read_csv(out / name / "scores" / "patients.csv")
        scores = scores[scores["structure"] == "mean"]
        for metric, factor in (("dice", 100), ("iou", 100), ("hausdorff_mm", 1)):
            before, after = (
                f"{factor * scores[f'{metric}_{when}'].mean():.1f}" for when in ("before", "after")
            )
            assert f"{before} -> {after}" in line


def test_the_tested_patients_were_not_trained_on_and_are_the_same_in_both_domains(made):
    out, _ = made
    split = pd.read_json(out / "run" / "split.json", typ="series")
    scored = [set(pd.read_csv(out / n / "scores" / "patients.csv").patient) for n in demo.COHORTS]
    assert scored[0] == scored[1]
    assert scored[0] <= set(split["test"])
    assert not scored[0] & {p for use in split.index if use != "test" for p in split[use]}


def test_the_picture_is_drawn_and_its_path_printed(made):
    out, printed = made
    assert f"picture: {out / 'demo.png'}" in printed[0]
    assert imread(out / "demo.png").std() > 0.1


def test_a_second_run_prints_the_same_table_without_training_again(made):
    _, printed = made
    tables = [[line for line in text.splitlines() if "->" in line] for text in printed]
    assert tables[0] == tables[1]
    assert "iteration 2:" in printed[0]
    assert "iteration 2:" not in printed[1]


def test_examples_are_the_cases_at_the_ranks_of_the_gain(made):
    out, _ = made
    cohort = find_cohort(out / "hearts" / "shifted")
    rows = pd.read_csv(out / "shifted" / "scores" / "patients.csv")
    names = sorted(rows["image"].unique())
    gains = dict(zip(names, (0.2, -0.1, 0.0, 0.1), strict=True))
    rows["dice_before"] = 0.5
    rows["dice_after"] = 0.5 + rows["image"].map(gains)
    # Another structure's gains must not count.
    rows.loc[rows["structure"] != "mean", "dice_after"] = 0.0
    evaluation = Evaluation(unit="volume", rows=rows, summary={}, failures=[])

    drawn = examples(evaluation, cohort, out / "shifted", (1.0, 0.0), name="shifted: ")

    assert [row.name for row in drawn] == [f"shifted: {names[0]}", f"shifted: {names[1]}"]
    assert [round(row.dice_after, 3) for row in drawn] == [0.7, 0.4]
    for row in drawn:
        truth = read_mask(out / "hearts" / "shifted" / "masks" / f"{row.name[9:]}.nii.gz").voxels
        heart = [z for z in range(truth.shape[2]) if truth[:, :, z].any()]
        assert (row.truth == truth[:, :, heart[len(heart) // 2]]).all()


def test_the_shipped_configuration_fits_the_hearts():
    """Every heart's view of 112 x 2.7 mm is inside what the network sees."""
    with resources.as_file(resources.files("maskmend") / "configs" / "demo.yaml") as path:
        config = read_config(path)
    assert config.preprocess.size * config.preprocess.spacing_mm > 250
    assert config.adaptation.method == "guarded"
