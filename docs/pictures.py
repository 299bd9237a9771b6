"""The pictures of the concepts page, from procedural hearts: python docs/pictures.py --runs DIR.

A run of `maskmend demo` is in DIR/demo, or is made there; four small trainings that end well or
badly are kept beside it. All together take some ten minutes on two cores.
"""

import argparse
import dataclasses
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from rich.console import Console

from maskmend.anchors import Blobs, Noise, Swap, corrupt
from maskmend.build import build
from maskmend.checkpoint import quiet_generator
from maskmend.config import AnchorConfig, Config
from maskmend.config_file import config_from, read_config
from maskmend.data.cohort import Case
from maskmend.data.layouts import find_cohort
from maskmend.data.phantom import SCANNER_A, SCANNER_B, write_cohort
from maskmend.data.preprocess import mask_slices
from maskmend.data.slices import load_training_data, split_of
from maskmend.data.volume import read_mask
from maskmend.predict import Model, load
from maskmend.train import train
from maskmend.training import Row, Trainer

PICTURES = Path(__file__).parent / "pictures"
SHOWN = "heart001_frame01"
"""The heart whose masks are shown: a test patient of the demo."""
TRIED = 6
"""Test patients that are adapted to, to find those that gain and lose most."""
RV, MYO, LV, INK = "#56B4E9", "#E69F00", "#CC79A7", "#333333"
MASKS = ListedColormap(["#F2F2F2", RV, MYO, LV])

TOY = {
    "data": {"layout": "folder"},
    "preprocess": {"size": 48, "spacing_mm": 6.0},
    "segmentor": {"width": 6, "depth": 3},
    "discriminator": {"widths": [16, 32, 64], "strides": [2, 2, 2]},
    "adaptor": {"widths": [4]},
    "anchors": {"kind": "local"},
    "adversarial": {"weight": 0.3, "balance": True},
    "training": {
        "iterations": 400,
        "learning_rate": 2e-3,
        "discriminator_learning_rate": 5e-4,
        "validate_every": 20,
        "patience": 100,
    },
}
NO_REMEDY = {
    "discriminator": {**TOY["discriminator"], "spectral_norm": "none", "activation": "leaky_relu"},
    "mask_augmentation": {"rotation_deg": [0, 0], "translation": 0, "noise_std": 0},
    "anchors": {"kind": "none"},
    "training": {**TOY["training"], "discriminator_learning_rate": 2e-3},
}
SEES_IMAGES = {"discriminator": {**NO_REMEDY["discriminator"], "sees_image": True}}
TOYS = {
    "equilibrium": ("all remedies, 4 patients", 10, {}),
    "no remedy": ("2 patients", 5, NO_REMEDY),
    "memorisation": ("no remedy, sees images, 2 patients", 5, {**NO_REMEDY, **SEES_IMAGES}),
    "no fake anchors": ("4 patients", 10, {"anchors": {"kind": "none"}}),
}
"""What is done, the number of patients (of which 40% are trained on), and what is configured."""


class Watched(Trainer):
    """Looks at corrupted masks, whatever it trains on."""

    def validate(self) -> Row:
        """See `Trainer`."""
        anchors = AnchorConfig(kind="local")
        self.adversary.config = dataclasses.replace(self.config, anchors=anchors)
        row = super().validate()
        self.adversary.config = self.config
        return row


def history(name: str, runs: Path) -> pd.DataFrame:
    """The curves of one of the small trainings, which is run if need be."""
    kept = runs / f"{name}.csv"
    if not kept.exists():
        _, patients, changes = TOYS[name]
        hearts = runs / f"hearts{patients}"
        write_cohort(hearts, patients=patients, seed=1, size=56, spacing_mm=5.4)
        config = config_from({**TOY, **changes})
        cohort = find_cohort(hearts)
        data = load_training_data(cohort, split_of(cohort, config), config)
        with quiet_generator(config.seed):
            trainer = Watched(config, build(config), data, Fabric(accelerator="cpu"))
        trainer.run(lambda losses: None, lambda row, improved: print(name, row["iteration"]))
        pd.DataFrame(trainer.progress.history).to_csv(kept, index=False)
    return pd.read_csv(kept)


