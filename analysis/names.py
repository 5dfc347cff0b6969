"""Short names of what is called by a path: data sets, masks and matrices, for tables, figures and the page. The full ones stand once."""

import re
from collections.abc import Collection
from functools import lru_cache

from raystudy.data import spec
from raystudy.design.study import Study


def _candidates(name: str) -> list[str]:
    """Ever longer names for one: more and more of the end of its path, without its options and with them, the whole at last.

    An imbalance is always told: it is a condition, as noise is.
    """
    base = spec.base(name)
    path = re.sub(r"^(\w+:)+", "", base)  # without npz:, folder:, smoke:
    kinds, parts = base.removesuffix(path), [p for p in path.split("/") if p]
    ends = [kinds + "/".join(parts[-n:]) for n in range(1, len(parts) + 1)] if "/" in base else [base]
    options = name[len(base) :]
    condition = "?" + found[0] if (found := re.findall(r"imbalance=[^&]+", options)) else ""
    return [*(e for end in ends for e in dict.fromkeys((end + condition, end + options))), name]


def shortened(names: Collection[str]) -> dict[str, str]:
    """The shortest names that tell some from each other: ``npz:x.npz`` for ``npz:/far/down/x.npz``."""
    longer = {name: _candidates(name) for name in names}
    shown = {name: told[0] for name, told in longer.items()}
    while clash := [n for n in longer if len(longer[n]) > 1 and list(shown.values()).count(shown[n]) > 1]:
        for name in clash:
            longer[name] = longer[name][1:]
            shown[name] = longer[name][0]
    return shown


@lru_cache(maxsize=64)
def _long(datasets: tuple[str, ...], files: tuple[str, ...]) -> dict[str, str]:
    """Short names by the long ones they stand for, the longest first: one may be the beginning of another."""
    both = shortened(datasets) | shortened(files)
    return {name: both[name] for name in sorted(both, key=len, reverse=True) if both[name] != name}


def long(study: Study) -> dict[str, str]:
    """The short names of a study's data sets and files of noise by what they stand for, where the two differ."""
    return _long(study.datasets, tuple(dict.fromkeys(n.variant for n in study.noises if "/" in n.variant)))


def told(text: str, study: Study) -> str:
    """A text with short names in it in place of a study's long ones."""
    for name, short in long(study).items():
        text = text.replace(name, short)
    return text


def full(study: Study) -> str:
    """What the short names stand for, in a sentence; empty where no name is long."""
    return "".join(f" {short} is {name}." for name, short in long(study).items())
