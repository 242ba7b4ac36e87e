"""The two plain convolutional networks.

Both are one `nn.Sequential` of Conv2d, MaxPool2d, ReLU, Flatten and Linear, which the engine can
train for many clients at once. Pooling before the ReLU gives the same values and gradients as
after it, with a quarter of the ReLU's work.
"""

from torch import nn

from fedgloss.errors import InputError


def cnn(shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """The paper's LeNet-like CNN (released code, cifar10/cnn.py): 797,962 parameters at 10 classes.

    Two 5 x 5 convolutions of 64 channels without padding, then 384 and 192 hidden units.
    """
    channels, height, width = shape
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
    if min(rows, columns) < 1:
        raise InputError(f"needs images of at least 16 x 16 pixels, not {height} x {width}")
    return nn.Sequential(
        nn.Conv2d(channels, 64, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * rows * columns, 384),
        nn.ReLU(),
        nn.Linear(384, 192),
        nn.ReLU(),
        nn.Linear(192, classes),
    )


def smallcnn(shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """The quickstart's CNN for 8 x 8 digits: 16 and 32 channels, 64 hidden units."""
    channels, height, width = shape
    if min(height, width) < 4:
        raise InputError(f"needs images of at least 4 x 4 pixels, not {height} x {width}")
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )
