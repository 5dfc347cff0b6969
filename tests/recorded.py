"""A study that was never trained: plausible records, written through the real ledger. For tests of the analysis and its benchmark."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raystudy.data.noise import Noise
from raystudy.design.study import Cell, Study
from raystudy.record.checkpoints import arrays_path
from raystudy.record.ledger import Ledger

SPACE = {
    "tau": {"name": "tau", "low": 0.1, "high": 0.9},
    "lam": {"name": "lam", "low": 1.0, "high": 100.0, "log": True, "or_zero": True},
    "mode": {"name": "mode", "choices": ["soft", "hard"]},
}


def write(
    folder: Path,
    methods: Sequence[str] = ("ce", "dividemix", "elr"),
    rates: Sequence[float] = (0.2, 0.5, 0.8),
    trials: int = 4,
    replicates: int = 3,
    epochs: int = 4,
    arrays: bool = True,
    dataset: str = "digits",
) -> Study:
    """Writes a finished study. The best ``tau`` is the noise rate; methods named later are better; ce has nothing to search."""
    noises = tuple(Noise("symmetric", r) for r in rates)
    study = Study(folder.name, tuple(methods), (dataset,), noises, trials, replicates, epochs, "mlp")
    folder.mkdir(parents=True)
    (folder / "study.toml").write_text(study.to_toml())
    rng, ledger = random.Random(0), Ledger(folder)
    for cell in study.cells():
        skill = methods.index(cell.method) / len(methods)
        searched, best = (1, {}) if cell.method == "ce" else (trials, {})
        ledger.open(cell.key, header(study, cell))
        reached = -1.0
        for n in range(searched + replicates):
            replicate = n >= searched
            point: dict[str, Any] = best if replicate else {} if cell.method == "ce" else draw(rng)
            worth = quality(point, cell.noise.rate, skill) + rng.gauss(0, 0.01)
            if not replicate and worth > reached:
                reached, best = worth, point
            key = f"{rng.getrandbits(64):016x}"
            origin = "replicate" if replicate else "search" if n else "paper"
            told = {"number": n, "origin": origin, "point": point, "seed": n - searched + 1 if replicate else 0}
            records = [
                {"event": "record", "key": key, "epoch": e, "metrics": m}
                for e, m in enumerate(curve(rng, worth, cell.noise.rate, skill, epochs))
            ]
            ledger.append(
                cell.key,
                {"event": "trial", "key": key, **told},
                *records,
                {"event": "end", "key": key, "state": "complete"},
            )
            if replicate and arrays:
                leave(folder, key)
    ledger.close()
    return study


def header(study: Study, cell: Cell) -> dict[str, Any]:
    return {
        "cell": cell.to_dict(),
        "digests": {"data": "d" * 16, "noise": "n" * 16},
        "effective_rate": 0.9 * cell.noise.rate,
        "images": 1212,
        "network": study.network,
        "recipe": {},
        "epochs": study.epochs,
        "objective": study.objective,
        "space": {} if cell.method == "ce" else SPACE,
        "versions": {"torch": "2"},
        "commit": "c0ffee",
    }


def draw(rng: random.Random) -> dict[str, Any]:
    lam = rng.choice([0.0, 10 ** rng.uniform(0, 2)])
    return {"tau": rng.uniform(0.1, 0.9), "lam": lam, "mode": rng.choice(["soft", "hard"])}


def quality(point: dict[str, Any], rate: float, skill: float) -> float:
    return 0.97 - 0.25 * abs(point.get("tau", rate) - rate) - 0.3 * rate * (1 - skill)


def curve(rng: random.Random, worth: float, rate: float, skill: float, epochs: int) -> list[dict[str, float]]:
    """Twelve metrics an epoch, of six digits as real ones are."""
    out = []
    for e in range(epochs):
        a = worth * (1 - math.exp(-6 * (e + 1) / epochs))
        told = {"train/loss": 1 - a, "val/acc": a * (1 - rate), "val/loss": 1.2 - a, "test/acc": a}
        told |= {"label/memorised": 0.1 * rate, "label/corrected": 0.9 * a}
        told |= {"select/auroc": a, "select/precision": a, "select/recall": 0.9 * a, "method/kept": 1 - rate}
        told = {k: float(f"{min(1.0, max(0.0, v + rng.gauss(0, 0.004))):.6g}") for k, v in told.items()}
        out.append(told | {"cost/passes": 3636.0 * (1 + 4 * skill), "cost/seconds": 0.05 * (1 + 4 * skill)})
    return out


def leave(folder: Path, key: str, classes: int = 10) -> None:
    """Arrays as a finished trial leaves them."""
    rng = np.random.default_rng(int(key, 16))
    edges = np.linspace(0, 6, 101)
    path = arrays_path(folder, key)
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        path,
        edges=edges,
        clean=np.histogram(rng.gamma(1.5, 0.4, 600), edges)[0],
        wrong=np.histogram(rng.normal(3, 0.8, 600).clip(0), edges)[0],
        gmm=np.array([[0.6, 3.0], [0.24, 0.64], [0.5, 0.5]]),
        confusion=40 * np.eye(classes, dtype=int) + rng.integers(0, 3, (classes, classes)),
        transition=60 * np.eye(classes, dtype=int) + rng.integers(0, 6, (classes, classes)),
        **each(rng, classes),
    )


def each(rng: np.random.Generator, classes: int, n: int = 180, m: int = 20) -> dict[str, Any]:
    """What a replicate leaves of single images: of the same ones in every trial; every tenth label is trusted less."""
    index, given = np.arange(n + m), np.arange(n + m) % classes
    trust = np.clip(np.where(index % 10, 0.8, 0.2) + rng.normal(0, 0.1, n + m), 0, 1).astype(np.float16)
    probs = np.full((m, classes), 0.02)
    probs[np.arange(m), given[n:]] = trust[n:]
    return {
        "train_index": index[:n].astype(np.int32),
        "train_given": given[:n].astype(np.int16),
        "train_weight": trust[:n],
        "train_confidence": trust[:n],
        "train_predicted": given[:n].astype(np.int16),
        "val_index": index[n:].astype(np.int32),
        "val_given": given[n:].astype(np.int16),
        "val_probs": probs.astype(np.float16),
    }
