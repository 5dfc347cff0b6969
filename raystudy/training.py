"""One training, without Ray: data -> noise -> method -> records. Never selects, never stops early."""

import math
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raystudy import networks
from raystudy.data import datasets
from raystudy.data.corruption import corrupted
from raystudy.data.files import Files
from raystudy.data.loader import OnDevice, split_validation
from raystudy.data.noise import NONE, Noise
from raystudy.data.streaming import Streaming
from raystudy.errors import InputError, unknown
from raystudy.method import Log, Task
from raystudy.metrics import Truth, labels, scalars, selection
from raystudy.ops import gmm_1d, normalise_losses
from raystudy.point import method_class, split
from raystudy.recipe import Recipe
from raystudy.study import TrialSpec

FORMAT = "raystudy-checkpoint-1"
MEMORISED = (
    250  # wrong labels looked at for memorisation: three points of standard error at most, for a small fixed cost
)
LOSS_BINS = 100
# Pixels in one evaluation pass. On the CPU 64 images of 32x32: from 256 on, activations outgrow the 32 MB up to which malloc
# reuses memory, and half the time goes into page faults. Elsewhere few kernel launches count.
CHUNK_PIXELS = (1 << 16, 1 << 22)

Record = dict[str, float | None]


@dataclass(frozen=True)
class CellData:
    """A cell's data on the device, or images in files where they are too many: the noisy training set, the held-out sets, the truth."""

    name: str
    data_digest: str
    noise_digest: str
    effective_rate: float | None  # None where the truth is not known
    size: tuple[int, int, int]  # channels, height, width
    n_classes: int
    x: Tensor | Files  # [n, C, H, W] uint8
    y: Tensor  # [n] given labels
    x_held: Tensor | Files  # [m + k, C, H, W] uint8: validation, then test
    y_val: Tensor  # [m] given labels
    y_test: Tensor  # [k] clean labels
    extra: dict[str, tuple[Tensor | Files, Tensor]]  # further clean sets by name, ``val`` or a test set: images, labels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int
    flip: bool
    truth: Truth

    @property
    def clean_validation(self) -> int:
        """How many validation images there are whose true labels are known."""
        return len(self.extra["val"][1]) if "val" in self.extra else len(self.y_val) * self.truth.known


@lru_cache(maxsize=4)
def prepare(dataset: str, root: Path, setting: Noise, val_fraction: float, device: str = "cpu") -> CellData:
    """Loads a data set, gives it noisy labels and holds out a validation split of the noisy training set.

    The split is drawn with the noise seed, so that all methods of a cell share it. Cached: an actor keeps the data between trials.
    """
    data = datasets.load(dataset, root, setting)
    noisy = corrupted(data, setting, root)
    given, clean = torch.from_numpy(noisy.given), torch.from_numpy(noisy.clean)
    train, val = (torch.as_tensor(i) for i in split_validation(len(clean), val_fraction, noisy.split_seed))
    if len(train) < 2 or len(val) < 1:
        raise InputError(
            f"data set {dataset!r} has {len(clean)} training images: too few to hold out {val_fraction:.0%} for validation"
        )
    y, y_clean = given[train], clean[train]
    known = (
        data.truth or setting.kind != "given"
    )  # noise drawn on top of labels taken to be clean has a truth of its own

    def placed(x: Tensor | Files) -> Tensor | Files:
        return x.to(device) if isinstance(x, Tensor) else x

    return CellData(
        name=data.name,
        data_digest=data.digest,
        noise_digest=noisy.digest(val),
        effective_rate=noisy.effective_rate if known else None,
        size=tuple(data.x_train.shape[1:]),  # type: ignore[arg-type]
        n_classes=data.n_classes,
        x=placed(noisy.x_train[train]),
        y=y.to(device),
        x_held=placed(joined(noisy.x_train[val], noisy.x_test)),
        y_val=given[val].to(device),
        y_test=data.y_test.to(device),
        extra={name: (placed(x), labels.to(device)) for name, (x, labels) in data.extra.items()},
        mean=data.mean,
        std=data.std,
        pad=data.pad,
        flip=data.flip,
        truth=Truth(y_clean.to(device), (y != y_clean).to(device), clean[val].to(device), known),
    )


def joined(*parts: Tensor | Files) -> Tensor | Files:
    """Images one after another; all in memory or all in files."""
    if isinstance(parts[0], Files):
        return sum(parts[1:], parts[0])
    return torch.cat(parts)  # type: ignore[arg-type]


def in_memory(x: Tensor | Files) -> Tensor:
    """Images as a tensor, decoded where they are in files."""
    return x.read() if isinstance(x, Files) else x


