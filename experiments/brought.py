"""Models that were not trained here, mended by a guard that is fitted to them afterwards.

    python -m experiments.brought train --data ACDC --out runs/brought0
    maskmend fit-prior --data runs/brought0/data --out runs/brought0/prior \
        --model runs/brought0/model.ts --held-out $(python -m experiments.brought held-out)
    maskmend calibrate runs/brought0/prior --data runs/brought0/data --model runs/brought0/model.ts
    python -m experiments.brought measure --data ACDC --run runs/brought0 --csv runs/brought.csv

A MONAI network, trained as its users would: all training patients of the published fold annotated,
its own standardisation of intensities, moved and turned images, none degraded. (Another is that of
`experiments.nnunet`.) `measure` fills a table like that of `experiments.shift.run`, of which
`experiments.shift.table` makes a page.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import yaml
from cyclopts import App, Parameter
from monai.losses.dice import DiceCELoss
from monai.networks.nets.basic_unet import BasicUNet
from rich.console import Console

from experiments.lines import append, keys_of
from experiments.shift.methods import alone, cleaned, mean_of
from experiments.shift.run import NONE, Row, row_of, some_of
from experiments.shift.sequences import SEQUENCES
from experiments.shift.shifts import FAMILIES, shifted
from maskmend.augment import draw_augmentation
from maskmend.config import AugmentationConfig, PreprocessConfig
from maskmend.data.layouts import find_cohort
from maskmend.data.split import Split, published_split
from maskmend.data.volume import read_image, read_mask
from maskmend.foreign.guest import Guest, bring
from maskmend.foreign.standard import Standard
from maskmend.instance import Adapted
from maskmend.models.sliced import SlicedImages
from maskmend.prediction import Shown
from maskmend.progress import progress_bar

PREPROCESS = PreprocessConfig(spacing_mm=3.02, size=112)
INTENSITIES = [{"NormalizeIntensity": {"nonzero": True}}]
STRUCTURES = {1: "RV", 2: "MYO", 3: "LV"}
SPLIT = "semi_supervised_fold0"
MODELS = {"brought": "model.ts", "nnunet": "model"}
"""File or folder of each segmentor, in the folder of its run."""
DATA, PRIOR = "data", "prior"
_SETTINGS: dict[str, dict[str, Any]] = {
    "none": {"steps": 0},
    "paper": {"method": "paper", "steps": 50},
    "ours": {"method": "guarded"},
}
_MOVED = AugmentationConfig(rotation_deg=(-30, 30), translation=0.1, scale=0.15)
_BATCH = 8

Data = Annotated[Path, Parameter(name="--data")]
Out = Annotated[Path, Parameter(name="--out")]
Names = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]
app = App(help=__doc__, help_format="plaintext")


@app.command
def train(*, data: Data, out: Out, seed: int = 0, iterations: int = 1500) -> None:
    """Train the network, save it as TorchScript, and link the data that a guard may be fitted to.

    Args:
        data: ACDC's training set.
        out: Folder of the model, and of links to its training and validation patients.
        seed: Of weights and batches.
        iterations: Updates (Adam).
    """
    link_data(data, out / DATA)
    images, labels = _slices(out / DATA, training_patients(split_of()))
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    features = (16, 16, 32, 64, 128, 16)
    network = BasicUNet(spatial_dims=2, out_channels=len(STRUCTURES) + 1, features=features)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    loss_of = DiceCELoss(softmax=True, to_onehot_y=True, batch=True)
    with progress_bar(Console(), "training", iterations) as advance:
        for _ in range(iterations):
            chosen = torch.from_numpy(rng.integers(len(images), size=_BATCH))
            generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
            moved = draw_augmentation(images[chosen].shape, _MOVED, generator)
            truth = moved.move(labels[chosen][:, None].float(), padding="zeros", mode="nearest")
            loss = loss_of(network(moved.apply(images[chosen], padding="border")), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(f"loss {loss.item():.3f}")
    model = out / MODELS["brought"]
    torch.jit.save(torch.jit.trace(network.eval(), images[:2]), model)
    about = {
        "structures": STRUCTURES,
        "preprocess": {"spacing_mm": PREPROCESS.spacing_mm, "size": PREPROCESS.size},
        "intensities": INTENSITIES,
    }
    model.with_suffix(".yaml").write_text(yaml.safe_dump(about), encoding="utf-8")


@app.command
def held_out() -> None:
    """Print the validation patients, which the network is not trained on."""
    print(*split_of().validation)


def split_of() -> Split:
    """The published split that all of this is done on."""
    return published_split(SPLIT)


def training_patients(split: Split) -> tuple[str, ...]:
    """All training patients, with their masks."""
    return (*split.train_annotated, *split.train_unpaired_images)


def link_data(data: Path, out: Path) -> None:
    """Link the training and the validation patients, and no others, into a folder of their own."""
    split = split_of()
    out.mkdir(parents=True, exist_ok=True)
    for patient in (*training_patients(split), *split.validation):
        link = out / patient
        if not link.is_symlink():
            link.symlink_to((data / patient).resolve())


def _slices(data: Path, patients: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    prepare = SlicedImages(
        preprocess=PREPROCESS, intensities=[pair for one in INTENSITIES for pair in one.items()]
    )
    images, labels = [], []
    for case in find_cohort(data).cases:
        if case.patient in patients:
            assert case.image is not None
            assert case.mask is not None
            volume = read_image(case.image)
            truth = read_mask(case.mask, like=volume)
            prepared = prepare.prepare([volume])
            images.append(prepared.slices)
            labels.append(prepared.truth(truth, len(STRUCTURES) + 1))
    return torch.cat(images), torch.cat(labels)


@app.command
def measure(
    *,
    data: Data,
    run: Path,
    csv: Annotated[Path, Parameter(name="--csv")],
    segmentor: Literal["brought", "nnunet"] = "brought",
    seed: int = 0,
    patients: int = 4,
    methods: Names = ("none", "components", "student", "committee", "advised", "ours"),
    families: Names = (NONE, *FAMILIES, *SEQUENCES),
    severity: int = 2,
) -> None:
    """Run test patients under shifts; lines that are there are not made again.

    Args:
        data: ACDC's training set.
        run: Folder of the model, and of its calibrated prior.
        csv: The table.
        segmentor: Whose model it is.
        seed: Which patients, and of the shifts.
        patients: So many, spread over the split.
        methods: Those to run.
        families: Of shifts; none are images as they are.
        severity: Of each family.
    """
    guest = bring(run / MODELS[segmentor], run / PRIOR)
    cases = some_of(find_cohort(data).cases, split_of().test, patients, seed)
    done = keys_of(csv, Row, 7)
    shifts = [(family, 0 if family == NONE else severity) for family in families]
    made_by = {name: method_of(name, guest) for name in methods}
    with progress_bar(Console(), "measuring", len(shifts) * len(cases)) as advance:
        for (family, strength), case in itertools.product(shifts, cases):
            rest = (family, strength, seed, case.patient, case.phase or "")
            lines = {name: (segmentor, name, *rest) for name in methods}
            left = [name for name in methods if tuple(map(str, lines[name])) not in done]
            if left:
                assert case.image is not None
                assert case.mask is not None
                volume = read_image(case.image)
                truth = read_mask(case.mask, like=volume)
                if family != NONE:
                    volume = shifted(volume, family, strength, seed, truth)
                shown = guest.model.images.prepare([volume])
            for name in left:
                made = made_by[name](shown)
                append(csv, row_of(lines[name], made, shown, truth, STRUCTURES))
            advance()


def method_of(name: str, guest: Guest) -> Callable[[Shown], Adapted]:
    """A method of `experiments.shift.methods`, for a model that was brought."""
    if name in _SETTINGS:
        settings = guest.settings(**_SETTINGS[name])

        def adapted(shown: Shown) -> Adapted:
            ((_, (made,)),) = guest.adapt_patients([[shown]], settings)
            return made

        return adapted
    assert guest.ward is not None
    assert guest.calibration is not None
    ward, calibration = guest.ward, guest.calibration
    mender_of = ward.menders(calibration.quantiles)

    def made(shown: Shown) -> Adapted:
        seen = Standard.of(shown)
        mender = mender_of(calibration.realistic, seen)
        images, start = seen.slices.to(ward.device), time.perf_counter()
        segment = cleaned(mender) if name == "components" else mean_of(mender, name)
        masks = segment(images)
        return alone(masks, mender.score(masks, images), time.perf_counter() - start)

    return made


if __name__ == "__main__":
    app()
