"""Every target end to end at the toy scale; numbers in files against the masks they are about."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from maskmend.data.phantom import write_cohort
from maskmend.data.volume import read_mask
from maskmend.errors import ConfigError
from maskmend.evaluate.metrics import dice
from maskmend.predict import load
from maskmend.reproduce import TARGETS, reproduce, study
from maskmend.reproduce.datasets import find_datasets

QUIET = Console(quiet=True)
FOLD = "folder/fold0/paper-full"


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    root = tmp_path_factory.mktemp("reproduce") / "hearts"
    write_cohort(root, patients=10, seed=0, size=32, spacing_mm=9.0)
    return root


def make(target, hearts, out, *, presets=("paper",)):
    return reproduce(target, hearts, out, scale="toy", presets=presets, folds=(0,), console=QUIET)


@pytest.fixture(scope="module")
def out(hearts):
    """Everything of the paper's preset, on one fold."""
    out = hearts.parent / "out"
    make("all", hearts, out)
    return out


def read(out, target):
    results = out / "results"
    about = json.loads((results / f"{target}.json").read_text())
    return pd.read_csv(results / f"{target}.csv"), about


def scored(out, hearts, masks, image):
    """Mean Dice of a mask on disk, from the definition."""
    made = read_mask(out / "masks" / masks / f"{image}_mask.nii.gz").voxels
    truth = read_mask(hearts / "masks" / f"{image}.nii.gz").voxels
    return np.mean([dice(made == k, truth == k) for k in (1, 2, 3)])


@pytest.mark.parametrize("target", TARGETS)
def test_numbers_stand_beside_every_picture(out, target):
    _, about = read(out, target)
    assert about["seed"] == 0
    assert about["scale"] == "toy"
    assert {"commit", "device", "threads", "torch"} <= about["environment"].keys()
    for run in about["runs"].values():
        assert run["split"] == "random"
        assert run["patients"]["test"] == 4
        assert "best" in run["trained"]
    pictures = list((out / "results").glob(f"{target}*.png"))
    assert pictures
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_table1(out, hearts):
    table, about = read(out, "table1")
    methods = ["UNet", "GAN", "+ smoothness", "+ fake anchors", "+ test-time training"]
    assert list(about["numbers"]) == methods
    for method, rows in table.groupby("method"):
        assert len(rows) == 8  # two phases of four patients
        assert about["numbers"][method]["mean"] == pytest.approx(100 * rows["dice"].mean())
        assert about["numbers"][method]["sd"] == pytest.approx(100 * np.std(rows["dice"], ddof=1))
    folders = {"UNet": "paper-unet/plain", "+ test-time training": "paper-full/adapted"}
    for method, folder in folders.items():
        for row in table[table["method"] == method].itertuples():
            true = scored(out, hearts, f"folder/fold0/{folder}", row.image)
            assert row.dice == pytest.approx(true)


def test_what_a_variant_leaves_out(out):
    configs = {
        name: load(out / "runs" / f"folder/fold0/paper-{name}", "cpu").config
        for name in ("unet", "gan", "smooth", "full")
    }
    assert [c.adversarial.enabled for c in configs.values()] == [False, True, True, True]
    anchors = [c.anchors.kind for c in configs.values()]
    assert anchors[1:] == ["none", "none", "paper"]  # a UNet has no discriminator to see any
    norms = [c.discriminator.spectral_norm for c in configs.values()]
    assert norms[1:] == ["none", "all", "all"]
    assert configs["gan"].mask_augmentation.noise_std == 0
    assert configs["smooth"].mask_augmentation.noise_std == 0.1


def test_figure2_shows_the_best_the_median_and_the_worst(out):
    table, _ = read(out, "figure2")
    scores = pd.read_csv(out / "masks" / FOLD / "paired" / "patients.csv")
    scores = scores[scores["structure"] == "mean"]
    gains = np.sort(scores["dice_after"] - scores["dice_before"])
    shown = (table["dice_after"] - table["dice_before"]).tolist()
    assert list(table["rank"]) == ["best", "median", "worst"]
    assert shown == pytest.approx([gains[-1], gains[round(0.5 * 7)], gains[0]])


def test_supplement1_shows_those_that_gained_most_and_counts_all(out):
    table, about = read(out, "supplement1")
    scores = pd.read_csv(out / "masks" / FOLD / "paired" / "patients.csv")
    scores = scores[scores["structure"] == "mean"]
    gains = scores["dice_after"] - scores["dice_before"]
    own = table[table["dataset"] == "folder"]
    best = np.sort(gains)[::-1][:4]
    assert (own["dice_after"] - own["dice_before"]).tolist() == pytest.approx(best.tolist())
    numbers = about["numbers"]["paper, folder"]
    assert numbers == {"volumes": 8, "gained": (gains > 0).sum(), "lost": (gains < 0).sum()}


