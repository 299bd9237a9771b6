"""What the tables and figures are made from: runs and scores, each made once and kept.

OUT/runs/DATASET/foldK/PRESET-VARIANT/     run folders, shared by all targets
masks/DATASET/foldK/PRESET-VARIANT/        masks and scores: plain/, adapted/, denoiser/
results/                                   what is shown, and the numbers behind it
results/kept/DATASET/foldK/PRESET-VARIANT/ what outlives a run: about.json, history.csv, scores

The last is small and enough for all but pictures of cases and the curve of cost: a study whose
folds were run at different times or places is put together from it.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from rich.console import Console

from maskmend.atomic import write_atomically
from maskmend.before_after import ADAPTED, PLAIN
from maskmend.calibrate.run import calibrate_run
from maskmend.checkpoint import CALIBRATION, HISTORY, RUN, read_split
from maskmend.config import AdaptationConfig, Config
from maskmend.config_file import config_from
from maskmend.data.split import published_split
from maskmend.denoiser import DENOISER
from maskmend.devices import device_of
from maskmend.evaluate.scores import MEAN, Evaluation, evaluate
from maskmend.files import predict_files
from maskmend.predict import Model, load
from maskmend.progress import progress_bar
from maskmend.reproduce.datasets import Dataset
from maskmend.rivals.denoiser_training import train_denoiser
from maskmend.table import PREDICTIONS
from maskmend.train import train

PUBLISHED = "semi_supervised_fold0"
_ABOUT = "about.json"
DENOISED = "denoiser"
"""Masks by a denoising autoencoder, beside PLAIN ones and those ADAPTED by the preset's method."""


@dataclass(frozen=True)
class Key:
    """One run."""

    dataset: str
    fold: int
    preset: str
    variant: str = "full"

    @property
    def place(self) -> Path:
        """Under OUT/runs and OUT/masks."""
        return Path(self.dataset) / f"fold{self.fold}" / f"{self.preset}-{self.variant}"


@dataclass(frozen=True)
class Need:
    """What a target asks of one run."""

    key: Key
    kinds: tuple[str, ...] = ()
    """Masks whose scores it shows."""
    run: bool = False
    """The networks themselves, or their masks, and not only what outlives them."""


def read_settings() -> dict[str, Any]:
    """Scales, presets and variants of settings.yaml."""
    text = resources.files("maskmend").joinpath("reproduce/settings.yaml").read_text()
    return dict(yaml.safe_load(text))


