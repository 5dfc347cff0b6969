"""suspects.html: the labels that look wrong, worst first, in one file that needs nothing else. Its parts lie beside this."""

import base64
import html
import io
import json
import re
from importlib import resources
from typing import Any

import numpy as np
import torch

from raystudy.learn.celldata import in_memory
from raystudy.tools.clean.examine import Examined
from raystudy.tools.clean.judge import reason

MOST = 500  # suspects on the page; labels.csv has all
PIXELS = 96  # of a side at which an image is kept, at most
NAMED = 4  # classes of the neighbours that are shown


def page(found: Examined) -> str:
    """The whole file."""
    told, classes = found.judged, found.data.classes
    order = told.worst_first[:MOST]
    pictures = [""] * len(order)
    if found.data.kind == "images" and len(order):
        pictures = [_picture(x) for x in in_memory(found.images[torch.from_numpy(order)])]
    named = found.names
    suspects: list[dict[str, Any]] = []
    for i, picture in zip(order, pictures, strict=True):
        near = np.argsort(-told.votes[i], kind="stable")[:NAMED]
        suspects.append(
            {
                "name": named[int(i)],
                "given": classes[told.given[i]],
                "suggested": classes[told.suggested[i]],
                "quality": round(float(told.quality[i]), 4),
                "why": reason(told, int(i), classes),
                "picture": picture,
                "near": [[classes[c], int(told.votes[i][c])] for c in near if told.votes[i][c]],
            }
        )
    low, high = told.estimate.rate_interval
    shown = f"the worst {len(order):,} of " if len(order) < told.issue.sum() else ""
    lead = (
        f"{found.came}. An estimated {told.estimate.rate:.1%} of {len(told.given):,} labels are wrong ({low:.1%} to {high:.1%}). "
        f"Here are {shown}{int(told.issue.sum()):,} that look wrong, worst first. Nothing here was compared with the truth."
    )
    parts = {f: (resources.files(__package__) / f"page.{f}").read_text(encoding="utf-8") for f in ("html", "css", "js")}
    data = json.dumps(suspects, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    told_at = {
        "TITLE": html.escape(f"Suspects of {found.data.name}"),
        "LEAD": html.escape(lead),
        "CSS": parts["css"],
        "JS": parts["js"],
        "DATA": data,
    }
    # In one pass: a name that looks like a mark stays a name.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: told_at[mark[1]], parts["html"])


def _picture(x: torch.Tensor) -> str:
    """An image [C, H, W] uint8 as a PNG in a URL."""
    from PIL import Image

    array = x.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    image.thumbnail((PIXELS, PIXELS))
    held = io.BytesIO()
    image.save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()
