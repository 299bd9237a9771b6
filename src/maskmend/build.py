"""The one place where networks are put together from a configuration."""

from dataclasses import dataclass

from torch import nn

from maskmend.adaptor import Adaptor
from maskmend.config import Config, DiscriminatorConfig, PriorConfig
from maskmend.discriminator import MaskDiscriminator
from maskmend.segmentor import UNet


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The parts that training fills and inference uses (figure 1)."""

    segmentor: UNet
    discriminator: MaskDiscriminator
    adaptor: Adaptor
    """Trained with the segmentor if the configuration says joint, else the identity."""

    def modules(self) -> dict[str, nn.Module]:
        """The networks by name."""
        return {
            "segmentor": self.segmentor,
            "discriminator": self.discriminator,
            "adaptor": self.adaptor,
        }


def build(config: Config) -> Networks:
    """Fresh networks with weights from torch's global generator."""
    return Networks(
        segmentor=UNet(
            in_channels=config.segmentor.in_channels,
            classes=config.data.classes,
            width=config.segmentor.width,
            depth=config.segmentor.depth,
        ),
        discriminator=build_discriminator(
            config.discriminator,
            channels=config.data.classes
            - 1
            + config.segmentor.in_channels * config.discriminator.sees_image,
            size=config.preprocess.size,
        ),
        adaptor=build_adaptor(config),
    )


def build_discriminator(
    config: DiscriminatorConfig, *, channels: int, size: int
) -> MaskDiscriminator:
    """A fresh discriminator of so many channels and pixels."""
    return MaskDiscriminator(
        channels=channels,
        size=size,
        widths=config.widths,
        strides=config.strides,
        normalised=config.spectral_norm,
        activation=config.activation,
        first_activation=config.first_activation,
        bottleneck=config.bottleneck,
    )


def fresh_discriminator(config: PriorConfig) -> MaskDiscriminator:
    """A discriminator of masks alone."""
    return build_discriminator(
        config.discriminator, channels=config.data.classes - 1, size=config.preprocess.size
    )


def build_adaptor(config: Config) -> Adaptor:
    """A fresh adaptor: the identity, unless it is trained with the segmentor."""
    return Adaptor(
        channels=config.segmentor.in_channels,
        widths=config.adaptor.widths,
        identity=not config.adaptor.joint,
        scale_mean=config.adaptor.scale_mean,
        scale_std=config.adaptor.scale_std,
        scale_per_channel=config.adaptor.scale_per_channel,
        final_activation=config.adaptor.final_activation,
    )
