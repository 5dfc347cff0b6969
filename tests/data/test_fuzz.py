"""Pictures, tables and paths by the thousand: only InputError is raised, and nothing is read as other than a plain reader reads it.

The plain readers are Pillow and the csv module on their own. RAYSTUDY_FUZZ says how many inputs there are in all: a few by default,
10,000 in `make fuzz`.
"""

import csv
import io
import os
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from raystudy.data import datasets, folder, tables
from raystudy.data.files import Files
from raystudy.data.spec import located
from raystudy.errors import InputError

T = TypeVar("T")
INPUTS = int(os.environ.get("RAYSTUDY_FUZZ", "240"))
PARTS = 6  # tests below, each with its share


def share(part: float = 1.0) -> settings:
    return settings(
        max_examples=max(10, int(INPUTS * part / PARTS)),
        deadline=None,
        database=None,
        derandomize=INPUTS < 1000,  # the quick part is the same every time
        suppress_health_check=list(HealthCheck),
    )


def tried(call: Callable[[], T]) -> tuple[T | None, str]:
    """What a call returns, or the line with which it refuses."""
    try:
        return call(), ""
    except InputError as error:
        return None, str(error)


# --- pictures -------------------------------------------------------------------------------------------------------

WRITABLE = {  # format -> the modes that Pillow writes in it
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("L", "P", "RGB"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"),
    "WEBP": ("RGB", "RGBA"),
}


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """A picture that can be seen, in any format, with any orientation."""
    form = draw(st.sampled_from(sorted(WRITABLE)))
    mode = draw(st.sampled_from(WRITABLE[form]))
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if mode in ("I;16", "F"):
        picture = Image.fromarray(
            rng.integers(0, 65536, (height, width)).astype(np.uint16 if mode == "I;16" else np.float32)
        )
    else:
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
        if mode not in ("RGBA", "LA"):
            picture = picture.convert("RGB")
        picture = picture.convert(mode)
    options: dict[str, object] = {}
    if form in ("PNG", "JPEG", "WEBP", "TIFF") and draw(st.booleans()):
        exif = Image.Exif()
        exif.endian = draw(st.sampled_from("<>"))
        exif[0x0112] = draw(st.integers(0, 9))
        options["exif"] = exif
    if form in ("PNG", "GIF") and mode in ("P", "L", "1") and draw(st.booleans()):
        options["transparency"] = draw(st.integers(0, 255)) if mode != "1" else 1
    if form == "JPEG":
        options |= {"quality": draw(st.integers(5, 100)), "progressive": draw(st.booleans())}
    if form == "WEBP":
        options["lossless"] = draw(st.booleans())
    if form in ("PNG", "GIF", "TIFF", "WEBP") and draw(st.integers(0, 9)) == 0:
        options.pop("transparency", None)
        options |= {"save_all": True, "append_images": [Image.new(picture.mode, picture.size)]}
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def seen(data: bytes) -> np.ndarray | None:
    """[H, W, 3] as Pillow on its own shows the only picture of a file, on white."""
    picture = Image.open(io.BytesIO(data))
    if getattr(picture, "n_frames", 1) > 1 or picture.mode == "F":
        return None
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        return np.repeat(np.asarray(picture)[..., None] >> 8, 3, 2).astype(int)
    a = np.asarray(picture.convert("RGBA")).astype(float)
    return np.rint(a[..., :3] * a[..., 3:] / 255 + 255 - a[..., 3:]).astype(int)


def read(place: Path, data: bytes, size: int, channels: int) -> np.ndarray:
    (place / "a").write_bytes(data)
    return Files(place, ["a"], size, channels).decode(0).numpy().astype(int)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@share(2)
@given(data=pictures())
def test_pictures_are_what_pillow_shows(place: Path, data: bytes) -> None:
    wanted = seen(data)
    if wanted is None:
        with pytest.raises(InputError, match=r"pictures in one file|floating-point"):
            read(place, data, 8, 3)
        return
    height, width = wanted.shape[:2]
    colour, grey = (read(place, data, max(height, width, 4), c) for c in (3, 1))
    assert (len(colour), len(grey)) == (3, 1)
    if height == width >= 4:  # then nothing is resized
        assert np.abs(colour - wanted.transpose(2, 0, 1)).max() <= 1
        luma = wanted @ [0.299, 0.587, 0.114]
        assert np.abs(grey[0] - luma).mean() <= (25 if data.startswith(b"\xff\xd8") else 1)


@share()
@given(
    data=pictures(),
    cuts=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=6),
    end=st.floats(0, 1),
)
def test_damaged_pictures_are_read_or_refused(
    place: Path, data: bytes, cuts: list[tuple[int, int]], end: float
) -> None:
    damaged = bytearray(data)
    for at, value in cuts:
        damaged[at % len(damaged)] = value
    kept = bytes(damaged[: max(1, int(len(damaged) * min(1.0, end * 2)))])
    for channels in (1, 3):
        x, why = tried(lambda c=channels: read(place, kept, 8, c))  # type: ignore[misc]
        assert "\n" not in why
        assert x is None or x.shape == (channels, 8, 8)


# --- tables ---------------------------------------------------------------------------------------------------------

NAMES = st.one_of(
    st.sampled_from(["cat", "dog", "NA", "null", "nan", "007", "7", "1.0", "café", "cafe\u0301", "-1", "", " x", "猫", '"', "a,b", "a;b"]),
    st.integers(0, 30).map(str),
    st.text(max_size=6),
)  # fmt: skip
PATHS = st.one_of(st.integers(0, 99).map(lambda i: f"{i}.png"), st.text(min_size=1, max_size=8))


