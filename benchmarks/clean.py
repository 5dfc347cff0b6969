"""How well wrong labels are found: ``raystudy clean`` beside cleanlab, on twelve kinds of noise whose truth is known (docs/clean.md).

usage: python benchmarks/clean.py --data DIR [--out FILE.jsonl] [--seeds 0,1,2] [--table]

DIR holds cifar10_features.npz, cifar10n.npz and mnist.npz; what is missing is left out. Each condition is a line of FILE, and the same
command again runs what is missing. Of the vectors and of MNIST, seed s is samples 5,000 s to 5,000 (s + 1). cleanlab gets an out-of-fold
logistic regression (of the strength that predicts the labels best) and, beside, our predictions of the given labels; its best score
by any method counts. "left": wrong labels that are left after cleaning: ours replaced where sure and dropped else; cleanlab's issues
(by the predictions that were better for it) dropped.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from raystudy.data import datasets, instance
from raystudy.data.noise import corrupt, parse
from raystudy.learn import filtering
from raystudy.tools.clean import evidence
from raystudy.tools.clean.judge import judge
from raystudy.tools.clean.quality import calibrated

VECTORS = "cifar10_features"
HUMAN = {"aggre": "aggre_label", "random1": "random_label1", "worse": "worse_label"}
CONDITIONS = [
    *(("digits", noise) for noise in ("symmetric:0.2", "symmetric:0.5", "pair:0.4")),
    *((VECTORS, n) for n in ("symmetric:0.2", "symmetric:0.5", "asymmetric:cifar10:0.4", "pair:0.4", "instance:0.4")),
    *((VECTORS, noise) for noise in HUMAN),
    ("mnist", "symmetric:0.5"),
]


def condition(data: Path, name: str, noise: str, seed: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray] | None:
    """Samples as a tensor, labels given, the truth; None where the data are not here."""
    part = slice(5000 * seed, 5000 * (seed + 1))
    if name == "digits":
        found = datasets.load("digits")
        assert isinstance(found.x_train, torch.Tensor)
        x, y = found.x_train, found.y_train.numpy()
    else:
        if not (data / f"{name}.npz").exists():
            return None
        with np.load(data / f"{name}.npz") as z:
            x, y = torch.from_numpy(z["x_train"][part]), z["y_train"][part].astype(np.int64)
        x = x[:, None] if x.dim() == 3 else x
    if noise in HUMAN:
        if not (data / "cifar10n.npz").exists():
            return None
        with np.load(data / "cifar10n.npz") as z:
            return x, z[HUMAN[noise]][part].astype(np.int64), y
    if noise.startswith("instance"):
        square = x.numpy().reshape(len(x), 1, 16, 16)
        return x, instance.flip(square, y, "pdn", float(noise.partition(":")[2]), 10, seed), y
    return x, corrupt(y, parse(noise, seed=seed)[0], 10), y


def theirs(given: np.ndarray, probs: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    from cleanlab.rank import get_label_quality_scores

    for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
        for adjust in (False, True) if method != "confidence_weighted_entropy" else (False,):
            name = method + ("+adjusted" if adjust else "")
            yield name, get_label_quality_scores(given, probs, method=method, adjust_pred_probs=adjust)


def measured(x: torch.Tensor, given: np.ndarray, truth: np.ndarray, seed: int) -> dict:
    from cleanlab.filter import find_label_issues

    wrong, start = given != truth, time.perf_counter()
    features = filtering.features(x)
    told = judge(features, given, 10, seed=seed)
    seconds = time.perf_counter() - start
    linear = evidence.linear(features, given, 10, 5, seed)
    kernel, near = evidence.Kernel(features, given, 10, seed), evidence.Neighbours(features, 60)
    once = np.eye(10)[given]
    ours, _ = calibrated([evidence.logarithms(linear), kernel.scores(once), near.scores(once)], given, np.eye(10))
    scores = {}
    for of, probs in (("linear", np.maximum(linear, 1e-6)), ("ours", ours)):
        probs = probs / probs.sum(1, keepdims=True)
        for name, quality in theirs(given, probs):
            scores[f"{of}: {name}"] = average_precision_score(wrong, -quality)
    best = max(scores, key=lambda name: scores[name])
    on_linear = {k: v for k, v in scores.items() if k.startswith("linear")}
    chosen = [find_label_issues(given, p / p.sum(1, keepdims=True)) for p in (np.maximum(linear, 1e-6), ours)]
    left = [int((wrong & ~issue).sum()) for issue in chosen]
    final = np.where(told.sure, told.suggested, given)
    kept = told.kept
    return {
        "wrong": float(wrong.mean()),
        "auroc": float(roc_auc_score(wrong, -told.quality)),
        "ap": float(average_precision_score(wrong, -told.quality)),
        "f1": float(f1_score(wrong, told.issue)),
        "ap_cleanlab_linear": max(on_linear.values()),
        "ap_cleanlab": scores[best],
        "best_cleanlab": best,
        "f1_cleanlab": [float(f1_score(wrong, issue)) for issue in chosen],
        "kept": float(kept.mean()),
        "wrong_after": float((final != truth)[kept].mean()),
        "left": int(((final != truth) & kept).sum()),
        "left_cleanlab": left,
        "kept_cleanlab": [float((~issue).mean()) for issue in chosen],
        "wrong_after_cleanlab": [float(wrong[~issue].mean()) for issue in chosen],
        "seconds": seconds,
        "rate": told.estimate.rate,
        "interval": told.estimate.rate_interval,
    }


def table(lines: list[dict]) -> str:
    """Means over seeds, as Markdown."""
    head = [
        "data, noise",
        "seeds",
        "wrong",
        "AUROC",
        "AP",
        "AP cleanlab, its LR",
        "AP cleanlab, best",
        "F1",
        "F1 cleanlab",
    ]
    head += ["wrong after", "after cleanlab", "kept", "kept cleanlab", "left / cleanlab's", "seconds"]
    rows = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    gains, won = [], 0
    for name, noise in CONDITIONS:
        some = [line for line in lines if (line["data"], line["noise"]) == (name, noise)]
        if not some:
            continue
        m = {k: float(np.mean([line[k] for line in some])) for k in some[0] if isinstance(some[0][k], float | int)}
        f1 = np.mean([line["f1_cleanlab"] for line in some], axis=0)
        after, left = (np.mean([line[k] for line in some], axis=0) for k in ("wrong_after_cleanlab", "left_cleanlab"))
        i = int(left.argmin())
        gains.append(m["ap"] - m["ap_cleanlab"])
        won += gains[-1] > 0
        told = [m["wrong"], m["auroc"], m["ap"], m["ap_cleanlab_linear"], m["ap_cleanlab"], m["f1"], f1.max()]
        told += [m["wrong_after"], after[i], m["kept"], np.mean([line["kept_cleanlab"] for line in some], axis=0)[i]]
        cells = (
            [str(len(some))]
            + [f"{v:.3f}" for v in told]
            + [f"{m['left'] / max(left[i], 1):.2f}", f"{m['seconds']:.0f}"]
        )
        rows.append(f"| {name.replace(VECTORS, 'CIFAR-10 vectors')}, {noise} | " + " | ".join(cells) + " |")
    rows.append(f"\nAbove cleanlab's best in {won} of {len(gains)}, by {np.mean(gains):.3f} on average.")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("clean.jsonl"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--table", action="store_true", help="print the table of what there is, and run nothing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lines = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    there = {(line["data"], line["noise"], line["seed"]) for line in lines}
    for seed in [] if asked.table else map(int, asked.seeds.split(",")):
        for name, noise in CONDITIONS:
            if (name, noise, seed) in there or (made := condition(asked.data, name, noise, seed)) is None:
                continue
            line = {"data": name, "noise": noise, "seed": seed} | measured(*made, seed)
            lines.append(line)
            with asked.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name} {noise} {seed}: AP {line['ap']:.3f}, cleanlab {line['ap_cleanlab']:.3f}", flush=True)
    print(table(lines))


if __name__ == "__main__":
    main()
