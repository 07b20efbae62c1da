"""Networks for small images: CIFAR ResNet, wide ResNet and DenseNet-BC.

All three have three stages and halve the resolution between them, so that 32×32 images end as 8×8 maps. They
take any number of channels, and height and width from 8 pixels. They are initialised as in their authors'
code: convolutions after He et al. (ICCV 2015, arXiv 1502.01852) with fan-out, the classifier's bias at zero.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from lineage.errors import RecipeError

MIN_SIZE = 8
Block = Callable[[int, int, int], nn.Module]


class SmallImageNetwork(nn.Module):
    """A convolutional trunk, global average pooling and a linear classifier.

    Args:
        trunk: Module that maps images (B, channels, H, W) to feature maps (B, D, H', W').
        num_features: Number D of feature maps.
        num_classes: Number C of classes.
        stages: Indices of the trunk's layers that end the first stages; the trunk itself ends the last.
    """

    def __init__(
        self, trunk: nn.Module, num_features: int, num_classes: int, stages: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self._stages = tuple(stages)
        self.classifier = nn.Linear(num_features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)

    def stage_names(self) -> list[str]:
        """Return the submodules that end the stages."""
        return [*(f"trunk.{index}" for index in self._stages), "trunk"]

    def features(self, x: Tensor) -> Tensor:
        """Return the classifier's input: the spatial mean of the last feature maps, shape (B, D)."""
        maps: Tensor = self.trunk(x)
        return maps.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) for images (B, channels, H, W)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def resnet(
    depth: int, num_classes: int, input_shape: tuple[int, int, int], *, width: int = 16
) -> SmallImageNetwork:
    """Build a ResNet for CIFAR, whose shortcuts have no parameters.

    The three stages have n blocks each and ``width``, 2 × ``width`` and 4 × ``width`` channels. Where the
    number of channels grows, the shortcut is subsampled and padded with zeros: option A of He et al. (CVPR
    2016, arXiv 1512.03385).

    Args:
        depth: Number of weighted layers, 6n + 2.
        num_classes: Number C of classes.
        input_shape: Channels, height and width of an image.
        width: Channels of the first stage, 1 or more; 16 in the paper.

    Raises:
        RecipeError: If ``width`` is not a positive integer, or the images are smaller than 8×8.
        ValueError: If ``depth`` is not 6n + 2.
    """
    _require_size(f"resnet{depth}", input_shape)
    if type(width) is not int or width < 1:
        raise RecipeError(
            f"Option width of network 'resnet{depth}' must be a positive integer, but got {width!r}."
        )
    layers: list[nn.Module] = [_conv3x3(input_shape[0], width), *_norm_relu(width)]
    stages = _add_stages(layers, width, width, _blocks_per_stage(depth, 2), ResidualBlock)
    return SmallImageNetwork(nn.Sequential(*layers), 4 * width, num_classes, stages)


def resnet_x4(depth: int, num_classes: int, input_shape: tuple[int, int, int]) -> SmallImageNetwork:
    """Build the ResNet-``depth``×4 of the literature on distillation: 32 channels, then 64, 128 and 256.

    Shortcuts of another shape are 1×1 convolutions: option B of He et al. Source: the code, RepDistiller, of
    Tian et al., ICLR 2020, arXiv 1910.10699.

    Args:
        depth: Number of weighted layers, 6n + 2.
        num_classes: Number C of classes.
        input_shape: Channels, height and width of an image.

    Raises:
        RecipeError: If the images are smaller than 8×8.
        ValueError: If ``depth`` is not 6n + 2.
    """
    _require_size(f"resnet{depth}x4", input_shape)
    layers: list[nn.Module] = [_conv3x3(input_shape[0], 32), *_norm_relu(32)]
    blocks = _blocks_per_stage(depth, 2)
    stages = _add_stages(layers, 32, 64, blocks, lambda i, o, s: ResidualBlock(i, o, s, projects=True))
    return SmallImageNetwork(nn.Sequential(*layers), 256, num_classes, stages)


