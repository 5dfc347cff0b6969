"""DivideMix on digits as ``python -m raystudy.sweep dividemix`` trains it: is it as good as it should be, and as fast?

    python benchmarks/dividemix.py [--seeds N] [--quick]

Per noise rate, the trial 0 of the default sweep (noise seed 0, a tenth of the noisy training set held out) on several training
seeds, for DivideMix and for plain cross-entropy: clean test accuracy, mean of the last five epochs, beside the reference of the
design, which was measured with a plain prototype on another, slower core and on all 1,347 training images.

Beside ours, on the same data, network, hyperparameters and budget, a plain port: the structure of the original code as it is
commonly copied (``PORT`` below says what that is). Ours and the port alternate, in one process with one thread. Seconds are of
the processor, so that other users of the machine count for little; they are those of the wall clock on an idle machine.
"""

import os

os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}

import argparse
import random
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from raystudy.design import compose
from raystudy.learn import networks
from raystudy.learn.celldata import CellData, prepare
from raystudy.learn.point import split
from raystudy.learn.recipe import Recipe
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run
from raystudy.running.build import Builder

REFERENCE = {0.2: (0.957, 0.982, 35), 0.5: (0.908, 0.964, 25), 0.8: (0.801, 0.930, 16)}  # ce, DivideMix, its seconds
TARGET = 2 / 3  # of the port's seconds
LAST = 5  # epochs whose mean test accuracy is told

PORT = """the port: a DataLoader, without worker processes, over tensors with a transform per sample (a crop by slicing,
several times as fast as the original's PIL images and torchvision transforms); evaluation of all training images by both
nets in small batches each epoch and scikit-learn's GaussianMixture; per update four separate forward passes without
gradient by the trained net and two by its peer, one backward pass over all mixed images, SGD as torch gives it, and losses
read out by item(); the test set each epoch. It measures neither validation nor memorisation nor selection."""


class Images(Dataset):
    """The original's ``cifar_dataset``: mode all, labelled (two views, label, clean probability), unlabelled (two views)."""

    def __init__(
        self, x: Tensor, y: Tensor, transform: Callable[[Tensor], Tensor], mode: str = "all", w: Any = None
    ) -> None:
        self.x, self.y, self.transform, self.mode, self.w = x, y, transform, mode, w

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Any, ...]:
        image = self.x[i]
        if self.mode == "labelled":
            return self.transform(image), self.transform(image), self.y[i], self.w[i]
        if self.mode == "unlabelled":
            return self.transform(image), self.transform(image)
        return self.transform(image), self.y[i], i


