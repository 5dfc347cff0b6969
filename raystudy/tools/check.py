"""The contract of a method, asked of one: what every method must do to stand beside the others, a check each.

``raystudy check`` prints it for a user's own. Nothing here knows what a method is about.
"""

import math
import random
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.design.single import single
from raystudy.errors import InputError
from raystudy.learn import point
from raystudy.learn.celldata import CellData, prepare
from raystudy.learn.method import Task
from raystudy.learn.networks import BatchNorm
from raystudy.learn.recipe import Recipe
from raystudy.learn.training import Run

EPOCHS = 10
CHANCE = 0.1  # on digits
LEARNT = 0.6
RECIPE = Recipe(lr=0.05, batch_size=64)


@dataclass(frozen=True)
class Checked:
    """One check: what was asked, whether it holds, and what was seen."""

    name: str
    holds: bool
    seen: str


class Broken(Exception):  # noqa: N818 - it is no error of ours
    """What a check says when it does not hold."""


def check(
    method: str, network: str = "mlp", root: Path = Path("data"), names: Collection[str] = ()
) -> Iterator[Checked]:
    """Asks all checks of a method (or those of these names), one after another; each yields as it ends. Raises InputError for a name
    that is none."""
    point.method_class(method)
    asked = _Asked(method, network, root)
    for name, function in CHECKS.items():
        if names and name not in names:
            continue
        try:
            yield Checked(name, True, function(asked))
        except InputError as e:
            yield Checked(name, False, str(e))
        except Broken as e:
            yield Checked(name, False, str(e))
        except Exception as e:  # a fault of the method's own
            yield Checked(name, False, _told(e))


class _Asked:
    """A method with trainings of it to look at."""

    def __init__(self, method: str, network: str, root: Path) -> None:
        self.method, self.network, self.root = method, network, root

    def run(self, rate: float = 0.3, epochs: int = EPOCHS, seed: int = 3, n: int = 0, method: str = "") -> Run:
        """A training on digits that has not begun; ``n``: on so many images."""
        noise, named = Noise("symmetric", rate), method or self.method
        data = prepare("digits", self.root, noise, 0.1)
        data = _few(data, n) if n else data
        published = space.load(named).paper("digits", noise)[0]
        told = {"val_fraction": 0.1, "point": published, "recipe": RECIPE, "seed": seed}
        return Run(single(named, data, "digits", noise, self.network, epochs, **told), data)  # type: ignore[arg-type]


def _few(data: CellData, n: int) -> CellData:
    truth = replace(data.truth, clean=data.truth.clean[:n], wrong=data.truth.wrong[:n])
    return replace(data, x=data.x[:n], y=data.y[:n], truth=truth)


def _told(e: Exception) -> str:
    """An exception in one line, with the last place in the method's own file where it passed."""
    trace, place = e.__traceback__, ""
    while trace:
        file = Path(trace.tb_frame.f_code.co_filename)
        if not file.is_relative_to(Path(torch.__file__).parent):
            place = f"{file.name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(e).__name__}: {' '.join(str(e).split())[:200]} ({place})"


def _clean(record: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != "cost/seconds"}


def _described(a: _Asked) -> str:
    found = point.method_class(a.method)
    known = point.hyperparameters(a.method)
    if not point.card(a.method):
        raise Broken("the module has no docstring: what the method is, its paper, where yours deviates")
    if not isinstance(found.version, int):
        raise Broken(f"version is {found.version!r}; it is a whole number")
    searched = space.load(a.method).dimensions
    return f"{len(known)} hyperparameters, {len(searched)} of them searched"


def _learns(a: _Asked) -> str:
    run = a.run(rate=0.2)
    best = max(run.epoch()["test/acc"] or 0.0 for _ in range(EPOCHS))
    if run.diverged:
        raise Broken("the loss is not finite")
    if best <= LEARNT:
        raise Broken(
            f"{best:.2f} of the test images right after {EPOCHS} epochs; chance is {CHANCE}, plain cross-entropy is at 0.95"
        )
    return f"{best:.2f} of the test images right (20 % wrong labels, {EPOCHS} epochs)"