def draw_curves(runs: Path) -> None:
    """Scores of real, predicted and corrupted masks in the small trainings; with their numbers."""
    histories = {name: history(name, runs) for name in TOYS}
    numbers = pd.concat(histories, names=["training"]).reset_index(level=0)
    numbers.round(4).to_csv(PICTURES / "curves.csv", index=False)
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True).flat
    for axis, (name, (how, *_)) in zip(axes, TOYS.items(), strict=True):
        rows = histories[name]
        for kind, colour in (("real", "#0072B2"), ("predicted", MYO), ("corrupted", "#D55E00")):
            for part, style in (("train", ":"), ("val", "-")):
                axis.plot(
                    rows["iteration"],
                    rows[f"{part}_score_{kind}"],
                    style,
                    color=colour,
                    linewidth=1.6,
                    label=f"{kind}, {'validation' if part == 'val' else 'training'}",
                )
        axis.axhline(0, color="#BBBBBB", linewidth=0.8, zorder=0)
        axis.set_title(f"{name}: {how}", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("score", fontsize=8)
        if axis.get_subplotspec().is_last_row():
            axis.set_xlabel("iteration", fontsize=8)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    _save(figure, "curves")


def demo_run(runs: Path) -> tuple[Model, dict[str, Case], dict[str, Case]]:
    """The demo's model, and its hearts as both scanners see them."""
    hearts = {name: runs / "demo" / "hearts" / name for name in ("in-domain", "shifted")}
    for scanner, root in zip((SCANNER_A, SCANNER_B), hearts.values(), strict=True):
        if not root.exists():
            write_cohort(root, patients=30, seed=0, scanner=scanner)
    with resources.as_file(resources.files("maskmend") / "configs" / "demo.yaml") as path:
        config: Config = read_config(path)
    if not (runs / "demo" / "run" / "run.json").exists():
        train(config, hearts["in-domain"], runs / "demo" / "run", console=Console())
    model = load(runs / "demo" / "run", "cpu")
    known, other = (
        {case.name: case for case in find_cohort(root).cases} for root in hearts.values()
    )
    return model, known, other


def draw_masks(model: Model, known: dict[str, Case], other: dict[str, Case]) -> None:
    """Masks as the discriminator sees them, with its scores."""
    plain = model.settings(steps=0, method="paper", precision="32-true")
    prior = model.prior(plain)
    truth, middle = _truth(model, known[SHOWN])
    rng = np.random.default_rng(0)
    side = round(0.1 * truth.shape[0])
    centre = np.argwhere(truth).mean(0).astype(int)
    swaps = []
    for _ in range(6):
        first, second = centre + rng.integers(-14, 10, size=(2, 2))
        swaps.append(Swap(tuple(map(int, first)), tuple(map(int, second)), side))
    shown = {
        "real": truth,
        "predicted,\nknown scanner": _labels(model, known[SHOWN], middle, plain),
        "predicted,\nother scanner": _labels(model, other[SHOWN], middle, plain),
        "empty": np.zeros_like(truth),
        "swapped patches": corrupt(truth, swaps),
        "label noise": corrupt(truth, [Noise(0.03, 4, seed=1)]),
        "blobs and holes": corrupt(truth, [Blobs(9, 1.4, 3, 5), Blobs(9, 1.2, 0, 8)]),
    }
    figure = Figure(figsize=(9, 1.9), layout="constrained")
    for axis, (name, labels) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), 4)
        with torch.no_grad():
            masks = one_hot.movedim(-1, 0)[None].float()
            score = prior.realism(masks, torch.zeros_like(masks[:, :1])).item()
        axis.imshow(labels, cmap=MASKS, vmin=0, vmax=3, interpolation="nearest")
        axis.set(xlim=(12, 68), ylim=(68, 12))
        _bare(axis, name)
        axis.set_xlabel(f"{score:+.2f}", fontsize=10)
    _save(figure, "masks")


