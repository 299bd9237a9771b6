import io
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from maskmend.errors import InputError, RunError
from maskmend.evaluate.metrics import score
from maskmend.evaluate.scores import evaluate
from maskmend.evaluate.statistics import compare

AFFINE = np.diag([1.5, 1.25, 8.0, 1.0])
HEART = {1: "RV", 2: "MYO", 3: "LV"}


def save(path, labels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), affine), path)


def heart(shift=0):
    """Right ventricle, ring and left ventricle, over three of four slices."""
    labels = np.zeros((24, 20, 4), dtype=np.uint8)
    labels[3:9, 6:14, :3] = 1
    labels[9:19, 5:15, :3] = 2
    labels[11:17, 7:13, :3] = 3
    return np.roll(labels, shift, axis=0)


@pytest.fixture
def folders(tmp_path):
    """Three images, worse before (3 voxels off) than after (1, 1 and 4 off)."""
    for name, after in {"a": 1, "b": 1, "c": 4}.items():
        save(tmp_path / "truth" / f"{name}_gt.nii.gz", heart())
        save(tmp_path / "before" / f"{name}_mask.nii.gz", heart(3))
        save(tmp_path / "after" / f"{name}_mask.nii.gz", heart(after))
    settings = {"structures": {str(label): name for label, name in HEART.items()}}
    (tmp_path / "after" / "settings.json").write_text(json.dumps(settings))
    return tmp_path


def run(folders, **options):
    return evaluate(folders / "after", folders / "truth", folders / "out", **options)


def test_rows_hold_the_scores_of_every_structure_and_their_mean(folders):
    result = run(folders, baseline=folders / "before")
    assert result.failures == []
    table = pd.read_csv(folders / "out" / "patients.csv", keep_default_na=False)
    assert list(table.columns) == [
        "image", "patient", "phase", "structure", "dice_before", "dice_after", "iou_before",
        "iou_after", "hausdorff_mm_before", "hausdorff_mm_after", "hausdorff95_mm_before",
        "hausdorff95_mm_after",
    ]  # fmt: skip
    assert list(table["structure"]) == ["RV", "MYO", "LV", "mean"] * 3
    pd.testing.assert_frame_equal(table, result.rows)

    first = table[table["image"] == "a"].set_index("structure")
    for label, structure in HEART.items():
        expected = score(heart(1) == label, heart() == label, (1.5, 1.25, 8.0))
        assert first.loc[structure, "dice_after"] == pytest.approx(expected.dice)
        assert first.loc[structure, "iou_after"] == pytest.approx(expected.iou)
        assert first.loc[structure, "hausdorff_mm_after"] == pytest.approx(1.5)
        assert first.loc[structure, "hausdorff95_mm_after"] == pytest.approx(1.5)
    by_hand = first.loc[list(HEART.values()), "dice_before"].mean()
    assert first.loc["mean", "dice_before"] == pytest.approx(by_hand)


def test_summary_compares_before_and_after(folders):
    rows = run(folders, baseline=folders / "before").rows
    summary = json.loads((folders / "out" / "summary.json").read_text())
    assert (summary["unit"], summary["images"], summary["patients"]) == ("volume", 3, 3)
    assert list(summary["structures"]) == [*HEART.values(), "mean"]
    lv = rows[rows["structure"] == "LV"]
    expected = compare(lv["dice_before"], lv["dice_after"])
    dice = summary["structures"]["LV"]["dice"]
    assert dice["n"] == dice["patients"] == 3
    assert dice["before"] == {"mean": expected.before.mean, "sd": expected.before.sd}
    assert (dice["gain"], dice["p_value"]) == (expected.gain, expected.p_value)
    assert dice["gain_ci95"] == list(expected.gain_ci95)
    # One of three went from 3 voxels off to 4: of 6 columns, 3 and 2 still overlap.
    harm = summary["structures"]["LV"]["harm"]
    assert (harm["count"], harm["worst_loss"]) == (1, pytest.approx(3 / 6 - 2 / 6))


def test_without_baseline_the_columns_are_plain(folders):
    result = run(folders)
    assert list(result.rows.columns[4:]) == ["dice", "iou", "hausdorff_mm", "hausdorff95_mm"]
    dice = result.summary["structures"]["RV"]["dice"]
    assert set(dice) == {"n", "patients", "mean", "sd"}
    assert "harm" not in result.summary["structures"]["RV"]


