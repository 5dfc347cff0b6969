"""What only a GPU can show: every method there, trials that share it, and speed beside the authors' structure.

    python benchmarks/gpu.py --out FILE [--data-root DIR] [--time-budget HOURS] [--tiny]

Three parts, each a line of JSON in FILE; a line that is there is not measured again, so the same command goes on where it was stopped.

- ``method``: every method at its published point, two epochs on a small stand-in: losses finite, in which type its layers compute, whether
  weights are channels_last, the peak of memory and the share of the device that ``--gpus-per-trial auto`` would give it.
- ``kill``: a study whose trials share the device (``--gpus-per-trial 0.5``) killed by SIGKILL and run again, against one that was not.
- ``speed``: DivideMix and SSR+ on CIFAR-10, symmetric 0.5 and 0.8, PreAct ResNet-18: as many epochs as fit into the time, test accuracy,
  and images of the training set a second after the warm-up, beside a plain port of the author's structure in the same run.

``--tiny`` does all of it on any machine in minutes: two methods, stand-ins, an MLP; its numbers mean nothing. At its end the lines are
printed as tables for docs/published-points.md. This was written without a GPU at hand: nothing in it has been measured on one yet.
"""

import argparse
import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from dividemix import port as dividemix_port
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.design.single import single
from raystudy.errors import InputError
from raystudy.learn import networks
from raystudy.learn.celldata import CellData, prepare
from raystudy.learn.methods import METHODS
from raystudy.learn.point import split
from raystudy.learn.recipe import Recipe
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run, resume
from raystudy.running import memory
from raystudy.tools.chaos.holds import outcome

Row = dict[str, Any]
RATES = (0.5, 0.8)
RACED = ("dividemix", "ssr")
AUTHOR_EPOCHS = 2  # of the port after its warm-up
WORKERS = 5  # of each DataLoader, as in DivideMix's code
PORTS = """DivideMix: benchmarks/dividemix.py. SSR+: a DataLoader of {workers} workers over tensors with a transform per sample, in float32;
an evaluation of all training images each epoch, the neighbours in ten chunks of a full matrix of similarities; per update one pass over
mixed labelled images, one without gradient over weak views and one over strong ones; losses read out by item(); the test set each epoch."""


