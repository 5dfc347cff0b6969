"""Tables as data, and their four renderings: CSV, Markdown, LaTeX and HTML. What is in them is decided in ``sections``."""

import csv
import html
import io
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from analysis.select import Score


class Value(NamedTuple):
    """One entry: what is shown, and what is written to CSV."""

    text: str
    number: Any = None
    bold: bool = False


Row = list[str | Value]
PAGE = 165  # letters of footnote size in a line of a landscape page


def num(x: float, digits: int = 1, scale: float = 1.0, sign: bool = False) -> Value:
    """A number; a dash where it is not known."""
    if math.isnan(x):
        return Value("–", "")
    return Value(f"{scale * x:{'+' if sign else ''}.{digits}f}", scale * x)


def percent(s: Score, bold: bool = False, sign: bool = False) -> Value:
    """Mean ± standard deviation in percent."""
    if math.isnan(s.mean):
        return Value("–", "")
    std = f" ± {100 * s.std:.1f}" if not math.isnan(s.std) else ""
    return Value(f"{100 * s.mean:{'+' if sign else ''}.1f}{std}", 100 * s.mean, bold)


def sentence(text: str) -> str:
    """A text with a capital letter first."""
    return text[:1].upper() + text[1:]


def p_value(p: float) -> Value:
    return Value("–", "") if math.isnan(p) else Value("<0.001" if p < 0.001 else f"{p:.3f}", p)


