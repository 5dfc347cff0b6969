"""Augmentations: each against torchvision's own on the same parameters, identity limits, and what fixes the draws.

Tolerances, in grey levels of uint8 (1/255 for floats): geometry and bit operations are equal; where torchvision sums with
fused roundings before it truncates, one level.
"""

import math

import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from torch import Tensor

from raystudy.data import augment
from raystudy.data.augment import OPS

SHAPES = [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 9, 14), (1, 2, 2), (3, 1, 1)]


def images(n: int, shape: tuple[int, int, int], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Random images, among them a black, a white and a grey one, and smooth ones."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (n, *shape), dtype=torch.uint8, generator=g)
    x[0], x[1], x[2] = 0, 255, 100
    x[3] = x[3, :1]  # no colour
    x[4] = x[4] // 8 + 90  # little contrast
    return x if dtype == torch.uint8 else x / 255


def close(ours: Tensor, theirs: list[Tensor], levels: int = 0) -> None:
    """Equal in dtype and shape, and to within so many grey levels (rounding of float32 for floats where 0)."""
    expected = torch.stack(theirs)
    assert (ours.dtype, ours.shape) == (expected.dtype, expected.shape)
    if expected.dtype == torch.uint8:
        assert (ours.int() - expected.int()).abs().max() <= levels
    else:
        torch.testing.assert_close(ours, expected, rtol=0, atol=max(levels / 255, 2e-6))


def uniform(n: int, low: float, high: float, seed: int = 1) -> Tensor:
    values = low + (high - low) * torch.rand(n, generator=torch.Generator().manual_seed(seed))
    values[5] = high
    values[6] = low
    return values


@pytest.fixture(params=[torch.uint8, torch.float32], ids=["uint8", "float"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=SHAPES, ids=lambda s: "x".join(map(str, s)))
def x(request: pytest.FixtureRequest, dtype: torch.dtype) -> Tensor:
    return images(24, request.param, dtype)


# --- each operation is torchvision's, image by image --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "low", "high", "levels"),
    [
        ("brightness", 0, 2, 0),
        ("contrast", 0, 2, 1),
        ("saturation", 0, 2, 1),
        ("hue", -0.5, 0.5, 1),
        ("sharpness", 0, 2, 1),
    ],
)
def test_colours(x, name, low, high, levels):
    values = uniform(len(x), low, high)
    theirs = getattr(tvf, f"adjust_{name}")
    close(getattr(augment, name)(x, values), [theirs(i, v) for i, v in zip(x, values.tolist(), strict=True)], levels)
    identity = getattr(augment, name)(x, torch.full((len(x),), float(name != "hue")))
    close(identity, list(x), 0)


def test_posterize_and_solarize(x):
    bits = torch.arange(len(x)) % 9
    close(augment.posterize(x, bits), [tvf.posterize(i, int(b)) for i, b in zip(x, bits, strict=True)])
    top = 255 if x.dtype == torch.uint8 else 1.0
    at = uniform(len(x), 0, 1) * top
    close(augment.solarize(x, at), [tvf.solarize(i, t) for i, t in zip(x, at.tolist(), strict=True)])
    assert torch.equal(augment.solarize(x, torch.full((len(x),), top + 0.5)), x)
    if x.dtype == torch.uint8:
        assert torch.equal(augment.posterize(x, torch.full((len(x),), 8)), x)


def test_crop_and_flip(x):
    n, pad = len(x), 3
    down, right = torch.randint(2 * pad + 1, (2, n), generator=torch.Generator().manual_seed(2))
    height, width = x.shape[2:]
    theirs = [
        tvf.crop(tvf.pad(i, [pad] * 4), int(d), int(r), height, width) for i, d, r in zip(x, down, right, strict=True)
    ]
    close(augment.crop(x, down, right, pad), theirs)
    assert torch.equal(augment.crop(x, torch.full((n,), pad), torch.full((n,), pad), pad), x)
    mask = torch.arange(n) % 3 == 0
    close(augment.flip(x, mask), [tvf.horizontal_flip(i) if m else i for i, m in zip(x, mask, strict=True)])
    assert torch.equal(augment.flip(x, torch.zeros(n, dtype=torch.bool)), x)


def test_cutout_is_erase_and_is_cut_at_the_border(x):
    height, width = x.shape[2:]
    rows, columns = torch.arange(len(x)) % height, torch.arange(len(x)) * 5 % width
    fill = torch.arange(1, x.shape[1] + 1).to(x.dtype)
    for size in (1, 2, 3, 8):
        theirs = []
        for i, r, c in zip(x, rows.tolist(), columns.tolist(), strict=True):
            top, left = max(r - size // 2, 0), max(c - size // 2, 0)
            bottom, end = min(r - size // 2 + size, height), min(c - size // 2 + size, width)
            theirs.append(tvf.erase(i, top, left, bottom - top, end - left, fill.view(-1, 1, 1)))
        close(augment.cutout(x, rows, columns, size, fill), theirs)
    assert torch.equal(augment.cutout(x, rows, columns, 0), x)
    assert (augment.cutout(x, rows, columns, 2 * max(height, width) + 2, 0) == 0).all()


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_geometry(x, name):
    """Equal wherever torchvision's source point is not within 1e-3 of half-way between two pixels, where it rounds by chance."""
    height, width = x.shape[2:]
    most = {"shear_x": 0.3, "shear_y": 0.3, "translate_x": 0.5 * width, "translate_y": 0.5 * height, "rotate": 30}[name]
    values = uniform(len(x), -most, most).double()
    op = torch.full((len(x),), augment.GEOMETRIC.index(name))
    matrix = augment.inverse_matrix(op, values, height, width)
    ours = augment.affine(x, matrix)
    theirs = []
    for i, v in zip(x, values.tolist(), strict=True):
        options = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
        if name == "rotate":
            theirs.append(tvf.rotate(i, v))
        elif name.startswith("shear"):
            degrees = math.degrees(math.atan(v))
            shear = [degrees, 0.0] if name == "shear_x" else [0.0, degrees]
            theirs.append(tvf.affine(i, **options | {"shear": shear, "center": [0, 0]}))
        else:
            shift = [int(v), 0] if name == "translate_x" else [0, int(v)]
            theirs.append(tvf.affine(i, **options | {"translate": shift}))
    right, down = (torch.arange(n) - (n - 1) / 2 for n in (width, height))
    point = torch.stack([right.expand(height, width), down[:, None].expand(height, width), torch.ones(height, width)])
    source = torch.einsum("bij,jhw->bihw", matrix, point.double()) + torch.tensor([width, height]).view(1, 2, 1, 1) / 2
    clear = ((source - source.round()).abs() > 1e-3).all(1)[:, None].expand_as(x)
    assert clear.float().mean() > 0.7 or min(height, width) < 8
    assert torch.equal(ours[clear], torch.stack(theirs)[clear])
    close(augment.affine(x, augment.inverse_matrix(op, 0 * values, height, width)), list(x))


def test_rand_augment_is_torchvisions_operation_for_operation(dtype):
    """Every operation at every level, as the private dispatch of torchvision's RandAugment does it."""
    from torchvision.transforms import v2

    policy = v2.RandAugment()
    names = ("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
             "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize")  # fmt: skip
    assert tuple(policy._AUGMENTATION_SPACE) == names
    ops = torch.arange(len(OPS)).repeat_interleave(61)
    levels = torch.arange(-30, 31).repeat(len(OPS))
    x = images(len(ops), (3, 32, 32), dtype)
    ours = augment.rand_augment(x, ops[:, None], levels[:, None])
    for i, name in enumerate(names):
        space, signed = policy._AUGMENTATION_SPACE[name]
        magnitudes = space(31, 32, 32)
        mine = ops == i
        theirs = []
        for image, level in zip(x[mine], levels[mine].tolist(), strict=True):
            magnitude = 0.0 if magnitudes is None or magnitudes.ndim == 0 else float(magnitudes[abs(level)])
            magnitude *= -1 if signed and level < 0 else 1
            theirs.append(policy._apply_image_or_video_transform(image, name, magnitude, "nearest", {}))
        expected = torch.stack(theirs)
        if i in range(1, 6):  # a point half-way between two pixels may go either way, see test_geometry
            assert (ours[mine] != expected).float().mean() < 0.02
        elif name == "Solarize":  # so may a pixel at the threshold, which is 255 k/30
            threshold = (1 - levels[mine].abs() / 30).view(-1, 1, 1, 1) * (255 if dtype == torch.uint8 else 1)
            clear = (x[mine] - threshold).abs() > 1e-4
            assert torch.equal(ours[mine][clear], expected[clear])
        else:
            close(ours[mine], theirs, 1)


def test_layers_are_applied_one_after_the_other(dtype):
    x = images(50, (3, 16, 16), dtype)
    g = torch.Generator().manual_seed(3)
    ops, levels = torch.randint(14, (50, 3), generator=g), torch.randint(-30, 31, (50, 3), generator=g)
    step = x
    for i in range(3):
        step = augment.rand_augment(step, ops[:, i : i + 1], levels[:, i : i + 1])
    assert torch.equal(augment.rand_augment(x, ops, levels), step)
    assert torch.equal(augment.rand_augment(x, 0 * ops, levels), x)


def test_colour_jitter_is_torchvisions_in_each_images_own_order(dtype):
    x = images(40, (3, 12, 12), dtype)
    draws = augment.draw_jitter(40, torch.Generator().manual_seed(0))
    theirs = []
    for i, image in enumerate(x):
        for k in draws.order[i].tolist():
            name = ("brightness", "contrast", "saturation", "hue")[k]
            image = getattr(tvf, f"adjust_{name}")(image, float(draws[k][i]))
        theirs.append(image)
    # A level of difference before the hue is turned can grow where there is little colour.
    difference = (augment.colour_jitter(x, draws).double() - torch.stack(theirs).double()).abs()
    assert (difference > (2 if dtype == torch.uint8 else 1e-4)).double().mean() < 0.01
    assert len(draws.order.unique(dim=0)) > 12
    for factor, width in ((draws.brightness, 32 / 255), (draws.contrast, 0.5), (draws.saturation, 0.5)):
        assert 0.8 * width < (factor - 1).abs().max() <= width
    none = augment.draw_jitter(40, torch.Generator(), 0, 0, 0, 0)
    close(augment.colour_jitter(x, none), list(x))


# --- strong views -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_an_image_of_a_strong_view_depends_on_its_own_draws_alone(shape, dtype):
    x = images(60, shape, dtype)
    draws = augment.draw_strong(60, shape[1:], torch.Generator().manual_seed(0))
    whole = augment.strong(x, draws, 0.5 if dtype != torch.uint8 else 127)
    assert (whole.dtype, whole.shape) == (x.dtype, x.shape)
    assert 0 <= whole.min() <= whole.max() <= (255 if dtype == torch.uint8 else 1)
    for size in (1, 7, 60):
        parts = [
            augment.strong(x[i : i + size], draws.at(slice(i, i + size)), 0.5 if dtype != torch.uint8 else 127)
            for i in range(0, 60, size)
        ]
        if dtype == torch.uint8:
            assert torch.equal(torch.cat(parts), whole)
        else:
            torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-6)


def test_draws_are_uniform_and_apart_from_the_global_generator():
    before = torch.get_rng_state().clone()
    draws = augment.draw_strong(14_000, (8, 12), torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)
    counts = torch.bincount(draws.ops.flatten(), minlength=14)
    assert (abs(counts - 2000) < 5 * 2000**0.5).all()
    assert set(draws.levels.unique().tolist()) == set(range(-30, 31))
    assert abs(draws.levels.double().mean()) < 0.5
    assert draws.hole.amax(0).tolist() == [7, 11]
    assert draws.hole.amin(0).tolist() == [0, 0]
    assert not torch.equal(draws.ops[:, 0], draws.ops[:, 1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8)])
def test_the_gpu_gives_the_same_strong_views(shape):
    x = images(200, shape, torch.uint8)
    draws = augment.draw_strong(200, shape[1:], torch.Generator().manual_seed(0))
    assert torch.equal(augment.strong(x.cuda(), draws, 127).cpu(), augment.strong(x, draws, 127))
