import pytest
import torch
from torch import nn

from maskmend.adaptor import Adaptor, GaussianActivation
from maskmend.build import build_adaptor
from maskmend.config import Config
from maskmend.config_file import config_from


def images():
    return torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def adaptor(**changes):
    torch.manual_seed(0)
    return Adaptor(**changes)


def test_activation_by_hand():
    activation = GaussianActivation(torch.tensor([0.5]).double())
    values = torch.tensor([0.0, 0.5, -1.0]).double().reshape(1, 1, 1, 3)
    expected = torch.tensor([0.0, -1.0, -4.0]).double().exp()
    torch.testing.assert_close(activation(values).flatten(), expected, rtol=1e-4, atol=0)


def test_starts_as_the_identity_exactly():
    torch.manual_seed(0)
    assert torch.equal(build_adaptor(Config())(images()), images())


def test_a_joint_adaptor_is_no_identity():
    torch.manual_seed(0)
    joint = build_adaptor(config_from({"adaptor": {"joint": True}}))
    assert not torch.allclose(joint(images()), images(), atol=0.01)


def gradients(network):
    network.zero_grad()
    (network(images()) * torch.linspace(-1, 1, 16)).square().sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters()}


def test_first_step_moves_the_last_layer_and_the_second_all():
    network = adaptor()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    first = gradients(network)
    assert first["layers.4.weight"].norm() > 1e-3
    assert {n for n, g in first.items() if g.any()} == {"layers.4.weight", "layers.4.bias"}
    optimizer.step()
    assert not torch.equal(network(images()), images())
    second = gradients(network)
    assert [n for n, g in second.items() if not g.any()] == []


@pytest.mark.parametrize(("scale", "moves"), [(0.0, False), (0.2, True)])
def test_the_papers_scale_of_zero_has_no_gradient(scale, moves):
    activation = GaussianActivation(torch.tensor([scale]).double())
    features = torch.tensor([-1.0, -0.3, 0.05, 0.1, 2.0]).double().reshape(1, 1, 1, 5)
    features.requires_grad_()
    activation(features).sum().backward()
    assert bool(features.grad.any()) is moves
    assert bool(activation.scale.grad.any()) is moves
    assert features.grad.isfinite().all()


def test_convolutions_are_1_16_16_1_and_the_last_is_linear():
    layers = list(adaptor().layers)
    shapes = [(x.in_channels, x.out_channels) for x in layers if isinstance(x, nn.Conv2d)]
    assert shapes == [(1, 16), (16, 16), (16, 1)]
    assert [type(x) for x in layers].count(GaussianActivation) == 2
    assert isinstance(layers[-1], nn.Conv2d)
    assert [x.scale.numel() for x in layers if isinstance(x, GaussianActivation)] == [1, 1]


def test_the_authors_variant():
    config = config_from(
        {
            "adaptor": {
                "joint": True,
                "final_activation": True,
                "scale_per_channel": True,
                "scale_std": 0.05,
            }
        }
    )
    torch.manual_seed(0)
    network = build_adaptor(config)
    scales = [x.scale for x in network.layers if isinstance(x, GaussianActivation)]
    assert [s.numel() for s in scales] == [16, 16, 1]
    drawn = torch.cat([s.flatten() for s in scales])
    assert drawn.mean().item() == pytest.approx(0.2, abs=0.04)
    assert drawn.std().item() == pytest.approx(0.05, abs=0.025)
    # The last activation lies in (0, 1], so that the image can only become brighter.
    added = network(images()) - images()
    assert added.min() >= -1e-6
    assert added.max() <= 1 + 1e-6
    assert added.max() > 0.1


def test_a_scale_that_crosses_zero_stays_finite():
    network = adaptor(scale_mean=1e-12, identity=False)
    assert all(g.isfinite().all() for g in gradients(network).values())


def test_channels_of_the_image_are_kept():
    assert adaptor(channels=3, widths=(4,))(torch.randn(2, 3, 8, 8)).shape == (2, 3, 8, 8)