def draw_adaptor(model: Model, other: dict[str, Case]) -> None:
    """What fifty steps change: the heart that gains most, and the one that loses most."""
    settings = model.settings(method="paper", steps=50, learning_rate=1e-3, precision="32-true")
    tried = []
    for patient in json.loads((model.run / "split.json").read_text())["test"][:TRIED]:
        case = other[f"{patient}_frame01"]
        truth, middle = _truth(model, case)
        prepared = model.prepare(case.image)
        ((_, (adapted,)),) = model.adapt_patients([[prepared]], settings)
        masks = [one[middle].argmax(0).numpy() for one in (adapted.plain, adapted.masks)]
        with torch.no_grad():
            adaptors = (model.networks.adaptor, adapted.adaptor)
            images = [adaptor(prepared.slices)[middle, 0].numpy() for adaptor in adaptors]
        before, after = (_dice(mask, truth) for mask in masks)
        tried.append((after - before, (before, after), images, masks, truth, adapted.losses))
    tried.sort(key=lambda one: one[0])
    figure = Figure(figsize=(9, 4), layout="constrained")
    rows = figure.subplots(2, 5, gridspec_kw={"width_ratios": [1, 1, 1, 1, 1.35]})
    for axes, (_, dice, images, masks, truth, losses) in zip(
        rows, (tried[-1], tried[0]), strict=True
    ):
        low, high = np.percentile(images[0], [1, 99])
        gray = {"cmap": "gray", "vmin": low, "vmax": high}
        change = images[1] - images[0]
        changed = {"cmap": "PuOr", "vmin": -np.abs(change).max(), "vmax": np.abs(change).max()}
        for axis, picture, how, name, mask in (
            (axes[0], images[0], gray, f"before: Dice {dice[0]:.0f}", masks[0]),
            (axes[1], images[1], gray, f"50 steps: Dice {dice[1]:.0f}", masks[1]),
            (axes[2], change, changed, "change of the image", None),
            (axes[3], images[0], gray, "truth", truth),
        ):
            axis.imshow(picture, interpolation="bilinear", **how)
            _bare(axis, name)
            for label, colour in enumerate((RV, MYO, LV), 1) if mask is not None else ():
                if (mask == label).any():
                    axis.contour(mask == label, levels=[0.5], colors=[colour], linewidths=1.1)
        axes[4].plot(losses, color=INK)
        axes[4].set_title("loss", fontsize=9)
        axes[4].tick_params(labelsize=8)
        axes[4].spines[["top", "right"]].set_visible(False)
        axes[4].set_box_aspect(0.7)
    axes[4].set_xlabel("step", fontsize=8)
    _save(figure, "adaptor")


def _labels(model: Model, case: Case, slice_: int, settings) -> np.ndarray:
    ((_, (adapted,)),) = model.adapt_patients([[model.prepare(case.image)]], settings)
    return adapted.plain[slice_].argmax(0).numpy().astype(np.uint8)


def _truth(model: Model, case: Case) -> tuple[np.ndarray, int]:
    """A case's middle slice of the heart, on the networks' grid, and its number."""
    prepared = model.prepare(case.image)
    volume = read_mask(case.mask, labels=range(4), like=prepared.volume)
    labels = mask_slices(volume, prepared.grid, 4).numpy()
    filled = np.flatnonzero(labels.any(axis=(1, 2)))
    middle = int(filled[len(filled) // 2])
    return labels[middle], middle


def _dice(labels: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the structures of one slice that has them all, in points."""
    pairs = [(labels == label, truth == label) for label in (1, 2, 3)]
    return 100 * float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]))


def _bare(axis: Axes, name: str) -> None:
    axis.set_title(name, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def _save(figure: Figure, name: str) -> None:
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / f"{name}.png", dpi=160)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/pictures"))
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    draw_masks(*(drawn := demo_run(runs)))
    draw_adaptor(drawn[0], drawn[2])
    draw_curves(runs)
