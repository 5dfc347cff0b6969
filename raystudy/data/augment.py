"""Augmentations of batches on the device: pure functions of (images, parameters), every image with parameters of its own.

Images are [B, C, H, W] with C 1 or 3, uint8 (0..255) or floating point in [0, 1], and come back in the same dtype and shape;
parameters are one number per image, [B], on any device. No function loops over images: where images go different ways, they
are grouped by operation. Values are those of ``torchvision.transforms.v2.functional`` on the same parameters (its uint8
arithmetic, which truncates); what it can do per image already, it does here.

Draws are apart from what uses them: ``draw_strong`` and ``draw_jitter`` take their numbers from a generator on the CPU, so
that a loader which seeds it from (seed, epoch, pass) gets the same views on every device and whatever its chunks are.
A loader that makes weak views of its own, streaming ones included, makes a strong view of each with two lines::

    draws = draw_strong(len(members), size, rng)   # once per pass, in the order of the pass
    x = strong(x, draws.at(slice_of_the_chunk))    # on the weak views, uint8, before normalisation
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

LEVELS = 30  # magnitudes are whole levels 0..30, as torchvision's 31 bins
# torchvision's RandAugment space (Cubuk et al. 2020, section 3.1, with the ranges of AutoAugment).
OPS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "colour",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
GEOMETRIC = OPS[1:6]


def _per_image(values: Tensor, x: Tensor) -> Tensor:
    """Parameters [B] in the shape in which they broadcast over ``x``, [B, 1, 1, 1], float32 on its device."""
    return values.to(x.device, torch.float32).view(-1, 1, 1, 1)


def _bound(x: Tensor) -> float:
    return 1.0 if x.is_floating_point() else 255.0


def _floats(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.float()


# --- where pixels go ----------------------------------------------------------------------------------------------


def crop(x: Tensor, down: Tensor, right: Tensor, pad: int) -> Tensor:
    """Windows of H x W that begin ``down`` rows and ``right`` columns (int [B], 0..2 pad) into images padded by ``pad`` zeros."""
    return _gather(
        x,
        *(
            _arange(n, x) + (shift.to(x.device) - pad)[:, None]
            for n, shift in zip(x.shape[2:], (down, right), strict=True)
        ),
    )


def _arange(n: int, x: Tensor) -> Tensor:
    return torch.arange(n, device=x.device)


def _gather(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x[b, :, rows[b, i], columns[b, j]], zero where outside; ``rows`` [B, H], ``columns`` [B, W]."""
    return _pick(x, rows[:, :, None], columns[:, None, :])


