"""The report as one HTML file that needs nothing else: styles, script and pictures are inside. ``page.css`` and ``page.js`` beside this."""

import base64
import html
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

from analysis.sheets import Sheet


class Picture(NamedTuple):
    """A figure with its words; without ``png`` the reason why there is none. One not ``inside`` the page is a file only."""

    name: str
    title: str
    text: str
    png: bytes | None
    inside: bool = True


class Code(NamedTuple):
    """Commands to copy."""

    text: str


class Tab(NamedTuple):
    """HTML that was made elsewhere, what it says as Markdown, and the scripts it needs."""

    html: str
    markdown: str
    scripts: Sequence[str]


class Section(NamedTuple):
    """A tab."""

    name: str
    title: str
    lead: str
    content: Sequence[Sheet | Picture | Code | Tab]


def _block(item: Sheet | Picture | Code | Tab) -> str:
    if isinstance(item, Tab):
        return item.html
    if isinstance(item, Sheet):
        return item.to_html()
    if isinstance(item, Code):
        return f"<pre>{html.escape(item.text)}</pre>"
    name, title, text = (html.escape(v) for v in (item.name, item.title, item.text))
    if item.png is not None and not item.inside:
        return f'<p class=note id="figure-{name}">{title}: figures/{name}.png and .pdf; the first tab draws it for any cell.</p>'
    if item.png is None:
        return f'<p class=absent id="figure-{name}">{title}: {text}</p>'
    data = base64.b64encode(item.png).decode()
    picture = f'<img alt="{title}" src="data:image/png;base64,{data}">'
    return f'<figure class=picture id="figure-{name}">{picture}<figcaption><strong>{title}.</strong> {text}</figcaption></figure>'


def document(title: str, sections: Sequence[Section]) -> str:
    """The whole file. Without scripts all sections are shown, one after the other."""
    links = "\n".join(f'<a href="#{s.name}">{html.escape(s.title)}</a>' for s in sections)
    bodies = "\n".join(
        f'<section id="{s.name}"><h1>{html.escape(s.title)}</h1><p class=lead>{html.escape(s.lead)}</p>\n'
        + "\n".join(map(_block, s.content))
        + "</section>"
        for s in sections
    )
    more = "".join(
        f"\n<script>{x}</script>" for s in sections for c in s.content if isinstance(c, Tab) for x in c.scripts
    )
    css, script = ((resources.files("analysis") / f).read_text(encoding="utf-8") for f in ("page.css", "page.js"))
    icon = '<link rel="icon" href="data:,">'  # else a browser asks for one
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">{icon}'
        f"<title>{html.escape(title)}</title><style>{css}</style></head>\n<body><nav><strong>{html.escape(title)}</strong>\n{links}</nav>\n"
        f"<main>{bodies}</main>\n<script>{script}</script>{more}</body></html>\n"
    )