def trimmed(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


@st.composite
def labelled(draw: st.DrawFn) -> tuple[list[tuple[str, str, str]], bytes]:
    """Rows (path, label, split), and a file of them in one of the dialects there are."""
    rows = draw(
        st.lists(st.tuples(PATHS, NAMES, st.sampled_from(["train", "train", "test", "val"])), min_size=1, max_size=12)
    )
    out = io.StringIO(newline="")
    writer = csv.writer(
        out,
        delimiter=draw(st.sampled_from(",;\t")),
        lineterminator=draw(st.sampled_from(["\n", "\r\n"])),
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    )
    writer.writerows([("path", "label", "split"), *rows])
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    try:
        return rows, out.getvalue().encode(encoding)
    except UnicodeEncodeError:  # half a surrogate
        assume(False)
        raise


@share()
@given(told=labelled())
@example(told=([("a", "1", "train"), ("b", "2", "test")], b"path;label;split\na;1;train\nb;2;test\n"))
def test_tables_are_what_was_written(place: Path, told: tuple[list[tuple[str, str, str]], bytes]) -> None:
    rows, data = told
    (place / "t.csv").write_bytes(data)
    table, why = tried(lambda: tables.read(place / "t.csv"))
    if table is None:
        assert "t.csv" in why
        assert any(
            not trimmed(f) or "\0" in f or "\r" in f for row in rows for f in row
        )  # nothing else is wrong with it
        return
    found = table.columns
    assert found["path"] == [p.strip() for p, _, _ in rows]
    assert found["label"] == [trimmed(name) for _, name, _ in rows]
    assert found["split"] == [s for _, _, s in rows]


@share()
@given(told=labelled())
def test_labels_are_the_names_that_were_written(place: Path, told: tuple[list[tuple[str, str, str]], bytes]) -> None:
    rows, data = told
    (place / "t.csv").write_bytes(data)
    listing, why = tried(lambda: folder.read(place, place / "t.csv"))
    if listing is None:
        assert "t.csv" in why
        return
    for split, paths, labels in (
        ("train", listing.train, listing.y_train),
        ("test", listing.test, listing.y_test),
        *([("val", *listing.val)] if listing.val else []),
    ):
        wanted = [(p.strip(), trimmed(name)) for p, name, s in rows if s == split]
        found = [(p, listing.classes[y]) for p, y in zip(paths, labels, strict=True)]
        assert [p for p, _ in found] == [p for p, _ in wanted]
        assert all(a == b or a == b.removesuffix(".0") for (_, a), (_, b) in zip(found, wanted, strict=True))
    assert set(listing.y_train.tolist()) == set(range(len(listing.classes)))  # no class without an image


@share(0.5)
@given(
    text=st.one_of(
        st.binary(max_size=60), st.text(alphabet='path,label;\t\n\r" ab0\0é\ufeff', max_size=60).map(str.encode)
    )
)
def test_any_bytes_are_a_table_or_refused(place: Path, text: bytes) -> None:
    data = b"path,label\n" + text
    (place / "t.csv").write_bytes(data)
    found, why = tried(lambda: tables.read(place / "t.csv"))
    if found is None:
        assert "\n" not in why
        return
    plain = [row for row in csv.reader(io.StringIO(data.decode(), newline=""), skipinitialspace=True) if len(row) > 1]
    assert [(p.strip(), trimmed(name)) for p, name in plain[1:]] == list(
        zip(found.columns["path"], found.columns["label"], strict=True)
    )


# --- paths ----------------------------------------------------------------------------------------------------------

REAL = ("a.png", "b/é.png", "b/c d.png", "猫.png", "-x.png", "a,b.png", "%41.png")
ODD = st.one_of(
    st.sampled_from(REAL),
    st.sampled_from(REAL).map(lambda p: f"./{p}"),
    st.sampled_from(REAL).map(lambda p: f"b//../{p}"),
    st.sampled_from(["..", "/etc/passwd", "b", ".", "x" * 5000, "a.png/", "a.png\0", "~/a.png", "b\\c d.png", "A.PNG"]),
    st.text(min_size=1, max_size=6),
)  # fmt: skip


@share(0.5)
@given(odd=st.lists(st.tuples(ODD, st.sampled_from(["cat", "dog"]), st.sampled_from(["train", "test"])), max_size=3))
def test_paths_lead_to_their_pictures_or_are_refused(odd: list[tuple[str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        place = Path(root)
        (place / "photos" / "b").mkdir(parents=True)
        for i, name in enumerate(REAL):
            Image.fromarray(np.full((8, 8), 30 * i + 10, dtype=np.uint8)).save(place / "photos" / name)
        rows = [*odd, *((name, ("cat", "dog")[i % 2], "test" if i > 4 else "train") for i, name in enumerate(REAL))]
        try:
            with (place / "t.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("path", "label", "split"), *rows])
        except UnicodeEncodeError:
            return
        spec = located(f"folder:{place / 'photos'}", labels=str(place / "t.csv"), size=8, channels=1)
        data, why = tried(lambda: datasets.load(spec))
        if data is None:
            assert "\n" not in why
            return
        told = [p.strip() for p, _, split in rows if split == "train"]
        for path, x in zip(told, data.x_train, strict=True):
            assert x.unique().tolist() == [int(np.asarray(Image.open(place / "photos" / path))[0, 0])]
