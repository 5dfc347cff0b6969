"""PES: stop the layers one after another, by renewing the last ones and training them briefly, then learn from what the network confirms.

Paper: Bai, Yang, Han, Yang, Li, Mao, Niu, Liu, "Understanding and Improving Early Stopping for Learning with Noisy
Labels", NeurIPS 2021 (arXiv 2106.15853). Original code: tmllab/PES @5466238 (PES_cs.py, PES_semi.py).

| original | here |
| --- | --- |
| T1 epochs of cross-entropy; then the last block and the linear layer anew, T2 epochs of Adam, the rest frozen | ``PES._renew`` |
| then the linear layer anew, T3 epochs; PES(semi) renews the linear layer alone | ``refine_block``, ``refine_head`` |
| confident: the mean of two augmented views, in eval mode, predicts the given label | ``PES._look`` |
| PES: cross-entropy on these, weighed by class; rebuilt each epoch | ``class_weights``, ``PES._confident_epoch`` |
| PES(semi): MixMatch with the others as unlabelled | ``PES._mixmatch``, ``weighted_semi_loss`` |
| unlabelled part of a batch: half, or their share where they are fewer | ``unlabelled_batch`` |
| ramp of lambda_u over 16 epochs; alpha .75 from half of the epochs on | ``dividemix.ramp``, ``late_alpha`` |

Deviations from the original, and why
- ``retrain=False`` is the original: its optimizer is built before the layers are replaced and keeps the discarded
  ones, so that renewed layers are never trained again, and the published numbers include that. True trains them on,
  with fresh momentum. There their gradients pile up unused, which a clip of the gradient's norm would see; here they
  have none.
- Durations are fractions of the budget, of which the refinement takes its own epochs; in the original these come on
  top, within one epoch, and the schedule does not see them. One that is above 0 has an epoch at least. The cosine
  ends at a hundredth of the rate there, at 0 here.
- Adam moves a weight by no more than its rate an update. The refinement has about 2000 of them there, and in a small
  budget so few that a head which is then fixed would stay what chance made it: ``refine_lr`` is meant for
  ``refine_updates`` and is as many times larger in fewer, up to 1e-2.
- The last block is a network's ``layer4`` (ResNets), else the last quarter of its layers with a weight matrix, which
  for ``preact_resnet18`` is block 4. It begins anew as the network begins: with ImageNet's weights where those were
  asked for.
- As many updates an epoch as batches are in the whole set (390 are fixed there, 50,000 images). A last short batch is
  kept, so a labelled set smaller than a batch is learnt from (there it never yields one). Where nothing is
  unlabelled, or so little that it has no place in a batch, there is the labelled loss alone (there it fails); where
  nothing is confident, that epoch is plain cross-entropy.
- An empty class has weight 0, also in mixed targets; the cap at 3 is that of PES(semi) (``weight_cap``, 0: none). No
  refinement of confident labels, as there. Guesses are made in train mode, which moves batch norm's statistics; so does
  the refinement, of frozen layers too.
- ``late_alpha`` follows from the epoch; there it is written into the arguments, so that a run resumed later has the
  first again.
- ``lambda_u`` is 150 by the flag's default and far too high for most settings; the values known are 5 (CIFAR-10N),
  15, 50 and 75 (CIFAR-100N), by kind and rate of the noise: they are marked oracle. The paper's table for other
  settings could not be checked.
- The PES without semi refines on all noisy labels, as there (a confident set is made and thrown away).
- Of matters of others nothing is rebuilt: accuracy as a mean over batches, in which the last 16 test images count
  like 256; the best epoch on the test set as the result of PES(semi), validation on cropped and flipped images;
  symmetric noise that is inclusive in PES(semi) and exclusive in PES; instance noise on raw pixels. Clean labels are
  counted there in the confident set, for printing only. Clothing1M (class weights from clean validation counts, the best
  net by clean validation, two nets, stages in tenths of an epoch: T1 3 epochs, 20 in the paper's count, then 7 of them
  for the head at 5e-6) is not rebuilt.

Weights are 1 where the prediction agrees with the given label: a memorised wrong label counts as confident, so
``warmup`` is what matters.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raystudy.errors import InputError
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.methods.dividemix import co_guess, ramp
from raystudy.learn.ops import beta_draw, mix, permutation

EVAL_BATCH = 2048  # images per forward pass when predictions are collected; changes no result
FASTEST = 1e-2  # what the learning rate of a short refinement is raised to at most


def class_weights(counts: Tensor, cap: float = 0.0) -> Tensor:
    """mean of the ``counts`` [K] that are not 0 over each count, [K], at most ``cap`` (0: no cap); 0 for an empty class."""
    mean = counts.sum() / (counts > 0).sum().clamp_min(1)
    weights = torch.where(counts > 0, mean / counts.clamp_min(1), torch.zeros_like(mean))
    return weights.clamp_max(cap) if cap else weights


def unlabelled_batch(n_confident: int, n_others: int, batch_size: int) -> int:
    """How much of a batch is unlabelled: half where they are more than the confident ones, else floor(their share x B)."""
    if n_others > n_confident:
        return batch_size // 2
    return n_others * batch_size // max(n_confident + n_others, 1)


def refine_rate(rate: float, meant_for: int, updates: int) -> float:
    """``rate`` of a refinement in ``meant_for`` updates, for one of ``updates``: as many times larger where these are fewer."""
    return max(rate, min(rate * meant_for / max(updates, 1), FASTEST))


def weighted_semi_loss(logits: Tensor, targets: Tensor, n_labelled: int, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(L_x, L_u) of mixed rows [M, K], labelled ones first.

    L_x: sum over classes of ``weights`` [K] times the mean over rows of -Q log softmax. L_u: mean over rows *and classes* of
    (softmax - Q)^2 of the rest, 0 where there is no rest.
    """
    x, u = logits[:n_labelled], logits[n_labelled:]
    loss_x = -(weights * (targets[:n_labelled] * F.log_softmax(x, 1)).mean(0)).sum()
    return loss_x, F.mse_loss(u.softmax(1), targets[n_labelled:]) if len(u) else loss_x.new_zeros(())


