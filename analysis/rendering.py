"""A figure as PNG and PDF, in the sizes of type that pages need; colours and shapes are in ``figures/look.py``.

Other processes draw, so nothing is imported here that drawing does not need.
"""

import io
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

RC: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "figure.dpi": 150,
    "savefig.dpi": 150,
}


def render(figure: Figure) -> tuple[bytes, bytes]:
    """A figure as PNG and PDF. The PNG has a palette of 256 colours, which takes a third of the bytes and looks the same."""
    png, pdf = io.BytesIO(), io.BytesIO()
    with rc_context(RC):
        if engine := figure.get_layout_engine():  # once for both, instead of once and a half for each
            engine.execute(figure)
            figure.set_layout_engine("none")
        figure.savefig(png, format="png")
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    return _indexed(png), pdf.getvalue()


def _indexed(png: io.BytesIO) -> bytes:
    """A picture with the 256 colours that cover its own ones best; white stays white."""
    out = io.BytesIO()
    with Image.open(png) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(out, "PNG", optimize=True, dpi=image.info.get("dpi"))
    return out.getvalue()


def short(v: float, _: object = None) -> str:
    """``250k`` for 250,000: the label of a tick."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if v >= size:
            return f"{v / size:.3g}{letter}"
    return f"{v:.3g}"
