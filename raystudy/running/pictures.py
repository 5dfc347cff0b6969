"""Pictures of a study's conditions, drawn by a thread while the study runs."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from raystudy.data import datasets
from raystudy.data.noise import Noise
from raystudy.data.pictures import pictures
from raystudy.design.study import slug
from raystudy.learn.celldata import prepare
from raystudy.learn.condition import condition

PATIENCE = 20.0  # seconds that drawing waits at most for the study to be under way
LOOK_SECONDS = 0.2


def folder(study: Path, dataset: str, setting: Noise) -> Path:
    """Where the pictures of a condition of a study lie: ``<study>/data/<data set>_<noise>``."""
    seed = f"_seed{setting.seed}" if setting.seed else ""
    return study / "data" / f"{slug(dataset)}_{setting.slug}{seed}"


@contextlib.contextmanager
def beside(
    study: Path,
    conditions: Iterable[tuple[str, Noise]],
    root: Path,
    val_fraction: float,
    under_way: Callable[[], bool] = lambda: True,
) -> Iterator[list[str]]:
    """Draws the pictures of a study's conditions while it runs, those that are not there yet.

    It begins when the study is ``under_way``: before, this process and the workers that come up need the cores.
    The study's end waits for the one that is being drawn and for no other: a thread that was left alone at the end of the
    process would be stopped inside matplotlib's C++, which aborts. What is left undrawn is drawn when the study is run again.
    A picture that cannot be drawn is no reason to stop a study; what went wrong is then in ``error.txt`` in place of the summary, and in
    the lines that are yielded, which are complete when the block has ended.
    """
    undrawn: list[str] = []
    wanted = [(d, n) for d, n in dict.fromkeys(conditions) if not (folder(study, d, n) / "summary.json").exists()]
    over = threading.Event()

    def work() -> None:
        begun = time.monotonic()
        while wanted and not under_way() and time.monotonic() - begun < PATIENCE and not over.wait(LOOK_SECONDS):
            pass
        for i, (dataset, setting) in enumerate(wanted):
            if over.is_set() and (i or not under_way()):  # of a study that was soon over, the first
                return
            out = folder(study, dataset, setting)
            try:
                data = datasets.load(dataset, root, setting)
                cell = prepare(dataset, root, setting, val_fraction)
                pictures(condition(cell, setting, data.classes, notes=data.remarks), out)
            except Exception as e:  # whatever a font cache, a full disk or an odd image makes of itself
                why = f"{type(e).__name__}: {e}"
                undrawn.append(f"no pictures of {dataset} {setting.label}: {' '.join(why.split())[:300]}")
                with contextlib.suppress(OSError):  # a full disk
                    out.mkdir(parents=True, exist_ok=True)
                    (out / "error.txt").write_text(f"{why}\n", encoding="utf-8")

    thread = threading.Thread(target=work, name="pictures")
    thread.start()
    try:
        yield undrawn
    finally:
        over.set()
        thread.join()