class Lines:
    """The file of results: what is in it, and one line more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                row = json.loads(text)
            except json.JSONDecodeError:
                continue  # torn by a kill
            self.rows[row["key"]] = row

    def add(self, key: str, row: Row) -> None:
        self.rows[key] = {"key": key} | row
        with self.path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(self.rows[key]) + "\n")
        print(f"{key}: {json.dumps(row)}", flush=True)


# --------------------------------------------------------------------------------------------------------- every method


def spec_of(method: str, data: CellData, dataset: str, noise: Noise, network: str, epochs: int) -> TrialSpec:
    point = space.load(method).paper(dataset, noise)[0]
    return single(method, data, dataset, noise, network, epochs, val_fraction=0.1, point=point)


def try_method(method: str, dataset: str, network: str, device: str) -> Row:
    """Two epochs of a method on the device."""
    noise = Noise("symmetric", 0.5)
    data = prepare(dataset, Path("data"), noise, 0.1, device)
    gpu = device.startswith("cuda")
    try:
        run = Run(spec_of(method, data, dataset, noise, network, 2), data, device)
        types: set[str] = set()
        for net in run.method.modules():
            if isinstance(net, nn.Conv2d | nn.Linear):
                net.register_forward_hook(lambda m, i, o: types.add(str(o.dtype).removeprefix("torch.")))
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        records = [run.epoch() for _ in range(2)]
    except InputError as e:
        return {"device": told(device), "refused": str(e)}
    weights = [p for p in run.method.parameters() if p.dim() == 4]
    row: Row = {
        "device": told(device),
        "finite": not run.diverged and all(r["train/loss"] is not None for r in records),
        "types": sorted(types),
        "channels_last": all(w.is_contiguous(memory_format=torch.channels_last) for w in weights),
        "seconds": records[-1]["cost/seconds"],
    }
    if gpu:
        peak, total = torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(0).total_memory
        row |= {"peak_mib": round(peak / 2**20), "share": memory.share(peak, total)}
    return row


def told(device: str) -> str:
    return torch.cuda.get_device_name(0) if device.startswith("cuda") else "cpu"


# ------------------------------------------------------------------------------------------------------ kill and resume


def killed(device: str, epochs: int) -> Row:
    """A study whose trials share the device, killed in the middle and run again: the same keys, states and curves as one that was not?"""
    part = "0.5" if device.startswith("cuda") else "0"
    command = [sys.executable, "-m", "raystudy.sweep", "elr", "--noise", "symmetric:0.5", "--epochs", str(epochs)]
    command += ["--trials", "2", "--replicates", "1", "--tracking-uri", "none", "--gpus-per-trial", part]
    command += ["--checkpoint-every", "0.2", "--name", "k"]
    root = Path(__file__).resolve().parent.parent
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}

    def sweep(folder: Path, log: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        with log.open("wb") as f:
            return subprocess.Popen(command, cwd=folder, env=environment, stdout=f, stderr=f, start_new_session=True)

    with tempfile.TemporaryDirectory() as name:
        whole, broken = Path(name, "whole"), Path(name, "broken")
        logs = [Path(name, f"{what}.txt") for what in ("whole", "killed", "again")]
        first = sweep(whole, logs[0]).wait()
        victim, kills = sweep(broken, logs[1]), 0
        while victim.poll() is None:
            cells = list((broken / "studies" / "k" / "cells").glob("*.jsonl"))
            if any('"record"' in c.read_text(encoding="utf-8") for c in cells):
                os.killpg(victim.pid, signal.SIGKILL)  # of a session of its own
                kills = 1
                break
            time.sleep(0.1)
        codes = [first, victim.wait(), sweep(broken, logs[2]).wait()]
        row: Row = {"device": told(device), "share": float(part), "kills": kills, "codes": codes}
        if codes[0] or codes[2] or not kills:  # one that ended by itself, whatever stopped it, shows nothing
            last = [log.read_text(encoding="utf-8", errors="replace")[-300:] for log in logs]
            return row | {"same": False, "printed": last}
        a, b = (outcome(f / "studies" / "k") for f in (whole, broken))
    return row | {"same": a == b}


# ---------------------------------------------------------------------------------------------------------------- speed


class Samples(Dataset[Any]):
    """Images with their transforms, one after another as a DataLoader asks for them."""

    def __init__(self, x: Tensor, y: Tensor, *transforms: Callable[[Tensor], Tensor]) -> None:
        self.x, self.y, self.transforms = x, y, transforms

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Any, ...]:
        return (*(t(self.x[i]) for t in self.transforms), self.y[i], i)


class Heads(nn.Module):
    """A network with the two heads of SSR+ on what stands before its last layer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
        last.register_forward_hook(self._keep)
        self.d, self.kept = last.in_features, torch.empty(0)
        self.projection = nn.Sequential(nn.Linear(self.d, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 128))
        self.prediction = nn.Sequential(nn.Linear(128, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 128))

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.kept = inputs[0]

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, d] and logits [B, K]."""
        logits = self.net(x)
        return self.kept, logits


def ssr_port(
    spec: TrialSpec,
    data: CellData,
    device: str,
    workers: int,
    epochs: int,
    hear: Callable[[int, float], None],
) -> None:
    """SSR+ in the structure of its code (``PORTS``)."""
    from torchvision.transforms import RandAugment

    torch.manual_seed(spec.seed)
    values, overrides = split(spec.method, spec.point)
    recipe = Recipe(**{**spec.recipe, **overrides})
    size, k, b, pad = data.shape[1], data.n_classes, recipe.batch_size, data.pad
    assert isinstance(data.x, Tensor)
    assert isinstance(data.x_held, Tensor)
    x, y = F.pad(data.x, (pad,) * 4), data.y
    held_x, held_y = F.pad(data.x_held[len(data.y_val) :], (pad,) * 4), data.y_test
    mean_, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
    randomly = RandAugment()

    def cut(image: Tensor, top: int, left: int) -> Tensor:
        image = image[:, top : top + size, left : left + size]
        return image.flip(2) if data.flip and random.random() < 0.5 else image

    def ready(image: Tensor) -> Tensor:
        return (image.float() / 255 - mean_) / std

    def plain(image: Tensor) -> Tensor:
        return ready(image[:, pad : pad + size, pad : pad + size])

    def weak(image: Tensor) -> Tensor:
        return ready(cut(image, random.randint(0, 2 * pad), random.randint(0, 2 * pad)))

    def strong(image: Tensor) -> Tensor:
        image = cut(image, random.randint(0, 2 * pad), random.randint(0, 2 * pad))
        return ready(randomly(image) if len(image) == 3 else image)

    net = Heads(networks.build(spec.network, data.shape, k)).to(device)
    sgd = torch.optim.SGD(net.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    everything = Samples(x, y, plain)
    theta_r, near = values.get("theta_r", 0.9), min(values.get("k", 200), len(y) // k)
    alpha, weight = values.get("alpha", 4.0), values.get("lambda_fc", 1.0)

    def bank() -> tuple[Tensor, Tensor]:
        net.eval()
        features, logits = [], []
        with torch.no_grad():
            for images, _, _ in DataLoader(everything, batch_size=b, num_workers=workers):
                f, out = net.both(images.to(device))
                features.append(F.normalize(f, dim=1))
                logits.append(out)
        return torch.cat(features), torch.cat(logits)

    def select() -> tuple[Tensor, Tensor]:
        features, logits = bank()
        confidence, best = logits.softmax(1).max(1)
        labels = torch.where(confidence > theta_r, best, y.to(device))
        frequency = torch.bincount(labels, minlength=k).float() + 1e-10
        votes = []
        for chunk in features.chunk(10):
            nearest = (chunk @ features.t()).topk(near, dim=1).indices
            counted = F.one_hot(labels[nearest], k).sum(1) / (frequency / frequency.sum())
            votes.append(counted / counted.sum(1, keepdim=True))
        vote = torch.cat(votes)
        right = vote.gather(1, labels[:, None]).squeeze(1) / vote.max(1).values
        return labels.cpu(), (right >= values.get("theta_s", 1.0)).nonzero().squeeze(1).cpu()

    def labelled(labels: Tensor, kept: Tensor) -> Iterator[tuple[Any, ...]]:
        members = [kept[labels[kept] == c] for c in range(k) if (labels[kept] == c).any()]
        most = max(map(len, members))
        order = torch.cat([m[torch.randint(len(m), (most,))] for m in members])
        order = order[torch.randperm(len(order))]
        while True:
            yield from DataLoader(
                Samples(x[order], labels[order], strong, strong), batch_size=b, shuffle=True, num_workers=workers
            )

    for t in range(epochs):
        began = time.perf_counter()
        for group in sgd.param_groups:
            group["lr"] = recipe.rate(t, spec.epochs)
        labels, kept = select()
        net.train()
        pairs = labelled(labels, kept if len(kept) else torch.arange(len(y)))
        for w, s, _, _ in DataLoader(Samples(x, y, weak, strong), batch_size=b, shuffle=True, num_workers=workers):
            x1, x2, given, _ = next(pairs)
            lam = float(np.random.beta(alpha, alpha))
            lam = max(lam, 1 - lam)
            images = torch.cat([x1, x2]).to(device)
            targets = F.one_hot(torch.cat([given, given]).to(device), k).float()
            order = torch.randperm(len(images), device=device)
            out = net.net(lam * images + (1 - lam) * images[order])
            loss = -(F.log_softmax(out, 1) * (lam * targets + (1 - lam) * targets[order])).sum(1).mean()
            with torch.no_grad():
                target = net.projection(net.both(w.to(device))[0])
            prediction = net.prediction(net.projection(net.both(s.to(device))[0]))
            apart = -F.cosine_similarity(prediction, target).mean()
            sgd.zero_grad()
            (loss + weight * apart).backward()
            sgd.step()
            loss.item(), apart.item()
        net.eval()
        with torch.no_grad():
            for images, _, _ in DataLoader(Samples(held_x, held_y, plain), batch_size=b, num_workers=workers):
                net.net(images.to(device)).argmax(1)
        hear(t, time.perf_counter() - began)


def raced(method: str, rate: float, tiny: bool, root: Path, device: str, seconds: float, checkpoint: Path) -> Row:
    """As many epochs of ours as fit into ``seconds``, and a few of the author's structure."""
    dataset, network, epochs = ("smoke:digits", "mlp", 6) if tiny else ("cifar10", "preact_resnet18", 300)
    noise = Noise("symmetric", rate)
    data = prepare(dataset, root, noise, 0.1, device)
    spec = spec_of(method, data, dataset, noise, network, epochs)
    if method == "ssr":
        spec = dataclasses.replace(spec, point=spec.point | {"lambda_fc": spec.point.get("lambda_fc") or 1.0})  # SSR+
    n, began = len(data.y), time.monotonic()
    run = Run(spec, data, device)
    resume(run, checkpoint, print)
    while len(run.records) < epochs and (not run.records or time.monotonic() - began < seconds):
        run.epoch()
        run.save(checkpoint)
    warm = max(round(float(getattr(run.method, "warmup", 0.0) or 0.0) * epochs), 1) if method == "dividemix" else 1
    ours = [r["cost/seconds"] or math.nan for r in run.records[warm:]] or [run.records[-1]["cost/seconds"] or math.nan]
    theirs: list[float] = []
    plain = prepare(dataset, root, noise, 0.1, "cpu")
    workers, most = (0, warm + 1) if tiny else (WORKERS, warm + AUTHOR_EPOCHS)
    if method == "dividemix":
        dividemix_port(spec, plain, device, workers, most, lambda t, s: theirs.append(s))
    else:
        ssr_port(spec, plain, device, workers, most, lambda t, s: theirs.append(s))
    last = [r["test/acc"] or 0.0 for r in run.records[-10:]]
    return {
        "device": told(device),
        "method": "ssr+" if method == "ssr" else method,
        "rate": rate,
        "epochs": len(run.records),
        "of": epochs,
        "test": round(sum(last) / len(last), 4),
        "ours": round(n / median(ours), 1),
        "theirs": round(n / median(theirs[warm:] or theirs), 1),
        "date": time.strftime("%Y-%m-%d"),
    }


