"""TorchScript and torch.export files: the same masks as the network's own, and what is refused."""

import dataclasses
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
import yaml

from maskmend.data.preprocess import grid_of, image_slices, labels_on_grid
from maskmend.data.volume import read_image
from maskmend.errors import RunError
from maskmend.foreign.guest import bring
from maskmend.foreign.prior_folder import load_prior
from maskmend.models import exported, torchscript
from maskmend.models.described import Turned
from tests.models.given import complaint, masks, network, predict, save, write_prior

KINDS = pytest.mark.parametrize("kind", ["ts", "pt2"])


def own_masks(net, image, prior):
    """What the network says of the image as the prior's masks are prepared."""
    preprocess = load_prior(prior).config.preprocess
    volume = read_image(image)
    grid = grid_of(volume, preprocess)
    with torch.no_grad():
        probabilities = net(image_slices(volume, grid, preprocess)).softmax(1)
    return labels_on_grid(probabilities, grid)


@KINDS
def test_without_adaptation_masks_are_the_networks_own(kind, images, prior, tmp_path):
    net = network()
    model = save(net, tmp_path / f"model.{kind}")
    predict(model, images, tmp_path / "out", "--prior", prior, "--steps", 0)
    made = masks(tmp_path / "out")
    for image in images:
        expected = own_masks(net, image, prior)
        assert len(np.unique(expected)) == 4
        # Graphs may round differently.
        assert (made[image.name.removesuffix(".nii.gz")] != expected).mean() < 1e-4


@KINDS
def test_adaptation_changes_masks_and_no_weight(kind, images, prior, tmp_path):
    model = save(network(), tmp_path / f"model.{kind}")
    content = model.read_bytes()
    guest = bring(model, prior, "cpu")
    before = [p.clone() for p in guest.model.network.parameters()]
    adapted = guest.predict(images[0], steps=3, learning_rate=0.05)
    assert before
    assert all(map(torch.equal, before, guest.model.network.parameters()))
    assert (adapted.labels != adapted.plain).any()
    assert adapted.realism_after != adapted.realism_before
    assert model.read_bytes() == content


def test_an_export_for_one_slice_is_run_slice_by_slice(images, prior, tmp_path):
    net = network()
    one = save(net, tmp_path / "one.pt2", slices=(1, 1, 32, 32), any_number=False)
    any_number = save(net, tmp_path / "any.pt2")
    slices = torch.randn(3, 1, 32, 32)
    torch.testing.assert_close(
        bring(one, prior, "cpu").model.network(slices),
        bring(any_number, prior, "cpu").model.network(slices),
    )
    two = save(net, tmp_path / "two.pt2", slices=(2, 1, 32, 32), any_number=False)
    with pytest.raises(RunError, match="was exported for 2 slices at a time"):
        bring(two, prior, "cpu")


def test_a_yaml_file_says_how_images_are_prepared(images, tmp_path):
    model = save(network(3), tmp_path / "model.ts")
    said = {
        "structures": {1: "MYO", 2: "LV"},
        "preprocess": {"size": 32, "spacing_mm": 10},
        "intensities": [{"NormalizeIntensity": {}}],
        "axes": "RA",
    }
    model.with_suffix(".yaml").write_text(yaml.safe_dump(said))
    guest = bring(model, None, "cpu")
    assert dict(guest.structures) == {1: "MYO", 2: "LV"}
    slices = guest.prepare(images[0]).slices
    whole = read_image(images[0]).voxels
    expected = image_slices(
        read_image(images[0]), grid_of(read_image(images[0]), guest.model.images.preprocess),
        guest.model.images.preprocess,
    )  # fmt: skip
    low, median, high = np.percentile(whole, [25, 50, 75])
    again = (expected * (high - low) + median - whole.mean()) / whole.std()
    torch.testing.assert_close(slices, again, atol=1e-3, rtol=1e-3)
    net = torchscript.read_network(model)
    turned = net(slices.flip(2, 3)).flip(2, 3)
    torch.testing.assert_close(guest.model.network(slices), turned)


def test_a_network_for_slices_that_lie_in_another_way_sees_them_so():
    slices, seen = torch.arange(6.0).view(1, 1, 2, 3), []

    class Watching(torch.nn.Module):
        def forward(self, images):
            seen.append(images)
            return images

    assert torch.equal(Turned(Watching(), "AL")(slices), slices)
    # Height and width ran to the left and back: now the first axis runs to the front.
    assert torch.equal(seen[0][0, 0], torch.tensor([[2.0, 5], [1, 4], [0, 3]]))