class Study:
    """The runs of all targets at one scale.

    Args:
        datasets: The data; the paper's first one first.
        out: Folder of everything that is made.
        scale: "small", "paper", or "toy" for tests.
        presets: "paper", "ours", or both.
        seed: Of every training, and of the folds that were not published.
        folds: Which; by default the scale's.
        training: Train runs that are not there; without it make do with those that are.
        patients: Of the cost's curve: so many validation patients; by default all.
        console: Where progress is shown.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        out: Path,
        *,
        scale: str,
        presets: Sequence[str],
        seed: int,
        folds: Sequence[int] | None,
        training: bool,
        patients: int | None,
        console: Console,
    ):
        self.settings = read_settings()
        self.own = self.settings["scales"][scale]
        self.datasets = {dataset.name: dataset for dataset in datasets}
        self.out, self.scale, self.seed, self.console = out, scale, seed, console
        self.presets = list(presets)
        self.training, self.patients = training, patients
        self.folds = list(self.own["folds"] if folds is None else folds)
        self._models: dict[Key, Model] = {}

    @property
    def results(self) -> Path:
        """Where tables and pictures go."""
        return self.out / "results"

    @property
    def first(self) -> Dataset:
        """The data set of table 1."""
        return next(iter(self.datasets.values()))

    def runs(self) -> list[Key]:
        """The full method's runs, on every fold, data set and preset."""
        return [
            Key(name, fold, preset)
            for fold in self.folds
            for name in self.datasets
            for preset in self.presets
        ]

    def there(self, needs: Iterable[Need]) -> list[Key]:
        """Runs that can give what is asked of them: trained, about to be, or kept well enough."""
        able = [n.key for n in needs if self.training or self._trained(n.key) or self._keeps(n)]
        return list(dict.fromkeys(able))

    def config(self, key: Key) -> Config:
        """What a run is trained with."""
        dataset, settings = self.datasets[key.dataset], self.settings
        tree: dict[str, Any] = {"seed": self.seed}
        data: dict[str, Any] = {"layout": dataset.layout, "structures": dataset.structures}
        if key.fold == 0 and self._has_published_split(dataset):
            data["split"] = PUBLISHED
        else:
            data["fold"] = key.fold
        for layer in (
            self.own["config"],
            settings["presets"][key.preset],
            settings["variants"][key.variant],
            {"data": data},
        ):
            for section, fields in layer.items():
                tree[section] = {**tree.get(section, {}), **fields}
        if dataset.spacing_mm and self.scale == "paper":
            tree["preprocess"]["spacing_mm"] = dataset.spacing_mm
        return config_from(tree, source="reproduce/settings.yaml")

    def prepare(self, needs: Iterable[Need]) -> None:
        """Train what is not there yet; the console tells how far it is."""
        asked = [n.key for n in needs if self.training and not self._keeps(n)]
        left = [key for key in dict.fromkeys(asked) if not self._trained(key)]
        since = time.monotonic()
        for number, key in enumerate(left):
            eta = ""
            if number:
                minutes = (time.monotonic() - since) / number * (len(left) - number) / 60
                eta = f", about {minutes:.0f} minutes left"
            self.console.print(f"run {number + 1} of {len(left)}: {key.place}{eta}", soft_wrap=True)
            root = self.datasets[key.dataset].root
            train(self.config(key), root, self.run(key), console=self.console)

    def run(self, key: Key) -> Path:
        """Its run folder."""
        return self.out / "runs" / key.place

    def model(self, key: Key) -> Model:
        """A trained run."""
        if key not in self._models:
            self.prepare([Need(key, run=True)])
            self._models[key] = load(self.run(key))
        return self._models[key]

    def method(self, key: Key, kind: str) -> AdaptationConfig:
        """The settings that make masks of a kind; what they need of the run is trained."""
        run, root = self.run(key), self.datasets[key.dataset].root
        steps = self.own["steps"]
        if kind == DENOISED and not (run / DENOISER).exists():
            self.model(key)
            train_denoiser(run, root, **self.own["denoiser"], console=self.console)
        if kind == ADAPTED and key.preset == "ours":
            if not (run / CALIBRATION).exists():
                draws = self.model(key).config.adaptation.draws
                calibrate_run(run, root, draws=draws, console=self.console)
                del self._models[key]
            return self.model(key).settings(method="guarded")
        chosen = {PLAIN: {"steps": 0}, ADAPTED: {"steps": steps},
                  DENOISED: {"steps": steps, "prior": "denoiser"}}[kind]  # fmt: skip
        return self.model(key).settings(method="paper", **chosen)

    def masks(self, key: Key, kind: str) -> Path:
        """Folder of the test patients' masks; those that are there stay."""
        settings, model = self.method(key, kind), self.model(key)
        out = self.out / "masks" / key.place / kind
        tested = set(read_split(self.run(key)).test)
        cases = self.datasets[key.dataset].cohort.cases
        images = [case.image for case in cases if case.patient in tested and case.image]
        name = f"{key.place}, {kind}"
        with progress_bar(self.console, name, len(images)) as advance:
            predict_files(model, images, out, settings, lambda _: advance())
        return out

    def scores(self, key: Key, kind: str) -> pd.DataFrame:
        """A row a test volume, means over structures: image, patient, dice, iou, hausdorff_mm."""
        kept = self.kept(key) / f"{kind}.csv"
        if not self._trained(key) and self._keeps(Need(key, (kind,))):
            return pd.read_csv(kept)
        masks = self.masks(key, kind)
        whole = masks / "scores" / "patients.csv"
        made = masks / PREDICTIONS
        if not whole.exists() or whole.stat().st_mtime < made.stat().st_mtime:
            dataset = self.datasets[key.dataset]
            evaluate(masks, dataset.root, whole.parent, structures=dataset.structures)
        rows = pd.read_csv(whole, keep_default_na=False)
        rows = rows[rows["structure"] == MEAN].drop(columns=["structure", "phase"])
        self.about(key)
        write_atomically(kept, rows.to_csv(index=False))
        return pd.read_csv(kept)

    def history(self, key: Key) -> pd.DataFrame:
        """A row a look at the validation patients while training."""
        self.about(key)
        return pd.read_csv(self.kept(key) / HISTORY)

    def about(self, key: Key) -> dict[str, Any]:
        """Split, patients by use, and how it was trained: commit, hardware, best validation."""
        kept = self.kept(key) / _ABOUT
        if self._trained(key):
            run = self.run(key)
            about = {
                "split": self.config(key).data.split,
                "patients": {use: len(names) for use, names in read_split(run).to_dict().items()},
                "trained": json.loads((run / RUN).read_text(encoding="utf-8")),
            }
            write_atomically(kept, json.dumps(about, indent=2) + "\n")
            write_atomically(kept.parent / HISTORY, (run / HISTORY).read_text(encoding="utf-8"))
        return dict(json.loads(kept.read_text(encoding="utf-8")))

    def kept(self, key: Key) -> Path:
        """Folder of what outlives a run."""
        return self.results / "kept" / key.place

    def compared(self, preset: str, dataset: str, *kinds: str) -> pd.DataFrame:
        """The full method's scores of every fold: columns METRIC_KIND beside image, patient, fold.

        Empty if no run is there. A patient who is tested in two folds counts as two: the networks
        differ.
        """
        parts = []
        for key in self.there(Need(Key(dataset, fold, preset), kinds) for fold in self.folds):
            joined = None
            for kind in kinds:
                scores = self.scores(key, kind).set_index(["image", "patient"])
                scores = scores.add_suffix(f"_{kind}")
                joined = scores if joined is None else joined.join(scores)
            assert joined is not None
            part = joined.reset_index()
            part.insert(0, "fold", key.fold)
            parts.append(part)
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def before_and_after(self, key: Key) -> Evaluation:
        """Scores without and with the preset's method, paired."""
        plain, adapted = (self.masks(key, kind) for kind in (PLAIN, ADAPTED))
        dataset = self.datasets[key.dataset]
        out = adapted.parent / "paired"
        return evaluate(adapted, dataset.root, out, baseline=plain, structures=dataset.structures)

    @property
    def device(self) -> torch.device:
        """Where runs are used."""
        return device_of(None)

    def _trained(self, key: Key) -> bool:
        return (self.run(key) / RUN).exists()

    def _keeps(self, need: Need) -> bool:
        """Whether what outlived the run is enough."""
        names = [_ABOUT, HISTORY, *(f"{kind}.csv" for kind in need.kinds)]
        return not need.run and all((self.kept(need.key) / name).exists() for name in names)

    def _has_published_split(self, dataset: Dataset) -> bool:
        split = published_split(PUBLISHED).to_dict()
        return {p for use in split.values() for p in use} <= set(dataset.cohort.patients)
