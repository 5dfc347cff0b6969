"""Learning a MentorNet from recorded losses of labels known clean or wrong. Makes ``methods/mentornet_dd.npz``; no study runs it.

This reads the truth, of data that are not studied; so it stands outside the wall that methods are behind.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.data.noise import Noise
from raystudy.methods.mentornet_dd import FILE, mentor_logits
from raystudy.ops import nearest_rank
from raystudy.recipe import Recipe
from raystudy.study import TrialSpec
from raystudy.training import Run, prepare

TRAINED_AT = 18  # percent of training at which losses are recorded
SHAPES = {
    "lstm_kernel_fw": (3, 4),
    "lstm_kernel_bw": (3, 4),
    "label_embedding": (2, 2),
    "epoch_embedding": (100, 5),
    "fc_w": (9, 20),
    "out_w": (20, 1),
}


def record(seed: int, rate: float = 0.2, epochs: int = 100) -> tuple[Tensor, Tensor]:
    """Losses [n] of a student on digits with ``rate`` symmetric noise at 18 % of its training, and which labels are clean.

    As MentorNet meets them: train mode, augmented, against the given labels.
    """
    noise = Noise("symmetric", rate, seed=seed)
    data = prepare("digits", Path("data"), noise, 0.1)
    digests = {"data_digest": data.data_digest, "noise_digest": data.noise_digest}
    recipe = Recipe(lr=0.05, batch_size=64).to_dict()
    spec = TrialSpec(
        "ce",
        1,
        {},
        "digits",
        noise=noise.to_dict(),
        network="mlp",
        recipe=recipe,
        epochs=epochs,
        seed=seed,
        val_fraction=0.1,
        clean_val=0,
        **digests,
    )
    run = Run(spec, data)
    for _ in range(TRAINED_AT * epochs // 100):
        run.epoch()
    run.method.train()
    losses = torch.zeros(len(data.y))
    with torch.no_grad():
        for batch in run.train_set.batches():
            losses[batch.index] = F.cross_entropy(run.method.nets[0](batch.x), batch.y, reduction="none")
    return losses, ~data.truth.wrong


def initial(generator: torch.Generator) -> dict[str, Tensor]:
    """A MentorNet before training: uniform Glorot weights, zero biases, embeddings drawn in [-1, 1]."""
    net = {}
    for name, (rows, columns) in SHAPES.items():
        bound = 1.0 if "embedding" in name else (6 / (rows + columns)) ** 0.5
        net[name] = (2 * torch.rand(rows, columns, generator=generator) - 1) * bound
    biases = {"lstm_bias_fw": 4, "lstm_bias_bw": 4, "fc_b": 20, "out_b": 1}
    return net | {name: torch.zeros(n) for name, n in biases.items()}


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


def main(students: int = 4, percentile: float = 0.9) -> None:
    """Records ``students`` students (about 5,000 images), fits a MentorNet on four fifths and writes it; prints how good it is."""
    torch.set_num_threads(1)
    records = [record(seed) for seed in range(students)]
    losses, clean = torch.cat([r[0] for r in records]), torch.cat([r[1] for r in records]).float()
    diff = torch.cat([r[0] - nearest_rank(r[0], percentile) for r in records])
    order = torch.randperm(len(losses), generator=torch.Generator().manual_seed(0))
    train, held = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    net = fit(losses[train], diff[train], clean[train])
    v = mentor_logits(net, losses[held], diff[held], torch.tensor(TRAINED_AT)).sigmoid()
    right = ((v > 0.5) == (clean[held] > 0.5)).float().mean()
    arrays: dict[str, Any] = {"trained_at": np.int64(TRAINED_AT)} | {name: p.numpy() for name, p in net.items()}
    np.savez(FILE, **arrays)
    print(f"{FILE.name}: {len(losses)} losses of {students} students, {right:.1%} of the held-out fifth told right")


if __name__ == "__main__":
    main()