def test_several_channels_and_a_sigmoid_of_one_structure(images, tmp_path):
    net = network(1, channels=2)
    model = save(net, tmp_path / "model.ts", slices=(2, 2, 32, 32))
    said = {"channels": 2, "activation": "sigmoid", "structures": {1: "LV"}}
    said["preprocess"] = {"size": 32, "spacing_mm": 10}
    model.with_suffix(".yaml").write_text(yaml.safe_dump(said))
    for channel, image in enumerate(images):
        (tmp_path / f"heart_000{channel}.nii.gz").write_bytes(image.read_bytes())
    guest = bring(model, None, "cpu")
    shown = guest.prepare(tmp_path / "heart_0000.nii.gz")
    prediction = guest.predict(tmp_path / "heart_0000.nii.gz", steps=0)
    with torch.no_grad():
        probability = net(shown.slices).sigmoid()
    expected = shown.labels(torch.cat([1 - probability, probability], 1))
    assert expected.any()
    assert (prediction.labels != expected).mean() < 1e-4


def test_a_call_is_continued_unless_the_prior_is_another_one(images, prior, tmp_path, capsys):
    model, out = save(network(), tmp_path / "model.ts"), tmp_path / "out"
    predict(model, images, out, "--prior", prior, "--steps", 1)
    capsys.readouterr()
    predict(model, images, out, "--prior", prior, "--steps", 1)
    assert "2 of 2 images are done already" in capsys.readouterr().err
    other = write_prior(tmp_path / "other", preprocess={"size": 48, "spacing_mm": 7})
    model.with_suffix(".yaml").write_text("preprocess: {size: 32, spacing_mm: 10}")
    predict(model, images, out, "--prior", other, "--steps", 1)
    assert "done already" not in capsys.readouterr().err


@pytest.mark.parametrize("said", ["axes: RA", "activation: sigmoid", "preprocess: {size: 64}"])
def test_a_description_that_was_mended_makes_other_masks(said, prior, tmp_path):
    model = save(network(), tmp_path / "model.ts")
    before = bring(model, prior, "cpu").model.digest
    assert bring(model, prior, "cpu").model.digest == before
    model.with_suffix(".yaml").write_text(said)
    assert bring(model, prior, "cpu").model.digest != before


def test_automatic_steps_leave_realistic_masks_alone(images, tmp_path):
    model = save(network(), tmp_path / "model.ts")
    for enough, alone in ((-100.0, True), (100.0, False)):
        prior = write_prior(tmp_path / f"prior{enough}", enough=enough)
        adapted = bring(model, prior, "cpu").predict(images[0], steps="auto", learning_rate=0.01)
        assert (adapted.steps == 0) == alone


def test_a_stream_goes_on_from_the_image_before(images, prior, tmp_path):
    guest = bring(save(network(), tmp_path / "model.ts"), prior, "cpu")
    patients = [[guest.prepare(image)] for image in images]
    alone, stream = (
        [made for _, made in guest.adapt_patients(patients, guest.settings(**given))]
        for given in (
            {"steps": 3, "learning_rate": 0.05},
            {"steps": 3, "learning_rate": 0.05, "continual": True},
        )
    )
    assert torch.equal(stream[0][0].masks, alone[0][0].masks)
    assert stream[1][0].losses[0] < alone[1][0].losses[0]
    assert torch.equal(stream[1][0].plain, alone[1][0].plain)


def test_in_a_stream_exact_masks_are_those_of_what_was_carried(images, prior, tmp_path):
    """Also where the second image needs no step of its own, since the first one's were enough."""
    guest = bring(save(network(), tmp_path / "model.ts"), prior, "cpu")
    guest.model = dataclasses.replace(guest.model, exact=guest.model.network)
    settings = guest.settings(steps=3, learning_rate=0.5, continual=True, keep="best")
    twice = [[guest.prepare(images[0])] for _ in range(2)]
    for _, (made,) in guest.adapt_patients(twice, settings):
        shown = made.plain_shown if made.shown is None else made.shown
        assert torch.equal(made.masks, guest.model.exact(shown))
    assert made.steps == 0
    assert not torch.equal(made.masks, made.plain)


# --------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "guarded"), "is not calibrated; maskmend fit-prior and calibrate (--model)"),
        (("--prior", "denoiser"), "comes without a denoiser; give --prior the folder"),
        (("--prior", "nowhere"), "--prior nowhere: is none of discriminator, entropy, denoiser"),
    ],
)
def test_what_a_model_that_was_brought_cannot_have(options, said, images, tmp_path, capsys):
    model = save(network(), tmp_path / "model.ts")
    model.with_suffix(".yaml").write_text(
        "structures: {1: RV, 2: MYO, 3: LV}\npreprocess: {size: 32, spacing_mm: 10}"
    )
    status, line = complaint(capsys, model, images, tmp_path / "out", *options)
    assert status == 2
    assert said in line


class Hard(torch.nn.Module):
    """Labels, which cannot be differentiated."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        labels = self.net(images).argmax(1)
        return torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()


class Strided(torch.nn.Module):
    """Logits of half the size."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net(images)[:, :, ::2, ::2]