@dataclass
class Sheet:
    """A table. A row's entries are texts or Values; ``long`` are rows for CSV alone where the shown form is not tidy."""

    name: str  # of its files
    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    note: str = ""
    long: Sequence[dict[str, Any]] = field(default_factory=list)

    def values(self) -> list[list[Value]]:
        return [[v if isinstance(v, Value) else Value(v, v) for v in row] for row in self.rows]

    def numeric(self, column: int) -> bool:
        """Whether a column is set flush right."""
        entries = [row[column] for row in self.values()]
        return any(isinstance(v.number, int | float) for v in entries)

    def to_csv(self) -> str:
        out = io.StringIO()
        if self.long:
            writer = csv.DictWriter(out, list(dict.fromkeys(k for row in self.long for k in row)), lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in r.items()} for r in self.long
            )
        else:
            plain = csv.writer(out, lineterminator="\n")
            plain.writerow(self.columns)
            plain.writerows([v.text if v.number is None else v.number for v in row] for row in self.values())
        return out.getvalue()

    def to_markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return (
                "| " + " | ".join(c.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for c in cells) + " |"
            )

        rule = ["---:" if self.numeric(i) else "---" for i in range(len(self.columns))]
        rows = [line([f"**{v.text}**" if v.bold else v.text for v in row]) for row in self.values()]
        return (
            "\n".join(
                [
                    f"**{self.title}**",
                    "",
                    line(self.columns),
                    line(rule),
                    *rows,
                    *(["", self.note] if self.note else []),
                ]
            )
            + "\n"
        )

    def to_html(self, most: int | None = None) -> str:
        """Columns of the ORACLE, and whole tables of it, are grey. Of more than ``most`` rows the first, and a link to all of them."""
        classes = [f"{'n ' * self.numeric(i)}{'o' * ('ORACLE' in c)}".strip() for i, c in enumerate(self.columns)]

        def line(tag: str, texts: Sequence[str]) -> str:
            marks = (f' class="{c}"' if c else "" for c in classes)
            return "<tr>" + "".join(f"<{tag}{c}>{t}</{tag}>" for c, t in zip(marks, texts, strict=True)) + "</tr>"

        def entry(v: Value) -> str:
            return f"<strong>{html.escape(v.text)}</strong>" if v.bold else html.escape(v.text)

        head = line("th", [html.escape(c) for c in self.columns])
        body = "\n".join(line("td", [entry(v) for v in row]) for row in self.values()[:most])
        note = f"<p class=note>{html.escape(self.note)}</p>" if self.note else ""
        if most is not None and most < len(self.rows):
            name = html.escape(self.name)
            note += f'<p class=note>The first {most} of {len(self.rows)} rows; all: <a href="tables/{name}.csv">tables/{name}.csv</a>.</p>'
        grey = " class=o" if "by ORACLE" in self.title else ""
        return (
            f'<figure class=table id="table-{html.escape(self.name)}"><figcaption>{html.escape(self.title)}</figcaption>'
            f"<div class=scroll><table{grey}><thead>{head}</thead>\n<tbody>{body}</tbody></table></div>{note}</figure>"
        )

    def _spec(self) -> str:
        """LaTeX's columns. Long texts share the width that the other columns leave, and are wrapped in it."""
        texts = [[name, *(v.text for v in column)] for name, *column in zip(self.columns, *self.values(), strict=True)]
        width = [max(map(len, column)) + 2 for column in texts]
        long = [w > 32 and any(" " in t for t in column) for w, column in zip(width, texts, strict=True)]
        left = 1 - sum(w for w, wraps in zip(width, long, strict=True) if not wraps) / PAGE
        share = max(0.12, 0.92 * left / max(1, sum(long)))
        wrapped = rf">{{\raggedright\arraybackslash}}p{{{share:.2f}\linewidth}}"
        plain = ("r" if self.numeric(i) else "l" for i in range(len(self.columns)))
        return "".join(wrapped if wraps else one for wraps, one in zip(long, plain, strict=True))

    def to_latex(self) -> str:
        """A booktabs table for \\input; longer than a page, a longtable."""
        spec = self._spec()
        head = " & ".join(latex(c) for c in self.columns) + r" \\"
        rows = [
            " & ".join(rf"\textbf{{{latex(v.text)}}}" if v.bold else latex(v.text) for v in row) + r" \\"
            for row in self.values()
        ]
        caption = latex(self.title + (". " + self.note if self.note else ""))
        label = "tab:" + re.sub(r"[^A-Za-z0-9-]", "-", self.name)
        lines = [r"% needs \usepackage{array,booktabs,longtable} and \usepackage[T1]{fontenc}"]
        if len(rows) > 40:
            lines += [
                r"{\footnotesize",
                rf"\begin{{longtable}}{{{spec}}}",
                rf"\caption{{{caption}}}\label{{{label}}} \\",
            ]
            lines += [r"\toprule", head, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot", *rows]
            lines += [r"\end{longtable}", "}"]
        else:
            lines += [r"\begin{table}[htbp]", r"\centering\footnotesize", rf"\caption{{{caption}}}\label{{{label}}}"]
            lines += [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule"]
            lines += [r"\end{tabular}", r"\end{table}"]
        return "\n".join(lines) + "\n"


SYMBOLS = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "–": "--",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "§": r"$\S$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "\n": " ",
}


def latex(text: str) -> str:
    """Text that LaTeX sets as it stands; letters that its plain fonts lack lose their accents, or become a question mark."""

    def one(c: str) -> str:
        if c in SYMBOLS:
            return SYMBOLS[c]
        if c.isascii() and c.isprintable():
            return c
        plain = unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode()
        return plain if plain.isalnum() else "?"

    return "".join(map(one, text))


def document(title: str, names: Sequence[str]) -> str:
    """A LaTeX document of all tables, to look at or to check that they compile."""
    inputs = "\n".join(rf"\input{{{name}}}" + "\n" + r"\clearpage" for name in names)
    return (
        r"\documentclass{article}"
        + "\n"
        + r"\usepackage[T1]{fontenc}"
        + "\n"
        + r"\usepackage{array,booktabs,longtable}"
        + "\n"
        r"\usepackage[landscape,margin=1cm]{geometry}" + "\n" + r"\begin{document}" + "\n"
        rf"\section*{{{latex(title)}}}" + "\n" + inputs + "\n" + r"\end{document}" + "\n"
    )