def last_parts(net: nn.Module) -> tuple[list[str], list[str]]:
    """The names of the modules that are the last block of ``net`` and its head, each without modules in it.

    The head is the last layer with a weight matrix. The block is all of ``layer4`` where there is one, else the last quarter of
    the other such layers, at least one, with what lies between or belongs to modules all of which is renewed.
    """
    leaves = [name for name, module in net.named_modules() if not any(True for _ in module.children())]
    layers = [name for name in leaves if _weight_dims(net.get_submodule(name)) >= 2]
    if not layers:
        raise InputError("pes renews the last layer of a network, and this one has none with a weight matrix")
    *others, head = layers
    named = [name for name, _ in net.named_modules() if name.rpartition(".")[2] == "layer4"]
    if named:
        return [name for name in leaves if name == named[-1] or name.startswith(named[-1] + ".")], [head]
    if not others:
        return [], [head]
    anew = set(others[-max(round(len(others) / 4), 1) :])
    first = leaves.index(next(name for name in layers if name in anew))
    kept = set(others) - anew

    def belongs(name: str) -> bool:
        parents = [name[:i] for i, letter in enumerate(name) if letter == "."]
        return any(not any(layer.startswith(parent + ".") for layer in (*kept, head)) for parent in parents)

    return [name for i, name in enumerate(leaves) if name != head and (i >= first or belongs(name))], [head]


def _weight_dims(module: nn.Module) -> int:
    weight = getattr(module, "weight", None)
    return weight.dim() if isinstance(weight, Tensor) else 0