def _logs(a: _Asked) -> str:
    run = a.run()
    names: set[str] = set()
    for t in range(EPOCHS):
        run.train_set.at(t)
        for log in run.method.epoch(t, run.train_set):
            names |= log.keys()
            loss, weight = log.get("loss"), log.get("weight")
            if loss is not None and (not isinstance(loss, torch.Tensor) or loss.dim() or loss.requires_grad):
                raise Broken("loss is no detached scalar tensor; log loss.detach()")
            if weight is None:
                continue
            if "index" not in log or len(log["index"]) != len(weight):
                raise Broken("weight needs the index of the same images beside it")
            if weight.requires_grad or not bool(((weight >= 0) & (weight <= 1)).all()):
                raise Broken("weights are detached and lie in [0, 1], 1 for a label held to be right")
    if "loss" not in names:
        raise Broken("no step tells its loss")
    return ", ".join(sorted(names))


def _repeats(a: _Asked) -> str:
    first, again, other = a.run(), a.run(), a.run(seed=4)
    told = _clean(first.epoch())
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    if _clean(again.epoch()) != told:
        raise Broken(
            "two runs of one seed differ: draw randomness from torch's default generator, and from nothing else"
        )
    if _clean(other.epoch())["train/loss"] == told["train/loss"]:
        raise Broken("two seeds give the same run: randomness must not be seeded by the method")
    return "the same seed gives the same run, another another"


def _resumes(a: _Asked) -> str:
    for at in (1, 7):
        whole, again = a.run(), a.run()
        for _ in range(at):
            whole.epoch()
        with tempfile.TemporaryDirectory() as folder:
            whole.save(Path(folder, "c.pt"))
            again.load(Path(folder, "c.pt"))
        torch.manual_seed(99)
        for _ in range(2):
            mine, theirs = _clean(whole.epoch()), _clean(again.epoch())
            if mine != theirs:
                differ = next(k for k in mine if mine[k] != theirs.get(k))
                raise Broken(
                    f"continued after epoch {at}, {differ} is another: all state lies in nets, optimizers and registered buffers, "
                    "and randomness comes from torch's default generator"
                )
        for (name, x), y in zip(whole.method.state_dict().items(), again.method.state_dict().values(), strict=True):
            if not torch.equal(x.nan_to_num(), y.nan_to_num()):
                raise Broken(f"continued after epoch {at}, {name} is another")
    return "continued after epochs 1 and 7, bit for bit the same"


def _predicts(a: _Asked) -> str:
    run = a.run()
    run.epoch()
    run.method.eval()
    x = run.train_set.normalised(run.data.x_held[:50])  # type: ignore[arg-type]  # digits are in memory
    with torch.no_grad():
        p, alone = run.method.probs(x), run.method.probs(x[:1])
    if p.shape != (50, run.data.n_classes):
        raise Broken(f"probs gives {list(p.shape)} for 50 images; it is [50, {run.data.n_classes}]")
    if bool((p < 0).any()) or not torch.allclose(p.sum(1), torch.ones(50), atol=1e-5):
        raise Broken("probs does not give probabilities: at least 0, of sum 1")
    if not torch.allclose(alone, p[:1], atol=1e-5):
        raise Broken("an image's prediction hangs on the others of its batch")
    return "probabilities, of each image by itself"


def _scales(a: _Asked) -> str:
    shares, settled = [], []
    for epochs in (10, 30):
        run = a.run(epochs=epochs)
        if not 0 <= run.method.settled() <= 1:
            raise Broken(f"settled() is {run.method.settled():g}; it is a fraction of the epochs")
        settled.append(run.method.settled())
        first = next((t for t in range(epochs) if run.epoch().get("select/recall") is not None), epochs)
        shares.append(first / epochs)
    if abs(settled[0] - settled[1]) > 0.11:
        raise Broken(
            f"settled() is {settled[0]:g} of 10 epochs and {settled[1]:g} of 30: durations are fractions of task.epochs"
        )
    if abs(shares[0] - shares[1]) > 0.11:
        raise Broken(
            f"weights begin after {shares[0]:.0%} of 10 epochs and after {shares[1]:.0%} of 30: durations are fractions of task.epochs"
        )
    return f"settled after {run.method.settled():.0%} of the epochs"


