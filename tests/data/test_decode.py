"""Pictures: every kind that a viewer shows is decoded to what it shows (Pillow on its own, or what was written), or refused by name."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from raystudy.data.decode import as_ever, decoded, profiled
from raystudy.data.files import Files
from raystudy.errors import InputError

RNG = np.random.default_rng(0)
COARSE = Image.fromarray(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8))
COLOUR = COARSE.resize((24, 18), Image.Resampling.BICUBIC)
GREY = COLOUR.convert("L")
DEEP = np.asarray(GREY).astype(np.uint16) * 256 + RNG.integers(0, 256, (18, 24)).astype(np.uint16)
CLEAR = Image.fromarray(np.linspace(0, 255, 18 * 24).astype(np.uint8).reshape(18, 24))  # an alpha channel
QUARTER = 6  # EXIF: turned a quarter


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def with_alpha(picture: Image.Image, mode: str) -> Image.Image:
    out = picture.convert(mode)
    out.putalpha(CLEAR)
    return out


def png(
    values: np.ndarray, bits: int, clear: int | None = None, interlaced: bool = False, filtered: bytes = b"\0"
) -> bytes:
    """A PNG of grey [H, W] or RGB [H, W, 3] values with so many bits, written by hand."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    def lines(part: np.ndarray) -> bytes:
        if not part.size:
            return b""
        flat = part.reshape(len(part), -1)
        if bits >= 8:
            return b"".join(filtered + row.astype(">u2" if bits == 16 else np.uint8).tobytes() for row in flat)
        each = (flat[..., None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8).reshape(len(flat), -1)
        return b"".join(filtered + np.packbits(row).tobytes() for row in each)

    adam7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = [values[a::c, b::d] for a, b, c, d in adam7] if interlaced else [values]
    colours = 2 if values.ndim == 3 else 0
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colours, 0, 0, interlaced)
    mark = b"" if clear is None else chunk(b"tRNS", struct.pack(">H", clear))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + mark
        + chunk(b"IDAT", zlib.compress(b"".join(map(lines, passes)))) + chunk(b"IEND", b"")
    )  # fmt: skip