class PES(Method):
    """PES and PES(semi).

    ``semi``: MixMatch after the refinement, else cross-entropy on confident samples. ``warmup``: T1, fraction of the
    epochs for the whole network. ``refine_block``: fraction for the renewed last block and head, 0 for none.
    ``refine_head``: fraction for the head, renewed after that. ``refine_lr``: Adam's learning rate in both.
    ``refine_updates``: the updates it is meant for, 0 for any. ``retrain``: train renewed layers on afterwards.
    ``weight_cap``: largest weight of a class, 0 for any. ``lambda_u``: weight of the unlabelled loss. ``rampup``:
    fraction of the epochs over which it rises. ``alpha``, ``late_alpha``: strength of mixing, and from half of the
    epochs on. ``temperature``: of sharpening.
    """

    def __init__(
        self,
        task: Task,
        *,
        semi: bool = True,
        warmup: float = 20 / 300,
        refine_block: float = 0.0,
        refine_head: float = 5 / 300,
        refine_lr: float = 1e-4,
        refine_updates: int = 2000,
        retrain: bool = False,
        weight_cap: float = 3.0,
        lambda_u: float = 15.0,
        rampup: float = 16 / 300,
        alpha: float = 4.0,
        late_alpha: float = 0.75,
        temperature: float = 0.5,
    ) -> None:
        super().__init__(task)
        self.semi, self.retrain, self.weight_cap = semi, retrain, weight_cap
        self.refine_lr, self.refine_updates = refine_lr, refine_updates
        self.lambda_u, self.alpha, self.late_alpha, self.temperature = lambda_u, alpha, late_alpha, temperature
        self.settled_at = min(warmup + refine_block + refine_head + (rampup if semi else 0.0), 1.0)
        self.begin_block = max(round(warmup * task.epochs), 1)  # the first epochs of the stages
        self.begin_head = self.begin_block + (max(round(refine_block * task.epochs), 1) if refine_block else 0)
        self.begin_main = self.begin_head + (max(round(refine_head * task.epochs), 1) if refine_head else 0)
        self.rampup_epochs = max(round(rampup * task.epochs), 1)
        self.block, self.head = last_parts(self.nets[0])
        refined = self._parameters_of([*self.block, *self.head])
        self.optimizers.append(torch.optim.Adam(refined, fused=True))

    def settled(self) -> float:
        return self.settled_at

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        self.train()
        if self.begin_block <= t < self.begin_main:
            length = self.begin_head - self.begin_block if t < self.begin_head else self.begin_main - self.begin_head
            updates = length * math.ceil(len(train) / train.batch_size)
            self.drive(1, refine_rate(self.refine_lr, self.refine_updates, updates))
        both = [*self.block, *self.head]
        if t < self.begin_head:
            refined = both if t >= self.begin_block else []
        else:
            refined = self.head if t < self.begin_main else []
        if refined and t in (self.begin_block, self.begin_head):
            self._renew(refined)
        gone = both if self.begin_head > self.begin_block else self.head if self.begin_main > self.begin_head else []
        fixed = gone if t >= self.begin_main and not self.retrain else []
        self._train_only(refined, fixed)
        if t < self.begin_main:
            yield from self._plain(train, int(bool(refined)))
            return
        confident, log = self._look(train)
        yield log
        if not confident.any():
            yield from self._plain(train, 0)
        elif self.semi:
            yield from self._mixmatch(t, train, confident)
        else:
            yield from self._confident_epoch(train, confident)

    def _parameters_of(self, names: list[str]) -> list[nn.Parameter]:
        return [p for name in names for p in self.nets[0].get_submodule(name).parameters()]

    def _renew(self, names: list[str]) -> None:
        """Gives the modules ``names`` the state of a fresh network, and their optimizers none."""
        net, fresh = self.nets[0], self.task.net()
        for name in names:
            net.get_submodule(name).load_state_dict(fresh.get_submodule(name).state_dict())
        self.optimizers[1].state.clear()
        for parameter in self._parameters_of(names):
            self.optimizers[0].state.pop(parameter, None)

    def _train_only(self, some: list[str], fixed: list[str]) -> None:
        """Lets only the modules ``some`` learn (all where there are none), but none of ``fixed``."""
        self.nets[0].requires_grad_(not some)
        for parameter in self._parameters_of(some):
            parameter.requires_grad_(True)
        for parameter in self._parameters_of(fixed):
            parameter.requires_grad_(False)

    def _plain(self, train: Train, optimizer: int) -> Iterator[Log]:
        """One pass of cross-entropy over everything."""
        for batch in train.batches():
            loss = F.cross_entropy(self.nets[0](batch.x), batch.y)
            self.descend(optimizer, loss)
            yield {"loss": loss.detach(), "passes": 3 * len(batch.y)}

    @torch.no_grad()
    def _look(self, train: Train) -> tuple[Tensor, Log]:
        """Which samples' labels are predicted, bool [n], and the log of it."""
        net = self.nets[0].eval()
        confident = torch.zeros(len(train), dtype=torch.bool, device=train.y.device)
        for batch in train.batches(views=2, shuffle=False, batch_size=EVAL_BATCH):
            assert batch.x2 is not None
            p = net(batch.x).float().softmax(1) + net(batch.x2).float().softmax(1)
            confident[batch.index] = p.argmax(1) == batch.y
        net.train()
        log: Log = {"index": torch.arange(len(train), device=confident.device), "weight": confident.float()}
        return confident, log | {"passes": 2 * len(train), "confident": log["weight"].mean()}

    def _class_weights(self, train: Train, confident: Tensor) -> Tensor:
        counts = torch.bincount(train.y[confident], minlength=train.n_classes).float()
        return class_weights(counts, self.weight_cap)

    def _confident_epoch(self, train: Train, confident: Tensor) -> Iterator[Log]:
        """One pass over the confident samples, each weighed by its class."""
        weights = self._class_weights(train, confident)
        for batch in train.batches(confident.nonzero().squeeze(1)):
            yield self._weighted_step(batch, weights)

    def _weighted_step(self, batch: Batch, weights: Tensor) -> Log:
        logits = self.nets[0](batch.x)
        loss = F.cross_entropy(logits.to(weights), batch.y, weight=weights)
        self.descend(0, loss)
        return {"loss": loss.detach(), "passes": 3 * len(batch.y)}

    def _mixmatch(self, t: int, train: Train, confident: Tensor) -> Iterator[Log]:
        """As many updates as batches are in the whole set, of confident samples as labelled beside all others."""
        weights = self._class_weights(train, confident)
        labelled, others = confident.nonzero().squeeze(1), (~confident).nonzero().squeeze(1)
        n_others = unlabelled_batch(len(labelled), len(others), train.batch_size)
        batches_x = _cycle(train, labelled, train.batch_size - n_others)
        batches_u = _cycle(train, others, n_others) if n_others else None
        n_iter = max(len(train) // train.batch_size, 1)
        for i in range(n_iter):
            weight_u = self.lambda_u * ramp(t + i / n_iter, self.begin_main, self.rampup_epochs)
            yield self._mixed_step(t, next(batches_x), next(batches_u) if batches_u else None, weights, weight_u)

    def _mixed_step(self, t: int, x: Batch, u: Batch | None, weights: Tensor, weight_u: float) -> Log:
        """One update on a labelled batch and an unlabelled one, if any, two views of each."""
        net, views_u = self.nets[0], _views(u) if u else []
        targets = [F.one_hot(x.y, self.task.n_classes).to(weights)] * 2
        if views_u:
            with torch.no_grad():
                targets += [co_guess([net(view).to(weights) for view in views_u], self.temperature)] * 2
        inputs = torch.cat([*_views(x), *views_u])
        lam = beta_draw(self.late_alpha if t >= self.task.epochs / 2 else self.alpha)
        mixed, q = mix(inputs, torch.cat(targets), max(lam, 1 - lam), permutation(len(inputs), inputs.device))
        loss_x, loss_u = weighted_semi_loss(net(mixed).to(weights), q, 2 * len(x.y), weights)
        loss = loss_x + weight_u * loss_u
        self.descend(0, loss)
        return {"loss": loss.detach(), "passes": 6 * len(x.y) + (8 * len(u.y) if u else 0)}


def _cycle(train: Train, subset: Tensor, batch_size: int) -> Iterator[Batch]:
    """Batches of two views of ``subset`` without end, in a new order each round."""
    while True:
        yield from train.batches(subset, views=2, batch_size=batch_size)


def _views(batch: Batch) -> list[Tensor]:
    assert batch.x2 is not None
    return [batch.x, batch.x2]
