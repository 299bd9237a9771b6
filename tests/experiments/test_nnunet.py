"""What nnU-Net is trained on, and what a guard is then fitted to, in the experiment."""

import json

from experiments.brought import link_data, split_of, training_patients
from experiments.nnunet import write_dataset


def test_nnunet_sees_the_training_patients_alone(acdc_root, tmp_path):
    link_data(acdc_root / "training", tmp_path / "data")
    write_dataset(tmp_path / "data", tmp_path / "raw")
    split = split_of()
    images = sorted(path.name for path in (tmp_path / "raw" / "imagesTr").iterdir())
    assert {name.partition("_")[0] for name in images} == {*training_patients(split)}
    labels = sorted(path.name for path in (tmp_path / "raw" / "labelsTr").iterdir())
    assert [name.replace("_0000", "") for name in images] == labels
    assert json.loads((tmp_path / "raw" / "dataset.json").read_text())["numTraining"] == len(images)


def test_no_test_patient_is_beside_the_model(acdc_root, tmp_path):
    link_data(acdc_root / "training", tmp_path / "data")
    split = split_of()
    linked = {path.name for path in (tmp_path / "data").iterdir()}
    assert linked == {*training_patients(split), *split.validation}
    assert not linked & {*split.test}