def port(
    spec: TrialSpec,
    data: CellData,
    device: str = "cpu",
    workers: int = 0,
    epochs: int | None = None,
    told: Callable[[int, float], None] = lambda t, seconds: None,
) -> float:
    """Trains as the original code does. Returns the mean test accuracy of the last epochs.

    ``data`` on the CPU; ``workers`` of each DataLoader (the original: 5); ``epochs``: stop after so many; ``told``: hears each epoch and
    its seconds by the wall clock, evaluation included.
    """
    torch.manual_seed(spec.seed)
    np.random.seed(spec.seed)
    random.seed(spec.seed)
    values, overrides = split(spec.method, spec.point)
    recipe = Recipe(**{**spec.recipe, **overrides})
    size, k, b, pad = data.shape[1], data.n_classes, recipe.batch_size, data.pad
    mean_, std = torch.tensor(data.mean).view(-1, 1, 1), torch.tensor(data.std).view(-1, 1, 1)
    assert isinstance(data.x, torch.Tensor)
    assert isinstance(data.x_held, torch.Tensor)
    x, y = F.pad(data.x, (pad, pad, pad, pad)), data.y
    held_x, held_y = F.pad(data.x_held[len(data.y_val) :], (pad, pad, pad, pad)), data.y_test

    def crop(image: Tensor, top: int, left: int) -> Tensor:
        return (image[:, top : top + size, left : left + size].float() / 255 - mean_) / std

    def augment(image: Tensor) -> Tensor:
        return crop(image, random.randint(0, 2 * pad), random.randint(0, 2 * pad))

    def plain(image: Tensor) -> Tensor:
        return crop(image, pad, pad)

    nets = [networks.build(spec.network, data.shape, k).to(device) for _ in range(2)]
    optimizers = [
        torch.optim.SGD(net.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        for net in nets
    ]
    warmup = max(round(values.get("warmup", 10 / 300) * spec.epochs), 1)
    rampup = max(round(values.get("rampup", 16 / 300) * spec.epochs), 1)
    temperature, alpha = values.get("temperature", 0.5), values.get("alpha", 4.0)
    eval_loader = DataLoader(Images(x, y, plain), batch_size=b, num_workers=workers)
    test_loader = DataLoader(Images(held_x, held_y, plain), batch_size=b, num_workers=workers)
    cross_entropy = torch.nn.CrossEntropyLoss()
    each = torch.nn.CrossEntropyLoss(reduction="none")

    def warm_up(net: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        net.train()
        for inputs, labels, _ in DataLoader(Images(x, y, augment), batch_size=2 * b, shuffle=True, num_workers=workers):
            optimizer.zero_grad()
            loss = cross_entropy(net(inputs.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            loss.item()

    def clean_probability(net: torch.nn.Module) -> np.ndarray:
        net.eval()
        losses = torch.zeros(len(y))
        with torch.no_grad():
            for inputs, labels, index in eval_loader:
                loss = each(net(inputs.to(device)), labels.to(device))
                for j in range(len(loss)):
                    losses[index[j]] = loss[j]
        losses = ((losses - losses.min()) / (losses.max() - losses.min())).reshape(-1, 1)
        gmm = GaussianMixture(n_components=2, max_iter=10, tol=1e-2, reg_covar=5e-4)
        gmm.fit(losses)
        return gmm.predict_proba(losses)[:, gmm.means_.argmin()]

    def train(
        t: int, net: torch.nn.Module, peer: torch.nn.Module, optimizer: torch.optim.Optimizer, clean: np.ndarray
    ) -> None:
        w = torch.from_numpy(clean).float()
        picked = w > values.get("p_threshold", 0.5)
        labelled = Images(x[picked], y[picked], augment, "labelled", w[picked])
        unlabelled = DataLoader(
            Images(x[~picked], y[~picked], augment, "unlabelled"), batch_size=b, shuffle=True, num_workers=workers
        )
        net.train()
        peer.eval()
        rest = iter(unlabelled)
        n_iter = len(labelled) // b + 1
        for i, (x1, x2, labels, w_x) in enumerate(
            DataLoader(labelled, batch_size=b, shuffle=True, num_workers=workers)
        ):
            try:
                u1, u2 = next(rest)
            except StopIteration:
                rest = iter(unlabelled)
                u1, u2 = next(rest)
            n_x = len(x1)
            onehot = torch.zeros(n_x, k).scatter_(1, labels.view(-1, 1), 1).to(device)
            x1, x2, u1, u2, w_x = (v.to(device) for v in (x1, x2, u1, u2, w_x.view(-1, 1)))
            with torch.no_grad():
                out_u1, out_u2, peer_u1, peer_u2 = net(u1), net(u2), peer(u1), peer(u2)
                guess = sum(torch.softmax(o, 1) for o in (out_u1, out_u2, peer_u1, peer_u2)) / 4
                guess = guess ** (1 / temperature)
                targets_u = guess / guess.sum(1, keepdim=True)
                out_x1, out_x2 = net(x1), net(x2)
                refined = w_x * onehot + (1 - w_x) * (torch.softmax(out_x1, 1) + torch.softmax(out_x2, 1)) / 2
                refined = refined ** (1 / temperature)
                targets_x = refined / refined.sum(1, keepdim=True)
            lam = np.random.beta(alpha, alpha)
            lam = max(lam, 1 - lam)
            inputs, targets = torch.cat([x1, x2, u1, u2]), torch.cat([targets_x, targets_x, targets_u, targets_u])
            order = torch.randperm(len(inputs))
            logits = net(lam * inputs + (1 - lam) * inputs[order])
            mixed = lam * targets + (1 - lam) * targets[order]
            loss_x = -(F.log_softmax(logits[: 2 * n_x], 1) * mixed[: 2 * n_x]).sum(1).mean()
            loss_u = ((torch.softmax(logits[2 * n_x :], 1) - mixed[2 * n_x :]) ** 2).mean()
            prior = torch.ones(k, device=device) / k
            penalty = (prior * torch.log(prior / torch.softmax(logits, 1).mean(0))).sum()
            weight_u = values.get("lambda_u", 25.0) * float(np.clip((t + i / n_iter - warmup) / rampup, 0, 1))
            loss = loss_x + weight_u * loss_u + penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_x.item(), loss_u.item()

    def test() -> float:
        correct = 0
        for net in nets:
            net.eval()
        with torch.no_grad():
            for inputs, labels, _ in test_loader:
                inputs = inputs.to(device)
                correct += (nets[0](inputs) + nets[1](inputs)).max(1)[1].eq(labels.to(device)).sum().item()
        return correct / len(held_y)

    accuracy = []
    for t in range(spec.epochs if epochs is None else epochs):
        began = time.perf_counter()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(t, spec.epochs)
        if t < warmup:
            for net, optimizer in zip(nets, optimizers, strict=True):
                warm_up(net, optimizer)
        else:
            w = [clean_probability(net) for net in nets]
            for i in range(2):
                train(t, nets[i], nets[1 - i], optimizers[i], w[1 - i])
        accuracy.append(test())
        told(t, time.perf_counter() - began)
    return mean(accuracy[-LAST:])


def ours(spec: TrialSpec, data: CellData) -> float:
    run = Run(spec, data)
    records = [run.epoch() for _ in range(spec.epochs)]
    return mean(r["test/acc"] or 0.0 for r in records[-LAST:])


def clocked(train: Callable[[TrialSpec, CellData], float], spec: TrialSpec, data: CellData) -> tuple[float, float]:
    """Test accuracy and processor seconds."""
    began = time.process_time()
    accuracy = train(spec, data)
    return accuracy, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="training seeds 0 to N - 1 (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one seed and 15 epochs: only the ratio means something")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)

    root = Path("data")
    study = compose.of_methods(["dividemix"], epochs=15 if args.quick else None, root=root)
    builder = Builder(study, root)
    seeds = range(1 if args.quick else args.seeds)

    print(
        f"digits, {study.network}, {study.epochs} epochs, {len(seeds)} seeds; test accuracy, mean of the last {LAST} epochs"
    )
    told: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for cell in study.cells():
        data = prepare(cell.dataset, root, cell.noise, study.val_fraction)
        point, _, source = builder.spaces[cell.method].paper(cell.dataset, cell.noise)
        if cell.method == "dividemix":
            print(f"  {cell.noise.label}: {len(data.y)} images, {point} [{source}]", flush=True)
        ways = {cell.method: ours} | ({"port": port} if cell.method == "dividemix" else {})
        for seed in seeds:
            for name, train in list(ways.items())[:: 1 if seed % 2 else -1]:
                result = clocked(train, builder.spec(cell, point, study.seed + seed), data)
                told.setdefault((name, cell.noise.rate), []).append(result)

    print(f"\n{'rate':5} {'method':22} {'accuracy':9} {'of each seed':{7 * len(seeds)}} {'reference':10} seconds a run")
    for rate in sorted({r for _, r in told}):
        ce, dividemix, seconds = REFERENCE.get(rate, (float("nan"),) * 3)
        for name, label, accuracy, clock in (
            ("ce", "ce", ce, ""),
            ("dividemix", "DivideMix", dividemix, f"(reference: {seconds}, on a slower core)"),
            ("port", "DivideMix, plain port", float("nan"), ""),
        ):
            runs = told[name, rate]
            each = " ".join(f"{a:.4f}" for a, _ in runs)
            print(
                f"{rate:<5} {label:22} {mean(a for a, _ in runs):<9.4f} {each:{7 * len(seeds)}} "
                f"{'' if accuracy != accuracy else format(accuracy, '.3f'):10} {mean(s for _, s in runs):.1f} {clock}"
            )
    rates = sorted({r for _, r in told})
    ratios = {r: sum(s for _, s in told["dividemix", r]) / sum(s for _, s in told["port", r]) for r in rates}
    print("\nseconds, ours / port: " + ", ".join(f"{ratio:.2f} at {r:g}" for r, ratio in ratios.items()))
    print(" ".join(PORT.split()))
    print(f"target: at most {TARGET:.2f} at each rate:", "yes" if max(ratios.values()) <= TARGET else "NO")
    if not args.quick:
        for r in rates:
            got, want = mean(a for a, _ in told["dividemix", r]), REFERENCE[r][1]
            print(f"target: accuracy {want:.2f} at {r:g}: {got:.4f}, {'yes' if got >= round(want, 2) else 'NO'}")


if __name__ == "__main__":
    main()
