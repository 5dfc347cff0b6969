"""Batches, of images in memory and in files: crops and flips against torchvision's, draws fixed by (seed, epoch, pass), subsets."""

import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tvf
from torchvision.io import write_png

from raystudy.data import augment, files, loader
from raystudy.data.files import Files
from raystudy.data.loader import OnDevice, split_validation
from raystudy.data.streaming import Streaming
from raystudy.errors import InputError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


KEPT = "memory"  # where ``make`` keeps its images: every test runs over both loaders
FOLDER = Path()


@pytest.fixture(params=["memory", "files"], autouse=True)
def kept(request, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(sys.modules[__name__], "KEPT", request.param)
    monkeypatch.setattr(sys.modules[__name__], "FOLDER", tmp_path_factory.getbasetemp() / "loader")


def as_files(x: torch.Tensor) -> Files:
    """The images as PNG files, which lose nothing."""
    folder = FOLDER / "x".join(map(str, x.shape))
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for i, image in enumerate(x):
            write_png(image, str(folder / f"{i}.png"), compression_level=0)
    return Files(folder, [f"{i}.png" for i in range(len(x))], x.shape[2], x.shape[1])


def images(n: int, channels: int = 3, size: int = 9) -> torch.Tensor:
    return torch.randint(
        1, 256, (n, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(n)
    )


def make(n: int = 100, channels: int = 3, size: int = 9, **kwargs) -> OnDevice:
    options = {
        "mean": MEAN[:channels],
        "std": STD[:channels],
        "pad": 2,
        "flip": True,
        "batch_size": 32,
        "seed": 1,
    } | kwargs
    x, y = images(n, channels, size), torch.arange(n) % 10
    return OnDevice(x, y, 10, **options) if KEPT == "memory" else Streaming(as_files(x), y, 10, **options)


def same(a, b) -> bool:
    return len(a) == len(b) and all(
        (p is None and q is None) or torch.equal(p, q)
        for x, y in zip(a, b, strict=True)
        for p, q in zip(x, y, strict=True)
    )


def pixels(x: torch.Tensor) -> torch.Tensor:
    """Back from normalised images to uint8."""
    mean, std = (torch.tensor(v[: x.shape[1]]).view(-1, 1, 1) for v in (MEAN, STD))
    return ((x * std + mean) * 255).round().to(torch.uint8)


# --- one pass -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("size", [1, 7, 32, 99, 100, 1000])
def test_a_pass_visits_every_image_once_and_keeps_the_last_short_batch(shuffle, size):
    train = make(100)
    batches = list(train.batches(shuffle=shuffle, batch_size=size))
    assert [len(b.y) for b in batches] == [size] * (100 // size) + [100 % size] * (100 % size > 0)
    index = torch.cat([b.index for b in batches])
    assert torch.equal(index.sort().values, torch.arange(100))
    assert torch.equal(index, torch.arange(100)) != shuffle
    assert all(torch.equal(b.y, train.y[b.index]) and len(b.x) == len(b.y) and b.x2 is None for b in batches)
    assert (len(train), train.n_classes, train.batch_size) == (100, 10, 32)


def test_unaugmented_images_are_totensor_and_normalize():
    x = images(50)
    for pad in (0, 3):
        for b in make(50, pad=pad).batches(augment=False):
            expected = tvf.normalize(x[b.index].float() / 255, MEAN, STD)
            torch.testing.assert_close(b.x, expected, rtol=1e-5, atol=1e-6)
            assert b.x.dtype == torch.float32


def test_normalised_is_what_batches_give():
    train = make(50)
    for b in train.batches(augment=False, shuffle=False):
        assert torch.equal(train.normalised(images(50)[b.index]), b.x)


@pytest.mark.parametrize(("channels", "size", "pad", "flip"), [(1, 8, 1, False), (3, 9, 2, True), (3, 6, 0, True)])
def test_crops_and_flips_are_torchvisions_and_every_one_occurs(channels, size, pad, flip):
    n = 400
    x, train = images(n, channels, size), make(n, channels, size, pad=pad, flip=flip)
    places = {}
    padded = tvf.pad(x, [pad] * 4)  # zeros before the normalisation
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crop = tvf.crop(padded, top, left, size, size)
            for mirrored in (False, True)[: 1 + flip]:
                places[top, left, mirrored] = tvf.hflip(crop) if mirrored else crop
    counts = dict.fromkeys(places, 0)
    for b in train.batches(views=2):
        for view in (b.x, b.x2):
            found = torch.zeros(len(b.y), dtype=torch.long)
            for place, candidates in places.items():
                match = (pixels(view) == candidates[b.index]).flatten(1).all(1)
                counts[place] += int(match.sum())
                found += match
            assert (found == 1).all()
    expected = 2 * n / len(places)
    assert all(abs(c - expected) < 5 * expected**0.5 for c in counts.values())


def test_other_images_in_chunks():
    train, x = make(50), images(50)
    held = x if KEPT == "memory" else as_files(x)
    chunks = list(train.chunks(held, 16))
    assert [len(c) for c in chunks] == [16, 16, 16, 2]
    assert torch.equal(torch.cat(chunks), train.normalised(x))


def test_two_views_are_independent_draws_and_the_first_is_that_of_one_view():
    one, two = list(make().batches()), list(make().batches(views=2))
    assert all(torch.equal(a.x, b.x) and torch.equal(a.index, b.index) for a, b in zip(one, two, strict=True))
    x, x2 = (torch.cat([getattr(b, view) for b in two]) for view in ("x", "x2"))
    assert (x == x2).flatten(1).all(1).sum() < 15  # of 100, 1 in 50 by chance
    plain = list(make().batches(views=2, augment=False))
    assert all(torch.equal(b.x, b.x2) for b in plain)
    with pytest.raises(ValueError, match="one or two views"):
        make().batches(views=3)


def test_each_view_is_augmented_as_asked():
    """A strong view is the weak one of the same draws with RandAugment and cutout on top; the other view does not notice."""
    weak = list(make(flip=False).batches(views=2))
    for asked in ((True, "strong"), ("strong", True), "strong", (False, "strong"), (False, True)):
        each = asked if isinstance(asked, tuple) else (asked, asked)
        for a, b in zip(weak, make(flip=False).batches(views=2, augment=asked), strict=True):
            assert torch.equal(a.index, b.index)
            for how, before, after in zip(each, (a.x, a.x2), (b.x, b.x2), strict=True):
                if how is True and each[0] is not False:  # a view that draws no crop leaves the numbers to the next
                    assert torch.equal(before, after)
                if how == "strong":
                    assert (before != after).flatten(1).any(1).float().mean() > 0.9
    train = make(pad=0, flip=False)
    plain = pixels(next(train.at(1).batches(shuffle=False, batch_size=100)).x)
    draws = train._draw_strong(100, 1, 1, 0, 0)
    shown = next(train.at(1).batches(shuffle=False, batch_size=100, augment="strong")).x
    assert torch.equal(pixels(shown), augment.strong(plain, draws, torch.tensor([128, 102, 76], dtype=torch.uint8)))


@pytest.mark.parametrize("asked", ["weak", 2, None, (True,), (True, True, True), (True, "srong")])
def test_an_augmentation_that_is_none_is_refused(asked):
    with pytest.raises(ValueError, match="'strong'"):
        make().batches(views=2, augment=asked)


# --- subsets ------------------------------------------------------------------------------------------------------


def test_subsets():
    train, subset = make(), torch.tensor([5, 99, 0, 42, 7])
    in_order = list(train.batches(subset, shuffle=False, batch_size=2))
    assert [b.index.tolist() for b in in_order] == [[5, 99], [0, 42], [7]]  # a last batch of one is a batch
    shuffled = torch.cat([b.index for b in train.batches(subset, batch_size=2)])
    assert sorted(shuffled.tolist()) == [0, 5, 7, 42, 99]
    assert list(train.batches(torch.tensor([], dtype=torch.int64), views=2)) == []
    assert list(OnDevice(images(0), torch.arange(0), 10, mean=MEAN, std=STD, pad=2).batches()) == []


# --- what fixes the draws -----------------------------------------------------------------------------------------


def test_an_epoch_is_a_function_of_seed_and_epoch():
    train = make()
    first = [list(train.at(3).batches(views=2)), list(train.batches())]
    torch.manual_seed(9)
    again = [list(make().at(3).batches(views=2)), None]
    again[1] = list(train.at(3).batches()) and list(train.batches())
    assert same(first[0], again[0])
    assert same(first[1], again[1])


def test_epochs_passes_and_seeds_differ():
    train = make()
    streams = [
        list(train.at(0).batches()),
        list(train.batches()),
        list(train.at(1).batches()),
        list(make(seed=2).batches()),
    ]
    for i, a in enumerate(streams):
        for b in streams[:i]:
            assert not torch.equal(a[0].index, b[0].index)
    a, b = (torch.cat([x.x for x in train.at(e).batches(shuffle=False)]) for e in (0, 1))
    assert not torch.equal(a, b)  # the augmentation changes even where the order does not


def test_a_pass_is_settled_when_it_is_called():
    train = make()
    plain = [list(train.at(0).batches()), list(train.batches())]
    a, b = train.at(0).batches(), train.batches()
    second, first = list(b), list(a)  # used in the other order
    assert same(first, plain[0])
    assert same(second, plain[1])


def test_the_chunk_size_is_no_part_of_the_result(monkeypatch):
    for asked in (True, "strong"):
        whole = list(make(batch_size=16).batches(views=2, augment=asked))
        for room in (1, 4 * 3 * 81 * 40):
            with monkeypatch.context() as m:
                m.setattr(loader, "CHUNK_BYTES", (room, 1))
                assert same(whole, list(make(batch_size=16).batches(views=2, augment=asked)))


def test_the_global_generators_are_neither_used_nor_moved():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state().clone(), np.random.get_state()[1].copy()
    list(make().batches(views=2, augment=(True, "strong")))
    split_validation(100, 0.1, 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_channels_last_is_for_cuda():
    assert next(make(channels_last=True).batches()).x.is_contiguous()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_same_batches():
    on_cpu = list(make().batches(views=2, augment=(True, "strong")))
    on_gpu = list(make(device="cuda", channels_last=True).batches(views=2, augment=(True, "strong")))
    for a, b in zip(on_cpu, on_gpu, strict=True):
        assert b.x.is_contiguous(memory_format=torch.channels_last)
        for p, q in zip(a, b, strict=True):
            torch.testing.assert_close(p, q.cpu())


# --- images in files ----------------------------------------------------------------------------------------------


def test_files_and_memory_give_the_same_batches(kept):
    x, y = images(100), torch.arange(100) % 10
    options = {"mean": MEAN, "std": STD, "pad": 2, "flip": True, "batch_size": 24, "seed": 5}
    one, other = OnDevice(x, y, 10, **options), Streaming(as_files(x), y, 10, **options)
    for epoch in range(2):
        assert same(list(one.at(epoch).batches(views=2)), list(other.at(epoch).batches(views=2)))
        subset = torch.tensor([3, 99, 3, 50])  # an image may be asked for twice
        assert same(list(one.batches(subset)), list(other.batches(subset)))


def test_no_more_is_decoded_ahead_than_the_buffer_holds_and_a_pass_may_be_left(monkeypatch):
    monkeypatch.setattr(files, "BUFFER_BYTES", 64 * 3 * 81)  # 64 images
    train = Streaming(
        as_files(images(1000)), torch.zeros(1000, dtype=torch.long), 10, mean=MEAN, std=STD, batch_size=10
    )
    seen, decode = [], Files.decode
    monkeypatch.setattr(Files, "decode", lambda self, i: (seen.append(i), decode(self, i))[1])
    monkeypatch.setattr(loader, "CHUNK_BYTES", (1, 1))  # one batch at a time
    batches = train.batches()
    for taken in (10, 20, 30):
        next(batches)
        train._pool.submit(int).result()  # what was handed over before is done
        assert taken <= len(set(seen)) <= taken + 64 + 2 * files.GROUP
    batches.close()
    train._pool.submit(int).result()
    assert len(set(seen)) <= 30 + 64 + 2 * files.GROUP
    assert len(list(train.batches())) == 100


def test_the_speed_of_the_threads_is_no_part_of_the_result(monkeypatch):
    options = {"mean": MEAN, "std": STD, "pad": 2, "flip": True, "batch_size": 7, "seed": 5}
    held, y = as_files(images(100)), torch.zeros(100, dtype=torch.long)
    plain = list(Streaming(held, y, 10, **options).batches(views=2))
    decode, rng = Files.decode, random.Random(0)

    def slow(self, i):
        time.sleep(rng.random() / 500)
        return decode(self, i)

    monkeypatch.setattr(Files, "decode", slow)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert same(plain, list(Streaming(held, y, 10, **options).batches(views=2)))


# --- the validation split -----------------------------------------------------------------------------------------


def test_split_validation():
    train, val = split_validation(1347, 0.1, seed=3)
    assert (len(train), len(val)) == (1212, 135)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(1347))
    assert torch.equal(train, train.sort().values)
    assert torch.equal(val, val.sort().values)
    assert torch.equal(split_validation(1347, 0.1, seed=3)[1], val)
    assert not torch.equal(split_validation(1347, 0.1, seed=4)[1], val)
    assert len(split_validation(10, 0.0, 0)[1]) == 0
    for n, fraction in ((10, 1.0), (10, -0.1), (10, 0.01), (10, 0.99), (10, float("nan"))):
        with pytest.raises(InputError, match="validation share"):
            split_validation(n, fraction, 0)