# ---------------------------------------------------------------------------------------------------------------- tables


def tables(rows: dict[str, Row]) -> str:
    """What is in the file, as Markdown."""
    tried = {k.partition(":")[2]: r for k, r in rows.items() if k.startswith("method:")}
    good = [m for m, r in tried.items() if r.get("finite")]
    lines = [f"{len(good)} of {len(tried)} methods ran, {sum('refused' in r for r in tried.values())} were refused."]
    if any("peak_mib" in r for r in tried.values()):
        lines += ["", "| method | types | channels_last | peak MiB | share |", "| --- | --- | --- | --- | --- |"]
        for m, r in tried.items():
            cells = (m, ", ".join(r.get("types", [])), r.get("channels_last"), r.get("peak_mib"), r.get("share"))
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    if kill := rows.get("kill"):
        verdict = "the same as undisturbed" if kill["same"] else "NOT the same as undisturbed"
        if "printed" in kill:
            verdict = "not shown, the line in FILE says what was printed; the same command tries again"
        lines += ["", f"Killed and run again, {kill['share']:g} of the device a trial: {verdict}."]
    raced_ = [r for k, r in rows.items() if k.startswith("speed:")]
    if raced_:
        head = "| method | symmetric | epochs | test accuracy | images a second, ours | author's structure | ratio |"
        lines += ["", head, "| --- | --- | --- | --- | --- | --- | --- |"]
        for r in raced_:
            cells = (r["method"], r["rate"], f"{r['epochs']} of {r['of']}", f"{100 * r['test']:.1f}", r["ours"])
            lines.append("| " + " | ".join(map(str, (*cells, r["theirs"], f"{r['ours'] / r['theirs']:.2f}"))) + " |")
        lines += ["", f"On {raced_[0]['device']}, {raced_[0]['date']}. {PORTS.format(workers=WORKERS)}"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file of results; what is in it is not measured again")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="where CIFAR-10 lies (default: data)")
    parser.add_argument("--time-budget", type=float, default=4.0, metavar="HOURS", help="of the trainings (default: 4)")
    parser.add_argument("--tiny", action="store_true", help="two methods and stand-ins, on any machine")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not args.tiny:
        sys.exit("gpu.py: there is no GPU here; --tiny runs it in miniature on the CPU")
    if args.tiny:
        torch.set_num_threads(1)
    lines = Lines(args.out)
    dataset, network = ("smoke:digits", "mlp") if args.tiny else ("smoke:cifar10", "preact_resnet18")
    for method in ("ce", "elr") if args.tiny else sorted(METHODS):
        if (key := f"method:{method}") not in lines.rows:
            lines.add(key, try_method(method, dataset, network, device))
    races = [(m, r) for m in RACED for r in RATES]
    missing = [race for race in races if f"speed:{race[0]}:{race[1]}" not in lines.rows]
    for method, rate in missing:
        checkpoint = args.out.with_name(f"{args.out.stem}-{method}-{rate}.pt")
        share = 3600 * args.time_budget / len(races)
        row = raced(method, rate, args.tiny, args.data_root, device, share, checkpoint)
        lines.add(f"speed:{method}:{rate}", row)
    if "printed" in lines.rows.get("kill", {"printed": []}):  # not tried, or not run to the end
        lines.add("kill", killed(device, 4 if args.tiny else 60))
    print(tables(lines.rows))


if __name__ == "__main__":
    main()
