"""The 2D networks that nnU-Net's plans describe, under the names that its checkpoints give weights.

nnU-Net takes them from dynamic_network_architectures, which wants timm, which wants torchvision.
They are two UNets of plain layers; written down here, nothing has to be installed to use them.

Axes: batch, channel or class, height, width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Features = Float[Tensor, "batch channel height width"]
Size = int | Sequence[int]
"""Of a kernel or a stride: one number, or height and width."""

_NORMS = {"InstanceNorm2d": nn.InstanceNorm2d, "BatchNorm2d": nn.BatchNorm2d}
_ACTIVATIONS = {"LeakyReLU": nn.LeakyReLU, "ReLU": nn.ReLU, "GELU": nn.GELU, "SiLU": nn.SiLU}
_READ = {  # of a plan's arch_kwargs; dropout does nothing in a network that is trained
    *("n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage"),
    *("n_blocks_per_stage", "n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs"),
    *("dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs", "nonlin_first"),
    "deep_supervision",
}


@dataclass(frozen=True, kw_only=True)
class _Layers:
    """What all blocks of a network share."""

    bias: bool
    norm: Callable[[int], nn.Module] | None
    activation: Callable[[], nn.Module]
    activation_first: bool
    """Before the norm rather than after it."""


class _Block(nn.Module):
    """A convolution with its norm and its activation."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: Size,
        stride: Size,
        layers: _Layers,
        *,
        activated: bool = True,
        bias: bool | None = None,
    ):
        super().__init__()
        kernel = _pair(kernel)
        padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
        bias = layers.bias if bias is None else bias
        self.conv = nn.Conv2d(n_in, n_out, kernel, _pair(stride), padding, bias=bias)
        self.norm = layers.norm(n_out) if layers.norm else nn.Identity()
        self.activation = layers.activation() if activated else nn.Identity()
        self.activation_first = layers.activation_first

    def forward(self, features: Features) -> Features:
        convolved = self.conv(features)
        if self.activation_first:
            return self.norm(self.activation(convolved))
        return self.activation(self.norm(convolved))


class _Convolutions(nn.Module):
    """Blocks in a row, of which the first may take a stride."""

    def __init__(
        self, count: int, n_in: int, n_out: int, kernel: Size, stride: Size, layers: _Layers
    ):
        super().__init__()
        self.convs = nn.Sequential(
            *(
                _Block(n_out if number else n_in, n_out, kernel, 1 if number else stride, layers)
                for number in range(count)
            )
        )

    def forward(self, features: Features) -> Features:
        return self.convs(features)


class _Residual(nn.Module):
    """Two blocks beside a shortcut: pooled where there is a stride, projected to other widths."""

    def __init__(self, n_in: int, n_out: int, kernel: Size, stride: Size, layers: _Layers):
        super().__init__()
        self.conv1 = _Block(n_in, n_out, kernel, stride, layers)
        self.conv2 = _Block(n_out, n_out, kernel, 1, layers, activated=False)
        shortcut: list[nn.Module] = []
        if max(_pair(stride)) > 1:
            shortcut.append(nn.AvgPool2d(_pair(stride), _pair(stride)))
        if n_in != n_out:
            shortcut.append(_Block(n_in, n_out, 1, 1, layers, activated=False, bias=False))
        self.skip = nn.Sequential(*shortcut)
        self.activation = layers.activation()

    def forward(self, features: Features) -> Features:
        return self.activation(self.conv2(self.conv1(features)) + self.skip(features))


class _Residuals(nn.Module):
    """Residual blocks in a row, of which the first may take a stride."""

    def __init__(
        self, count: int, n_in: int, n_out: int, kernel: Size, stride: Size, layers: _Layers
    ):
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                _Residual(n_out if number else n_in, n_out, kernel, 1 if number else stride, layers)
                for number in range(count)
            )
        )

    def forward(self, features: Features) -> Features:
        return self.blocks(features)


class _Encoder(nn.Module):
    def __init__(self, stem: nn.Module | None, stages: Sequence[nn.Module]):
        super().__init__()
        if stem is not None:
            self.stem = stem
        self.stages = nn.Sequential(*stages)

    def forward(self, image: Features) -> list[Features]:
        features, skipped = self.stem(image) if hasattr(self, "stem") else image, []
        for stage in self.stages:
            features = stage(features)
            skipped.append(features)
        return skipped