def test_slices_are_scored_in_their_plane(folders):
    result = run(folders, baseline=folders / "before", unit="slice")
    table = pd.read_csv(folders / "out" / "slices.csv")
    assert list(table.columns[:3]) == ["image", "slice", "patient"]
    assert len(table) == 3 * 4 * 4  # images, slices, structures and their mean
    assert (table[table["slice"] == 3]["dice_after"] == 1).all()  # empty in both
    first = table[(table["image"] == "a") & (table["slice"] == 0)].set_index("structure")
    expected = score(heart(1)[:, :, 0] == 2, heart()[:, :, 0] == 2, (1.5, 1.25))
    assert first.loc["MYO", "dice_after"] == pytest.approx(expected.dice)
    assert first.loc["MYO", "hausdorff_mm_after"] == pytest.approx(expected.hausdorff_mm)
    dice = result.summary["structures"]["MYO"]["dice"]
    assert (dice["n"], dice["patients"]) == (12, 3)
    assert (folders / "out" / "summary_slices.json").exists()


def test_slices_are_those_that_lie_apart(folders):
    """Of a file whose first axis runs from slice to slice they are scored along that."""
    for path in [*folders.rglob("*_mask.nii.gz"), *folders.rglob("*_gt.nii.gz")]:
        image = nib.load(path)
        turned = image.affine[:, [2, 0, 1, 3]]
        nib.save(
            nib.Nifti1Image(image.get_fdata().astype(np.uint8).transpose(2, 0, 1), turned), path
        )
    result = run(folders, baseline=folders / "before", unit="slice")
    assert not result.failures
    dice = result.summary["structures"]["MYO"]["dice"]
    assert (dice["n"], dice["patients"]) == (12, 3)


def test_files_that_a_system_hides_are_no_masks(folders):
    expected = run(folders).summary
    for folder in (folders / "after", folders / "references"):
        for path in list(folder.glob("*.nii.gz")):
            (folder / f"._{path.name}").write_bytes(b"a resource fork")
    result = run(folders)
    assert not result.failures
    assert result.summary == expected


def test_cohort_gives_patient_and_phase(folders):
    cohort = folders / "acdc"
    info = "ED: 1\nES: 12\nGroup: NOR\nHeight: 180.0\nNbFrame: 30\nWeight: 80.0\n"
    for patient in ("patient001", "patient002"):
        for frame in ("frame01", "frame12"):
            name = f"{patient}_{frame}"
            intensities = np.random.default_rng(0).integers(0, 255, heart().shape)
            save(cohort / patient / f"{name}.nii.gz", intensities)
            save(cohort / patient / f"{name}_gt.nii.gz", heart())
            save(folders / "acdc_masks" / f"{name}_mask.nii.gz", heart(1))
        (cohort / patient / "Info.cfg").write_text(info)
    result = evaluate(folders / "acdc_masks", cohort, folders / "out", structures=HEART)
    assert result.failures == []
    means = result.rows[result.rows["structure"] == "mean"]
    assert list(means["patient"]) == ["patient001"] * 2 + ["patient002"] * 2
    assert list(means["phase"]) == ["ED", "ES"] * 2
    dice = result.summary["structures"]["mean"]["dice"]
    assert (dice["n"], dice["patients"]) == (4, 2)


def test_bad_images_are_named_and_the_others_done(folders):
    after = folders / "after"
    (after / "a_mask.nii.gz").write_bytes(b"no image")
    save(after / "b_mask.nii.gz", heart()[:-1])
    save(after / "stranger_mask.nii.gz", heart())
    save(folders / "truth" / "unpredicted_gt.nii.gz", heart())
    result = run(folders)
    assert list(result.rows["image"].unique()) == ["c"]
    messages = dict(result.failures)
    assert list(messages) == ["a", "b", "stranger", "unpredicted"]
    assert "a_mask.nii.gz" in messages["a"]
    assert "(23, 20, 4) instead of (24, 20, 4)" in messages["b"]
    assert "no reference" in messages["stranger"]
    assert "unpredicted_mask.nii.gz: there is no such file" in messages["unpredicted"]
    assert not any("\n" in message for message in messages.values())
    assert [failure["image"] for failure in result.summary["failures"]] == list(messages)