def device_here(asked: str | None) -> str:
    """The device asked for, by default cuda where there is one. Raises InputError for one that this machine has not."""
    here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    here += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    device = asked or ("cuda" if "cuda" in here else "cpu")
    if device not in here:
        raise unknown("device here", device, here)
    return device


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
        self.spec, self.data, self.device = spec, data, torch.device(device)
        self.on_gpu = self.device.type == "cuda"
        self.records: list[Record] = []
        self.diverged = False

        values, overrides = split(spec.method, spec.point)
        self.recipe = Recipe(**{**spec.recipe, **overrides})
        loader: Any = OnDevice if isinstance(data.x, Tensor) else Streaming
        self.train_set: OnDevice = loader(
            data.x,
            data.y,
            data.n_classes,
            mean=data.mean,
            std=data.std,
            pad=data.pad,
            flip=data.flip,
            batch_size=self.recipe.batch_size,
            seed=spec.seed,
            device=device,
            channels_last=True,
        )
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
        self._held = joined(data.x_held, *extra.values(), data.x[self._wrong])
        # A small held-out set is normalised once; a large one chunk by chunk, so that it never stands on the device as floats.
        small = isinstance(self._held, Tensor) and self._held.numel() < 2**25
        self._ready = self.train_set.normalised(self._held) if small else None

    def _net(self, dropout: float = 0.0) -> nn.Module:
        channels, size, _ = self.data.size
        net = networks.build(self.spec.network, channels, size, self.data.n_classes, dropout).to(self.device)
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
            told, weight = self.train(t)
            record = scalars(told | self.measure(weight))
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

    @torch.no_grad()
    def measure(self, weight: Tensor | None) -> dict[str, Tensor | float]:
        """Noisy validation, clean test, memorisation of wrong labels, and how well the weights find them. One pass over all images."""
        data, truth = self.data, self.data.truth
        self.method.eval()
        size = max(1, CHUNK_PIXELS[self.on_gpu] // (data.size[1] * data.size[2]))
        chunks = self.train_set.chunks(self._held, size) if self._ready is None else self._ready.split(size)
        p = torch.cat([self.method.probs(c) for c in chunks])
        m, k = len(data.y_val), len(data.y_test)
        p_val, predicted = p[:m], p.argmax(1)
        out: dict[str, Tensor | float] = {
            "val/acc": (predicted[:m] == data.y_val).float().mean(),
            "val/loss": -p_val.gather(1, data.y_val[:, None]).clamp_min(1e-12).log().mean(),
            "test/acc": (predicted[m : m + k] == data.y_test).float().mean(),
        }
        done = m + k
        for name, y in self._extra.items():
            if len(y):
                key = "val/clean_acc" if name == "val" else f"test/acc_{name}"
                out[key] = (predicted[done : done + len(y)] == y).float().mean()
            done += len(y)
        if (n := self.spec.clean_val) and "val" not in self._extra and truth.known:
            shown = (truth.val_clean != NONE).nonzero()[:n, 0]  # a clean validation set has no foreign images in it
            out["val/clean_acc"] = (predicted[shown] == truth.val_clean[shown]).float().mean()
        if len(self._wrong):
            out |= labels(predicted[done:], data.y[self._wrong], truth.clean[self._wrong])
        if weight is not None and truth.known:
            out |= selection(weight, truth.wrong)
        return out

    @torch.no_grad()
    def arrays(self) -> dict[str, Any]:
        """What records cannot carry, counted: for figures alone, since nothing is decided by it.

        ``edges`` [B + 1] of bins of the loss (cross-entropy with the given label, nats) of the training images, without augmentation;
        ``clean`` and ``wrong`` [B] how many images of right and of wrong label lie in each; ``gmm`` [3, 2] means, variances and weights
        of the mixture DivideMix would fit to these losses (Li et al. 2020, section 3.1); ``confusion`` [K, K] test images by class and
        predicted class; ``transition`` [K, K] training images by true and given class.
        """
        data, truth, k = self.data, self.data.truth, self.data.n_classes
        self.method.eval()
        chunk = max(1, CHUNK_PIXELS[self.on_gpu] // (data.size[1] * data.size[2]))

        def probs(images: Tensor | Files) -> Tensor:
            return torch.cat([self.method.probs(c).float() for c in self.train_set.chunks(images, chunk)])

        devices = [self.device] if self.on_gpu else []
        with torch.random.fork_rng(devices), torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu):
            p_train, predicted = probs(data.x), probs(data.x_held[len(data.y_val) :]).argmax(1)
        losses = -p_train.gather(1, data.y[:, None]).flatten().clamp_min(1e-12).log().cpu().double()
        low, span = float(losses.min()), float(losses.max() - losses.min())
        fit = gmm_1d(normalise_losses(losses))
        edges = torch.linspace(0, max(float(losses.max()), 1e-3), LOSS_BINS + 1, dtype=torch.float64)
        wrong, inside = truth.wrong.cpu(), truth.clean != NONE  # an image of none of the classes has no row

        def counted(rows: Tensor, columns: Tensor) -> Tensor:
            return torch.bincount(rows.cpu() * k + columns.cpu(), minlength=k * k).view(k, k)

        return {
            "edges": edges.numpy(),
            "clean": torch.histogram(losses[~wrong].clamp_max(edges[-1]), edges).hist.long().numpy(),
            "wrong": torch.histogram(losses[wrong].clamp_max(edges[-1]), edges).hist.long().numpy(),
            "gmm": torch.stack([low + span * fit.means, span**2 * fit.variances, fit.weights]).numpy(),
            "confusion": counted(data.y_test, predicted).numpy(),
            "transition": counted(truth.clean[inside], data.y[inside]).numpy(),
        }

    def save(self, path: Path) -> None:
        """Writes a checkpoint: a new file takes the old one's place in one step, and the old one is kept as ``.prev``."""
        state = {
            "format": FORMAT,
            "key": self.spec.key,
            "records": self.records,
            "method": self.method.state_dict(),
            "optimizers": [o.state_dict() for o in self.method.optimizers],
        }
        new = path.with_name(f"{path.name}.{os.getpid()}.new")
        torch.save(state, new)
        if path.exists():
            os.replace(path, previous(path))
        os.replace(new, path)

    def load(self, path: Path) -> None:
        """Continues from a checkpoint. Raises InputError, one line, for a file that is broken or is not this trial's."""
        try:
            with zipfile.ZipFile(path) as z:  # torch checks no sums: a flipped bit would pass for a weight
                if damaged := z.testzip():
                    raise zipfile.BadZipFile(f"bad checksum of {damaged}")
            state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        except FileNotFoundError:
            raise InputError(f"there is no checkpoint {path}") from None
        except Exception as e:  # torch reports a foreign or torn file in many ways, and all mean the same to the user
            raise InputError(
                f"checkpoint {path} is truncated, damaged or not a checkpoint of raystudy ({type(e).__name__})"
            ) from None
        parts = {"format", "key", "records", "method", "optimizers"}
        if not isinstance(state, dict) or state.get("format") != FORMAT or not parts <= state.keys():
            raise InputError(f"checkpoint {path} is not a checkpoint of raystudy (format {FORMAT})")
        if state["key"] != self.spec.key:
            raise InputError(f"checkpoint {path} belongs to another trial ({state['key']}, not {self.spec.key})")
        if not self._fits(state):
            raise InputError(f"checkpoint {path} does not fit this trial: a part of it was changed")
        self.method.load_state_dict(state["method"])
        for optimizer, told in zip(self.method.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(told)
        self.records = list(state["records"])
        last = self.records[-1] if self.records else {"train/loss": 0.0, "val/loss": 0.0}
        self.diverged = last["train/loss"] is None or last["val/loss"] is None

    def _fits(self, state: dict[str, Any]) -> bool:
        """Whether all parts of a checkpoint are such as ``save`` writes, so that a load fails before it has changed anything."""
        records, optimizers = state["records"], state["optimizers"]
        if not isinstance(records, list) or not isinstance(optimizers, list):
            return False
        for record in records:
            if not isinstance(record, dict) or not {"train/loss", "val/loss"} <= record.keys():
                return False
            if not all(isinstance(k, str) and isinstance(v, float | None) for k, v in record.items()):
                return False
        mine = self.method.optimizers
        if not alike(state["method"], dict(self.method.state_dict())) or len(optimizers) != len(mine):
            return False
        return all(
            isinstance(told, dict) and _optimizer_fits(told, o) for told, o in zip(optimizers, mine, strict=True)
        )


def alike(a: object, b: object) -> bool:
    """Whether two nested structures have the same keys, lengths and types, and tensors of one shape and type."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b)


def _optimizer_fits(told: dict[str, Any], optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer's stored state has its groups, and for each parameter nothing but numbers and tensors of its shape."""
    if told.keys() != {"state", "param_groups"} or not isinstance(told["state"], dict):
        return False
    groups = [{**g, "lr": 0.0} for g in told["param_groups"]] if _dicts(told["param_groups"]) else []
    if not alike(groups, [{**g, "lr": 0.0} for g in optimizer.state_dict()["param_groups"]]):
        return False
    shapes = [p.shape for group in optimizer.param_groups for p in group["params"]]
    names = {"step", "exp_avg", "exp_avg_sq"} if isinstance(optimizer, torch.optim.Adam) else {"momentum_buffer"}
    for i, kept in told["state"].items():
        if (
            type(i) is not int
            or not 0 <= i < len(shapes)
            or not isinstance(kept, dict)
            or (kept and kept.keys() != names)
        ):
            return False
        for name, value in kept.items():
            shape = torch.Size([]) if name == "step" else shapes[i]
            if not (isinstance(value, Tensor) and value.shape == shape) and not (value is None and len(names) == 1):
                return False
    return True


def _dicts(told: object) -> bool:
    return isinstance(told, list) and all(isinstance(g, dict) for g in told)


def previous(path: Path) -> Path:
    """Where the checkpoint before the newest one lies."""
    return path.with_name(path.name + ".prev")


def resume(run: Run, path: Path, tell: Callable[[str], None]) -> None:
    """Continues from the newest checkpoint that can be read, or from the beginning; a broken one costs time, never the trial."""
    for file in (path, previous(path)):
        if file.exists():
            try:
                run.load(file)
                return
            except InputError as e:
                tell(f"{e}; going back to the one before")
