"""`adapt` takes any network, gives it back as it was, and says in one line what does not fit.

The toy prior wants the foreground to cover a share of the slice.
"""

import pytest
import torch
from torch import nn

import maskmend as mm
from maskmend.discriminator import MaskDiscriminator
from maskmend.outputs import Probabilities, logits_of
from maskmend.windows import Windows
from tests.test_adapt import Area

FEW = mm.AdaptationConfig(steps=4, learning_rate=1e-2, precision="32-true")


def network(channels=1, classes=3, norm=nn.BatchNorm2d, dimensions=2):
    torch.manual_seed(0)
    kind = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    return nn.Sequential(
        kind(channels, 8, 3, padding=1), norm(8), nn.GELU(), kind(8, classes, 3, padding=1)
    )


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def state(model):
    """All that a caller could find changed."""
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [module.training for module in model.modules()],
        [(p.requires_grad, p.grad) for p in model.parameters()],
    )


def assert_untouched(model, before):
    tensors, modes, gradients = state(model)
    assert all(torch.equal(tensors[name], before[0][name]) for name in before[0])
    assert (modes, gradients) == before[1:]


NORMS = {
    "batch": nn.BatchNorm2d,
    "instance": lambda n: nn.InstanceNorm2d(n, affine=True, track_running_stats=True),
    "layer": lambda n: nn.LayerNorm([n, 16, 16]),
    "group": lambda n: nn.GroupNorm(2, n),
    "none": lambda n: nn.Identity(),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_any_normalisation_is_adapted_and_comes_back_untouched(norm, training, batch_norm):
    model = network(norm=NORMS[norm]).train(training)
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = state(model)
    config = mm.AdaptationConfig(steps=4, learning_rate=1e-2, batch_norm=batch_norm)
    made = mm.adapt(model, Area(0.1), images(3, 1, 16, 16), config)
    assert_untouched(model, before)
    assert made.losses[-1] < made.losses[0]


def test_a_network_may_keep_what_it_returned():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.heads = network(), [None]

        def forward(self, shown):
            self.heads[0] = self.network(shown)
            return self.heads[0]

    model, shown = Keeping(), images(3, 1, 16, 16)
    model(shown)
    made = mm.adapt(model, Area(0.1), shown, FEW)
    assert made.losses[-1] < made.losses[0]
    assert model.heads[0].grad_fn is not None


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_the_adaptor_is_by_default_the_identity_of_so_many_channels(channels):
    model, shown = network(channels).eval(), images(3, channels, 16, 16)
    made = mm.adapt(model, Area(), shown, mm.AdaptationConfig(steps=0))
    torch.testing.assert_close(made.plain, model(shown).softmax(1), rtol=0, atol=0)
    assert torch.equal(made.adaptor(shown), shown)


def test_the_default_ends_by_itself_and_with_50_steps_at_the_latest():
    model, shown = network(), images(2, 1, 16, 16)
    torch.manual_seed(1)
    made = mm.adapt(model, Area(0.1), shown)
    torch.manual_seed(2)
    again = mm.adapt(model, Area(0.1), shown, mm.AdaptationConfig())
    assert 0 < made.steps <= 50
    assert torch.equal(made.masks, again.masks)
    assert mm.adapt(model, Area(0.1), shown, enough=-1e6).steps == 0


def test_masks_have_32_bits_whatever_adaptation_had():
    model, shown = network().eval(), images(2, 1, 16, 16)
    config = mm.AdaptationConfig(steps=2, precision="bf16-mixed")
    plain = mm.adapt(model, Area(), shown, config).plain
    assert torch.equal(plain, model(shown).softmax(1))


class Deep(nn.Module):
    """A network of several outputs."""

    def __init__(self, returned):
        super().__init__()
        self.network, self.returned = network(), returned

    def forward(self, shown):
        logits = self.network(shown)
        return self.returned(logits, nn.functional.avg_pool2d(logits, 2))


@pytest.mark.parametrize(
    "returned",
    [
        lambda large, small: [large, small],
        lambda large, small: (small, large),
        lambda large, small: {"aux": small, "out": large},
        lambda large, small: {"loss": None, "heads": [large, small]},
        lambda large, small: torch.stack([large, 0 * large], 1),
    ],
    ids=["list", "tuple", "dict", "nested", "stacked"],
)
def test_of_several_outputs_the_one_as_large_as_the_images_counts(returned):
    shown = images(3, 1, 16, 16)
    made = mm.adapt(Deep(returned), Area(0.1), shown, FEW)
    expected = mm.adapt(network(), Area(0.1), shown, FEW)
    torch.testing.assert_close(made.masks, expected.masks)


def test_one_sigmoid_is_a_softmax_of_two():
    sigmoid = network(classes=1)
    softmax = nn.Sequential(sigmoid, nn.ZeroPad3d((0, 0, 0, 0, 1, 0)))  # logit 0: the background
    shown = images(3, 1, 16, 16)
    made = mm.adapt(sigmoid, Area(0.1), shown, FEW, activation="sigmoid")
    expected = mm.adapt(softmax, Area(0.1), shown, FEW)
    torch.testing.assert_close(made.masks, expected.masks)


def test_where_structures_overlap_the_background_is_where_none_is():
    logits = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)
    masks = Probabilities(nn.Identity(), "sigmoid")(logits)
    second = torch.tensor(2.0).sigmoid()
    expected = torch.stack([0.5 * (1 - second), torch.tensor(0.5), second])
    torch.testing.assert_close(masks.flatten(), expected)