def test_figure3(out):
    table, about = read(out, "figure3")
    assert set(table["dataset"]) == {"folder", "folder-myo"}
    for name, rows in table.groupby("dataset"):
        numbers = about["numbers"][f"paper, {name}"]
        for metric, worst in (("dice", np.min), ("iou", np.min), ("hausdorff_mm", np.max)):
            before, after = rows[f"{metric}_plain"], rows[f"{metric}_adapted"]
            assert numbers[metric]["before"]["mean"] == pytest.approx(before.mean())
            assert numbers[metric]["gain"] == pytest.approx((after - before).mean())
            # A tenth of eight volumes is one of them.
            assert numbers[metric]["worst_tenth_before"] == pytest.approx(worst(before))
            assert numbers[metric]["worst_tenth_after"] == pytest.approx(worst(after))


def test_figure4(out, hearts):
    table, about = read(out, "figure4")
    rows = table[table["dataset"] == "folder"]
    for row in rows.itertuples():
        true = scored(out, hearts, f"{FOLD}/denoiser", row.image)
        assert row.dice_denoiser == pytest.approx(true)
    numbers = about["numbers"]["folder"]
    for kind in ("plain", "denoiser", "adapted"):
        own = numbers["means"][kind]
        assert own["mean"] == pytest.approx(rows[f"dice_{kind}"].mean())
        assert own["ci95"][0] <= own["mean"] <= own["ci95"][1]
    difference = (rows["dice_adapted"] - rows["dice_denoiser"]).mean()
    assert numbers["discriminator against DAE"]["gain"] == pytest.approx(difference)


def test_convergence(out):
    _, about = read(out, "convergence")
    for variant in ("full", "memorising"):
        history = pd.read_csv(out / "runs" / f"folder/fold0/paper-{variant}" / "history.csv")
        numbers = about["numbers"][f"paper, {variant}"]
        assert numbers["val_loss_real"] == pytest.approx(history["val_loss_real"].iloc[-1])
        assert numbers["iterations"] == 4
    config = load(out / "runs/folder/fold0/paper-memorising", "cpu").config
    assert config.training.discriminator_learning_rate == 1e-3
    assert config.data.mask_patients == 1


def test_cost(out, hearts):
    table, about = read(out, "cost")
    numbers = about["numbers"]["paper"]
    assert sorted(table["steps"].unique()) == [0, 1, 3]
    means = table.groupby("steps")["dice"].mean()
    assert numbers["dice"] == pytest.approx({str(k): v for k, v in means.items()})
    assert means[numbers["best_steps"]] == means.max()
    model = load(out / "runs" / FOLD, "cpu")
    weights = model.networks.segmentor.state_dict().values()
    assert numbers["weights_mb"]["segmentor"] == pytest.approx(
        4e-6 * sum(w.numel() for w in weights)
    )
    for steps in (0, 3):
        row = table[table["steps"] == steps].iloc[0]
        # Together with the patient's other phase, as one instance.
        images = [hearts / "images" / f"{row['patient']}_frame{f}.nii.gz" for f in ("01", "10")]
        prepared = [model.prepare(image) for image in images]
        made = model.predict_patient(prepared, model.settings(method="paper", steps=steps))
        labels = made[row["image"].endswith("10")].labels
        truth = read_mask(hearts / "masks" / f"{row['image']}.nii.gz").voxels
        true = np.mean([dice(labels == k, truth == k) for k in (1, 2, 3)])
        assert row["dice"] == pytest.approx(true, abs=1e-3)  # folded networks round otherwise


def test_what_is_there_is_not_made_again(out, hearts, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("made again")

    monkeypatch.setattr(study, "train", fail)
    monkeypatch.setattr(study, "train_denoiser", fail)
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("masks/**/*.nii.gz")}
    numbers = {t: read(out, t)[1]["numbers"] for t in TARGETS}
    make("all", hearts, out)
    assert {p: p.stat().st_mtime_ns for p in out.glob("masks/**/*.nii.gz")} == stamps
    assert {t: read(out, t)[1]["numbers"] for t in TARGETS} == numbers


