"""Networks: images [B, C, H, H], or vectors [B, d] -> logits [B, K]. To add one, write its function and add a row to ``NETWORKS``,
or to ``HEADS`` where it is for vectors. An ``mlp`` takes both; ``mlp:512x3`` is three hidden layers of 512.

Besides the rows, every classifier of torchvision can be named (``resnet18``, ``efficientnet_b0``, ...) and, where timm is
installed, every one of timm (``timm:inception_resnet_v2``); untrained, or with ImageNet weights (``resnet18:pretrained``).
One of a user's own is ``FILE.py:FUNCTION`` (``raystudy.own``): a function of (shape, n_classes) or (shape, n_classes, dropout).
Networks are made for a given image size and refuse one they cannot take; they know nothing of methods or data sets.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raystudy import own
from raystudy.data import smoke
from raystudy.errors import InputError, unknown
from raystudy.learn.norm import BatchNorm as BatchNorm


class TakesOne(nn.Module):
    """Mixed into a library's batch normalisation, so that it also takes one value per channel: centred on itself that is 0.

    Not the running statistics of ``BatchNorm``: libraries' networks are deep, and where many layers in a row do without the
    statistics of the batch, one step on one image undoes an epoch. Measured with resnet18 at the default rate: on 832 digits, 13
    batches of 64, it learns; on 833 it then diverges, and does not like this.
    """

    running_mean: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.numel() > x.shape[1]:
            return super().forward(x)
        mean = self.running_mean.view(1, -1, *[1] * (x.dim() - 2))
        self.training = (
            False  # of this layer alone: eval() would reach what a library puts into its own, such as a dropout
        )
        try:
            return (
                super().forward(x - x + mean).to(x.dtype)
            )  # x - x: still a function of x, for those who ask for its gradient
        finally:
            self.training = True


def take_one(net: nn.Module) -> nn.Module:
    """``net`` itself, all of whose batch normalisations now take one value per channel; nothing else about it changes.

    It is their class that changes, and not a layer around them that would be in every name of the state: so checkpoints,
    weights and what a library asks of its own layers (``isinstance``) stay as they are.
    """
    for module in net.modules():
        kind = type(module)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.__class__ = type(kind.__name__, (TakesOne, kind), {})
    return net


def mlp(inputs: int, n_classes: int, dropout: float = 0.0, width: int = 256, depth: int = 2) -> nn.Module:
    """Hidden layers with batch norm and ReLU, two of 256 where nobody says otherwise, then a linear layer; dropout after each ReLU."""
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(depth):
        # No bias in front of batch norm, which takes it out again.
        layers += [nn.Linear(inputs, width, bias=False), BatchNorm(width), nn.ReLU()]
        layers += [nn.Dropout(dropout)] * (dropout > 0)
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, n_classes))


def linear(inputs: int, n_classes: int, dropout: float = 0.0) -> nn.Module:
    """Logistic regression; dropout of the vector's numbers."""
    return nn.Sequential(*[nn.Dropout(dropout)] * (dropout > 0), nn.Linear(inputs, n_classes))


class Cosine(nn.Module):
    """The cosine of a vector with one direction per class, times a scale that is learnt from 10 on (Gidaris and Komodakis 2018)."""

    def __init__(self, inputs: int, n_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_classes, inputs) / inputs**0.5)
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(x), F.normalize(self.weight))


def cosine(inputs: int, n_classes: int, dropout: float = 0.0) -> nn.Module:
    """``Cosine``; dropout of the vector's numbers."""
    return nn.Sequential(*[nn.Dropout(dropout)] * (dropout > 0), Cosine(inputs, n_classes))