def _edges(a: _Asked) -> str:
    for n in (66, 67, 65, 12):  # a last batch of two, of three, of one; fewer images than a batch
        run = a.run(n=n, epochs=6)
        for _ in range(6):
            if run.epoch()["train/loss"] is None:
                raise Broken(f"the loss is not finite on {n} images in batches of {RECIPE.batch_size}")
    return "batches of one, two and three, and a set smaller than a batch"


class _Forbidden:
    def __getattribute__(self, name: str) -> Any:
        raise Broken("the method looks at the truth")


def _blind(a: _Asked) -> str:
    run = a.run()
    run.data = replace(run.data, truth=_Forbidden())  # type: ignore[arg-type]
    for t in range(EPOCHS):
        run.train(t)
    return "trains without the truth"


def _vectors(a: _Asked) -> str:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 3
    x = torch.randn(3, 8, generator=g)[y] + 0.3 * torch.randn(120, 8, generator=g)
    net: Callable[..., torch.nn.Module] = lambda dropout=0.0: torch.nn.Sequential(  # noqa: E731
        torch.nn.Linear(8, 16), BatchNorm(16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
    )
    task = Task(120, 3, 4, net, lambda n: torch.optim.SGD(n.parameters(), lr=0.05, momentum=0.9))
    torch.manual_seed(0)
    method = point.method_class(a.method)(task)
    train = _Vectors(x, y)
    for t in range(4):
        for log in method.epoch(t, train):
            if "loss" in log and not math.isfinite(float(log["loss"].detach())):
                raise Broken("the loss is not finite on vectors [B, d]")
    return "trains on vectors [B, d], too"


@dataclass
class _Vectors:
    """A training set of vectors; ``learn.method.Train``."""

    x: torch.Tensor  # [n, d]
    y: torch.Tensor
    n_classes: int = 3
    batch_size: int = 32

    def __len__(self) -> int:
        return len(self.y)

    def batches(
        self,
        subset: Any = None,
        views: int = 1,
        augment: Any = True,
        shuffle: bool = True,
        batch_size: int | None = None,
    ) -> Iterator[Any]:
        from raystudy.data.batch import Batch

        index = torch.arange(len(self.y)) if subset is None else subset
        index = index[torch.randperm(len(index))] if shuffle else index
        for i in index.split(batch_size or self.batch_size):
            x, x2 = (self.x[i] + 0.1 * torch.randn(len(i), self.x.shape[1]) for _ in range(2))
            yield Batch(i, x, self.y[i], x2 if views == 2 else None)


def _cost(a: _Asked) -> str:
    seconds = {}
    passes = 0.0
    for name in ("ce", a.method):
        run = a.run(method=name)
        run.epoch()
        took = []
        for _ in range(4):
            start = time.process_time()
            passes = run.epoch()["cost/passes"] or 0.0
            took.append(time.process_time() - start)
        seconds[name] = min(took)
    whole = passes / (3 * len(run.data.y))
    return f"an epoch takes {seconds[a.method] / seconds['ce']:.1f} times that of ce, and says {whole:.1f} times its passes"


CHECKS: dict[str, Callable[[_Asked], str]] = {
    "is described": _described,
    "learns": _learns,
    "logs what it should": _logs,
    "repeats itself": _repeats,
    "resumes bit-exactly": _resumes,
    "predicts": _predicts,
    "scales its durations": _scales,
    "survives odd batches": _edges,
    "never sees the truth": _blind,
    "takes vectors": _vectors,
    "tells its cost": _cost,
}
