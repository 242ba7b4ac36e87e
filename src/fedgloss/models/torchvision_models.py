"""ResNet18 and MobileNetV2 of torchvision, with every BatchNorm replaced by GroupNorm.

Two groups, as in the code bases the paper builds on (FL-Simulator's models.py; the ResNet20 of the
authors' eigenthings/models.py). GroupNorm has as many parameters as BatchNorm and no statistics.
"""

from functools import partial

from torch import nn

from fedgloss.errors import InputError
from fedgloss.torchvision_compat import torchvision

group_norm = partial(nn.GroupNorm, 2)


def resnet18(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """torchvision's ResNet18 (7 x 7 stem, max-pool): 11,181,642 parameters at 10 classes."""
    model = torchvision("models").resnet18(num_classes=classes, norm_layer=group_norm)
    if shape[0] != 3:
        model.conv1 = _stem(shape[0], 64, 7, 2)
    return model


def resnet18_cifar(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """ResNet18 with the stem usual for CIFAR, 3 x 3 without pooling: 11,173,962 at 10 classes."""
    model = torchvision("models").resnet18(num_classes=classes, norm_layer=group_norm)
    model.conv1 = _stem(shape[0], 64, 3, 1)
    model.maxpool = nn.Identity()
    return model


def mobilenetv2(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """torchvision's MobileNetV2: 4,821,740 parameters at Landmarks' 2,028 classes.

    Without torchvision's dropout before its last layer, which the paper does not mention.
    """
    channels, height, width = shape
    if min(height, width) < 32:
        raise InputError(f"needs images of at least 32 x 32 pixels, not {height} x {width}")
    model = torchvision("models").mobilenet_v2(
        num_classes=classes, norm_layer=group_norm, dropout=0.0
    )
    if channels != 3:
        model.features[0][0] = _stem(channels, 32, 3, 2)
    return model


def _stem(channels: int, width: int, kernel: int, stride: int) -> nn.Conv2d:
    """A first convolution of another shape, initialised as torchvision initialises its own."""
    conv = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
