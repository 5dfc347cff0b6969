"""MLNT: before each update, training on synthetic noisy labels is simulated; the network must still agree with its teacher after it.

Paper: Li, Wong, Zhao, Kankanhalli, "Learning to Learn from Noisy Labeled Data", CVPR 2019 (arXiv 1812.05214). Original code:
LiJunnan1992/MLNT @40f163d (main.py). Called Meta-Learning in the tables of the DivideMix paper.

| original | here |
| --- | --- |
| synthetic labels: a random share rho takes the label of one of its 10 nearest neighbours in the batch | ``synthetic_labels`` |
| features of a frozen reference network | ``features`` |
| one simulated step per set: theta' = theta - mu grad CE(f(x; theta), y') (eq. 2) | ``fast_weights`` |
| J = KL(teacher || f(x; theta')) (eq. 3) | ``losses.kl_rows`` |
| update with the gradients of CE(y) + w(t) mean J, through the simulated step (eq. 4, 5) | ``MetaLearning._update`` |
| w(t) = alpha exp(-5 (1 - u)^2) | ``meta_weight`` |
| teacher = eps teacher + (1 - eps) student (eq. 1) | ``MetaLearning._update`` |
| iterations: the last one's result becomes the mentor, which filters labels and is mixed into the target | ``kept``, ``mixed_target`` |

Deviations from the original, and why
- Only Clothing1M was released: one iteration of training, from a pretrained network that also gives the features. Here the first
  ``warmup`` of the epochs trains by cross-entropy, and the network at its end is the reference and the first teacher, so that the
  budget pays for it. "Keep the better of student and teacher" needs a selection: the teacher predicts.
- ``iterations``: the paper's iterative training (about 3), which is in no code by the authors; the default 1 is the released code. The
  epochs after the warm-up are shared out equally. At the start of each further iteration the teacher becomes reference and mentor, the
  ramp begins again, samples of whose given label the mentor is less sure than ``filter`` (0.01) leave the cross-entropy, and the target
  is lam teacher + (1 - lam) mentor, lam rising from 0 to 1/2 with the ramp (from memory of the paper). There each iteration is a full run
  from fresh weights; here the student goes on, since one learning-rate schedule spans the budget and a fresh start late in it would not
  come far. There the mentor is the best model so far by validation, which methods do not see.
- Features are what enters the network's last linear layer (its logits where it has none).
- ``second_order=True`` is published: the loop there that detaches the inner gradients rebinds a name and has no effect. False detaches.
  Each set's graph is freed as soon as its gradient is added (the original keeps all M until one backward call); same gradient.
- ``kl_reduction="mean"`` is published, the mean over B x C entries, C times weaker than "batchmean".
- The simulated forward runs batch norm in train mode as published, but on throw-away statistics: the original moves the student's
  statistics M more times with perturbed weights. The teacher stays in train mode on its own passes, which move its own statistics, as
  published; only weights are averaged.
- The ramp is a fraction of the budget (the first 20 epochs of 120 in the paper); there it is by iteration within epoch 1 and skipped in
  any later one. eps is 0.99 before its end and ``eps_final`` after.
- Neighbours are searched within the batch, as published: with few images per class many belong to another class, which is the source of
  the noise. A batch with fewer than 11 images offers all others; one of one image keeps its label.
- Its transform is a centre crop, its test function reads the validation list, the port to CIFAR (JackYFL/DISC) stops in a debugger:
  augmentation and evaluation are the study's here. The paper's mu for CIFAR is 0.2 from memory; the code's is 0.02.
- Cost is about 1 + 2 M times that of cross-entropy: choose ``n_sets`` first. Samples are weighed only
  from the second iteration on, by the mentor's probability of their given label.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from raystudy.errors import InputError, unknown
from raystudy.learn.losses import kl_rows
from raystudy.learn.method import Batch, Log, Method, Task, Train

EPS = 0.99  # the teacher's decay until the ramp is over


def meta_weight(u: float, alpha: float) -> float:
    """w = alpha exp(-5 (1 - u)^2), ``u`` the part of the ramp that is done, clipped to [0, 1]."""
    return alpha * math.exp(-5 * (1 - min(max(u, 0.0), 1.0)) ** 2)


def neighbours(feats: Tensor, k: int) -> Tensor:
    """The ``k`` nearest other rows of ``feats`` [B, F] by squared distance, [B, min(k, B - 1)], nearest first."""
    distance = torch.cdist(feats, feats, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf)
    return distance.topk(min(k, len(feats) - 1), largest=False).indices


def synthetic_labels(y: Tensor, near: Tensor, chosen: Tensor, pick: Tensor) -> Tensor:
    """``y`` [B], where each of ``chosen`` [m] has the original label of its neighbour ``near`` [B, k] number ``pick`` [m]."""
    return y.index_put((chosen,), y[near[chosen, pick]])


def kept(mentor_probs: Tensor, y: Tensor, threshold: float) -> Tensor:
    """Which samples stay in the cross-entropy, bool [B]: ``mentor_probs`` [B, K] of the given label ``y`` [B] at least ``threshold``."""
    return mentor_probs.gather(1, y[:, None]).squeeze(1) >= threshold


def mixed_target(teacher: Tensor, mentor: Tensor, u: float) -> Tensor:
    """lam teacher + (1 - lam) mentor of probabilities [B, K]; lam rises from 0 to 1/2 over the ramp, of which ``u`` is done."""
    return torch.lerp(mentor, teacher, 0.5 * min(max(u, 0.0), 1.0))


def features(net: nn.Module, x: Tensor) -> Tensor:
    """What enters the last linear layer of ``net`` for images ``x`` [B, ...]: [B, F]; its output where it has none."""
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if not linear:
        return net(x).flatten(1)
    seen: list[Tensor] = []
    handle = linear[-1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(x)
    handle.remove()
    return seen[0].flatten(1)


def fast_weights(loss: Tensor, params: Mapping[str, Tensor], inner_lr: float, second_order: bool) -> dict[str, Tensor]:
    """theta - mu grad loss (eq. 2) for the parameters ``params`` by name; the gradient is a constant unless ``second_order``."""
    grads = torch.autograd.grad(loss, list(params.values()), create_graph=second_order, retain_graph=True)
    return {name: p - inner_lr * g for (name, p), g in zip(params.items(), grads, strict=True)}


class MetaLearning(Method):
    """MLNT.

    ``n_sets``: M, simulated steps per update. ``perturb``: share of the batch that gets a synthetic label. ``n_neighbours``: to draw it
    from. ``inner_lr``: mu, of a simulated step. ``alpha``: weight of the meta loss. ``warmup``, ``ramp``: fractions of the epochs.
    ``eps_final``: the teacher's decay after the ramp. ``second_order``: differentiate through the simulated step.
    ``kl_reduction``: "mean" over entries or "batchmean" over images. ``iterations``: rounds, all but the first with a mentor.
    ``filter``: the mentor's probability of the given label below which a sample leaves the cross-entropy.
    """

    def __init__(
        self,
        task: Task,
        *,
        n_sets: int = 10,
        perturb: float = 0.5,
        n_neighbours: int = 10,
        inner_lr: float = 0.02,
        alpha: float = 1.0,
        warmup: float = 0.1,
        ramp: float = 20 / 120,
        eps_final: float = 0.999,
        second_order: bool = True,
        kl_reduction: Literal["mean", "batchmean"] = "mean",
        iterations: int = 1,
        filter: float = 0.01,
    ) -> None:
        super().__init__(task)
        if kl_reduction not in ("mean", "batchmean"):
            raise unknown("kl_reduction", kl_reduction, ("mean", "batchmean"))
        if iterations < 1:
            raise InputError(f"meta_learning: iterations={iterations}; it is at least 1")
        self.n_sets, self.perturb, self.n_neighbours, self.inner_lr = n_sets, perturb, n_neighbours, inner_lr
        self.alpha, self.eps_final, self.second_order = alpha, eps_final, second_order
        self.kl_divisor = task.n_classes if kl_reduction == "mean" else 1
        self.filter = filter
        self.warmup_epochs = round(warmup * task.epochs)
        self.ramp_epochs = max(round(ramp * task.epochs), 1)
        rest = task.epochs - self.warmup_epochs
        # Where a budget has fewer epochs than iterations, some are empty and left out.
        self.starts = sorted({self.warmup_epochs + round(i * rest / iterations) for i in range(iterations)})
        self.settled_at = min(warmup + ramp + (1 - warmup) * (iterations - 1) / iterations, 1.0)
        self.teacher = copy.deepcopy(self.nets[0]).requires_grad_(False)
        self.reference = copy.deepcopy(self.nets[0]).requires_grad_(
            False
        )  # and, from the second iteration on, the mentor

    def settled(self) -> float:
        return self.settled_at

    def probs(self, x: Tensor) -> Tensor:
        return self.teacher(x).float().softmax(1)

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        self.train()
        if t in self.starts[1:]:
            self.reference.load_state_dict(self.teacher.state_dict())
        self.reference.eval()
        start = max((s for s in self.starts if s <= t), default=0)
        n_iter = math.ceil(len(train) / train.batch_size)
        for i, batch in enumerate(train.batches()):
            if t < self.warmup_epochs:
                loss = F.cross_entropy(self.nets[0](batch.x), batch.y)
                self.descend(0, loss)
                yield {"loss": loss.detach(), "passes": 3 * len(batch.y)}
            else:
                yield self._update(batch, (t + i / n_iter - start) / self.ramp_epochs, mentored=start > self.starts[0])
        if t < self.warmup_epochs:
            self.teacher.load_state_dict(self.nets[0].state_dict())
            self.reference.load_state_dict(self.nets[0].state_dict())

    def _update(self, batch: Batch, u: float, mentored: bool = False) -> Log:
        """One update; ``u`` is the part of the ramp that is done, above 1 after it. ``mentored``: the reference is a mentor, too."""
        net, x, y, n = self.nets[0], batch.x, batch.y, len(batch.y)
        with torch.no_grad():
            decay = EPS if u <= 1 else self.eps_final
            for theirs, ours in zip(self.teacher.parameters(), net.parameters(), strict=True):
                theirs.lerp_(ours, 1 - decay)
            target, near = self.teacher(x), neighbours(features(self.reference, x).float(), self.n_neighbours)
            mentor = self.reference(x).float().softmax(1) if mentored else None
            if mentor is not None:
                target = mixed_target(target.float().softmax(1), mentor, u).clamp_min(1e-12).log()
        logits = net(x)
        if mentor is None:
            class_loss = F.cross_entropy(logits, y)
        else:
            stays = kept(mentor, y, self.filter)
            class_loss = F.cross_entropy(logits, y, reduction="none").mul(stays).sum() / stays.sum().clamp_min(1)
        self.optimizers[0].zero_grad(set_to_none=True)
        class_loss.backward(retain_graph=True)
        weight, params = meta_weight(u, self.alpha), dict(net.named_parameters())
        meta_loss = torch.zeros_like(class_loss.detach())
        for _ in range(self.n_sets):
            inner = F.cross_entropy(logits, self._draw(y, near))
            fast = fast_weights(inner, params, self.inner_lr, self.second_order)
            statistics = {name: buffer.clone() for name, buffer in net.named_buffers()}
            disagreement = kl_rows(target, functional_call(net, {**fast, **statistics}, (x,))).mean() / self.kl_divisor
            loss = weight / self.n_sets * disagreement
            loss.backward(retain_graph=True)
            meta_loss += loss.detach()
        self.optimizers[0].step()
        log: Log = {
            "loss": class_loss.detach() + meta_loss,
            "passes": n * (3 + 2 + mentored + self.n_sets * (6 if self.second_order else 5)),
            "meta_loss": meta_loss,
        }
        if mentor is None:
            return log
        return log | {
            "index": batch.index,
            "weight": mentor.gather(1, y[:, None]).squeeze(1),
            "kept": stays.float().mean(),
        }

    def _draw(self, y: Tensor, near: Tensor) -> Tensor:
        """A set of synthetic labels [B]."""
        m = int(self.perturb * len(y)) if near.shape[1] else 0
        chosen = torch.randperm(len(y))[:m]
        pick = torch.randint(max(near.shape[1], 1), (m,))
        return synthetic_labels(y, near, chosen.to(y.device), pick.to(y.device))
