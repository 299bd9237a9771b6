"""nnU-Net, trained by itself on ACDC, as a model that a guard is fitted to afterwards.

    python -m experiments.nnunet --data ACDC --out runs/nnunet0

Run in an environment with nnunetv2 2.8.1 beside Maskmend. It plans, preprocesses and trains as
`nnUNetv2_plan_and_preprocess` and `nnUNetv2_train` do, in 2D, with all training patients of the
published fold, its own augmentation and its own loss; only smaller, so that a CPU is enough:
pixels of 3 mm, patches of 112 x 112, fewer and narrower stages, few epochs.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import App, Parameter

from experiments.brought import DATA, STRUCTURES, link_data, split_of, training_patients
from maskmend.data.layouts import find_cohort

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
NUMBER, DATASET = 1, "Dataset001_ACDC"
TRAINER = "nnUNetTrainer"
_PLAN = {"patch_size": [112, 112], "spacing": [3.0, 3.0], "batch_size": 8}
_NETWORK = {
    "n_stages": 5,
    "features_per_stage": [16, 32, 64, 96, 96],
    "kernel_sizes": [[3, 3]] * 5,
    "strides": [[1, 1]] + [[2, 2]] * 4,
    "n_conv_per_stage": [2] * 5,
    "n_conv_per_stage_decoder": [2] * 4,
}

app = App(help=__doc__, help_format="plaintext")


@app.default
def train(
    *,
    data: Annotated[Path, Parameter(name="--data")],
    out: Annotated[Path, Parameter(name="--out")],
    seed: int = 0,
    epochs: int = 10,
) -> None:
    """Train, keep the folder that nnU-Net writes, and link the data that a guard is fitted to.

    Args:
        data: ACDC's training set.
        out: Folder of the model, and of links to its training and validation patients.
        seed: Of weights and batches.
        epochs: Of 250 updates, as nnU-Net's are.
    """
    for name in FOLDERS:  # nnU-Net reads them when it is imported
        os.environ[name] = str((out / "nnunet" / name).absolute())
    raw, preprocessed, results = (Path(os.environ[name]) / DATASET for name in FOLDERS)
    link_data(data, out / DATA)
    if not (preprocessed / "nnUNetPlans_2d").is_dir():
        shutil.rmtree(raw, ignore_errors=True)
        write_dataset(out / DATA, raw)
        _prepare(preprocessed)
    _fit(seed, epochs)
    model = results / f"{TRAINER}__nnUNetPlans__2d"
    for name in ("plans.json", "dataset.json", "fold_all/checkpoint_final.pth"):
        (out / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(model / name, out / "model" / name)


def write_dataset(data: Path, raw: Path) -> None:
    """The training patients in nnU-Net's layout."""
    training, count = training_patients(split_of()), 0
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    for case in find_cohort(data).cases:
        if case.patient in training:
            assert case.image is not None
            assert case.mask is not None
            name, count = case.image.name.removesuffix(".nii.gz"), count + 1
            (raw / "imagesTr" / f"{name}_0000.nii.gz").symlink_to(case.image.resolve())
            (raw / "labelsTr" / f"{name}.nii.gz").symlink_to(case.mask.resolve())
    about = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **{name: label for label, name in STRUCTURES.items()}},
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(about))


def _prepare(preprocessed: Path) -> None:
    """Plan, make the plan smaller, and preprocess."""
    os.environ["nnUNet_n_proc_DA"] = "1"  # noqa: SIM112
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    api.extract_fingerprints([NUMBER], num_processes=1, check_dataset_integrity=True)
    plans = api.plan_experiments([NUMBER])
    path = preprocessed / f"{plans}.json"
    known: dict[str, Any] = json.loads(path.read_text())
    plan = known["configurations"]["2d"]
    plan |= _PLAN
    plan["architecture"]["arch_kwargs"] |= _NETWORK
    path.write_text(json.dumps(known, indent=2))
    api.preprocess([NUMBER], plans, ("2d",), (1,))


def _fit(seed: int, epochs: int) -> None:
    """All training patients, no fold held out; goes on where it was stopped."""
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112  # batches are made in this process
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # nnU-Net draws from it
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = get_trainer_from_args(DATASET, "2d", "all", TRAINER, "nnUNetPlans", device=device)
    run.num_epochs, run.num_val_iterations_per_epoch = epochs, 10
    run.save_every = 1
    maybe_load_checkpoint(run, continue_training=True, validation_only=False)
    run.run_training()


if __name__ == "__main__":
    app()
