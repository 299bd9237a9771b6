"""The page says what the folder holds, of itself, and nothing that is not its business."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from benchmarks.report import write_predictions
from maskmend.cli import main
from maskmend.config import PreprocessConfig
from maskmend.data.phantom import write_cohort
from maskmend.details import DETAILS, read_details
from maskmend.errors import InputError, RunError
from maskmend.report.entries import read_folder
from maskmend.report.page import REPORT, write_report
from maskmend.report.words import verdict
from maskmend.table import PREDICTIONS, read_table
from tests.report.conftest import NASTY

LARGEST_MB, PATIENTS = 50, 100
VIEWER_MB = 1.2


@pytest.fixture(scope="module")
def page(made, hearts):
    return write_report(made, references=hearts).read_text(encoding="utf-8")


def element(page, name):
    """What is in the element of an id."""
    return re.search(rf'id="{name}"[^>]*>(.*?)</(?:script|template|section)>', page, re.S)[1]


def test_every_image_is_counted_by_what_became_of_it(made):
    folder = read_folder(made)
    assert dict(folder.counts) == {
        "mended": 3,
        "steadied": 1,
        "left alone": 2,
        "failed": 1,
        "check": 1,
    }
    said = verdict(folder)
    assert said.startswith(
        "3 of 7 masks were mended, 1 was steadied and 2 were left as the network made them."
    )
    assert "1 needs a look." in said
    assert "1 could not be segmented." in said
    for entry in folder.entries:
        if entry.pictures:
            assert (entry.outcome != "left alone") == (entry.pictures.changed > 0)
            assert (entry.outcome == "mended") == (entry.pictures.most_change > 0)


def test_a_name_is_text_wherever_it_stands(page):
    assert NASTY not in page
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)&#34;&#39;&amp;amp;&lt;b&gt;--") > 3

    class Scripts(HTMLParser):
        count = 0

        def handle_starttag(self, tag, attributes):
            self.count += tag == "script"

    scripts = Scripts()
    scripts.feed(page)
    # Structures, behaviour, the viewer, and the slices of each image that did not fail.
    assert scripts.count == 3 + 6


def test_names_of_structures_are_text_too(made, tmp_path):
    shutil.copytree(made, tmp_path / "masks")
    settings = json.loads((made / "settings.json").read_text())
    settings["structures"]["1"] = "</script><script>alert(2)</script>"
    (tmp_path / "masks" / "settings.json").write_text(json.dumps(settings))
    page = write_report(tmp_path / "masks").read_text()
    assert "alert(2)</script>" not in page
    structures = json.loads(element(page, "structures"))
    assert structures[0]["name"] == settings["structures"]["1"]


def test_the_page_asks_for_nothing_outside_itself(page):
    assert not re.search(r"""(?:src|href|action)\s*=\s*["'](?!data:|#)""", page)
    assert not re.search(r"url\((?!#)|@import", page)
    assert "default-src &#39;none&#39;" in page
    assert "http" not in re.search("Content-Security-Policy[^>]*", page)[0]


def test_messages_tell_no_folders(page):
    assert "is truncated; copy it again" in page
    assert "/home/somebody" not in page
    assert "secret" not in page


def test_dice_of_the_table_is_that_of_evaluate(made, hearts, page, tmp_path):
    from maskmend.evaluate.scores import evaluate

    found = evaluate(made, hearts, tmp_path, baseline=made / DETAILS).rows
    folder = read_folder(made, hearts)
    for entry in folder.entries:
        for name, values in entry.dice.items():
            row = found[(found["image"] == entry.name) & (found["structure"] == name)]
            assert values == (row["dice_before"].item(), row["dice_after"].item())
    scored = [entry for entry in folder.entries if entry.dice]
    assert len(scored) == 5  # one has a name of its own, and one failed
    (odd,) = (entry for entry in folder.entries if entry.name == NASTY)
    assert "not scored: has no reference" in odd.message


def test_references_are_among_the_slices(made, hearts):
    for entry in read_folder(made, hearts).entries:
        has_truth = entry.pictures is not None and "truth" in entry.pictures.slices["labels"]
        assert has_truth == bool(entry.dice)