def convnet(in_channels: int, size: int, n_classes: int, dropout: float = 0.0) -> nn.Module:
    """Three blocks of conv 3x3, batch norm and ReLU (32, 64, 128), halved after the first two, then averaged.

    Dropout acts before the linear layer. Small enough for a CPU.
    """
    if size < 4:
        raise InputError(f"network 'convnet' needs images of at least 4x4 pixels, these are {size}x{size}; use 'mlp'")
    layers: list[nn.Module] = []
    for i, width in enumerate((32, 64, 128)):
        layers += [nn.MaxPool2d(2)] * (i > 0)
        layers += [nn.Conv2d(in_channels, width, 3, padding=1, bias=False), BatchNorm(width), nn.ReLU()]
        in_channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *[nn.Dropout(dropout)] * (dropout > 0)]
    return nn.Sequential(*layers, nn.Linear(in_channels, n_classes))


def convnet_small(in_channels: int, size: int, n_classes: int, dropout: float = 0.0) -> nn.Module:
    """``convnet`` with strides for its pools and a first stride too: a quarter of the work, for many trainings on a CPU."""
    layers: list[nn.Module] = []
    for width in (32, 64, 128):
        layers += [nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=False), BatchNorm(width), nn.ReLU()]
        in_channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *[nn.Dropout(dropout)] * (dropout > 0)]
    return nn.Sequential(*layers, nn.Linear(in_channels, n_classes))


def cnn9(in_channels: int, size: int, n_classes: int, dropout: float = 0.0) -> nn.Module:
    """The 9-layer CNN of Co-teaching (Han et al. 2018; bhanML/Co-teaching, model.py).

    conv 3x3 of 128, 128, 128 | pool | 256, 256, 256 | pool | 512, 256, 128 without padding | average | linear, with
    batch norm and LeakyReLU 0.01 after each convolution. Channel dropout after each pooling, in training only. The
    published code asks for .25 but without a training flag, then off by default: its numbers are those of rate 0.
    """
    if size // 4 <= 6:
        raise InputError(
            f"network 'cnn9' needs images of at least 28x28 pixels, these are {size}x{size}: its last three "
            "convolutions have no padding and would leave nothing; use 'convnet' or 'mlp'"
        )
    layers: list[nn.Module] = []
    for i, width in enumerate((128, 128, 128, 256, 256, 256, 512, 256, 128)):
        if i in (3, 6):
            layers += [nn.MaxPool2d(2), *[nn.Dropout2d(dropout)] * (dropout > 0)]
        padding = 1 if i < 6 else 0
        layers += [nn.Conv2d(in_channels, width, 3, padding=padding), BatchNorm(width), nn.LeakyReLU(0.01)]
        in_channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, n_classes))


class PreActBlock(nn.Module):
    """Pre-activation residual block (He et al. 2016) as in the mixup and DivideMix code.

    The shortcut starts behind the first activation, also where it is the identity; its 1x1 convolution has no batch
    norm. Dropout sits behind the ReLU between the two convolutions (Zhang et al. 2018, corrupted labels).
    """

    def __init__(self, in_channels: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = BatchNorm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = BatchNorm(width)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        same = stride == 1 and in_channels == width
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(x))
        out = self.dropout(F.relu(self.bn2(self.conv1(x))))
        return self.conv2(out) + self.shortcut(x)


def preact_resnet18(in_channels: int, size: int, n_classes: int, dropout: float = 0.0) -> nn.Module:
    """PreAct ResNet-18 of mixup, DivideMix and M-correction (facebookresearch/mixup-cifar10, models/resnet.py).

    Stem of conv 3x3, batch norm and ReLU; two blocks each of 64, 128, 256, 512; average pool, no batch norm before it.
    The original pools 4x4, which at 32x32 pixels is all there is; here the pool takes whatever is left.
    """
    layers: list[nn.Module] = [nn.Conv2d(in_channels, 64, 3, padding=1, bias=False), BatchNorm(64), nn.ReLU()]
    before = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [PreActBlock(before, width, stride, dropout), PreActBlock(width, width, 1, dropout)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, n_classes))