def test_a_killed_run_goes_on_and_ends_the_same(out, hearts, monkeypatch):
    stopped = hearts.parent / "stopped"
    train = study.train
    trained = []

    def killed_in_the_second(config, data, run, **options):
        if trained:
            raise KeyboardInterrupt
        trained.append(run)
        return train(config, data, run, **options)

    monkeypatch.setattr(study, "train", killed_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        make("convergence", hearts, stopped)
    assert not list((stopped / "results").glob("convergence*"))
    weights = trained[0] / "weights.safetensors"
    stamp = weights.stat().st_mtime_ns
    again = []
    monkeypatch.setattr(
        study, "train", lambda c, d, run, **o: again.append(run) or train(c, d, run, **o)
    )
    make("convergence", hearts, stopped)
    assert again == [stopped / "runs/folder/fold0/paper-memorising"]
    assert weights.stat().st_mtime_ns == stamp
    assert read(stopped, "convergence")[1]["numbers"] == read(out, "convergence")[1]["numbers"]


def test_ours_stands_beside_the_papers(hearts):
    ours = hearts.parent / "ours"
    page = make("table1", hearts, ours, presets=("ours",)).read_text()
    table, about = read(ours, "table1")
    assert list(about["numbers"]) == ["ours", "ours, guarded"]
    assert (ours / "runs/folder/fold0/ours-full/calibration.json").exists()
    mean = 100 * table.loc[table["method"] == "ours, guarded", "dice"].mean()
    assert f"| ours, guarded |  | {mean:.1f} (" in page
    assert "| UNet | 70.1 (13) | open |" in page
    assert "\n## Not run yet\n\n- Figure 2: an example\n" in page
    assert "scale `toy`" in page
    assert "| `training.batch` | 12 | 4 |" in page


def test_without_training_what_is_there_is_shown_and_the_rest_left_open(hearts, out):
    apart = hearts.parent / "apart"
    run = apart / "runs" / FOLD
    run.parent.mkdir(parents=True)
    run.symlink_to(out / "runs" / FOLD)
    options = {"scale": "toy", "presets": ("paper",), "folds": (0,), "console": QUIET}
    for target in ("convergence", "table1"):
        page = reproduce(target, hearts, apart, training=False, **options).read_text()
    assert list(read(apart, "convergence")[1]["numbers"]) == ["paper, full"]
    assert list(read(apart, "table1")[1]["numbers"]) == ["+ fake anchors", "+ test-time training"]
    assert "| UNet | 70.1 (13) | open |" in page
    assert not (apart / "data").exists()


def test_what_outlives_the_runs_is_enough_for_tables(hearts, out):
    """Folds that were run at other times or places: their scores are shown, nothing is trained."""
    apart = hearts.parent / "kept"
    shutil.copytree(out / "results" / "kept", apart / "results" / "kept")
    options = {"scale": "toy", "presets": ("paper",), "folds": (0,), "console": QUIET}
    for training, targets in ((True, ("table1", "figure4")), (False, TARGETS)):
        for target in targets:
            reproduce(target, hearts, apart, training=training, **options)
    for target in ("table1", "figure3", "figure4", "convergence"):
        then, now = read(out, target)[1], read(apart, target)[1]
        assert now["numbers"] == then["numbers"]
        assert now["runs"] == then["runs"]
    assert not (apart / "runs").exists()
    assert not (apart / "results" / "cost.json").exists()  # its curve wants the networks


def test_a_kept_score_is_not_mixed_with_those_of_a_new_run(hearts, out):
    """What asks for more than was kept trains anew, and then all its masks are the new run's."""
    apart = hearts.parent / "mixed"
    kept = apart / "results" / "kept" / FOLD
    shutil.copytree(out / "results" / "kept" / FOLD, kept)
    (kept / "adapted.csv").unlink()
    scores = pd.read_csv(kept / "plain.csv")
    scores.assign(dice=0.123).to_csv(kept / "plain.csv", index=False)
    about = json.loads((kept / "about.json").read_text())
    make("figure3", hearts, apart)
    assert (read(apart, "figure3")[0]["dice_plain"] != 0.123).all()
    assert json.loads((kept / "about.json").read_text())["trained"] != about["trained"]  # seconds


def test_the_page_holds_numbers_and_pictures(out):
    page = (out / "results" / "reproduction.md").read_text()
    mean = read(out, "table1")[1]["numbers"]["+ test-time training"]["mean"]
    assert f"| + test-time training | 72.4 (10) | {mean:.1f} (" in page
    for picture in (out / "results").glob("*.png"):
        assert f"]({picture.name})" in page
    assert "Not run yet" not in page


def test_the_page_holds_what_somebody_wrote_about_a_target(out, tmp_path):
    (tmp_path / "table1.json").write_bytes((out / "results" / "table1.json").read_bytes())
    (tmp_path / "table1.txt").write_text("Higher than the paper's, for a reason.\n")
    page = tmp_path / "page.md"
    command = [sys.executable, "-W", "error", "-m", "maskmend.reproduce", str(tmp_path), str(page)]
    subprocess.run(command, check=True)
    table, below = page.read_text().split("\nHigher than the paper's, for a reason.\n")
    assert "| + test-time training |" in table
    assert "[csv](table1.csv)" in below
    trained = next(iter(read(out, "table1")[1]["runs"].values()))["trained"]
    assert f"; trained on {trained['device']} (commit {trained['commit']})" in below


def test_the_myocardium_alone(out, hearts):
    first, alone = find_datasets(hearts, out, QUIET)
    assert (first.name, alone.name) == ("folder", "folder-myo")
    assert [c.name for c in alone.cohort.cases] == [c.name for c in first.cohort.cases]
    assert alone.cohort.patients == first.cohort.patients
    for whole, case in zip(first.cohort.cases, alone.cohort.cases, strict=True):
        masks = [read_mask(c.mask).voxels for c in (whole, case)]
        assert np.array_equal(masks[1], masks[0] == 2)
        assert case.phase == whole.phase
        assert case.image.read_bytes() == whole.image.read_bytes()


def test_an_unknown_target_is_named(hearts, tmp_path):
    with pytest.raises(ConfigError, match="target: 'figure9'"):
        make("figure9", hearts, tmp_path)
