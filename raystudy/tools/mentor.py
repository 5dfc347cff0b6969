"""Learning a MentorNet from recorded losses of labels known clean or wrong: what ``raystudy train-mentor`` does. No study runs it.

This reads the truth, of data that are not studied; so it stands outside the wall that methods are behind.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.data.noise import Noise, parse
from raystudy.design import space
from raystudy.design.compose import default_setting
from raystudy.design.single import single
from raystudy.errors import InputError
from raystudy.learn.celldata import prepare
from raystudy.learn.methods.mentornet_dd import SHAPES, mentor_logits
from raystudy.learn.metrics import auroc
from raystudy.learn.ops import nearest_rank
from raystudy.learn.recipe import Recipe
from raystudy.learn.training import Run

TRAINED_AT = 18  # percent of training at which losses are recorded
EXPERIMENT = "mentors"  # in MLflow
MODEL = Path(__file__).with_name("mentor_model.py")  # the code of the model that MLflow stores


def record(
    seed: int, noise: Noise, epochs: int, dataset: str, root: Path, network: str, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Losses [n] of a student at 18 % of its training by cross-entropy, and which of its labels are clean, bool [n].

    As MentorNet meets them: train mode, augmented, against the given labels.
    """
    data = prepare(dataset, root, noise, 0.1)
    spec = single("ce", data, dataset, noise, network, epochs, val_fraction=0.1, recipe=recipe, seed=seed)
    run = Run(spec, data)
    for _ in range(max(TRAINED_AT * epochs // 100, 1)):
        run.epoch()
    if run.diverged:
        raise InputError(f"the student with seed {seed} diverged: there are no losses to learn from")
    run.method.train()
    losses = torch.zeros(len(data.y))
    with torch.no_grad():
        for batch in run.train_set.batches():
            losses[batch.index] = F.cross_entropy(run.method.nets[0](batch.x), batch.y, reduction="none")
    return losses, ~data.truth.wrong


def initial(generator: torch.Generator) -> dict[str, Tensor]:
    """A MentorNet before training: uniform Glorot weights, zero biases, embeddings drawn in [-1, 1]."""
    net = {}
    for name, shape in SHAPES.items():
        if len(shape) == 2:
            bound = 1.0 if "embedding" in name else (6 / sum(shape)) ** 0.5
            net[name] = (2 * torch.rand(*shape, generator=generator) - 1) * bound
    return net | {name: torch.zeros(shape) for name, shape in SHAPES.items() if len(shape) == 1}


def fit(
    losses: Tensor, diff: Tensor, target: Tensor, steps: int = 30_000, batch: int = 32, seed: int = 0
) -> dict[str, Tensor]:
    """The parameters of a MentorNet that tells ``target`` [n] in [0, 1] from ``losses`` and ``diff`` [n], by cross-entropy.

    The original's: Adam at 0.1, times 0.9 every 1000 steps, batches of 32, gradients clipped to norm 5. The epoch
    embedding stays as drawn; its row ``TRAINED_AT`` is the input throughout.
    """
    generator = torch.Generator().manual_seed(seed)
    net = initial(generator)
    learned = [p.requires_grad_() for name, p in net.items() if name != "epoch_embedding"]
    optimizer = torch.optim.Adam(learned, lr=0.1)
    decay = torch.optim.lr_scheduler.StepLR(optimizer, 1000, 0.9)
    e = torch.tensor(TRAINED_AT)
    for _ in range(steps):
        rows = torch.randint(len(losses), (batch,), generator=generator)
        logits = mentor_logits(net, losses[rows], diff[rows], e)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(logits, target[rows]).backward()
        torch.nn.utils.clip_grad_norm_(learned, 5.0)
        optimizer.step()
        decay.step()
    return {name: p.detach() for name, p in net.items()}


def learn(
    records: list[tuple[Tensor, Tensor]], percentile: float, steps: int = 30_000, seed: int = 0
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """A MentorNet fitted on four fifths of the ``records``, and how good it is there and on the held-out fifth.

    ``percentile``: of a student's losses, from which ``diff`` is measured. Raises InputError where all labels are clean, or all wrong.
    """
    losses, clean = torch.cat([r[0] for r in records]), torch.cat([r[1] for r in records]).float()
    diff = torch.cat([r[0] - nearest_rank(r[0], percentile) for r in records])
    order = torch.randperm(len(losses), generator=torch.Generator().manual_seed(seed))
    parts = {"train": order[: len(order) * 4 // 5], "held_out": order[len(order) * 4 // 5 :]}
    for rows in parts.values():
        if not 0 < float(clean[rows].sum()) < len(rows):
            raise InputError(
                "a MentorNet learns from clean and wrong labels, and these students met only one kind: use a --noise rate such as 0.2"
            )
    net = fit(losses[parts["train"]], diff[parts["train"]], clean[parts["train"]], steps, seed=seed)
    told = {"losses": float(len(losses)), "wrong": round(1 - float(clean.mean()), 4)}
    for name, rows in parts.items():
        v = mentor_logits(net, losses[rows], diff[rows], torch.tensor(TRAINED_AT)).sigmoid()
        told[f"{name}/accuracy"] = round(float(((v > 0.5) == (clean[rows] > 0.5)).float().mean()), 4)
        told[f"{name}/auroc"] = round(float(auroc(v, clean[rows] > 0.5)), 4)
    return net, told


def save(net: dict[str, Tensor], path: Path) -> None:
    """Writes a MentorNet as plain arrays, in one step."""
    arrays: dict[str, Any] = {"trained_at": np.int64(TRAINED_AT)} | {name: p.numpy() for name, p in net.items()}
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with new.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(new, path)


def register(path: Path, uri: str, params: dict[str, str], told: dict[str, float]) -> str:
    """Logs the MentorNet in ``path`` to MLflow as a run of the experiment "mentors" with a model. Returns the model's address.

    The model is the arrays and the code that reads them (``mentor_model.py``): nothing in it is pickled.
    """
    from raystudy.tracking import store

    uri = store.absolute(uri)
    store.check_models(uri)
    for name, value in store.SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        if (experiment := mlflow.get_experiment_by_name(EXPERIMENT)) is None:
            experiment = mlflow.get_experiment(mlflow.create_experiment(EXPERIMENT, store.artifacts(uri, EXPERIMENT)))
        with (
            mlflow.start_run(experiment_id=experiment.experiment_id, run_name=path.stem),
            warnings.catch_warnings(action="ignore"),  # it would infer a signature from type hints, though one is given
        ):
            mlflow.log_params(params)
            mlflow.log_metrics(told)
            column = DataType.double
            info = mlflow.pyfunc.log_model(
                name="mentor",
                python_model=str(MODEL),
                artifacts={"mentor": path.absolute().as_uri()},  # it takes a path for a URI
                signature=ModelSignature(
                    Schema([ColSpec(column, "loss"), ColSpec(column, "diff")]), Schema([ColSpec(column)])
                ),
                pip_requirements=[f"mlflow=={mlflow.__version__}", f"torch=={torch.__version__.partition('+')[0]}"],
            )
    finally:
        mlflow.set_tracking_uri(before)
    return info.model_uri


@dataclass(frozen=True)
class Trained:
    """A MentorNet that was learned: where it lies, what was measured, and how it came about."""

    file: Path
    told: dict[str, float]
    params: dict[str, str]


def train(
    out: Path,
    dataset: str,
    noise: str,
    *,
    students: int = 4,
    seed: int = 0,
    epochs: int | None = None,
    network: str | None = None,
    steps: int = 30_000,
    percentile: float = 0.9,
    data_root: Path = Path("data"),
    threads: int = 1,
    tell: Callable[[str], None] = lambda text: None,
) -> Trained:
    """Records students, fits a MentorNet and writes it to ``out``. ``dataset``: as ``data.spec.located`` gives it; ``epochs``: that 18 %
    are trained of. Sets torch's threads. Raises InputError."""
    for what, number, low in (
        ("--students", students, 1),
        ("--seed", seed, 0),
        ("--threads", threads, 1),
        ("--steps", steps, 1),
        ("--epochs", 1 if epochs is None else epochs, 1),
    ):
        if number < low:
            raise InputError(f"{what} is {number}; it must be at least {low}")
    if not 0 < percentile < 1:
        raise InputError(f"--percentile is {percentile:g}; it must lie between 0 and 1")
    if out.suffix != ".npz" or not out.parent.is_dir():
        raise InputError(f"--out {out}: it must be a file that ends in .npz, in a folder that is there")
    torch.set_num_threads(threads)
    usual, length = default_setting(dataset, data_root)
    network, epochs = network or usual, epochs or length
    recipe = space.recipe_for("shared", "ce", dataset, network)
    if len(parse(noise)) != 1:
        raise InputError(f"train-mentor takes one noise level, not {len(parse(noise))}: {noise}")
    records = []
    for s in range(seed, seed + students):
        (setting,) = parse(noise, seed=s)
        records.append(record(s, setting, epochs, dataset, data_root, network, recipe))
        wrong = 1 - float(records[-1][1].float().mean())
        tell(f"student {len(records)} of {students}: {len(records[-1][0])} losses, {wrong:.1%} wrong labels")
    net, told = learn(records, percentile, steps)
    save(net, out)
    params = {
        "dataset": dataset,
        "noise": noise,
        "students": students,
        "seed": seed,
        "percentile": percentile,
        "steps": steps,
    }
    return Trained(out, told, {n: str(v) for n, v in params.items()} | {"network": network, "epochs": str(epochs)})