# ---------------------------------------------------------------------- volumes


def network_3d():
    return network(norm=nn.BatchNorm3d, dimensions=3).eval()


def test_volumes_are_judged_by_their_slices():
    model, volume = network_3d(), images(1, 1, 6, 16, 16)
    made = mm.adapt(model, Area(0.1), volume, FEW)
    assert made.masks.shape == (1, 3, 6, 16, 16)
    assert made.losses[-1] < made.losses[0]
    slices = made.masks[0].movedim(1, 0)
    assert made.losses[-1] == pytest.approx(Area(0.1)(slices).mean().item(), rel=1e-5)
    assert made.realism_after == pytest.approx(Area().realism(slices).mean().item(), rel=1e-5)


def test_patches_share_an_adaptor_whatever_the_batch():
    model, patches = network_3d(), images(4, 1, 3, 16, 16)
    one, all_of_them = (
        mm.adapt(model, Area(0.1), patches, FEW, slices=slices) for slices in (1, 4)
    )
    torch.testing.assert_close(one.masks, all_of_them.masks, atol=1e-4, rtol=1e-3)
    assert one.losses == pytest.approx(all_of_them.losses, rel=1e-4)


class Pointwise(nn.Module):
    """Sees one pixel, so that it does not matter where a window ends."""

    def __init__(self, dimensions):
        super().__init__()
        torch.manual_seed(0)
        self.layer = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions](1, 3, 1)

    def forward(self, shown):
        assert max(shown.shape[2:]) <= 8
        return self.layer(shown).tanh()


@pytest.mark.parametrize(("shape", "window"), [((12, 16), (8, 8)), ((5, 12, 16), (4, 8, 8))])
def test_windows_give_the_masks_and_the_gradients_of_the_whole(shape, window):
    model, shown = Pointwise(len(shape)), images(1, 1, *shape)
    made = mm.adapt(model, Area(0.1), shown, FEW, window=window)
    whole = nn.Sequential(model.layer, nn.Tanh())
    expected = mm.adapt(whole, Area(0.1), shown, FEW)
    torch.testing.assert_close(made.masks, expected.masks, atol=1e-4, rtol=1e-4)
    assert made.losses == pytest.approx(expected.losses, rel=1e-4)


def test_a_window_larger_than_the_image_is_the_whole():
    model, shown = network().eval(), images(2, 1, 16, 16)
    torch.testing.assert_close(Windows(model, (16, 16))(shown), model(shown))


# --------------------------------------------------------------- what does not fit


def discriminator(structures=2, size=16):
    judge = MaskDiscriminator(channels=structures, size=size, widths=(4, 4), strides=(2, 2))
    return mm.DiscriminatorPrior(judge.eval())


class Changed(nn.Module):
    """A network whose logits are spoilt."""

    def __init__(self, change):
        super().__init__()
        self.network, self.change = network(), change

    def forward(self, shown):
        return self.change(self.network(shown))