def _pick(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x[b, :, rows[b, i, j], columns[b, i, j]], zero where outside; both broadcast to [B, H, W]."""
    height, width = x.shape[2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = (rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)).expand(len(x), height, width)
    picked = x.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    return picked * inside[:, None]


def flip(x: Tensor, mask: Tensor) -> Tensor:
    """Images mirrored left to right where ``mask`` (bool [B]) is set."""
    # Whole images picked out of both halves: six times as fast on the CPU as torch.where with a mask per image.
    rows = torch.arange(len(x), device=x.device) + len(x) * mask.to(x.device)
    return torch.cat((x, x.flip(3))).index_select(0, rows)


def affine(x: Tensor, matrix: Tensor) -> Tensor:
    """Nearest pixels under an inverse map, zero outside: what lies at p comes from ``matrix`` [B, 2, 3] (p, 1).

    Coordinates are (x, y) in pixels from the centre of the image. A point half-way between two pixels takes the later one, on
    every device (torchvision leaves that to rounding errors).
    """
    height, width = x.shape[2:]
    m = matrix.to(x.device, torch.float32)[..., None, None]
    right = (_arange(width, x) - (width - 1) / 2)[None, None]
    down = (_arange(height, x) - (height - 1) / 2)[None, :, None]
    columns, rows = (
        # One rounding per product and sum: fused or batched ones would differ between devices and chunk sizes.
        (right * m[:, i, 0] + down * m[:, i, 1] + m[:, i, 2] + ((n - 1) / 2 + 0.5 + 1e-4)).floor().long()
        for i, n in ((0, width), (1, height))
    )
    return _pick(x, rows, columns)


def inverse_matrix(op: Tensor, value: Tensor, height: int, width: int) -> Tensor:
    """Matrices [B, 2, 3] for ``affine``, float64 on the CPU; ``op`` [B] positions in GEOMETRIC, ``value`` [B].

    shear_x, shear_y: the slope, about the upper left corner; translate_x, translate_y: pixels to the right or down, whole ones
    (truncated); rotate: degrees, counter-clockwise, about the centre.
    """
    value = value.double()
    shear_x, shear_y, translate_x, translate_y, rotate = (value * (op == i) for i in range(5))
    sin, cos = (rotate * (math.pi / 180)).sin(), (rotate * (math.pi / 180)).cos()
    rows = (
        cos,
        shear_x - sin,
        shear_x * height / 2 - translate_x.trunc(),
        shear_y + sin,
        cos,
        shear_y * width / 2 - translate_y.trunc(),
    )
    return torch.stack(rows, 1).view(-1, 2, 3)


def cutout(x: Tensor, row: Tensor, column: Tensor, size: int, fill: Tensor | float = 0) -> Tensor:
    """A square of ``size`` pixels set to ``fill`` (a number, or [C]); its centre at (row, column), int [B], cut at the border.

    DeVries and Taylor 2017: the square reaches from centre - size // 2 to centre + size - size // 2, exclusive.
    """
    inside = [
        ((_arange(n, x) >= (centre := c.to(x.device)[:, None] - size // 2)) & (_arange(n, x) < centre + size))
        for n, c in zip(x.shape[2:], (row, column), strict=True)
    ]
    hole = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
    value = torch.as_tensor(fill, device=x.device).to(x.dtype).view(-1, 1, 1)
    return torch.where(hole, value, x)


# --- colours ------------------------------------------------------------------------------------------------------


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """factor x + (1 - factor) other, clipped to the range of the dtype."""
    f = _per_image(factor, x)
    return (x * f + other * (1 - f)).clamp_(0, _bound(x)).to(x.dtype)


def _grey(x: Tensor) -> Tensor:
    """Luma [B, 1, H, W] (ITU-R 601), of uint8 images whole numbers as floats."""
    if x.shape[1] == 1:
        return _floats(x)
    r, g, b = x.split(1, 1)
    grey = r * 0.2989 + g * 0.587 + b * 0.114
    return grey if x.is_floating_point() else grey.floor_()


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Pixels times ``factor`` [B] >= 0; 1 is the identity, 0 black."""
    return (x * _per_image(factor, x)).clamp_(0, _bound(x)).to(x.dtype)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Away from the image's mean grey for ``factor`` [B] above 1, towards it below; 1 is the identity, 0 one grey."""
    return _blend(x, _grey(x).mean((1, 2, 3), keepdim=True), factor)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Away from the grey image for ``factor`` [B] above 1, towards it below; 1 is the identity; grey images stay."""
    return x if x.shape[1] == 1 else _blend(x, _grey(x), factor)


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Hue turned by ``shift`` [B] of a full circle, -0.5..0.5; 0 is the identity; grey images stay."""
    if x.shape[1] == 1:
        return x
    rgb = x if x.is_floating_point() else x / 255
    value, low = rgb.amax(1, keepdim=True), rgb.amin(1, keepdim=True)
    span = value - low
    r, g, b = rgb.split(1, 1)
    safe = torch.where(span == 0, 1.0, span)
    sector = torch.where(
        value == r, (g - b) / safe, torch.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4)
    )  # of six around the circle
    turned = sector + 6 * _per_image(shift, x)
    k = (torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1) + turned) % 6
    out = value - span * torch.minimum(k, 4 - k).clamp(0, 1)
    return out if x.is_floating_point() else (out * 255.999).to(x.dtype)  # as torchvision converts


def sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """Away from the smoothed image for ``factor`` [B] above 1, towards it below; 1 is the identity; the border stays.

    Smoothed: 3 x 3 weights of 1, with 5 in the middle, over 13.
    """
    if min(x.shape[2:]) <= 2:
        return x
    full = _floats(x)
    across = full[..., :-2] + full[..., 1:-1] + full[..., 2:]
    middle = full[..., 1:-1, 1:-1]
    smooth = (across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :] + 4 * middle) / 13
    if not x.is_floating_point():
        smooth = smooth.round_()
    out = full.clone()
    out[..., 1:-1, 1:-1] += (smooth - middle) * (1 - _per_image(factor, x))
    return out.clamp_(0, _bound(x)).to(x.dtype)


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """The upper ``bits`` (int [B], 0..8) of the eight of each pixel; 8 is the identity for uint8."""
    if x.is_floating_point():
        levels = _per_image(2.0**bits, x)
        return torch.minimum((x * levels).floor_(), levels - 1) / levels
    mask = (256 - 2 ** (8 - bits.long())).clamp(0, 255).to(x.device, x.dtype)
    return x & mask.view(-1, 1, 1, 1)


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """Pixels of at least ``threshold`` [B] (in the units of the image) inverted."""
    return torch.where(x >= _per_image(threshold, x), 1 - x if x.is_floating_point() else 255 - x, x)


# --- colour jitter ------------------------------------------------------------------------------------------------


class Jitter(NamedTuple):
    """Parameters of a colour jitter, [n] each, and the order [n, 4] of the four (a permutation of 0..3), on the CPU."""

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    order: Tensor

    def at(self, rows: slice) -> "Jitter":
        return Jitter(*(value[rows] for value in self))


