"""Learning a MentorNet from recorded losses of labels known clean or wrong: what ``raystudy train-mentor`` does. No study runs it.

This reads the truth, of data that are not studied; so it stands outside the wall that methods are behind.
"""

import argparse
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.data.noise import Noise, parse
from raystudy.errors import InputError
from raystudy.learn.celldata import prepare
from raystudy.learn.methods.mentornet_dd import SHAPES, mentor_logits
from raystudy.learn.metrics import auroc
from raystudy.learn.ops import nearest_rank
from raystudy.learn.recipe import Recipe
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run
from raystudy.terminal import terminal

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
    digests = {"data_digest": data.data_digest, "noise_digest": data.noise_digest}
    spec = TrialSpec(
        "ce",
        1,
        {},
        dataset,
        noise=noise.to_dict(),
        network=network,
        recipe=recipe.to_dict(),
        epochs=epochs,
        seed=seed,
        val_fraction=0.1,
        clean_val=0,
        **digests,
    )
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
    store.check(uri)
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


def train_mentor(args: argparse.Namespace) -> int:
    """Records students, fits a MentorNet, writes it and stores it in MLflow."""
    from raystudy.design import space, studyfile
    from raystudy.tracking import store

    console = terminal()
    for what, number, low in (
        ("--students", args.students, 1),
        ("--seed", args.seed, 0),
        ("--threads", args.threads, 1),
        ("--steps", args.steps, 1),
        ("--epochs", 1 if args.epochs is None else args.epochs, 1),
    ):
        if number < low:
            raise InputError(f"{what} is {number}; it must be at least {low}")
    if not 0 < args.percentile < 1:
        raise InputError(f"--percentile is {args.percentile:g}; it must lie between 0 and 1")
    if args.out.suffix != ".npz" or not args.out.parent.is_dir():
        raise InputError(f"--out {args.out}: it must be a file that ends in .npz, in a folder that is there")
    uri = None if args.no_tracking else args.tracking_uri or store.default_uri()
    if uri:
        store.check(store.absolute(uri))
    torch.set_num_threads(args.threads)
    dataset = studyfile.located(args.dataset)
    network, epochs = studyfile.default_setting(dataset, args.data_root)
    network, epochs = args.network or network, args.epochs or epochs
    recipe = space.recipe_for("shared", "ce", dataset, network)
    if len(parse(args.noise)) != 1:
        raise InputError(f"train-mentor takes one noise level, not {len(parse(args.noise))}: {args.noise}")
    records = []
    for seed in range(args.seed, args.seed + args.students):
        (noise,) = parse(args.noise, seed=seed)
        records.append(record(seed, noise, epochs, dataset, args.data_root, network, recipe))
        wrong = 1 - float(records[-1][1].float().mean())
        console.print(
            f"student {len(records)} of {args.students}: {len(records[-1][0])} losses, {wrong:.1%} wrong labels"
        )
    net, told = learn(records, args.percentile, args.steps)
    save(net, args.out)
    held = f"{told['held_out/accuracy']:.1%} of the held-out fifth told right (AUROC {told['held_out/auroc']:.3f})"
    console.print(
        f"{args.out}: {len(records)} students, {told['losses']:.0f} losses, {held}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if uri:
        names = ("dataset", "noise", "students", "seed", "percentile", "steps")
        params = {name: str(getattr(args, name)) for name in names} | {"network": network, "epochs": str(epochs)}
        model = register(args.out, uri, params, told)
        console.print(f"in MLflow: experiment {EXPERIMENT!r}, model {model}", highlight=False, soft_wrap=True)
    use = f"raystudy train mentornet_dd --set mentor={args.out.absolute()}"
    console.print(f"use it: {use}", highlight=False, markup=False, soft_wrap=True)
    return 0
