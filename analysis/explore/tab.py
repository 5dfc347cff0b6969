"""The HTML of the first tab: sentences that stand without a script, and the places that ``explore.js`` fills."""

import html
import json
from functools import cache
from importlib import resources
from typing import Any

import vl_convert

CONTROLS = """\
<div id="explore" hidden>
<form class="controls">
<label>Data and noise <select id="ex-group"></select></label>
<label>Study <select id="ex-study"></select></label>
<label>Shown <select id="ex-metric"></select></label>
<label>Epoch by <select id="ex-rule"></select></label>
<label>Methods <input id="ex-methods" type="search" placeholder="all" autocomplete="off" size="14"></label>
</form>
<div class="pair">
<figure id="ex-map"><figcaption id="ex-map-title"></figcaption>
<div class="scroll" tabindex="0" role="region" aria-labelledby="ex-map-title"></div>
<p class="note">Choose a number to open its cell below.
Bold: more than chance against every other method of its study (paired t test by seed, Holm, 0.05).STARRED</p></figure>
<figure id="ex-rates"><figcaption id="ex-rates-title"></figcaption><div class="chart"></div>
<p class="note">Bands: one standard deviation over replicates. Hover for n, point and seeds; click to open the cell.</p></figure>
</div>
<h2 id="ex-cell-title" tabindex="-1"></h2><div id="ex-cell"></div>
<h2 id="ex-trials-title">All trials</h2>
<form class="controls">
<label>Find
<input id="ex-filter" type="search" placeholder="any text: method, state, reason, a value" autocomplete="off" size="34"></label>
<label>State <select id="ex-state"></select></label>
<label>Of <select id="ex-origin"></select></label>
<span id="ex-count" role="status"></span>
</form>
<div class="scroll" tabindex="0" role="region" aria-labelledby="ex-trials-title">
<table id="ex-trials"><thead></thead><tbody></tbody></table></div>
<p><button id="ex-more" type="button">Show more</button></p>
</div>"""

FEW = 8  # conditions whose sentences stand open; of more a summary stands first, and they are behind it
STAR = "\n* ORACLE: the point was read off the truth; not compared."


def section(data: dict[str, Any]) -> str:
    """The inside of the tab: the sentences by condition, the controls, the data."""
    several = len(data["studies"]) > 1
    folded = sum(len(g["said"]) for g in data["groups"]) > FEW
    said = [f"<p>{html.escape(data['summary'])}</p>"] if folded and len(data["groups"]) > 1 else []
    for i, g in enumerate(data["groups"]):
        lines = "\n".join(
            f"<li><strong>{html.escape(level)}</strong> "
            + (f"<em>{html.escape(data['studies'][study])}</em> " if several else "")
            + f"{html.escape(told)}</li>"
            for study, level, told in g["said"]
        )
        title, inside = html.escape(g["title"]), f"<ul>{lines}</ul>"
        if folded:
            inside = f"<details><summary>{html.escape(g['summary'])}</summary>{inside}</details>"
        said.append(f'<div class="said" data-group="{i}"><h2>{title}</h2>{inside}</div>')
    # In a script element only its end could be mistaken: "<" is written so that none can stand there.
    told = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    starred = STAR if any(c["star"] for c in data["cells"]) else ""
    return "\n".join(
        [*said, CONTROLS.replace("STARRED", starred), f'<script type="application/json" id="explored">{told}</script>']
    )


@cache
def scripts() -> tuple[str, str]:
    """Vega, Vega-Lite and Vega-Embed in one, and what draws with them."""
    ours = (resources.files("analysis") / "explore" / "explore.js").read_text(encoding="utf-8")
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"), ours
