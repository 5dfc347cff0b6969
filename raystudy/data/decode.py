"""The bytes of a picture -> uint8 [C, H, W], as a viewer shows it, or refused by name. The only place where pictures are decoded.

JPEG goes through torchvision, which is fast; all else through Pillow, since torchvision's PNG decoder ends the process on damaged files.
Both turn pictures upright (EXIF).
What shows through a transparent picture is white, as in a browser. Colour profiles are not applied; see ``profiled``.
"""

import io
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


def decoded(data: Bytes, channels: int) -> Tensor:
    """uint8 [C, H, W] with C = ``channels``: 3 (RGB) or 1 (grey). ValueError, in words, where the picture cannot be shown so."""
    if _is_jpeg(data):
        from torchvision.io import ImageReadMode, decode_jpeg  # not at the top: it is slow to import

        mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
        return decode_jpeg(torch.from_numpy(data), mode, apply_exif_orientation=True)
    picture = _shown(data.tobytes())
    if channels == 1:
        return torch.from_numpy(_grey(picture)[None])
    return torch.from_numpy(np.ascontiguousarray(np.array(picture.convert("RGB")).transpose(2, 0, 1)))


def as_ever(data: Bytes) -> bool:
    """Whether a picture is read as it was before this module: digests of data sets of only such pictures have not changed.

    Then orientation was passed over, transparency too, and 16 bits came out as they would. TIFF and BMP were not read at all.
    """
    if _is_jpeg(data) and b"Exif\0\0" not in data[:HEAD].tobytes():
        return True
    try:
        return _as_ever(data.tobytes())
    except Exception:  # Pillow does not know a JPEG that torchvision reads, or not what is written beside its pixels
        return True


def _as_ever(data: bytes) -> bool:
    with _opened(data) as picture:
        if picture.format in ("TIFF", "BMP"):
            return True
        if picture.getexif().get(ORIENTATION, 1) in range(2, 9):
            return False
        if picture.format in ("JPEG", "MPO"):  # MPO: a camera's JPEG with more behind it
            return True
        if picture.mode.startswith("I;16") or (picture.format == "PNG" and data[24] == 16):
            return False
        if not picture.has_transparency_data:
            return True
        _scale_transparency(picture, data)
        return bool(picture.convert("RGBA").getchannel("A").getextrema()[0] == 255)


def profiled(data: Bytes) -> bool:
    """Whether a picture says that its colours are of another profile than sRGB."""
    head = data[:HEAD].tobytes()
    for mark in (b"ICC_PROFILE\0", b"iCCP", b"ICCP"):  # of JPEG, PNG, WebP
        place = head.find(mark)
        if place >= 0:
            named = head[place : place + 4096]
            return b"sRGB" not in named and "sRGB".encode("utf-16-be") not in named
    return False


def _is_jpeg(data: Bytes) -> bool:
    return data[:3].tobytes() == b"\xff\xd8\xff"


def _opened(data: bytes) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(data), formats=[f.upper() for f in FORMATS])
    except UnidentifiedImageError:
        raise ValueError(f"Unsupported image: not a picture of {', '.join(FORMATS)}") from None


def _shown(data: bytes) -> Any:
    """A Pillow image of 8 bits, upright and without transparency."""
    from PIL import Image, ImageOps

    with _opened(data) as picture:
        if (frames := getattr(picture, "n_frames", 1)) > 1:
            raise ValueError(f"{frames} pictures in one file, an animation or pages; keep one of them")
        _scale_transparency(picture, data)
        picture.load()
        picture = _eight_bits(picture, ImageOps.exif_transpose(picture))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, (BLANK,) * 3 + (255,)), picture)
        return picture


def _grey(picture: Any) -> NDArray[np.uint8]:
    """[H, W]; of colours their luma, in libpng's whole numbers, as PNGs have always been read."""
    if picture.mode in ("1", "L"):
        return np.array(picture.convert("L"))
    r, g, b = np.array(picture.convert("RGB")).astype(np.int32).transpose(2, 0, 1)
    return ((9794 * r + 19234 * g + 3740 * b) >> 15).astype(np.uint8)


def _scale_transparency(picture: Any, data: bytes) -> None:
    """PNGs with one transparent value, of other than 8 bits: Pillow brings pixels to 8 bits and leaves that value where it was."""
    if picture.format != "PNG" or "transparency" not in picture.info:
        return
    bits, colours = data[24], data[25]
    if colours == 0 and bits in (2, 4):
        picture.info["transparency"] *= 255 // ((1 << bits) - 1)
    if colours == 2 and bits == 16:
        raise ValueError("a 16-bit colour with one transparent value; save it with 8 bits, or with an alpha channel")


def _eight_bits(file: Any, picture: Any) -> Any:
    """Pixels of 16 bits keep their high byte, as viewers do; ValueError for kinds whose white nobody knows."""
    from PIL import Image

    if picture.mode.startswith("I;16"):
        tags = getattr(file, "tag_v2", {})
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
