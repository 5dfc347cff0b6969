"""Fonts for class names of any script: those of this machine that have the letters, and which letters none has."""

from collections.abc import Iterable
from functools import lru_cache

BASE = "DejaVu Sans"  # matplotlib's own, always there
# Families with the letters of many scripts, the plainest first; others of the machine are looked at after them.
WIDE = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS",
    "Malgun Gothic", "Yu Gothic", "Noto Sans",
)  # fmt: skip
SHOWN = 10  # letters that a sentence names


@lru_cache(maxsize=16)
def families(text: str) -> tuple[tuple[str, ...], str]:
    """The font families in which a text can be written, to be tried in turn, and its letters that none of them has."""
    from matplotlib import font_manager

    missing = {c for c in text if c.isprintable() and not c.isspace()} - _letters(font_manager.findfont(BASE))
    found = [BASE]
    if missing:
        rank = {name: i for i, name in enumerate(WIDE)}
        held = [f for f in font_manager.fontManager.ttflist if f.style == "normal" and "Last Resort" not in f.name]
        for font in sorted(
            held, key=lambda f: (rank.get(f.name, len(rank)), f.name, abs(int(_weight(f.weight)) - 400))
        ):
            if not missing:
                break
            if font.name not in found and (has := missing & _letters(font.fname)):
                found.append(font.name)
                missing -= has
    return tuple(found), "".join(sorted(missing))


def told(texts: Iterable[str]) -> tuple[str, ...]:
    """A sentence where letters will be drawn as boxes."""
    missing = families("".join(texts))[1]
    if not missing:
        return ()
    return (
        f"no font of this machine has {len(missing)} of the letters in these names ({missing[:SHOWN]}): they are drawn as boxes; "
        "install a font that has them, such as Noto Sans CJK",
    )


def _letters(file: str) -> set[str]:
    from matplotlib import font_manager

    try:
        return {chr(code) for code in font_manager.get_font(file).get_charmap()}
    except Exception:  # FreeType has its own for fonts that it cannot read
        return set()


def _weight(weight: int | str) -> int:
    return weight if isinstance(weight, int) else {"bold": 700, "light": 300}.get(weight, 400)
