"""The bytes of a picture -> uint8 [C, H, W], as a viewer shows it, or refused by name. The only place where pictures are decoded.

JPEG and plain PNG go through torchvision, which is fast; whatever is less plain through Pillow. Both turn pictures upright (EXIF).
What shows through a transparent picture is white, as in a browser. Colour profiles are not applied; see ``profiled``.
"""

import io
import struct
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bytes = NDArray[np.uint8]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WebP")
BLANK = 255  # white: what transparent pixels are laid on
ORIENTATION = 0x0112  # EXIF's tag
HEAD = 1 << 16  # bytes at a file's start in which colour profiles are looked for
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_PASSED_OVER = {
    b"acTL",
    b"tRNS",
    b"eXIf",
}  # chunks of a PNG that torchvision does not heed, at least not everywhere in the file


def decoded(data: Bytes, channels: int) -> Tensor:
    """uint8 [C, H, W] with C = ``channels``: 3 (RGB) or 1 (grey). ValueError, in words, where the picture cannot be shown so."""
    if plain(data):
        from torchvision.io import ImageReadMode, decode_image  # not at the top: it is slow to import

        mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
        return decode_image(torch.from_numpy(data), mode, apply_exif_orientation=True)
    pixels = _shown(data.tobytes(), channels)
    return torch.from_numpy(pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def plain(data: Bytes) -> bool:
    """Whether a picture is of the kinds that torchvision shows right: JPEG, and 8-bit PNG of grey or RGB without transparency."""
    head = data[:26].tobytes()
    if head.startswith(_JPEG):
        return True
    if not head.startswith(_PNG) or len(head) < 26 or head[24] != 8 or head[25] not in (0, 2):
        return False
    return not _PASSED_OVER & set(_chunks(data))


def as_ever(data: Bytes, channels: int) -> bool:
    """Whether a picture is read as it was before this module: digests of data sets of only such pictures have not changed.

    Then orientation was passed over, transparency too, and 16 bits came out as they would.
    """
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_image

    if plain(data) and b"Exif\0\0" not in data[:HEAD].tobytes():
        return True
    if plain(data):
        return bool(Image.open(io.BytesIO(data.tobytes())).getexif().get(ORIENTATION, 1) == 1)
    try:
        before = decode_image(torch.from_numpy(data), ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY)
    except Exception:  # it was refused, so there are no records of it
        return True
    return before.dtype == torch.uint8 and torch.equal(before, decoded(data, channels))


def profiled(data: Bytes) -> bool:
    """Whether a picture says that its colours are of another profile than sRGB."""
    head = data[:HEAD].tobytes()
    for mark in (b"ICC_PROFILE\0", b"iCCP", b"ICCP"):  # of JPEG, PNG, WebP
        place = head.find(mark)
        if place >= 0:
            named = head[place : place + 4096]
            return b"sRGB" not in named and "sRGB".encode("utf-16-be") not in named
    return False


def _chunks(data: Bytes) -> list[bytes]:
    """The names of a PNG's chunks."""
    at, names = 8, []
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8].tobytes())
        names.append(name)
        at += 12 + length
    return names


def _shown(data: bytes, channels: int) -> NDArray[np.uint8]:
    """[H, W, 3] or [H, W] by Pillow."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        picture: Any = Image.open(io.BytesIO(data), formats=[f.upper() for f in FORMATS])
    except UnidentifiedImageError:
        raise ValueError(f"Unsupported image: not a picture of {', '.join(FORMATS)}") from None
    with picture:
        if (frames := getattr(picture, "n_frames", 1)) > 1:
            raise ValueError(f"{frames} pictures in one file, an animation or pages; keep one of them")
        _scale_transparency(picture, data)
        picture.load()
        picture = ImageOps.exif_transpose(picture)
        picture = _eight_bits(picture)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, (BLANK,) * 3 + (255,)), picture)
        return np.array(picture.convert("RGB" if channels == 3 else "L"))


def _scale_transparency(picture: Any, data: bytes) -> None:
    """PNGs with one transparent value, of other than 8 bits: Pillow brings pixels to 8 bits and leaves that value where it was."""
    if picture.format != "PNG" or "transparency" not in picture.info:
        return
    bits, colours = data[24], data[25]
    if colours == 0 and bits in (2, 4):
        picture.info["transparency"] *= 255 // ((1 << bits) - 1)
    if colours == 2 and bits == 16:
        raise ValueError("a 16-bit colour with one transparent value; save it with 8 bits, or with an alpha channel")


def _eight_bits(picture: Any) -> Any:
    """Pixels of 16 bits keep their high byte, as viewers do; ValueError for kinds whose white nobody knows."""
    from PIL import Image

    if picture.mode.startswith("I;16"):
        tags = getattr(picture, "tag_v2", {})
        bits = tags.get(258, (16,))[0]  # BitsPerSample
        deep = np.array(picture).astype(np.uint16)
        out = (deep >> max(0, bits - 8)).clip(0, 255).astype(np.uint8)
        if tags.get(262) == 0:  # PhotometricInterpretation: white is zero
            out = 255 - out
        if (clear := picture.info.get("transparency")) is not None:
            out[deep == clear] = BLANK
        return Image.fromarray(out)
    if picture.mode in ("I", "F", "LAB", "HSV"):
        told = {"I": "32-bit whole numbers", "F": "floating-point numbers"}.get(picture.mode, f"{picture.mode} colours")
        raise ValueError(f"its pixels are {told}, of which no viewer knows what is white; save it with 8 or 16 bits")
    return picture
