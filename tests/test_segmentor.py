import pytest
import torch
from torch import nn

from maskmend.config_file import config_from
from maskmend.segmentor import UNet


def unet(**changes):
    torch.manual_seed(0)
    return UNet(**{"in_channels": 1, "classes": 4, "width": 4, "depth": 3} | changes)


@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
def test_one_logit_for_each_class_and_pixel(size):
    assert unet(in_channels=2)(torch.randn(3, 2, *size)).shape == (3, 4, *size)


def test_channels_double_at_each_level():
    firsts = [level[0].out_channels for level in unet(depth=4).encoder]
    assert firsts == [4, 8, 16, 32]


def test_weights_of_the_first_level_are_counted_by_hand():
    # Two 3x3 convolutions 1-4-4 with biases, and two batch norms of weight and bias.
    first = sum(p.numel() for p in unet().encoder[0].parameters())
    assert first == (1 * 9 * 4 + 4) + (4 * 9 * 4 + 4) + 2 * (4 + 4)


def test_every_weight_gets_a_gradient():
    network = unet()
    network(torch.randn(2, 1, 32, 32)).square().sum().backward()
    without = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.isfinite().all()
    ]
    assert without == []
    assert all(p.grad.any() for n, p in network.named_parameters() if n.endswith("0.weight"))


def test_a_shift_of_the_image_shifts_the_mask():
    network = unet(width=2).eval()
    image = torch.randn(1, 1, 128, 128)
    period = 4  # 2 ** (depth - 1)
    with torch.no_grad():
        plain = network(image)
        shifted = network(image.roll((period, period), dims=(2, 3)))
    inside = slice(40, 88)
    expected = plain.roll((period, period), dims=(2, 3))[..., inside, inside]
    torch.testing.assert_close(shifted[..., inside, inside], expected)
    assert not torch.allclose(plain[..., inside, inside], expected, atol=1e-4)


def test_statistics_move_in_training_mode_alone():
    network, image = unet(), 3 + 2 * torch.randn(4, 1, 32, 32)
    norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    network.eval()
    network(image)
    assert not norm.running_mean.any()
    network.train()
    network(image)
    assert norm.running_mean.any()


def test_items_of_a_batch_are_apart_in_evaluation_mode():
    network, image = unet().eval(), torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        together = network(image)
        alone = torch.cat([network(one) for one in image.split(1)])
    torch.testing.assert_close(together, alone)


def test_size_must_be_a_multiple_of_the_period():
    with pytest.raises(RuntimeError):
        unet()(torch.randn(1, 1, 30, 30))
    with pytest.raises(ValueError, match=r"preprocess\.size"):
        config_from({"preprocess": {"size": 30}, "segmentor": {"depth": 3}})
