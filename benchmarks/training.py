"""What measuring and recording cost: an epoch of the training loop against the same updates alone, measured in one run.

    python benchmarks/training.py [--quick] [--only CASE]

``ours`` is ``raystudy.learn.training.Run.epoch`` with everything on: batches made and augmented, validation, test, memorisation of
wrong labels, selection quality of the weights, the record. ``bare`` makes the same updates from batches that are already
augmented and normalised floats in memory, and measures nothing. Both start from the same weights and must end with the same,
bit for bit. ``plain`` is the bare loop as anyone writes it: torch's default optimizer step and memory layout, where ours are
fused and channels_last; the target is against this one. ``bare + forward`` adds to ``bare`` what nobody can do without who wants
a validation and a test accuracy: one plain forward pass over those images. One torch thread; epochs of all are interleaved, the
least of several repeats counts per epoch.
"""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from raystudy.data.batch import Batch
from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.learn import training
from raystudy.learn.celldata import CellData, prepare
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run

TARGET = 1.10


OF_VECTORS = 1.05  # target of ours/(bare + forward) where an epoch is little more than matrix products


class Case(NamedTuple):
    name: str
    method: str
    dataset: str
    network: str
    budget: int  # epochs that warm-ups and ramps are fractions of
    first: int  # epochs [first, last) are measured; those before them are trained, but not on the clock
    last: int
    repeats: int
    batch_size: int = 0  # 0: the recipe's