class ResidualBlock(nn.Module):
    """Residual block of two 3×3 convolutions.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output, at least ``in_channels``.
        stride: Stride of the first convolution and of the shortcut.
        projects: Whether a shortcut of another shape is a 1×1 convolution; else it has no parameters.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, projects: bool = False) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = channels - in_channels
        self.residual = nn.Sequential(
            _conv3x3(in_channels, channels, stride),
            *_norm_relu(channels),
            _conv3x3(channels, channels),
            nn.BatchNorm2d(channels),
        )
        self.projection = None
        if projects and (stride > 1 or self.new_channels):
            convolution = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.projection = nn.Sequential(convolution, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps (B, ``channels``, ⌈H / stride⌉, ⌈W / stride⌉)."""
        residual: Tensor = self.residual(x)
        if self.projection is not None:
            x = self.projection(x)
        elif self.stride > 1 or self.new_channels:
            # Equal to x[..., ::stride, ::stride], whose gradient would lose channels_last.
            subsampled = F.avg_pool2d(x, 1, self.stride)
            x = F.pad(subsampled, (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(residual.add_(x), inplace=True)


def wide_resnet(
    depth: int, widening: int, num_classes: int, input_shape: tuple[int, int, int], *, dropout: float = 0.0
) -> SmallImageNetwork:
    """Build WRN-``depth``-``widening``, a wide ResNet.

    Source: S. Zagoruyko, N. Komodakis, Wide Residual Networks, BMVC 2016, arXiv 1605.07146.

    Args:
        depth: Number of convolutions, 6n + 4.
        widening: Widening factor k; the stages have 16k, 32k and 64k channels.
        num_classes: Number C of classes.
        input_shape: Channels, height and width of an image.
        dropout: Dropout probability between the convolutions of a block, in [0, 1); 0 or 0.3 in the paper.

    Raises:
        RecipeError: If ``dropout`` is out of range, or the images are smaller than 8×8.
        ValueError: If ``depth`` is not 6n + 4.
    """
    name = f"wrn-{depth}-{widening}"
    _require_size(name, input_shape)
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise RecipeError(
            f"Option dropout of network '{name}' must be at least 0 and below 1, but got {dropout!r}."
        )
    layers: list[nn.Module] = [_conv3x3(input_shape[0], 16)]
    blocks = _blocks_per_stage(depth, 4)
    stages = _add_stages(layers, 16, 16 * widening, blocks, lambda i, o, s: WideBlock(i, o, s, dropout))
    layers += _norm_relu(64 * widening)
    return SmallImageNetwork(nn.Sequential(*layers), 64 * widening, num_classes, stages)


class WideBlock(nn.Module):
    """Pre-activation residual block of two 3×3 convolutions.

    Where channels or resolution change, the shortcut is a 1×1 convolution of the activated input.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
        dropout: Dropout probability between the convolutions.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.activation = nn.Sequential(*_norm_relu(in_channels))
        self.residual = nn.Sequential(
            _conv3x3(in_channels, channels, stride),
            *_norm_relu(channels),
            nn.Dropout(dropout) if dropout else nn.Identity(),
            _conv3x3(channels, channels),
        )
        changes = stride > 1 or channels != in_channels
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps (B, ``channels``, ⌈H / stride⌉, ⌈W / stride⌉)."""
        activated = self.activation(x)
        residual: Tensor = self.residual(activated)
        return residual + (x if self.shortcut is None else self.shortcut(activated))


def densenet_bc(
    depth: int, growth: int, num_classes: int, input_shape: tuple[int, int, int]
) -> SmallImageNetwork:
    """Build the DenseNet-BC-``depth``-``growth`` of Huang et al. (CVPR 2017, arXiv 1608.06993).

    B stands for bottleneck, a 1×1 convolution to 4 × ``growth`` channels before each 3×3 convolution; C for
    compression, transitions that halve the number of channels.

    Args:
        depth: Number of weighted layers, 6n + 4.
        growth: Channels that each layer adds.
        num_classes: Number C of classes.
        input_shape: Channels, height and width of an image.

    Raises:
        RecipeError: If the images are smaller than 8×8.
        ValueError: If ``depth`` is not 6n + 4.
    """
    _require_size(f"densenet-bc-{depth}-{growth}", input_shape)
    num_layers = _blocks_per_stage(depth, 4)
    channels = 2 * growth
    layers: list[nn.Module] = [_conv3x3(input_shape[0], channels)]
    stages: list[int] = []
    for stage in range(3):
        if stage > 0:
            compression = nn.Conv2d(channels, channels // 2, 1, bias=False)
            layers += [*_norm_relu(channels), compression, nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(num_layers):
            layers.append(DenseLayer(channels, growth))
            channels += growth
        stages.append(len(layers) - 1)
    layers += _norm_relu(channels)
    return SmallImageNetwork(nn.Sequential(*layers), channels, num_classes, stages[:-1])


class DenseLayer(nn.Module):
    """Bottleneck and 3×3 convolution, whose output is concatenated to their input.

    Args:
        in_channels: Channels of the input.
        growth: Number of channels that are appended.
    """

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.new = nn.Sequential(
            *_norm_relu(in_channels),
            nn.Conv2d(in_channels, 4 * growth, 1, bias=False),
            *_norm_relu(4 * growth),
            _conv3x3(4 * growth, growth),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps (B, ``in_channels + growth``, H, W)."""
        return torch.cat([x, self.new(x)], 1)


def _add_stages(
    layers: list[nn.Module], in_channels: int, width: int, num_blocks: int, block: Block
) -> list[int]:
    """Append three stages of ``width``, 2 and 4 times as many channels; return the ends of the first two."""
    ends: list[int] = []
    for channels, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
        for index in range(num_blocks):
            layers.append(block(in_channels, channels, stride if index == 0 else 1))
            in_channels = channels
        ends.append(len(layers) - 1)
    return ends[:-1]


def _conv3x3(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)


def _norm_relu(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _blocks_per_stage(depth: int, outside: int) -> int:
    """Return n in ``depth`` = 6n + ``outside``, where ``outside`` counts the layers outside the stages."""
    num_blocks, rest = divmod(depth - outside, 6)
    if rest or num_blocks < 1:
        raise ValueError(f"depth must be 6n + {outside} with n of at least 1, but got {depth}.")
    return num_blocks


def _require_size(name: str, input_shape: tuple[int, int, int]) -> None:
    _, height, width = input_shape
    if min(height, width) < MIN_SIZE:
        raise RecipeError(
            f"Network '{name}' needs images of at least {MIN_SIZE}×{MIN_SIZE} pixels, but got "
            f"{height}×{width}; enlarge them."
        )
