"""One training, without Ray: data -> noise -> method -> records. Never selects, never stops early."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raystudy.data import evaluation
from raystudy.data.dataset import plain
from raystudy.data.files import Files
from raystudy.data.loader import OnDevice, drawn_from
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
from raystudy.learn.point import code, method_class, recipe_of, split
from raystudy.learn.spec import TrialSpec

MEMORISED = (
    250  # wrong labels looked at for memorisation: three points of standard error at most, for a small fixed cost
)
LOSS_BINS = 100
ALIKE = "method/alike"
COLLAPSED = 3  # evaluated epochs in a row, after the warm-up, in which all is alike: then a training has collapsed
ONE_CLASS, ONE_WEIGHT = 1.0, 2.0  # as ``method/collapsed`` has it
NEARLY_ALL = 0.99  # of the predictions in one class: then a few samples more or less are no sign of life ...
MOST = 0.9  # ... unless as many of the labels are in that class
STREAM_SUBSET = 0x73756273  # of which test samples are looked at where not all are
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


def _one_class(predicted: Tensor, given: Tensor) -> Tensor:
    """Whether one class is predicted, or nearly, 0-d bool; ``predicted`` [n] classes, ``given`` [m] labels."""
    most = predicted.mode().values if len(predicted) else predicted.new_zeros(())
    nearly = ((predicted == most).float().mean() >= NEARLY_ALL) & ((given == most).float().mean() < MOST)
    return _alike(predicted) | (nearly & (len(predicted) > 1))


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


class Looked(NamedTuple):
    """What an evaluation looks at: validation images, then test images, further clean sets, training images of wrong label."""

    images: Tensor | Files
    ready: Tensor | None  # the same as networks take them, where they are small enough to be held so
    y_test: Tensor  # [k]
    extra: dict[str, Tensor]  # labels of the further sets, by name


def _diverged(record: Record) -> bool:
    return record["train/loss"] is None or record.get("val/loss", 0.0) is None  # what was not evaluated is not there


class _Watched(Task):
    """A task that notes whether the method has asked for how many epochs there will be: one that never does makes the same updates
    whatever their number, and so does a training that is made longer."""

    asked = False

    def __getattribute__(self, name: str) -> Any:
        if name == "epochs":
            object.__setattr__(
                self, "asked", True
            )  # also by ``dataclasses.replace``: what is not known is taken for asked
        return super().__getattribute__(name)


def _net(network: str, data: CellData, device: torch.device, dropout: float = 0.0) -> nn.Module:
    """A network for the images or vectors of ``data``."""
    net = networks.build(network, data.shape, data.n_classes, dropout).to(device)
    # Also on the CPU: measured with the convnet, training is 1.4 times and evaluation 2.5 times as fast.
    return net.to(memory_format=torch.channels_last)


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

        values, _ = split(spec.method, spec.point)
        self.recipe = recipe_of(spec.method, spec.point, spec.recipe)
        self.train_set = self._loader()
        _seed(spec.seed, -1)
        # No method of this object: networks that hold what holds them stay on a device until the garbage is collected.
        net = partial(_net, spec.network, data, self.device)
        self._task = _Watched(len(data.y), data.n_classes, spec.epochs, net, self.recipe.optimizer_for)
        self.method = method_class(spec.method)(self._task, **values)
        self.method.to(self.device)

        wrong = data.truth.wrong.nonzero().flatten()
        self._wrong = wrong[:: max(1, math.ceil(len(wrong) / MEMORISED))]
        y_extra = {k: y for k, (_, y) in data.extra.items()}
        extra = {k: x for k, (x, _) in data.extra.items()}
        if "val" in extra:  # as many clean validation images as were asked for
            chosen = torch.arange(min(spec.clean_val, len(extra["val"])), device=self.device)
            extra["val"], y_extra["val"] = extra["val"][chosen], y_extra["val"][chosen]
        held = joined(data.x_held, *extra.values(), plain(data.x[self._wrong]))
        # A small held-out set is normalised once; a large one chunk by chunk, so that it never stands on the device as floats.
        ready = self.train_set.normalised(held) if isinstance(held, Tensor) and held.numel() < 2**25 else None
        self._whole = Looked(held, ready, data.y_test, y_extra)
        self.evaluation = evaluation.of_spec(spec.evaluate)
        self._part = self._some(self.evaluation.test) if self.evaluation.test else None

    def _some(self, test: int) -> Looked:
        """What is looked at where only so many test samples are: the same ones for every trial of a condition, whatever its seed."""
        images, ready, y_test, _ = self._whole
        self.evaluation.fits(self.spec.dataset, len(y_test))
        rng = drawn_from(STREAM_SUBSET, int(self.spec.noise.get("seed", 0)))
        chosen = torch.randperm(len(y_test), generator=rng)[:test].sort().values.to(self.device)
        at = torch.arange(len(images), device=self.device)
        m, wrong = len(self.data.y_val), len(self._wrong)
        rows = torch.cat([at[:m], m + chosen, at[len(at) - wrong :]])
        return Looked(images[rows], None if ready is None else ready[rows], y_test[chosen], {})

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
            record = self._collapse(scalars(told | self.measure(self.weight, self.evaluation.of(t, self.spec.epochs))))
        if t == 0:  # what was done to the labels before: once
            record |= self.data.filtered
        self.diverged = _diverged(record)
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
        """A record with ``method/alike``, for how many evaluated epochs since the warm-up all has been alike (one class is predicted, or
        all weights are equal), and from the third on ``method/collapsed``, which of the two; with neither where it is not."""
        alike, warm = record.pop(ALIKE, None), self.method.settled() * self.spec.epochs
        if not alike or len(self.records) < warm:
            return record
        before: Record = next((r for r in reversed(self.records) if "val/acc" in r), {})
        row = (before.get(ALIKE) or 0.0) + 1.0
        return record | {ALIKE: row} | ({"method/collapsed": alike} if row >= COLLAPSED else {})

    @torch.no_grad()
    def measure(self, weight: Tensor | None, amount: str = evaluation.FULL) -> dict[str, Tensor | float]:
        """Noisy validation, clean test, memorisation of wrong labels, and how well the weights find them. One pass over all images.

        ``amount``: PART is without further clean sets and with some of the test set (``test/subset_acc``), NONE how well the weights find
        wrong labels alone."""
        self.method.eval()  # also where nothing is looked at: the next epoch begins alike, however often there is a look
        told = selection(weight, self.data.truth.wrong) if weight is not None and self.data.truth.known else {}
        if amount == evaluation.NONE:
            return {**told}
        return self._evaluated(weight, self._whole if amount == evaluation.FULL else self._part) | told

    def _evaluated(self, weight: Tensor | None, looked: Looked | None) -> dict[str, Tensor | float]:
        assert looked is not None
        data, truth, full = self.data, self.data.truth, looked is self._whole
        size = self.looked_at_once
        chunks = self.train_set.chunks(looked.images, size) if looked.ready is None else looked.ready.split(size)
        p = torch.cat([self.method.probs(c) for c in chunks])
        m, k = len(data.y_val), len(looked.y_test)
        p_val, predicted = p[:m], p.argmax(1)
        out: dict[str, Tensor | float] = {
            "val/acc": (predicted[:m] == data.y_val).float().mean(),
            "val/loss": -p_val.gather(1, data.y_val[:, None]).clamp_min(1e-12).log().mean(),
            "test/acc" if full else "test/subset_acc": (predicted[m : m + k] == looked.y_test).float().mean(),
        }
        if data.imbalance and full:
            out["test/balanced_acc"] = balanced(predicted[m : m + k], data.y_test, data.n_classes)
        done = m + k
        for name, y in looked.extra.items():
            if len(y):
                key = "val/clean_acc" if name == "val" else f"test/acc_{name}"
                out[key] = (predicted[done : done + len(y)] == y).float().mean()
            done += len(y)
        if (n := self.spec.clean_val) and "val" not in data.extra and truth.known:
            shown = (truth.val_clean != NONE).nonzero()[:n, 0]  # a clean validation set has no foreign images in it
            out["val/clean_acc"] = (predicted[shown] == truth.val_clean[shown]).float().mean()
        seen = predicted[:0] if weight is None else weight[~weight.isnan()]
        fallen = torch.where(_one_class(predicted[: m + k], data.y_val), ONE_CLASS, 0.0)
        out[ALIKE] = torch.where(_alike(seen) & (fallen == 0), ONE_WEIGHT, fallen)
        if len(self._wrong):
            out |= labels(predicted[done:], data.y[self._wrong], truth.clean[self._wrong])
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
            "epochs": self.spec.epochs,
            "asked": self._task.asked,
        }
        checkpoint.write(state, path)

    @property
    def bound(self) -> str:
        """Why the same training of more epochs does not begin with what was done so far; empty where it does, to the last bit."""
        return self._bound(False)

    def _bound(self, asked: bool) -> str:
        if not self.recipe.open_ended:
            return f"its learning rate is drawn over all epochs (schedule {self.recipe.schedule})"
        if not self.evaluation.usual:
            return "which epochs are evaluated hangs on how many there are"
        if self.method.settled() > 0 or asked or self._task.asked:
            return f"durations of {self.spec.method} are fractions of all epochs"
        return ""

    def _foreign(self, state: dict[str, Any]) -> str:
        """Why this training cannot go on from a checkpoint: it is another's, and not of the same training of fewer epochs."""
        epochs = state.get("epochs")
        if state["key"] == self.spec.key:
            return ""
        if (
            not isinstance(epochs, int)
            or not 0 < epochs < self.spec.epochs
            or state["key"] != replace(self.spec, epochs=epochs).key
        ):
            return f"belongs to another trial ({state['key']}, not {self.spec.key})"
        why = self._bound(bool(state.get("asked", True)))
        return f"is of {epochs} epochs, and {self.spec.epochs} are another training: {why}" if why else ""

    def load(self, path: Path) -> None:
        """Continues from a checkpoint, also from one of the same training of fewer epochs where this one begins just so.

        Raises InputError, one line, for a file that is broken or is not this training's."""
        state = checkpoint.read(path, self._foreign, self.method, self.method.optimizers, self.device)
        object.__setattr__(self._task, "asked", self._task.asked or bool(state.get("asked", True)))
        self.method.load_state_dict(state["method"])
        for optimizer, told in zip(self.method.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(told)
        self.records = list(state["records"])
        self.diverged = bool(self.records) and _diverged(self.records[-1])


def resume(run: Run, path: Path, tell: Callable[[str], None]) -> None:
    """Continues from the newest checkpoint that can be read, or from the beginning; a broken one costs time, never the trial."""
    for file in (path, previous(path)):
        if file.exists():
            try:
                run.load(file)
                return
            except InputError as e:
                tell(f"{e}; going back to the one before")