PRETRAINED = ":pretrained"
TIMM = "timm:"
MLP = re.compile(r"mlp:([1-9]\d{0,4})x([1-9]\d?)")  # width, depth
NETWORKS: dict[str, Callable[[int, int, int, float], nn.Module]] = {
    "mlp": lambda channels, size, n_classes, dropout: mlp(channels * size * size, n_classes, dropout),
    "convnet": convnet,
    "convnet_small": convnet_small,
    "cnn9": cnn9,
    "preact_resnet18": preact_resnet18,
}
HEADS: dict[str, Callable[[int, int, float], nn.Module]] = {"mlp": mlp, "linear": linear, "cosine": cosine}


def build(name: str, shape: Sequence[int], n_classes: int, dropout: float = 0.0) -> nn.Module:
    """A freshly initialised network for images of ``shape`` (channels, height, width), square ones, or vectors of shape (features,).

    Weights come from torch's default generator, or from ImageNet with ``:pretrained``. ``smoke:NAME`` is an MLP that stands in
    for a network where a study is run in miniature. Raises InputError, one line, for an unknown name, a dropout rate outside
    [0, 1) or one the network has no place for, weights that cannot be had, and images or vectors it cannot take.
    """
    if not 0 <= dropout < 1:
        raise InputError(f"dropout {dropout:g} is outside [0, 1)")
    if name.startswith(smoke.PREFIX):
        return mlp(math.prod(shape), n_classes, dropout)
    if sized := MLP.fullmatch(name):
        return mlp(math.prod(shape), n_classes, dropout, int(sized[1]), int(sized[2]))
    if name.startswith("mlp:"):
        raise InputError(f"network {name!r} has no size; write mlp:WIDTHxDEPTH, such as mlp:512x3")
    if name not in NETWORKS and name not in HEADS and (made := own.found("networks", name)) is not None:
        return _brought(name, made, tuple(shape), n_classes, dropout)
    if len(shape) == 1:
        return _head(name, shape[0], n_classes, dropout)
    in_channels, size = shape[:2]
    if name in NETWORKS:
        return NETWORKS[name](in_channels, size, n_classes, dropout)
    if name in HEADS:
        raise InputError(
            f"network {name!r} takes vectors, these are images; choose from: {', '.join(sorted(NETWORKS))}"
        )
    base, trained = name.removesuffix(PRETRAINED), name.endswith(PRETRAINED)
    if base in NETWORKS:
        raise InputError(
            f"network {base!r} has no pretrained weights; torchvision's have, such as resnet18{PRETRAINED}"
        )
    make = _timm(base, trained) if base.startswith(TIMM) else _torchvision(base, trained)
    return _fitted(name, make, in_channels, size, n_classes, dropout)


def _brought(name: str, made: Any, shape: tuple[int, ...], n_classes: int, dropout: float) -> nn.Module:
    """A network of a user's own: ``made(shape, n_classes)`` or ``made(shape, n_classes, dropout)``, for any size of batch."""
    try:
        takes_dropout = len(inspect.signature(made).parameters) > 2
        if dropout and not takes_dropout:
            raise InputError(f"network {name!r} has no place for dropout; let it take (shape, n_classes, dropout)")
        net = made(shape, n_classes, dropout) if takes_dropout else made(shape, n_classes)
        with torch.no_grad():
            logits = take_one(net).eval()(torch.zeros(2, *shape))
    except InputError:
        raise
    except Exception as error:  # theirs may raise anything
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise InputError(
            f"network {name!r} cannot be made for {'x'.join(map(str, shape))} and {n_classes} classes: {why}"
        ) from None
    if not isinstance(logits, Tensor) or logits.shape != (2, n_classes):
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"network {name!r} gives {found} for two samples; it gives logits [2, {n_classes}]")
    trained: nn.Module = net.train()
    return trained


