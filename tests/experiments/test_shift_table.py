"""The shift benchmark's page says what its table says."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from experiments.shift import legend
from experiments.shift import table as shift_table
from experiments.shift.methods import METHODS
from maskmend.checkpoint import RUN
from maskmend.errors import ConfigError
from tests.tiny import tiny, write_run


def lines(*, seed=0, patients=9):
    """Two methods under two shifts; ours gains 10 points in noise and nothing in-domain."""
    rng = np.random.default_rng(seed)
    made = []
    for patient in range(patients):
        for shift, severity in (("none", 0), ("noise", 2), ("gibbs", 2)):
            dice = rng.uniform(0.5, 0.8)
            gain = {"none": 0.0, "noise": 0.1, "gibbs": -0.02}[shift]
            for method, value in (("none", dice), ("paper", dice - 0.05), ("ours", dice + gain)):
                made.append(
                    {
                        "segmentor": "gan", "method": method, "shift": shift, "severity": severity,
                        "seed": 0, "patient": f"p{patient}", "phase": "ED", "dice": value,
                        "hausdorff95_mm": 5.0, "realism": value, "steps": 0, "seconds": 1.0,
                        "realism_before": dice,
                    }
                )  # fmt: skip
    return pd.DataFrame(made)


def runs(folder):
    """A folder of runs, of which only what the page tells is there."""
    (folder / "runs" / "gan0").mkdir(parents=True)
    write_run(folder / "runs" / "gan0", tiny())
    best = {"iteration": 500.0, "val_dice": 0.75}
    ended = {"device": "a processor", "threads": 2, "torch": "2.13.0", "best": best}
    (folder / "runs" / "gan0" / RUN).write_text(json.dumps(ended))
    return folder / "runs"


def test_the_page_says_how_many_volumes_a_method_has(tmp_path):
    rows = lines()
    rows = rows[(rows["method"] != "paper") | (rows["patient"] == "p1")]
    rows.to_csv(tmp_path / "shift.csv", index=False)
    shift_table.main(tmp_path / "shift.csv", runs=runs(tmp_path), out=tmp_path)
    page = (tmp_path / "shift.md").read_text()
    assert "Volumes of each method: ours 27, paper 3. In brackets" in page
    (noise,) = [one for one in page.splitlines() if one.startswith("| noise |") and "(1:" in one]
    assert noise.endswith("| **+10.0** | -5.0 (1: +10.0) |")


@pytest.mark.parametrize(("segmentor", "data"), [("gan", "ACDC"), ("hearts", "procedural hearts")])
def test_the_page_names_the_data(tmp_path, segmentor, data):
    lines().assign(segmentor=segmentor).to_csv(tmp_path / "shift.csv", index=False)
    made = runs(tmp_path)
    (made / "gan0").rename(made / f"{segmentor}0")
    shift_table.main(tmp_path / "shift.csv", runs=made, out=tmp_path)
    assert (
        f"experiments.shift.table`: {data}, 9 patients (9 of seed 0 of"
        in (tmp_path / "shift.md").read_text()
    )


def test_a_mean_of_fewer_volumes_is_never_the_best(tmp_path):
    rows = lines()
    rows.loc[rows["method"] == "paper", "dice"] += 0.5
    rows = rows[(rows["method"] != "paper") | (rows["patient"] == "p1")]
    rows.to_csv(tmp_path / "shift.csv", index=False)
    shift_table.main(tmp_path / "shift.csv", runs=runs(tmp_path), out=tmp_path)
    page = (tmp_path / "shift.md").read_text()
    (noise,) = [one for one in page.splitlines() if one.startswith("| noise |") and "(1:" in one]
    assert noise.endswith("| **+10.0** | +45.0 (1: +10.0) |")
    (total,) = [one for one in page.splitlines() if one.startswith("| all shifts, severity 2 |")]
    assert total.endswith("| +4.0 | +45.0 (2: +4.0) |")


def test_the_real_shift_has_a_run_of_its_own(tmp_path):
    rows = lines()
    rows.loc[rows["shift"] == "gibbs", ["shift", "severity"]] = ["3T", 0]
    folder = runs(tmp_path)
    shutil.copytree(folder / "gan0", folder / "gan_3T_0")
    rows.to_csv(tmp_path / "shift.csv", index=False)
    shift_table.main(tmp_path / "shift.csv", runs=folder, out=tmp_path)
    page = (tmp_path / "shift.md").read_text()
    assert "- gan0: " in page
    assert "- gan_3T_0: " in page
    assert "| 1.5 T to 3 T | 0 | 9 |" in page


def test_the_page_of_the_real_shift_alone_names_its_patients(tmp_path):
    rows = lines().query("shift == 'gibbs'").assign(shift="3T", severity=0)
    folder = runs(tmp_path)
    (folder / "gan0").rename(folder / "gan_3T_0")
    rows.to_csv(tmp_path / "shift.csv", index=False)
    shift_table.main(tmp_path / "shift.csv", runs=folder, out=tmp_path)
    assert not (tmp_path / "shift_gains.png").exists()  # one row says less than the table
    assert (
        "`python -m experiments.shift.table`: ACDC, 9 patients (9 of seed 0 of training)"
        in (tmp_path / "shift.md").read_text()
    )


def test_gains_are_over_the_same_image_without_adaptation():
    rows = shift_table.beside_plain(lines())
    assert rows[rows["method"] == "none"]["gain"].abs().max() == 0
    assert rows[rows["method"] == "paper"]["gain"].to_numpy() == pytest.approx(-5)
    with pytest.raises(ValueError, match="without a line of method none"):
        shift_table.beside_plain(lines()[1:])


def test_the_page_holds_every_figure(tmp_path):
    lines().to_csv(tmp_path / "shift.csv", index=False)
    shift_table.main(tmp_path / "shift.csv", runs=runs(tmp_path), out=tmp_path / "out")
    page = (tmp_path / "out" / "shift.md").read_text()
    assert "- gan0: split random, seed 0, 32 x 32 at 10.0 mm, validation Dice 0.750" in page
    assert " at iteration 500 of " in page
    assert "# Shifts" in page
    assert "- `paper`: the discriminator judges" in page
    assert "- `dae`" not in page
    assert "trained on a processor, 2 threads, torch 2.13.0." in page
    assert "| noise | 2 | 9 |" in page
    (detail,) = [one for one in page.splitlines() if one.startswith("| noise | 2 ")]
    assert "| +10.0 | +10.0 to +10.0 |" in detail
    assert detail.endswith("| 0.0% | 0.0 |") or detail.endswith("| 0.0% | -0.0 |")
    (unseen,) = [one for one in page.splitlines() if one.startswith("| gibbs (unseen) | 2 ")]
    assert unseen.endswith("| 100.0% | -2.0 |")
    (methods,) = [one for one in page.splitlines() if one.startswith("| noise |") and "**" in one]
    assert methods.endswith("| -5.0 | **+10.0** |")
    assert "| all shifts, severity 2 | " in page
    (harmed,) = [one for one in page.splitlines() if one.startswith("| harmed of these |")]
    assert harmed == "| harmed of these |  | 100.0% | 50.0% |"
    for picture in ("shift_gains.png", "shift_realism.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")


def test_every_severity_has_its_totals(tmp_path):
    """At severity 3 ours gains a point less everywhere; the middle one is not touched by it."""
    severe = lines()[lambda rows: rows["severity"] == 2].assign(severity=3)
    severe.loc[severe["method"] == "ours", "dice"] -= 0.01
    pd.concat([lines(), severe]).to_csv(tmp_path / "shift.csv", index=False)
    shift_table.main(tmp_path / "shift.csv", runs=runs(tmp_path), out=tmp_path)
    page = (tmp_path / "shift.md").read_text().splitlines()
    (noise,) = [one for one in page if one.startswith("| noise |") and "**" in one]
    assert noise.endswith("| -5.0 | **+10.0** |")
    totals = [one for one in page if one.startswith("| all shifts, severity ")]
    assert [one.split(" | ")[2:] for one in totals] == [["-5.0", "+4.0 |"], ["-5.0", "+3.0 |"]]
    unseen = [one.split(" | ")[1:5:3] for one in page if one.startswith("| unseen shifts |")]
    assert unseen == [["2", "-2.0"], ["3", "-3.0"]]


def test_a_run_that_is_gone_is_told_of_as_before(tmp_path):
    lines().to_csv(tmp_path / "shift.csv", index=False)
    folder, told = runs(tmp_path), "an earlier guard"
    for title in ("With the run", "Without"):
        shift_table.main(tmp_path / "shift.csv", runs=folder, out=tmp_path, title=title, note=told)
        page = (tmp_path / "shift.md").read_text()
        assert page.startswith(f"# {title}\n\n{told}\n\n")
        assert "- gan0: split random, seed 0" in page
        shutil.rmtree(folder, ignore_errors=True)
    (tmp_path / "shift.md").unlink()
    with pytest.raises(ConfigError, match="gan0"):
        shift_table.main(tmp_path / "shift.csv", runs=folder, out=tmp_path)


def test_every_method_has_its_words():
    assert list(legend.METHODS) == [name for name in METHODS if name != "none"]


def test_auc_is_the_chance_to_rank_a_pair_rightly():
    rng = np.random.default_rng(0)
    score = rng.normal(size=40).round(1)
    failed = rng.random(40) < 0.4
    pairs = [(bad < good) + 0.5 * (bad == good) for bad in score[failed] for good in score[~failed]]
    assert shift_table.auc(score, failed) == pytest.approx(np.mean(pairs))
    assert np.isnan(shift_table.auc([0.1, 0.2], [False, False]))


def test_failures_are_found_among_plain_masks_and_among_ours(tmp_path):
    """Of what ours leaves too much is promised where it failed, and of plain masks too little."""
    rows = lines()
    ours = rows["method"] == "ours"
    rows.loc[ours, "realism"] = np.where(rows.loc[ours, "dice"] < 0.7, 0.9, 0.8)
    rows.loc[ours, "realism_before"] /= 2
    rows["realism_before"] = rows["realism_before"].astype(object)
    rows.loc[rows["method"] == "paper", "realism_before"] = ""
    rows.to_csv(tmp_path / "shift.csv", index=False)
    shift_table.main(tmp_path / "shift.csv", runs=runs(tmp_path), out=tmp_path)
    page = (tmp_path / "shift.md").read_text()
    (found,) = [one for one in page.splitlines() if one.startswith("| gan | all |")]
    *_, plain, area, correlation, left, area_of_ours, of_ours = found.strip("| ").split(" | ")
    before = rows.loc[rows["method"] == "none", "dice"]
    assert int(plain) == (before < 0.7).sum()
    assert int(left) == (rows.loc[ours, "dice"] < 0.7).sum()
    assert (area, correlation) == ("1.000", "1.00")
    assert area_of_ours == "0.000"
    assert float(of_ours) < 0


def test_sequences_are_summed_up_apart(tmp_path):
    other = lines(seed=1)[lambda rows: rows["shift"] == "noise"].assign(shift="t2")
    other.loc[other["method"] == "ours", "dice"] += 0.2
    pd.concat([lines(), other]).to_csv(tmp_path / "shift.csv", index=False)
    shift_table.main(tmp_path / "shift.csv", runs=runs(tmp_path), out=tmp_path)
    page = (tmp_path / "shift.md").read_text().splitlines()
    for kind, gain in (("all shifts", "+4.0"), ("all sequences", "+30.0")):
        (total,) = [one for one in page if one.startswith(f"| {kind}, severity 2 |")]
        assert total.endswith(f"| -5.0 | {gain} |")
        (detail,) = [one for one in page if one.startswith(f"| {kind} | 2 |")]
        assert f"| {gain} |" in detail
    assert any(one.startswith("| t2-like (sequence) | 2 | 9 |") for one in page)
