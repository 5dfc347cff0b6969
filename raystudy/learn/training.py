"""One training, without Ray: data -> noise -> method -> records. Never selects, never stops early."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raystudy.data.dataset import plain
from raystudy.data.files import Files
from raystudy.data.loader import OnDevice
from raystudy.data.noise import NONE
from raystudy.data.streaming import Streaming
from raystudy.data.vectors import Vectors
from raystudy.errors import InputError, unknown
from raystudy.learn import checkpoint, networks, samples
from raystudy.learn.celldata import CellData, joined
from raystudy.learn.checkpoint import previous
from raystudy.learn.method import Log, Task
from raystudy.learn.metrics import balanced, labels, scalars, selection
from raystudy.learn.ops import gmm_1d, normalise_losses
from raystudy.learn.point import code, method_class, split
from raystudy.learn.recipe import Recipe
from raystudy.learn.spec import TrialSpec

MEMORISED = (
    250  # wrong labels looked at for memorisation: three points of standard error at most, for a small fixed cost
)
LOSS_BINS = 100
ALIKE = "method/alike"
COLLAPSED = 3  # epochs in a row, after the warm-up, in which all is alike: then a training has collapsed
# Pixels in one evaluation pass. On the CPU 64 images of 32x32: from 256 on, activations outgrow the 32 MB up to which malloc
# reuses memory, and half the time goes into page faults. Elsewhere few kernel launches count.
CHUNK_PIXELS = (1 << 16, 1 << 22)
WIDTH = 256  # of the layers of a network for vectors, which count where the vectors are short

Record = dict[str, float | None]


def device_here(asked: str | None) -> str:
    """The device asked for, by default cuda where there is one. Raises InputError for one that this machine has not."""
    here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    here += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    device = asked or ("cuda" if "cuda" in here else "cpu")
    if device not in here:
        raise unknown("device here", device, here)
    return device


def _alike(values: Tensor) -> Tensor:
    """Whether all of ``values`` [n] are equal, 0-d bool; fewer than two tell nothing."""
    return (values == values[:1]).all() & (len(values) > 1)


def at_once(shape: tuple[int, ...], on_gpu: bool) -> int:
    """Images or vectors of this shape in one pass of evaluation."""
    pixels = max(shape[0], WIDTH) if len(shape) == 1 else shape[1] * shape[2]
    return max(1, CHUNK_PIXELS[on_gpu] // pixels)


def _seed(seed: int, epoch: int) -> None:
    """Everything random in an epoch follows from (seed, epoch); epoch -1 is the initialisation."""
    value = (seed * 1_000_003 + epoch + 1) % 2**63
    torch.default_generator.manual_seed(value)  # not torch.manual_seed, which spends 0.2 ms on backends not in use
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)


class Run:
    """One training of one trial. ``epoch()`` trains one epoch and returns its record; save and load continue it exactly."""

    def __init__(self, spec: TrialSpec, data: CellData, device: str = "cpu") -> None:
        if (spec.data_digest, spec.noise_digest) != (data.data_digest, data.noise_digest):
            raise InputError(
                f"data set {spec.dataset!r} here is not the one the study was begun with "
                f"(digests {data.data_digest}, {data.noise_digest}, expected {spec.data_digest}, {spec.noise_digest})"
            )
        if spec.code != (here := code(spec.method, spec.network)):
            raise InputError(
                f"{spec.method} with {spec.network} is not here what the study was begun with (its code: {here or 'none'}, "
                f"expected {spec.code or 'none'})"
            )
        assert spec.filter == data.filter, "a filter is a part of the data: filtering.prepare"
        self.spec, self.data, self.device = spec, data, torch.device(device)
        self.on_gpu = self.device.type == "cuda"
        self.records: list[Record] = []
        self.diverged = False
        self.weight: Tensor | None = None  # [n] of the newest epoch, NaN where not weighed; None where nothing was

        values, overrides = split(spec.method, spec.point)
        self.recipe = Recipe(**{**spec.recipe, **overrides})
        self.train_set = self._loader()
        _seed(spec.seed, -1)
        task = Task(len(data.y), data.n_classes, spec.epochs, self._net, self.recipe.optimizer_for)
        self.method = method_class(spec.method)(task, **values)
        self.method.to(self.device)

        wrong = data.truth.wrong.nonzero().flatten()
        self._wrong = wrong[:: max(1, math.ceil(len(wrong) / MEMORISED))]
        # What a record needs predictions of, one set after another: validation, test, further clean sets, wrong labels.
        self._extra = {k: y for k, (_, y) in data.extra.items()}
        extra = {k: x for k, (x, _) in data.extra.items()}
        if "val" in extra:  # as many clean validation images as were asked for
            chosen = torch.arange(min(spec.clean_val, len(extra["val"])), device=self.device)
            extra["val"], self._extra["val"] = extra["val"][chosen], self._extra["val"][chosen]
        self._held = joined(data.x_held, *extra.values(), plain(data.x[self._wrong]))
        # A small held-out set is normalised once; a large one chunk by chunk, so that it never stands on the device as floats.
        held = self._held
        self._ready = self.train_set.normalised(held) if isinstance(held, Tensor) and held.numel() < 2**25 else None

    def _loader(self) -> OnDevice | Vectors:
        data = self.data
        told: dict[str, Any] = {"mean": data.mean, "std": data.std, "device": self.device}
        told |= {"batch_size": self.recipe.batch_size, "seed": self.spec.seed}
        if len(data.shape) == 1:
            assert isinstance(data.x, Tensor)
            return Vectors(data.x, data.y, data.n_classes, strong=data.strong, **told)
        loader: Any = OnDevice if isinstance(data.x, Tensor) else Streaming
        made: OnDevice = loader(
            data.x, data.y, data.n_classes, pad=data.pad, flip=data.flip, channels_last=True, **told
        )
        return made

    @property
    def looked_at_once(self) -> int:
        """Images, or vectors, in one pass of evaluation."""
        return at_once(self.data.shape, self.on_gpu)

    def _net(self, dropout: float = 0.0) -> nn.Module:
        net = networks.build(self.spec.network, self.data.shape, self.data.n_classes, dropout).to(self.device)
        # Also on the CPU: measured with the convnet, training is 1.4 times and evaluation 2.5 times as fast.
        return net.to(memory_format=torch.channels_last)

    def epoch(self) -> Record:
        """Trains and measures one epoch. Metrics are named in ``measure``; a diverged run says so in ``diverged``."""
        start = time.perf_counter()
        t = len(self.records)
        devices = [self.device] if self.on_gpu else []
        # No weight cache: it would outlive the updates of an epoch, and forward passes would go on with the old weights.
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu, cache_enabled=False)
        with torch.random.fork_rng(devices), autocast:
            _seed(self.spec.seed, t)
            told, self.weight = self.train(t)
            record = self._collapse(scalars(told | self.measure(self.weight)))
        if t == 0:  # what was done to the labels before: once
            record |= self.data.filtered
        self.diverged = record["train/loss"] is None or record["val/loss"] is None
        record["cost/seconds"] = float(f"{time.perf_counter() - start:.4g}")
        self.records.append(record)
        return record

    def train(self, t: int) -> tuple[dict[str, Tensor | float], Tensor | None]:
        """The updates of epoch ``t``. Returns its scalars and the last weight of each sample [n], NaN where not weighed."""
        rate = self.recipe.rate(t, self.spec.epochs)
        for optimizer in self.method.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        self.train_set.at(t)
        losses, passes, weights = [], 0, []
        extra: Log = {}
        for log in self.method.epoch(t, self.train_set):
            if "loss" in log:
                losses.append(log.pop("loss"))
            passes += log.pop("passes", 0)
            index = log.pop("index", None)
            if "weight" in log:
                weights.append((index, log.pop("weight")))
            extra |= log
        weight = None
        if weights:
            weight = torch.full((len(self.data.y),), math.nan, device=self.device)
            weight[torch.cat([i for i, _ in weights])] = torch.cat([w.float() for _, w in weights])
        loss = torch.stack(losses).mean() if losses else torch.zeros((), device=self.device)
        told: dict[str, Tensor | float] = {"train/loss": loss, "cost/passes": float(passes)}
        return told | {f"method/{k}": v for k, v in extra.items()}, weight

    def _collapse(self, record: Record) -> Record:
        """A record with ``method/alike``, for how many epochs since the warm-up all has been alike (one class is predicted, or all
        weights are equal), and ``method/collapsed`` 1 from the third on; with neither where it is not."""
        alike, warm = record.pop(ALIKE), self.method.settled() * self.spec.epochs
        if not alike or len(self.records) < warm:
            return record
        row = ((self.records[-1].get(ALIKE) if self.records else None) or 0.0) + 1.0
        return record | {ALIKE: row} | ({"method/collapsed": 1.0} if row >= COLLAPSED else {})

    @torch.no_grad()
    def measure(self, weight: Tensor | None) -> dict[str, Tensor | float]:
        """Noisy validation, clean test, memorisation of wrong labels, and how well the weights find them. One pass over all images."""
        data, truth = self.data, self.data.truth
        self.method.eval()
        size = self.looked_at_once
        chunks = self.train_set.chunks(self._held, size) if self._ready is None else self._ready.split(size)
        p = torch.cat([self.method.probs(c) for c in chunks])
        m, k = len(data.y_val), len(data.y_test)
        p_val, predicted = p[:m], p.argmax(1)
        out: dict[str, Tensor | float] = {
            "val/acc": (predicted[:m] == data.y_val).float().mean(),
            "val/loss": -p_val.gather(1, data.y_val[:, None]).clamp_min(1e-12).log().mean(),
            "test/acc": (predicted[m : m + k] == data.y_test).float().mean(),
        }
        if data.imbalance:
            out["test/balanced_acc"] = balanced(predicted[m : m + k], data.y_test, data.n_classes)
        done = m + k
        for name, y in self._extra.items():
            if len(y):
                key = "val/clean_acc" if name == "val" else f"test/acc_{name}"
                out[key] = (predicted[done : done + len(y)] == y).float().mean()
            done += len(y)
        if (n := self.spec.clean_val) and "val" not in self._extra and truth.known:
            shown = (truth.val_clean != NONE).nonzero()[:n, 0]  # a clean validation set has no foreign images in it
            out["val/clean_acc"] = (predicted[shown] == truth.val_clean[shown]).float().mean()
        seen = predicted[:0] if weight is None else weight[~weight.isnan()]
        out[ALIKE] = (_alike(predicted[: m + k]) | _alike(seen)).float()
        if len(self._wrong):
            out |= labels(predicted[done:], data.y[self._wrong], truth.clean[self._wrong])
        if weight is not None and truth.known:
            out |= selection(weight, truth.wrong)
        return out

    @torch.no_grad()
    def arrays(self, each: bool = False) -> dict[str, Any]:
        """What records cannot carry, counted: for figures alone, since nothing is decided by it. ``each``: with what it holds of
        every single image (``samples``).

        ``edges`` [B + 1] of bins of the loss (cross-entropy with the given label, nats) of the training images, without augmentation;
        ``clean`` and ``wrong`` [B] how many images of right and of wrong label lie in each, ``all`` [B] of any label where nobody knows
        which are wrong; ``gmm`` [3, 2] means, variances and weights
        of the mixture DivideMix would fit to these losses (Li et al. 2020, section 3.1); ``confusion`` [K, K] test images by class and
        predicted class; ``transition`` [K, K] training images by true and given class, left out where the truth is not known.
        """
        data, truth, k = self.data, self.data.truth, self.data.n_classes
        self.method.eval()

        def probs(images: Tensor | Files) -> Tensor:
            return torch.cat([self.method.probs(c).float() for c in self.train_set.chunks(images, self.looked_at_once)])

        devices = [self.device] if self.on_gpu else []
        with torch.random.fork_rng(devices), torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu):
            p_train, p_held = probs(plain(data.x)), probs(data.x_held)
        p_val, predicted = p_held[: len(data.y_val)], p_held[len(data.y_val) :].argmax(1)
        losses = -p_train.gather(1, data.y[:, None]).flatten().clamp_min(1e-12).log().cpu().double()
        low, span = float(losses.min()), float(losses.max() - losses.min())
        fit = gmm_1d(normalise_losses(losses))
        edges = torch.linspace(0, max(float(losses.max()), 1e-3), LOSS_BINS + 1, dtype=torch.float64)
        wrong, inside = truth.wrong.cpu(), truth.clean != NONE  # an image of none of the classes has no row

        def counted(rows: Tensor, columns: Tensor) -> Tensor:
            return torch.bincount(rows.cpu() * k + columns.cpu(), minlength=k * k).view(k, k)

        def binned(some: Tensor) -> Any:
            return torch.histogram(some.clamp_max(edges[-1]), edges).hist.long().numpy()

        apart = {"clean": binned(losses[~wrong]), "wrong": binned(losses[wrong])}
        transition = {"transition": counted(truth.clean[inside], data.y[inside]).numpy()}
        return {
            "edges": edges.numpy(),
            **(apart if truth.known else {"all": binned(losses)}),
            "gmm": torch.stack([low + span * fit.means, span**2 * fit.variances, fit.weights]).numpy(),
            "confusion": counted(data.y_test, predicted).numpy(),
            **(transition if truth.known else {}),
            **(samples.kept(data.places, (data.y, data.y_val), p_train, p_val, self.weight) if each else {}),
        }

    def save(self, path: Path) -> None:
        """Writes a checkpoint: a new file takes the old one's place in one step, and the old one is kept as ``.prev``."""
        state = {
            "key": self.spec.key,
            "records": self.records,
            "method": self.method.state_dict(),
            "optimizers": [o.state_dict() for o in self.method.optimizers],
        }
        checkpoint.write(state, path)

    def load(self, path: Path) -> None:
        """Continues from a checkpoint. Raises InputError, one line, for a file that is broken or is not this trial's."""
        state = checkpoint.read(path, self.spec.key, self.method, self.method.optimizers, self.device)
        self.method.load_state_dict(state["method"])
        for optimizer, told in zip(self.method.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(told)
        self.records = list(state["records"])
        last = self.records[-1] if self.records else {"train/loss": 0.0, "val/loss": 0.0}
        self.diverged = last["train/loss"] is None or last["val/loss"] is None


def resume(run: Run, path: Path, tell: Callable[[str], None]) -> None:
    """Continues from the newest checkpoint that can be read, or from the beginning; a broken one costs time, never the trial."""
    for file in (path, previous(path)):
        if file.exists():
            try:
                run.load(file)
                return
            except InputError as e:
                tell(f"{e}; going back to the one before")