def test_moved_grid_is_a_failure(folders):
    moved = AFFINE.copy()
    moved[0, 3] = 30
    save(folders / "before" / "a_mask.nii.gz", heart(3), moved)
    result = run(folders, baseline=folders / "before")
    assert [name for name, _ in result.failures] == ["a"]


def test_list_of_predictions_says_which_are_expected(folders):
    save(folders / "truth" / "training_gt.nii.gz", heart())
    (folders / "after" / "predictions.csv").write_text(
        "image,status\ndata/a.nii.gz,ok\ndata/b.nii.gz,ok\ndata/c.nii.gz,ok\ndata/d.nii,failed\n"
    )
    assert [name for name, _ in run(folders).failures] == ["d"]
    (folders / "after" / "predictions.csv").write_text("name\na\n")
    with pytest.raises(RunError, match=r"predictions\.csv: .*image"):
        run(folders)


def test_a_mask_of_an_earlier_call_is_not_scored_where_the_last_one_failed(folders):
    table = "image,status\na,failed\nb,done\nc,check\n"
    (folders / "before" / "predictions.csv").write_text(table)
    result = run(folders, baseline=folders / "before")
    assert sorted(result.rows["image"].unique()) == ["b", "c"]
    ((name, message),) = result.failures
    assert name == "a"
    assert "before/a_mask.nii.gz: the last predict failed" in message


def test_labels_are_named_where_nothing_else_names_them(folders):
    (folders / "after" / "settings.json").unlink()
    assert list(run(folders).summary["structures"]) == ["label 1", "label 2", "label 3", "mean"]


@pytest.mark.parametrize("text", ["{", "[]", '{"structures": {"RV": 1}}', '{"structures": ["RV"]}'])
def test_damaged_settings(folders, text):
    (folders / "after" / "settings.json").write_text(text)
    with pytest.raises(RunError, match=r"settings\.json: is damaged"):
        run(folders)


def test_plain_reference_names(folders):
    for path in list((folders / "truth").iterdir()):
        path.rename(path.with_name(path.name.replace("_gt", "")))
    result = run(folders)
    assert result.failures == []
    assert result.summary["images"] == 3


def test_empty_folders(folders):
    empty = folders / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="empty: holds no NAME_mask"):
        evaluate(empty, folders / "truth", folders / "out")
    with pytest.raises(InputError, match="empty"):
        evaluate(folders / "after", empty, folders / "out")


def test_everything_failed_is_an_empty_result(folders):
    for path in (folders / "after").glob("*.nii.gz"):
        path.write_bytes(b"")
    result = run(folders, baseline=folders / "before")
    assert (len(result.failures), len(result.rows)) == (3, 0)
    assert result.summary["structures"] == {}


def test_results_that_cannot_be_written(folders):
    (folders / "out").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"patients\.csv: cannot be written"):
        run(folders)


def test_a_failed_write_leaves_the_old_result(folders, monkeypatch):
    run(folders)
    old = (folders / "out" / "patients.csv").read_text()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match="No space left"):
        run(folders, baseline=folders / "before")
    assert (folders / "out" / "patients.csv").read_text() == old
    assert sorted(path.name for path in (folders / "out").iterdir()) == [
        "patients.csv",
        "summary.json",
    ]


def printed(result):
    console = Console(file=io.StringIO(), width=80)
    console.print(result.table())
    return console.file.getvalue()


def test_table_fits_a_terminal(folders):
    text = printed(run(folders, baseline=folders / "before"))
    assert "3 volumes of 3 patients" in text
    lv = next(line.split() for line in text.splitlines() if "LV" in line)
    assert lv[:4] == ["LV", "50.0", "→", "66.7"]  # 3 of 6 columns overlap; 5, 5 and 2 of 6
    assert lv[-1] == "1"  # of the three, the last lost
    assert "66.7 (28.9)" in printed(run(folders))


def test_nothing_is_printed(folders, capfd):
    run(folders)
    assert capfd.readouterr() == ("", "")