class _Decoder(nn.Module):
    """From the lowest level up; the head is the last of nnU-Net's, the only one after training."""

    def __init__(
        self,
        widths: Sequence[int],
        kernels: Sequence[Size],
        strides: Sequence[Size],
        counts: Sequence[int],
        classes: int,
        layers: _Layers,
    ):
        super().__init__()
        levels = range(len(widths) - 1, 0, -1)
        self.transpconvs = nn.ModuleList(
            nn.ConvTranspose2d(
                widths[level],
                widths[level - 1],
                _pair(strides[level]),
                _pair(strides[level]),
                bias=layers.bias,
            )
            for level in levels
        )
        self.stages = nn.ModuleList(
            _Convolutions(
                count, 2 * widths[level - 1], widths[level - 1], kernels[level - 1], 1, layers
            )
            for level, count in zip(levels, counts, strict=True)
        )
        self.seg_layers = nn.ModuleDict({str(len(levels) - 1): nn.Conv2d(widths[0], classes, 1)})

    def forward(self, skipped: list[Features]) -> Features:
        features = skipped.pop()
        for upsample, stage in zip(self.transpconvs, self.stages, strict=True):
            features = stage(torch.cat([upsample(features), skipped.pop()], 1))
        (head,) = self.seg_layers.values()
        return head(features)


class PlannedUNet(nn.Module):
    """Images to logits."""

    def __init__(self, encoder: _Encoder, decoder: _Decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, image: Features) -> Float[Tensor, "batch class height width"]:
        """Logits of the image's masks."""
        return self.decoder(self.encoder(image))


def build_planned(
    architecture: str, arguments: Mapping[str, Any], channels: int, classes: int
) -> PlannedUNet:
    """A fresh network of a plan.

    Args:
        architecture: Name of its class, PlainConvUNet or ResidualEncoderUNet.
        arguments: The plan's `arch_kwargs`.
        channels: Of the image.
        classes: Of the mask, the background included.

    Raises:
        ValueError: The plan asks for something else; the message names it.
    """
    if architecture not in ("PlainConvUNet", "ResidualEncoderUNet"):
        raise ValueError(f"a network of class {architecture}")
    residual = architecture == "ResidualEncoderUNet"
    if strange := sorted(k for k in arguments.keys() - _READ if arguments[k] is not None):
        raise ValueError(f"{architecture} with {strange[0]}")
    if _name(arguments["conv_op"]) != "Conv2d":
        raise ValueError(f"a network of {_name(arguments['conv_op'])}")
    stages = arguments["n_stages"]
    widths, kernels, strides = (
        _each(arguments[name], stages) for name in ("features_per_stage", "kernel_sizes", "strides")
    )
    counts = _each(arguments["n_blocks_per_stage" if residual else "n_conv_per_stage"], stages)
    layers = _layers(arguments)
    inputs = [widths[0] if residual else channels, *widths]
    levels = [
        _Residuals(count, n_in, n_out, kernel, stride, layers)
        if residual
        else nn.Sequential(_Convolutions(count, n_in, n_out, kernel, stride, layers))
        for count, n_in, n_out, kernel, stride in zip(
            counts, inputs, widths, kernels, strides, strict=False
        )
    ]
    stem = _Convolutions(1, channels, widths[0], kernels[0], 1, layers) if residual else None
    up = _each(arguments["n_conv_per_stage_decoder"], stages - 1)
    decoder = _Decoder(widths, kernels, strides, up, classes, layers)
    return PlannedUNet(_Encoder(stem, levels), decoder)


def load_planned(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put a checkpoint's weights into a network.

    nnU-Net's file names many of them twice, and holds the heads of deep supervision.

    Raises:
        ValueError: They are those of another network; the message names the first odd one.
    """
    expected = network.state_dict()
    heads = tuple(name for name in expected if name.startswith("decoder.seg_layers."))
    own = {
        name: tensor
        for name, tensor in weights.items()
        if ".all_modules." not in name
        and not name.startswith("decoder.encoder.")
        and (name in heads or not name.startswith("decoder.seg_layers."))
    }
    for name in sorted(expected.keys() | own.keys()):
        ours, theirs = (
            f"of shape {tuple(d[name].shape)}" if name in d else "absent" for d in (expected, own)
        )
        if ours != theirs:
            raise ValueError(f"{name} is {theirs}, the plan asks for it to be {ours}")
    network.load_state_dict(own)


def _layers(arguments: Mapping[str, Any]) -> _Layers:
    norm, activation = arguments.get("norm_op"), arguments["nonlin"]
    if norm is not None and _name(norm) not in _NORMS:
        raise ValueError(f"a norm of class {norm}")
    if _name(activation) not in _ACTIVATIONS:
        raise ValueError(f"an activation of class {activation}")
    norm_arguments = arguments.get("norm_op_kwargs") or {}
    activation_arguments = arguments.get("nonlin_kwargs") or {}
    return _Layers(
        bias=bool(arguments.get("conv_bias", False)),
        norm=norm and (lambda width: _NORMS[_name(norm)](width, **norm_arguments)),
        activation=lambda: _ACTIVATIONS[_name(activation)](**activation_arguments),
        activation_first=bool(arguments.get("nonlin_first", False)),
    )


def _name(path: str) -> str:
    return str(path).rpartition(".")[2]


def _each(value: Any, count: int) -> list[Any]:
    """One value for each stage."""
    return list(value) if isinstance(value, list | tuple) else [value] * count


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
