"""The report as one HTML file that needs nothing else: styles, script and pictures are inside. ``page.css`` and ``page.js`` beside this.

Of a large study not everything fits: ``within`` decides what is inside the page, and what it links to beside it.
"""

import base64
import html
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

from analysis.sheets import Sheet

LIMIT = 6_000_000  # bytes of a page, so that it can be mailed and opens at once
# The pictures that answer what a study asks; then come the others, as they stand.
FIRST = ("ranks", "gap-", "cost-", "budget-passes-")
DRAWN = "the first tab draws it for any cell"  # why a picture is not inside
ROWS = (1000, 300, 100, 30)  # how many rows of a table are inside where all of them are too many
FULL = "not inside this page, which is full"


class Picture(NamedTuple):
    """A figure with its words; without ``png`` the reason why there is none. With ``outside``, the reason, it is a file only."""

    name: str
    title: str
    text: str
    png: bytes | None
    outside: str = ""


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


def _block(item: Sheet | Picture | Code | Tab, rows: int | None = None) -> str:
    if isinstance(item, Tab):
        return item.html
    if isinstance(item, Sheet):
        return item.to_html(rows)
    if isinstance(item, Code):
        return f"<pre>{html.escape(item.text)}</pre>"
    name, title, text = (html.escape(v) for v in (item.name, item.title, item.text))
    if item.png is not None and item.outside:
        links = " and ".join(f'<a href="figures/{name}.{end}">figures/{name}.{end}</a>' for end in ("png", "pdf"))
        return f'<p class=note id="figure-{name}">{title}: {links}; {item.outside}.</p>'
    if item.png is None:
        return f'<p class=absent id="figure-{name}">{title}: {text}</p>'
    data = base64.b64encode(item.png).decode()
    picture = f'<img alt="{title}" src="data:image/png;base64,{data}">'
    return f'<figure class=picture id="figure-{name}">{picture}<figcaption><strong>{title}.</strong> {text}</figcaption></figure>'


def within(title: str, sections: Sequence[Section], limit: int = LIMIT) -> str:
    """The file, of at most ``limit`` bytes: with as many pictures as it holds, those of FIRST first, then in their order.

    The others have a line with links to their files where they would stand. Where the tables alone are too many, the longest
    of them are cut, see ROWS. What is left then, the first tab and short tables, is bounded where it is made.
    """
    told = [c for s in sections for c in s.content if isinstance(c, Picture) and c.png is not None and not c.outside]
    outside = {p.name: p._replace(outside=FULL) for p in told}

    def shown(rows: int | None) -> str:
        swap = [[outside.get(c.name, c) if isinstance(c, Picture) else c for c in s.content] for s in sections]
        return document(title, [s._replace(content=c) for s, c in zip(sections, swap, strict=True)], rows)

    for rows in (None, *ROWS):
        left = limit - len(shown(rows).encode())
        if left >= 0:
            break
    for p in sorted(told, key=lambda p: next((i for i, n in enumerate(FIRST) if p.name.startswith(n)), len(FIRST))):
        more = len(_block(p).encode()) - len(_block(outside[p.name]).encode())
        if more <= left:
            left -= more
            del outside[p.name]
    return shown(rows)


def document(title: str, sections: Sequence[Section], rows: int | None = None) -> str:
    """The whole file, of each table at most ``rows`` rows. Without scripts all sections are shown, one after the other."""
    links = "\n".join(f'<a href="#{s.name}">{html.escape(s.title)}</a>' for s in sections)
    bodies = "\n".join(
        f'<section id="{s.name}"><h1>{html.escape(s.title)}</h1><p class=lead>{html.escape(s.lead)}</p>\n'
        + "\n".join(_block(c, rows) for c in s.content)
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