def _head(name: str, features: int, n_classes: int, dropout: float) -> nn.Module:
    if name in HEADS:
        return HEADS[name](features, n_classes, dropout)
    base = name.removesuffix(PRETRAINED)
    if base in NETWORKS or base.startswith(TIMM) or base in of_torchvision():
        raise InputError(
            f"network {name!r} takes images, these are vectors of {features}; choose from: {', '.join(sorted(HEADS))}"
        )
    raise unknown("network for vectors", name, HEADS)


class Rgb(nn.Module):
    """Gives one-channel images to a three-channel network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.expand(-1, 3, -1, -1))


Maker = Callable[[int], nn.Module]  # n_classes -> a network for three channels


def of_torchvision() -> list[str]:
    """The names of torchvision's classifiers."""
    from torchvision import models  # not at the top: it is slow to import, and our own networks do without

    return models.list_models(module=models)


def imagenet_weights(name: str) -> Mapping[str, Tensor]:
    """The weights that torchvision has of one of its classifiers. Raises InputError where they cannot be had."""
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # urllib, sockets and zipfile each have their own
        file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
        why = f"are not here and cannot be downloaded ({type(error).__name__})"
        raise InputError(f"the weights of {name}{PRETRAINED} {why}; put {weights.url} at {file}") from None


def _torchvision(name: str, trained: bool) -> Maker:
    from torchvision import models

    theirs = of_torchvision()
    if name not in theirs:
        near = get_close_matches(name, [*NETWORKS, *theirs], n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        ours = ", ".join(sorted(NETWORKS))
        raise InputError(
            f"unknown network {name!r}; {hint}choose from: {ours}, a torchvision classifier such as resnet18, or timm:NAME, "
            "or FILE.py:FUNCTION of your own"
        )

    def make(n_classes: int) -> nn.Module:
        # Auxiliary heads would make the output a tuple in training; init_weights only silences a warning.
        plain = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
        net: nn.Module = models.get_model(name, weights=None, num_classes=n_classes, **plain)
        if trained:
            told = imagenet_weights(name)
            fresh = net.state_dict()  # all but the last layer, which is for other classes
            net.load_state_dict(
                {k: v for k, v in told.items() if k in fresh and fresh[k].shape == v.shape}, strict=False
            )
        return net

    return make


def _timm(name: str, trained: bool) -> Maker:
    try:
        import timm
    except ImportError:
        raise InputError(f"network {name!r} needs the optional package timm: pip install timm") from None
    own = name.removeprefix(TIMM)
    if not timm.is_model(own):
        raise unknown("network of timm", own, timm.list_models())

    def make(n_classes: int) -> nn.Module:
        try:
            return timm.create_model(own, pretrained=trained, num_classes=n_classes)
        except Exception as error:
            raise InputError(
                f"the weights of {name}{PRETRAINED} are not here and cannot be downloaded ({type(error).__name__})"
            ) from None

    return make


def _fitted(name: str, make: Maker, in_channels: int, size: int, n_classes: int, dropout: float) -> nn.Module:
    """A network of a library's for these images and any size of batch, with dropout in front of its last linear layer."""
    net = take_one(make(n_classes))
    if dropout:
        linear = [path for path, module in net.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise InputError(f"network {name!r} has no place for dropout; choose from: {', '.join(sorted(NETWORKS))}")
        parent, _, last = linear[-1].rpartition(".")
        owner = net.get_submodule(parent)
        setattr(owner, last, nn.Sequential(nn.Dropout(dropout), getattr(owner, last)))
    net = Rgb(net) if in_channels == 1 else net
    try:
        with torch.no_grad():  # most are made for 224x224; in evaluation mode nothing is learnt from the probe
            net.eval()(torch.zeros(1, in_channels, size, size))
    except Exception as error:  # torch, assert and torchvision each have their own for images of the wrong size
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"network {name!r} does not take images of {size}x{size} pixels ({why}); "
            f"choose from: {', '.join(sorted(NETWORKS))}"
        ) from None
    return net.train()