def draw_jitter(
    n: int,
    rng: torch.Generator,
    brightness: float = 32 / 255,
    contrast: float = 0.5,
    saturation: float = 0.5,
    hue: float = 0.2,
) -> Jitter:
    """``n`` draws as of ``torchvision.transforms.ColorJitter``: factors uniform in 1 +- width, hue in +- width, a random order.

    The widths are those of MentorMix's colour distortion.
    """
    widths = torch.tensor([brightness, contrast, saturation, hue])
    u = (2 * torch.rand(n, 4, generator=rng) - 1) * widths
    factors = (1 + u[:, :3]).clamp_min(0)
    order = torch.rand(n, 4, generator=rng).argsort(1)
    return Jitter(factors[:, 0], factors[:, 1], factors[:, 2], u[:, 3], order)


def colour_jitter(x: Tensor, draws: Jitter) -> Tensor:
    """Brightness, contrast, saturation and hue, each image in its own order."""
    for step in draws.order.unbind(1):
        out = x.clone()
        for i, function in enumerate((brightness, contrast, saturation, hue)):
            mine = (step == i).nonzero()[:, 0]
            if len(mine):
                here = mine.to(x.device)
                out[here] = function(x[here], draws[i][mine])
        x = out
    return x


# --- strong views -------------------------------------------------------------------------------------------------


class Strong(NamedTuple):
    """Parameters of strong views, on the CPU."""

    ops: Tensor  # [n, L] int64, positions in OPS, applied in this order
    levels: Tensor  # [n, L] int64, -30..30; the sign counts only where an operation has two directions
    hole: Tensor  # [n, 2] int64, row and column of the centre of the cutout

    def at(self, rows: slice) -> "Strong":
        return Strong(*(value[rows] for value in self))


def draw_strong(n: int, size: tuple[int, int], rng: torch.Generator, layers: int = 2) -> Strong:
    """Draws for ``n`` images of ``size`` (height, width): every image has its own operations, magnitudes and hole."""
    ops = torch.randint(len(OPS), (n, layers), generator=rng)
    levels = torch.randint(LEVELS + 1, (n, layers), generator=rng)
    signs = 2 * torch.randint(2, (n, layers), generator=rng) - 1
    hole = torch.stack([torch.randint(side, (n,), generator=rng) for side in size], 1)
    return Strong(ops, levels * signs, hole)


def strong(x: Tensor, draws: Strong, fill: Tensor | float = 0) -> Tensor:
    """What makes a strong view of a weak one (crop and flip): RandAugment, then cutout of half the image's side.

    Two operations per image out of the fourteen of RandAugment (Cubuk et al. 2020) with magnitudes drawn anew for every image,
    then cutout (DeVries and Taylor 2017): the strong augmentation of FixMatch (Sohn et al. 2020, section 2.3 and appendix D),
    whose cutout on 32 x 32 pixels is 16. ``fill``: the colour of the hole, a number or [C] in the units of the images; the mean
    of the data set is what a zero after normalisation would be.
    """
    x = rand_augment(x, draws.ops, draws.levels)
    return cutout(x, draws.hole[:, 0], draws.hole[:, 1], max(x.shape[2] // 2, 1), fill)


def rand_augment(x: Tensor, ops: Tensor, levels: Tensor) -> Tensor:
    """Operations ``ops`` [B, L] (positions in OPS) at ``levels`` [B, L] (-30..30), one layer after the other.

    Ranges as torchvision's: shear up to 0.3, translation up to 150/331 of the side, rotation up to 30 degrees, factors
    1 +- 0.9, posterize 8 to 4 bits, solarize from the upper end of the range to 0; nearest pixels, black where nothing was.
    """
    ops, levels = ops.cpu(), levels.cpu()
    for op, level in zip(ops.unbind(1), levels.unbind(1), strict=True):
        out = x.clone()
        moved = (op > 0) & (op <= len(GEOMETRIC))
        # Images are grouped on the CPU, where the draws are: nothing waits for the device to count.
        for group in (moved, *(op == i for i in range(1 + len(GEOMETRIC), len(OPS)))):
            mine = group.nonzero()[:, 0]
            if len(mine):
                here = mine.to(x.device)
                out[here] = _apply(x[here], op[mine], level[mine])
        x = out
    return x


def _apply(x: Tensor, op: Tensor, level: Tensor) -> Tensor:
    """One layer on images that share an operation, or that are all geometric; ``op``, ``level`` [B] on the CPU."""
    share = level.double() / LEVELS
    name = OPS[int(op[0])]
    if name in GEOMETRIC:
        height, width = x.shape[2:]
        most = torch.tensor([0.3, 0.3, 150 / 331 * width, 150 / 331 * height, 30.0], dtype=torch.float64)
        return affine(x, inverse_matrix(op - 1, share * most[op - 1], height, width))
    if name in ("autocontrast", "equalize"):
        from torchvision.transforms.v2 import functional  # not at the top: it is slow to import

        result: Tensor = getattr(functional, name)(x)
        return result
    if name == "posterize":
        return posterize(x, (8 - share.abs() * 4).round())
    if name == "solarize":
        return solarize(x, (1 - share.abs()) * _bound(x))
    function = {"brightness": brightness, "colour": saturation, "contrast": contrast, "sharpness": sharpness}[name]
    return function(x, 1 + 0.9 * share)