@KINDS
@pytest.mark.parametrize(
    ("net", "slices", "said"),
    [
        (network(3), (2, 1, 32, 32), "prior: cannot judge masks"),
        (network(channels=2), (2, 2, 32, 32), "segmentor: cannot take images of shape (1, 1, 32"),
        (Hard(network()), (2, 1, 32, 32), "cannot be differentiated by the image"),
        (Strided(network()), (2, 1, 32, 32), "as large as the images"),
    ],
)
def test_a_network_that_does_not_fit_is_one_line(
    kind, net, slices, said, images, prior, tmp_path, capsys
):
    model = save(net, tmp_path / f"model.{kind}", slices=slices)
    status, line = complaint(capsys, model, images, tmp_path / "out", "--prior", prior)
    assert status == 2
    assert line.startswith(f"maskmend: {model}: ")
    assert said in line


def test_an_export_of_another_size_is_one_line(images, prior, tmp_path, capsys):
    model = save(network(), tmp_path / "model.pt2", slices=(2, 1, 16, 16))
    status, line = complaint(capsys, model, images, tmp_path / "out", "--prior", prior)
    assert status == 2
    assert f"{model}: segmentor: cannot take images of shape (1, 1, 32, 32)" in line


@KINDS
def test_a_damaged_file_is_named(kind, images, prior, tmp_path, capsys):
    model = save(network(), tmp_path / f"model.{kind}")
    model.write_bytes(model.read_bytes()[:500])
    status, line = complaint(capsys, model, images, tmp_path / "out", "--prior", prior)
    assert status == 1
    assert line.startswith(f"maskmend: {model}: cannot be read")
    assert "copy it again, or save it again by torch." in line


def test_weights_without_their_network_are_refused(images, prior, tmp_path, capsys):
    model = tmp_path / "model.pt"
    torch.save(network().state_dict(), model)
    status, line = complaint(capsys, model, images, tmp_path / "out", "--prior", prior)
    assert status == 1
    assert "holds weights without their network; save it whole" in line


def test_a_model_of_which_nothing_is_said_is_refused(images, tmp_path, capsys):
    model = save(network(), tmp_path / "model.ts")
    status, line = complaint(capsys, model, images, tmp_path / "out", "--steps", 0)
    assert status == 2
    assert f"{model}: nothing says its preprocess; write {tmp_path / 'model.yaml'}" in line


@pytest.mark.parametrize(
    ("said", "complains"),
    [
        ("chanels: 1", "unknown key chanels; did you mean channels?"),
        ("intensities: [{RandGibbsNoise: {}}]", "RandGibbsNoise is none of NormalizeIntensity"),
        ("intensities: [{ScaleIntensity: {min: 0}}]", "ScaleIntensity: "),
        ("structures: {2: LV}", "structures must have labels 1, 2, ..."),
    ],
)
def test_a_wrong_description_is_named(said, complains, images, prior, tmp_path, capsys):
    model = save(network(), tmp_path / "model.ts")
    model.with_suffix(".yaml").write_text(said)
    status, line = complaint(capsys, model, images, tmp_path / "out", "--prior", prior)
    assert status == 2
    assert complains in line


def test_something_else_is_refused(images, prior, tmp_path, capsys):
    (tmp_path / "model.onnx").write_bytes(b"")
    model = tmp_path / "model.onnx"
    status, line = complaint(capsys, model, images, tmp_path / "out", "--prior", prior)
    assert status == 1
    assert "no model of a known format; expected a run folder of maskmend train, an nnU-Net" in line


class Payload:
    """What a pickle may do to whoever reads it."""

    def __reduce__(self):
        return exec, ("raise SystemExit('the code of the file ran')",)


def _replace(path, ending, change):
    """Change one part of an archive, or add it."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(parts)).partition("/")[0]
    name = next((name for name in parts if name.endswith(ending)), f"{root}/{ending}")
    parts[name] = change(parts.get(name, b""))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def _use_pickle(content):
    tree = json.loads(content)
    next(iter(tree["config"].values()))["use_pickle"] = True
    return json.dumps(tree).encode()


def _constant(content):
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False}
    return json.dumps({"config": {"x": {**entry, "tensor_meta": None}}}).encode()


def _expression(content):
    assert b"Symbol('s" in content
    return content.replace(b"Symbol('s", b"exec('s", 1)


@pytest.mark.parametrize(
    ("part", "change", "named"),
    [
        (
            "data/sample_inputs/model.pt",
            lambda _: pickle.dumps(Payload()),
            "sample_inputs/model.pt",
        ),
        ("data/weights/model_weights_config.json", _use_pickle, "weight_0"),
        ("data/constants/model_constants_config.json", _constant, "opaque_obj_0"),
        ("data/aotinductor/model/a.so", lambda _: b"\x7fELF", "aotinductor/model/a.so"),
        ("models/model.json", _expression, "exec('s"),
    ],
)
def test_an_export_with_a_part_that_runs_code_is_refused(part, change, named, tmp_path):
    model = save(network(), tmp_path / "model.pt2")
    _replace(model, part, change)
    with pytest.raises(RunError) as caught:
        exported.read(model)
    assert str(caught.value).startswith(f"{model}: reading its part ")
    assert named in str(caught.value)
    assert str(caught.value).endswith("could run code; export a network of plain tensors")