def turned(picture: Image.Image, form: str, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = QUARTER
    return saved(picture, form, exif=exif, **options)


def on_white(colour: Image.Image) -> np.ndarray:
    a = np.asarray(colour.convert("RGBA")).astype(float)
    return np.rint(a[..., :3] * a[..., 3:] / 255 + 255 * (1 - a[..., 3:] / 255))


def seen(data: bytes) -> np.ndarray:
    """[H, W, 3] as Pillow on its own shows it."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return on_white(picture)


def grey_as_colour(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(values)[..., None], 3, 2)


FEW = np.arange(18 * 24).reshape(18, 24)  # for pictures of few greys
# Kind -> its bytes, and what is to be seen where Pillow alone does not tell: [H, W, 3] in 0..255.
KINDS: dict[str, tuple[bytes, np.ndarray | None]] = {
    "PNG grey 1 bit": (png(FEW % 2, 1), grey_as_colour(FEW % 2 * 255)),
    "PNG grey 2 bits": (png(FEW % 4, 2), grey_as_colour(FEW % 4 * 85)),
    "PNG grey 4 bits": (png(FEW % 16, 4), grey_as_colour(FEW % 16 * 17)),
    "PNG grey 4 bits, one value transparent": (
        png(FEW % 16, 4, clear=3),
        grey_as_colour(np.where(FEW % 16 == 3, 255, FEW % 16 * 17)),
    ),
    "PNG grey 8 bits": (saved(GREY, "PNG"), None),
    "PNG grey 8 bits, one value transparent": (
        png(FEW % 200, 8, clear=7),
        grey_as_colour(np.where(FEW % 200 == 7, 255, FEW % 200)),
    ),
    "PNG grey 16 bits": (png(DEEP, 16), grey_as_colour(DEEP >> 8)),
    "PNG grey 16 bits, one value transparent": (
        png(DEEP, 16, clear=int(DEEP[0, 0])),
        grey_as_colour(np.where(DEEP[0, 0] == DEEP, 255, DEEP >> 8)),
    ),
    "PNG colour 8 bits": (saved(COLOUR, "PNG"), None),
    "PNG colour 16 bits": (png(np.asarray(COLOUR).astype(np.uint16) * 257, 16), np.asarray(COLOUR)),
    "PNG interlaced": (png(np.asarray(COLOUR), 8, interlaced=True), np.asarray(COLOUR)),
    "PNG palette": (saved(COLOUR.quantize(50), "PNG"), None),
    "PNG palette, transparent": (saved(COLOUR.quantize(50), "PNG", transparency=3), None),
    "PNG alpha": (saved(with_alpha(COLOUR, "RGBA"), "PNG"), None),
    "PNG grey and alpha": (saved(with_alpha(GREY, "LA"), "PNG"), None),
    "PNG turned": (turned(COLOUR, "PNG"), None),
    "JPEG": (saved(COLOUR, "JPEG"), None),
    "JPEG progressive": (saved(COLOUR, "JPEG", progressive=True), None),
    "JPEG grey": (saved(GREY, "JPEG"), None),
    "JPEG turned": (turned(COLOUR, "JPEG"), None),
    "JPEG CMYK, inverted as Adobe does": (saved(COLOUR.convert("CMYK"), "JPEG"), None),
    "WebP": (saved(COLOUR, "WEBP"), None),
    "WebP lossless, alpha": (saved(with_alpha(COLOUR, "RGBA"), "WEBP", lossless=True), None),
    "WebP turned": (turned(COLOUR, "WEBP"), None),
    "GIF": (saved(COLOUR.quantize(60), "GIF"), None),
    "GIF transparent": (saved(COLOUR.quantize(60), "GIF", transparency=2), None),
    "BMP": (saved(COLOUR, "BMP"), None),
    "BMP grey": (saved(GREY, "BMP"), None),
    "BMP 1 bit": (saved(GREY.convert("1"), "BMP"), None),
    "TIFF": (saved(COLOUR, "TIFF"), None),
    "TIFF compressed": (saved(COLOUR, "TIFF", compression="tiff_lzw"), None),
    "TIFF grey 16 bits": (saved(Image.fromarray(DEEP), "TIFF"), grey_as_colour(DEEP >> 8)),
    "TIFF CMYK": (saved(COLOUR.convert("CMYK"), "TIFF"), None),
    "TIFF YCbCr": (saved(COLOUR.convert("YCbCr"), "TIFF"), None),
    "TIFF turned": (turned(COLOUR, "TIFF"), None),
}
REFUSED: dict[str, tuple[bytes, str]] = {
    "GIF of two frames": (
        saved(COLOUR, "GIF", save_all=True, append_images=[GREY.convert("RGB")]),
        "2 pictures in one",
    ),
    "PNG of two frames": (
        saved(COLOUR, "PNG", save_all=True, append_images=[GREY.convert("RGB")]),
        "2 pictures in one",
    ),
    "WebP of two frames": (
        saved(COLOUR, "WEBP", save_all=True, append_images=[GREY.convert("RGB")]),
        "2 pictures in one",
    ),
    "TIFF of two pages": (saved(COLOUR, "TIFF", save_all=True, append_images=[GREY]), "2 pictures in one"),
    "TIFF of floats": (saved(Image.fromarray(DEEP.astype(np.float32)), "TIFF"), "floating-point numbers"),
    "TIFF of 32 bits": (saved(Image.fromarray(DEEP.astype(np.int32)), "TIFF"), "32-bit whole numbers"),
    "TIFF of Lab colours": (saved(Image.new("LAB", (8, 8)), "TIFF"), "LAB colours"),
    "JPEG 2000": (saved(COLOUR, "JPEG2000"), "Unsupported image: not a picture of BMP"),
    "AVIF": (saved(COLOUR, "AVIF"), "Unsupported image: not a picture of BMP"),
    "PNG with a filter that there is not": (
        png(FEW % 200, 8, filtered=b"\x09"),
        "not an image that can be decoded",
    ),  # ended the process
    "text": (b"<html>404</html>", "Unsupported image"),
}


def shown(data: bytes, channels: int) -> np.ndarray:
    return decoded(np.frombuffer(data, np.uint8).copy(), channels).numpy().astype(int)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_what_a_viewer_shows(kind):
    data, told = KINDS[kind]
    wanted = seen(data) if told is None else told
    colour, grey = shown(data, 3), shown(data, 1)
    assert colour.shape == (3, *wanted.shape[:2])
    assert grey.shape == (1, *wanted.shape[:2])
    assert np.abs(colour - wanted.transpose(2, 0, 1)).max() <= 1
    luma = np.asarray(Image.fromarray(wanted.astype(np.uint8)).convert("L"))
    off = np.abs(grey[0] - luma)
    assert (
        off.mean() if kind.startswith("JPEG") else off.max()
    ) <= 1  # a JPEG's grey is stored, beside colours that are cut to 0..255


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("endian", "<>")
def test_each_way_to_hold_a_camera(form, orientation, endian):
    exif = Image.Exif()
    exif.endian = endian
    exif[0x0112] = orientation
    data = saved(COLOUR, form, exif=exif)
    assert np.array_equal(shown(data, 3), seen(data).transpose(2, 0, 1))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_shown_is_refused_by_name(kind, tmp_path):
    data, words = REFUSED[kind]
    (tmp_path / "a").write_bytes(data)
    for channels in (1, 3):
        with pytest.raises(InputError) as caught:
            Files(tmp_path, ["a"], 8, channels).decode(0)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_pictures_that_were_read_right_keep_their_digests():
    """Of the others a digest must change, since records of them are of other pixels."""
    changed = {kind for kind, (data, _) in KINDS.items() if not as_ever(np.frombuffer(data, np.uint8))}
    assert changed == {
        "PNG grey 16 bits", "PNG grey 16 bits, one value transparent", "PNG grey 4 bits, one value transparent", "PNG colour 16 bits",
        "PNG grey 8 bits, one value transparent", "PNG palette, transparent", "PNG alpha", "PNG grey and alpha", "PNG turned",
        "JPEG turned", "WebP turned", "WebP lossless, alpha", "GIF transparent",
    }  # fmt: skip
    upright = Image.Exif()
    upright[0x0112] = 1
    assert as_ever(np.frombuffer(saved(COLOUR, "JPEG", exif=upright), np.uint8))
    solid = COLOUR.convert("RGBA")
    assert as_ever(np.frombuffer(saved(solid, "PNG"), np.uint8))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_colour_profile_is_told_unless_it_is_srgb(form):
    from PIL import ImageCms

    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write: Callable[[bytes], bytes] = lambda profile: saved(COLOUR, form, icc_profile=profile)  # noqa: E731
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert profiled(np.frombuffer(write(other), np.uint8))
    assert not profiled(np.frombuffer(saved(COLOUR, form), np.uint8))
    if form != "PNG":  # there it is compressed, and only its name can be read
        assert not profiled(np.frombuffer(write(plain), np.uint8))