class Recorder:
    """Hands a training set's batches through and keeps them: ``passes[epoch][i]`` is what its i-th pass gave."""

    def __init__(self, train: Any) -> None:
        self.train = train
        self.passes: dict[int, list[list[Batch]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.train, name)

    def __len__(self) -> int:
        return len(self.train)

    def batches(self, *args: Any, **kwargs: Any) -> Iterator[Batch]:
        kept: list[Batch] = []
        self.passes.setdefault(self.train.epoch, []).append(kept)
        for batch in self.train.batches(*args, **kwargs):
            kept.append(batch)
            yield batch


class Preloaded:
    """A training set that gives recorded batches again, in the order of the passes. As little work as can be."""

    def __init__(self, recorder: Recorder, epoch: int) -> None:
        self.y, self.n_classes, self.batch_size = recorder.y, recorder.n_classes, recorder.batch_size
        self._passes = iter(recorder.passes[epoch])

    def __len__(self) -> int:
        return len(self.y)

    def batches(self, *_: Any, **__: Any) -> Iterator[Batch]:
        return iter(next(self._passes))


def run_for(case: Case) -> Run:
    noise = Noise("symmetric", 0.5)
    data: CellData = prepare(case.dataset, Path("data"), noise, 0.1)
    recipe = space.recipe_for("shared", case.method, "digits", case.network).to_dict()
    spec = TrialSpec(
        method=case.method,
        version=1,
        point=space.load(case.method).paper("digits", noise)[0],
        dataset=case.dataset,
        data_digest=data.data_digest,
        noise=noise.to_dict(),
        noise_digest=data.noise_digest,
        network=case.network,
        recipe=recipe | ({"batch_size": case.batch_size} if case.batch_size else {}),
        epochs=case.budget,
        seed=0,
        val_fraction=0.1,
        clean_val=0,
    )
    return Run(spec, data)


def plain_run(case: Case) -> Run:
    """A run whose networks and optimizers are as torch makes them when asked for nothing."""
    run = run_for(case)
    run.method.to(memory_format=torch.contiguous_format)
    recipe = run.recipe
    run.method.optimizers = [
        torch.optim.SGD(net.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
        for net in run.method.nets
    ]
    return run


def bare_epoch(run: Run, recorder: Recorder, t: int) -> None:
    """The updates of one epoch, and nothing else. Plain cross-entropy is written out; other methods are driven as they are."""
    for optimizer in run.method.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = run.recipe.rate(t, run.spec.epochs)
    if run.spec.method != "ce":
        for _ in run.method.epoch(t, Preloaded(recorder, t)):
            pass
        return
    net, optimizer = run.method.nets[0], run.method.optimizers[0]
    net.train()
    for batch in recorder.passes[t][0]:
        loss = F.cross_entropy(net(batch.x), batch.y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


@torch.no_grad()
def forward(run: Run, held: torch.Tensor) -> None:
    """One pass over the validation and test images, preloaded as floats."""
    run.method.eval()
    for images in held.split(run.looked_at_once):
        run.method.probs(images)


def clock(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def measure(case: Case) -> tuple[np.ndarray, float]:
    """Seconds [repeats, epochs, 4] of ours, plain, bare, and the forward pass; and images trained per image evaluated in one record."""
    recording = run_for(case)
    recording.train_set = recorder = Recorder(recording.train_set)  # type: ignore[assignment]
    for _ in range(case.last):
        recording.epoch()
    seconds = np.zeros((case.repeats, case.last, 4))
    for repeat in range(case.repeats):
        ours, plain, bare = run_for(case), plain_run(case), run_for(case)
        assert isinstance(bare.data.x_held, torch.Tensor)
        held = bare.train_set.normalised(bare.data.x_held)
        gc.collect()
        for t in range(case.last):
            todo: list[tuple[int, Callable[[], object]]] = [
                (0, ours.epoch),
                (1, partial(bare_epoch, plain, recorder, t)),
                (2, partial(bare_epoch, bare, recorder, t)),
                (3, partial(forward, bare, held)),
            ]
            for column, work in todo if (t + repeat) % 2 else (todo[1], todo[2], todo[3], todo[0]):
                training._seed(0, t)
                seconds[repeat, t, column] = clock(work)
        for a, b in zip(ours.method.state_dict().values(), bare.method.state_dict().values(), strict=True):
            assert torch.equal(a.nan_to_num(), b.nan_to_num()), "the bare loop did not make the same updates"
    return seconds[:, case.first :], (len(ours.data.x_held) + len(ours._wrong)) / len(ours.data.y)


def images(path: Path) -> str:
    """Random images of CIFAR's shape: 5,000 to train on and 1,000 to test on."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (6000, 32, 32, 3), dtype=np.uint8), np.arange(6000) % 10
    np.savez(path, x_train=x[:5000], y_train=y[:5000], x_test=x[5000:], y_test=y[5000:])
    return f"npz:{path}"


def vectors(path: Path) -> str:
    """Random vectors: 10,000 of 256 numbers to train on, of which a tenth is held out, and 2,000 to test on."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12000, 256)).astype(np.float32), np.arange(12000) % 10
    x += 0.3 * rng.normal(size=(10, 256)).astype(np.float32)[y]
    np.savez(path, x_train=x[:10000], y_train=y[:10000], x_test=x[10000:], y_test=y[10000:])
    return f"npz:{path}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few epochs and repeats")
    parser.add_argument("--only", metavar="CASE", default="", help="only the cases whose name contains this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    few = args.quick
    with tempfile.TemporaryDirectory() as folder:
        npz = images(Path(folder) / "cifar_shaped.npz")
        of_vectors = vectors(Path(folder) / "vectors.npz")
        cases = [
            Case("ce, digits, mlp", "ce", "digits", "mlp", 60, 2, 10 if few else 30, 3 if few else 9),
            Case("ce, 32x32, convnet", "ce", npz, "convnet", 60, 0, 1 if few else 2, 2 if few else 5),
            Case("dividemix, digits, mlp", "dividemix", "digits", "mlp", 20, 4, 8 if few else 14, 2 if few else 5),
        ]
        for method in ("ce", "coteaching", "elr", "dividemix"):
            for size in (128, 64):
                budget, first = (20, 4) if method == "dividemix" else (10, 2)
                last, repeats = (first + 1, 2) if few else (first + 4, 5)
                name = f"{method}, vectors, batch {size}"
                cases.append(Case(name, method, of_vectors, "mlp", budget, first, last, repeats, size))
        print("milliseconds an epoch (least of the repeats); in brackets the ratio of the lowest and highest repeat")
        print(
            f"{'':24} {'ours':>8} {'plain':>8} {'bare':>8} {'forward':>8}   {'ours/plain':23} {'ours/bare':23} ours/(bare+forward)"
        )
        over = []
        for case in cases:
            if args.only not in case.name:
                continue
            seconds, share = measure(case)
            ours, plain, bare, evaluate = 1000 * seconds.min(0).mean(0)
            each = seconds.sum(1)
            rows = (
                (ours / plain, each[:, 0] / each[:, 1]),
                (ours / bare, each[:, 0] / each[:, 2]),
                (ours / (bare + evaluate), each[:, 0] / (each[:, 2] + each[:, 3])),
            )
            told = [f"{ratio:.3f} ({of.min():.2f} to {of.max():.2f})" for ratio, of in rows]
            print(
                f"{case.name:24} {ours:8.2f} {plain:8.2f} {bare:8.2f} {evaluate:8.2f}   {told[0]:23} {told[1]:23} {told[2]}",
                flush=True,
            )
            print(f"{'':24} images evaluated per image trained on: {share:.2f}")
            if case.dataset == of_vectors:
                over += [case.name] * bool(rows[2][0] > OF_VECTORS)
            else:
                over += [case.name] * bool(rows[0][0] > TARGET)
    print(
        f"target: ours/plain at most {TARGET:.2f}, of vectors ours/(bare+forward) at most {OF_VECTORS:.2f}:",
        f"NO for {'; '.join(over)}" if over else "yes, all",
    )


if __name__ == "__main__":
    main()