def hard(logits):
    return nn.functional.one_hot(logits.argmax(1), 3).movedim(-1, 1).float()


class Uncopyable(nn.Conv2d):
    def __deepcopy__(self, memo):
        raise RuntimeError("no twins\nreally not")


class WithoutGradient(Area):
    def __call__(self, masks, images=None):
        return super().__call__(masks.detach())


class OneForAll(Area):
    def __call__(self, masks, images=None):
        return super().__call__(masks).mean()


SHOWN = images(2, 1, 16, 16)
MISFITS = {
    "the prior's structures": (
        (network(), discriminator(structures=3), SHOWN),
        r"prior: judges masks of \(structures, height, width\) \(3, 16, 16\).*got \(2, 16, 16\)",
    ),
    "the prior's size": (
        (network(), discriminator(size=32), SHOWN),
        r"prior: judges masks .* \(2, 32, 32\).*got \(2, 16, 16\)",
    ),
    "the segmentor's channels": (
        (network(channels=3), Area(), SHOWN),
        r"segmentor: cannot take images of shape \(1, 1, 16, 16\): .*channels",
    ),
    "smaller logits": (
        (Changed(lambda logits: logits[..., ::2]), Area(), SHOWN),
        r"segmentor: returns \(1, 3, 16, 8\), expected logits of \(1, class, 16, 16\)",
    ),
    "no tensor": (
        (Changed(lambda logits: "masks"), Area(), SHOWN),
        "segmentor: returns str, expected logits",
    ),
    "labels": (
        (Changed(lambda logits: logits.argmax(1)), Area(), SHOWN),
        r"segmentor: returns \(1, 16, 16\), expected logits",
    ),
    "a hard mask": (
        (Changed(hard), Area(), SHOWN),
        "segmentor: its output cannot be differentiated by the image; bring the network itself",
    ),
    "no graph": (
        (Changed(torch.Tensor.detach), Area(), SHOWN),
        "segmentor: its output cannot be differentiated",
    ),
    "another device": (
        (network().to("meta"), Area(), SHOWN),
        "segmentor: is on meta, the images are on cpu; move one",
    ),
    "no copy": (
        (Uncopyable(1, 3, 1), Area(), SHOWN),
        "segmentor: cannot be copied: no twins",
    ),
    "a prior without a gradient": (
        (network(), WithoutGradient(), SHOWN),
        "prior: its loss .* can be differentiated",
    ),
    "a prior with one loss for all": (
        (network(), OneForAll(), SHOWN),
        r"prior: its loss is of shape \(\), expected one value a slice",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_named_in_one_line(misfit):
    parts, said = MISFITS[misfit]
    with pytest.raises(mm.ConfigError, match=said) as error:
        mm.adapt(*parts, FEW)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (images(1, 16, 16), "images: got torch.float32 of shape .1, 16, 16., expected floating"),
        (images(2, 1, 16, 16).long(), "images: got torch.int64"),
        (images(2, 1, 16, 16)[:0], r"images: .*\(0, 1, 16, 16\)"),
    ],
)
def test_images_that_are_no_stack_are_refused(given, said):
    with pytest.raises(mm.InputError, match=said):
        mm.adapt(network(), Area(), given, FEW)


def test_an_adaptor_or_a_window_that_does_not_fit_is_named():
    with pytest.raises(mm.ConfigError, match="adaptor: cannot take images"):
        mm.adapt(network(), Area(), SHOWN, FEW, adaptor=nn.Conv2d(2, 1, 1))
    with pytest.raises(mm.ConfigError, match=r"window: \(8,\) must have 2 numbers"):
        mm.adapt(network(), Area(), SHOWN, FEW, window=(8,))


def test_volumes_are_not_turned():
    config = mm.AdaptationConfig(augmentation={"rotation_deg": (-10.0, 10.0)})
    with pytest.raises(mm.ConfigError, match="augmentation: volumes are not moved"):
        mm.adapt(network_3d(), Area(), images(1, 1, 4, 16, 16), config)


def test_the_first_of_equal_outputs_counts():
    shown = images(2, 1, 4, 4)
    first, second = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    assert logits_of([first, second], shown) is first
