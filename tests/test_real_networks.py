"""Networks that people have, trained for seconds, and adapted to another scanner.

One prior, fitted to masks alone, serves them all: one that was fitted to the predictions of a
network knows that network's failures (docs/log.md).
"""

import numpy as np
import pytest
import torch
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from monai.networks.nets.unetr import UNETR
from torch.nn import functional

import maskmend as mm
from maskmend.checkpoint import quiet_generator
from maskmend.data.phantom import SCANNER_A, SCANNER_B, draw_heart, render
from maskmend.data.preprocess import standardise
from tests.test_any_model import assert_untouched, state

SIZE, CLASSES = 48, 4
SETTINGS = mm.AdaptationConfig(steps=5, learning_rate=5e-4, keep="best", precision="32-true")


def unet():
    """Instance norm."""
    return UNet(2, 1, CLASSES, channels=(8, 16, 32), strides=(2, 2))


def dynunet():
    """Deep supervision: in training mode its outputs are stacked, and kept with their graph."""
    return DynUNet(
        2, 1, CLASSES, kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2],
        filters=[8, 16, 32], deep_supervision=True, deep_supr_num=1,
    )  # fmt: skip


def segresnet():
    """Group norm."""
    return SegResNet(
        2, init_filters=8, in_channels=1, out_channels=CLASSES, blocks_down=(1, 1), blocks_up=(1,)
    )


def unetr():
    """A transformer: layer norm, no batch norm."""
    return UNETR(
        1, CLASSES, (SIZE, SIZE), feature_size=4, hidden_size=24, mlp_dim=48, num_heads=2,
        spatial_dims=2, norm_name="instance",
    )  # fmt: skip


def hearts(numbers, scanner):
    """Slices and labels of each heart."""
    pairs = []
    for number in numbers:
        heart = draw_heart(np.random.default_rng([0, number, 0]))
        rng = np.random.default_rng([0, number, 1])
        image, labels = render(heart, scanner, rng, size=SIZE, spacing_mm=6.0)
        slices = torch.from_numpy(standardise(image, None)).permute(2, 1, 0)
        pairs.append((slices[:, None], torch.from_numpy(labels.copy()).permute(2, 1, 0)))
    return pairs


@pytest.fixture(scope="module")
def training():
    pairs = hearts(range(8), SCANNER_A)
    return torch.cat([image for image, _ in pairs]), torch.cat([mask for _, mask in pairs])


@pytest.fixture(scope="module")
def shifted():
    return hearts((100, 101), SCANNER_B)


def trained(make, training, iterations=120):
    images, masks = training
    with quiet_generator():
        network = make()
        optimizer = torch.optim.Adam(network.parameters(), 3e-3 if make is unetr else 1e-2)
        for _ in range(iterations):
            chosen = torch.randint(len(images), (8,))
            logits = network(images[chosen])
            logits = logits[:, 0] if logits.dim() == 5 else logits
            weights = torch.tensor([0.3, 1.0, 1.0, 1.0])
            loss = functional.cross_entropy(logits, masks[chosen].long(), weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


@pytest.fixture(scope="module")
def prior(training):
    judge = {"widths": [8, 16, 32], "strides": [2, 2, 2]}
    fitting = {"iterations": 100, "learning_rate": 1e-3}
    return mm.fit_prior(training[1], discriminator=judge, fitting=fitting)


def mean_dice(masks, truth):
    labels = masks.argmax(1)
    pairs = [(labels == k, truth == k) for k in range(1, CLASSES)]
    return np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs])


@pytest.mark.parametrize("make", [unet, dynunet, segresnet, unetr])
def test_a_network_that_somebody_has_is_adapted_and_comes_back_untouched(
    make, prior, training, shifted
):
    network = trained(make, training).train()  # whatever its mode
    before, gains = state(network), []
    for images, truth in shifted:
        made = mm.adapt(network, prior, images, SETTINGS)
        assert min(made.losses) < made.losses[0]
        gains.append(mean_dice(made.masks, truth) - mean_dice(made.plain, truth))
    assert_untouched(network, before)
    assert np.mean(gains) > -0.005  # half a point