def test_a_folder_without_pictures_says_how_to_get_them(made, hearts, tmp_path):
    ignored = shutil.ignore_patterns(DETAILS, "*.html")
    shutil.copytree(made, tmp_path / "masks", ignore=ignored)
    page = write_report(tmp_path / "masks", references=hearts).read_text()
    assert "maskmend predict --report keeps them" in page
    assert 'id="niivue"' not in page
    folder = read_folder(tmp_path / "masks", hearts)
    assert dict(folder.counts) == dict(read_folder(made).counts)
    assert [len(entry.dice.get("mean", ())) for entry in folder.entries].count(1) == 5


def test_one_damaged_file_costs_the_pictures_of_one_image(made, tmp_path):
    shutil.copytree(made, tmp_path / "masks")
    name = read_table(made / PREDICTIONS)[0].image
    (tmp_path / "masks" / DETAILS / f"{name}.npz").write_bytes(b"nothing")
    entries = {entry.name: entry for entry in read_folder(tmp_path / "masks").entries}
    assert [e.name for e in entries.values() if not e.pictures] == [name, "bad"]


def test_a_folder_of_something_else_is_named(tmp_path, capsys):
    with pytest.raises(InputError, match=r"predictions\.csv: there is none"):
        write_report(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path)])
    assert ended.value.code == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_damaged_settings_are_named(made, tmp_path):
    shutil.copytree(made, tmp_path / "masks")
    (tmp_path / "masks" / "settings.json").write_text("{")
    with pytest.raises(RunError, match=r"settings\.json: is damaged"):
        write_report(tmp_path / "masks")


def test_from_the_command_line(made, hearts, tmp_path, capsys):
    file = tmp_path / "page.html"
    with pytest.raises(SystemExit) as ended:
        main(["report", str(made), "--references", str(hearts), "--out", str(file)])
    assert not ended.value.code
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {file}"
    assert file.read_text().startswith("<!doctype html>")
    assert not [path for path in tmp_path.iterdir() if path != file]


def test_a_hundred_patients_of_full_size_stay_under_fifty_megabytes(tmp_path):
    """Two images of 10 slices a patient; benchmarks/report.py measures all hundred."""
    preprocess = PreprocessConfig(size=224, spacing_mm=1.34)
    write_cohort(tmp_path / "hearts", patients=1, seed=0, size=224, spacing_mm=1.34)
    images = sorted((tmp_path / "hearts" / "images").iterdir())
    # The second and third are mended: those have a change to show, too.
    named = [("left", images[0]), ("a", images[0]), ("b", images[1])]
    write_predictions(named, tmp_path / "masks", preprocess)
    assert read_details(tmp_path / "masks", "a").image.shape == (10, 224, 224)
    for name in ("a", "b"):
        assert read_details(tmp_path / "masks", name).change.any()
    megabytes = write_report(tmp_path / "masks").stat().st_size / 1e6
    assert (megabytes - VIEWER_MB) / 3 * 2 * PATIENTS + VIEWER_MB < LARGEST_MB


def test_the_method_of_the_paper_has_realism_and_no_promise(made, tmp_path):
    shutil.copytree(made, tmp_path / "masks")
    settings = json.loads((made / "settings.json").read_text())
    settings["adaptation"] |= {"method": "paper", "steps": 50}
    (tmp_path / "masks" / "settings.json").write_text(json.dumps(settings))
    table = pd.read_csv(made / PREDICTIONS)
    table["decision"] = ""
    table[["realism_before", "realism_after"]] -= np.float64(1.5)
    table.to_csv(tmp_path / "masks" / PREDICTIONS, index=False)
    page = write_report(tmp_path / "masks").read_text()
    assert "Predicted Dice" not in page.split("<template")[0].replace("predicted Dice", "")
    assert "Realism before and after" in page
    assert "adapted in 4 steps" in page
    assert "The adaptor was tuned on each patient, for 50 steps." in page
    assert (tmp_path / "masks" / REPORT).exists()
