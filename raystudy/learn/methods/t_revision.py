"""T-Revision: reweight each sample by what the noise matrix T makes of its label, then revise T by a slack learnt with the network.

Paper: Xia, Liu, Wang, Han, Gong, Niu, Sugiyama, "Are Anchor Points Really Indispensable in Label-Noise Learning?",
NeurIPS 2019 (arXiv 1906.00189), Reweight-R. Original code: xiaoboxia/T-Revision @b598cf2 (main.py, loss.py,
tools.py).

| original | here |
| --- | --- |
| stage 1: cross-entropy, without momentum | ``TRevision.step`` |
| T[i] = prediction at the pseudo-anchor of class i | ``ops.anchor_transition``, ``estimated`` |
| stage 2: mean of beta CE, beta = p_y / (p T)_y without gradient | ``importance`` |
| stage 3: the same with T + slack, beta differentiated; Adam on network and slack | ``importance``, ``TRevision.step`` |
| prediction: p, never p T | ``Method.probs`` |

Deviations from the original, and why
- The stages are fractions of one budget (20, 200 and 200 epochs there). Stages 2 and 3 start there from the best epoch
  of the one before on noisy validation data (by p, then by p T), and T is read off that epoch; a method has no
  validation set here, so a stage goes on from where the one before ended. Stage 3 keeps its last epoch there, the paper
  chooses it on noisy validation data; here the study's rules choose, by the accuracy of p.
- The published loop adds the slack once more for every row of a batch, so that row 128 has 128 times the slack and
  the result hangs on the order of rows: ``slack="code"``. "paper" adds it once. "projected" is a variant, in which T
  + slack is clipped at 0 and its rows divided by their sums; otherwise nothing keeps it a matrix of probabilities,
  and beta may turn negative.
- The vectorised losses of 2021 detach beta in stage 3, too, so that the slack never moves. They are not used there,
  nor here. The slack layer of theirs is in all three optimizers, without a gradient before stage 3, and its random
  start is zeroed there: here it is 0 from the first.
- The published ``norm`` divides column j by the sum of row j, and the search for anchors zeroes the top 3 % of a
  column in the predictions themselves, which spoils rows read later: ``estimate="code"``. "paper" leaves the
  predictions and divides rows. The percentile (fixed at 97 there, none for 100 classes) is ``percentile``.
  Predictions for it are augmented there, and not here.
- The recipe's optimizer serves stages 1 and 2 (in 1 without its momentum, and with fresh momentum in 2) and its
  weight decay all three, as there. The recipe's milestones are those of stage 2, at 40 and 80 of its 200 epochs (a
  scheduler stepped before the epoch makes it 39 and 79 with a current torch). Stage 3 has ``revision_lr`` and
  ``slack_lr``, 5e-7 for both in the code: with Adam the slack moves by no more than its rate a step, .035 in all on
  CIFAR-10. ``slack_lr`` is 1e-4 here unless a point says otherwise.
- ``beta_clip`` bounds the weights (0: not, as published). A denominator within 1e-12 of 0 is taken for 1e-12.
- Of matters of others nothing is rebuilt: every epoch's predictions and weights are kept there (270 MB, 220
  networks), MNIST test labels are shifted by one, ResNet stems have no padding, CIFAR-100 has the mean of CIFAR-10,
  ``--percentile`` is read and not used, the printed error of T + slack is divided by the wrong sum. The noise rate is
  used there for that error only.

Weights are p_y T_yy / (p T)_y, the probability that the given label is right. ``diagonal`` is the mean of T's,
``slack`` the largest entry of the slack.
"""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import unknown
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.ops import anchor_transition, row_normalise

EVAL_BATCH = 2048  # images per forward pass when predictions are collected; changes no result
TINY = 1e-12

Slack = Literal["paper", "projected", "code"]
Estimate = Literal["paper", "code"]


def estimated(probs: Tensor, percentile: float, estimate: Estimate = "paper") -> Tensor:
    """T [K, K] read off predictions ``probs`` [N, K] at anchors; "code": with the flaws of the published search and norm."""
    rows, _ = anchor_transition(probs, percentile, in_place=estimate == "code")
    return rows / rows.sum(1) if estimate == "code" else row_normalise(rows)


def noisy_given(p: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """(p T)_y, [B], of probabilities ``p`` [B, K], labels ``y`` [B] and any matrix ``t`` [K, K]."""
    return (p * t.t()[y]).sum(1)


def importance(logits: Tensor, y: Tensor, t: Tensor, slack: Tensor | None = None, kind: Slack = "paper") -> Tensor:
    """beta = p_y / (p (T + slack))_y, [B]; ``slack`` [K, K] or None. "code": row i has i times the slack, counted from 1."""
    p = logits.softmax(1)
    if slack is None:
        q = noisy_given(p, y, t)
    elif kind == "code":
        q = noisy_given(p, y, t) + torch.arange(1, len(y) + 1, device=y.device) * noisy_given(p, y, slack)
    else:
        q = noisy_given(p, y, row_normalise((t + slack).clamp_min(0)) if kind == "projected" else t + slack)
    return p.gather(1, y[:, None]).squeeze(1) / torch.where(q.abs() < TINY, TINY, q)


class TRevision(Method):
    """Reweighting with a revised T.

    ``stage1``, ``stage2``: fractions of the epochs of cross-entropy before T is estimated, and of reweighting with it; the rest revises
    it. ``percentile``: of the anchors, 100 for arg max. ``estimate``: of T as in the "paper" or as in the "code". ``slack``: added once
    ("paper"), once and made a matrix of probabilities again ("projected"), or once more per row ("code"). ``revision_lr``: the
    network's learning rate in stage 3. ``slack_lr``: the slack's. ``beta_clip``: largest weight of a sample, 0 for any.
    """

    transition: Tensor  # [K, K] T

    def __init__(
        self,
        task: Task,
        *,
        stage1: float = 20 / 420,
        stage2: float = 200 / 420,
        percentile: float = 97.0,
        estimate: Estimate = "paper",
        slack: Slack = "paper",
        revision_lr: float = 5e-7,
        slack_lr: float = 1e-4,
        beta_clip: float = 0.0,
    ) -> None:
        super().__init__(task)
        if slack not in ("paper", "projected", "code"):
            raise unknown("slack", slack, ("paper", "projected", "code"))
        if estimate not in ("paper", "code"):
            raise unknown("estimate", estimate, ("paper", "code"))
        self.percentile, self.revision_lr, self.slack_lr = percentile, revision_lr, slack_lr
        self.beta_clip = beta_clip
        self.estimate: Estimate = estimate
        self.slack_kind: Slack = slack
        self.settled_at = min(stage1, 1.0)
        self.begin2 = max(round(stage1 * task.epochs), 1)  # the first epoch of stage 2, and of stage 3
        self.begin3 = max(round((stage1 + stage2) * task.epochs), self.begin2 + 1)
        device = next(self.nets.parameters()).device
        self.register_buffer("transition", torch.eye(task.n_classes, device=device))
        self.slack = torch.nn.Parameter(torch.zeros(task.n_classes, task.n_classes, device=device))
        self.momentum = self.optimizers[0].defaults.get("momentum")
        groups = [{"params": list(self.nets.parameters())}, {"params": [self.slack]}]
        decay = self.optimizers[0].defaults["weight_decay"]
        self.optimizers.append(torch.optim.Adam(groups, weight_decay=decay, fused=True))

    def settled(self) -> float:
        return self.settled_at

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        if self.momentum is not None:
            for group in self.optimizers[0].param_groups:
                group["momentum"] = 0.0 if t < self.begin2 else self.momentum
        for group, rate in zip(self.optimizers[1].param_groups, (self.revision_lr, self.slack_lr), strict=True):
            group["lr"] = rate
        if t == self.begin2:
            yield self._estimate(train)
        yield from super().epoch(t, train)

    @torch.no_grad()
    def _estimate(self, train: Train) -> Log:
        self.eval()
        self.optimizers[0].state.clear()
        probs = torch.zeros(len(train), train.n_classes, dtype=torch.float64, device=train.y.device)
        for batch in train.batches(augment=False, shuffle=False, batch_size=EVAL_BATCH):
            probs[batch.index] = self.nets[0](batch.x).double().softmax(1)
        self.transition.copy_(estimated(probs, self.percentile, self.estimate))
        return {"passes": len(train), "diagonal": self.transition.diagonal().mean()}

    def step(self, batch: Batch, t: int) -> Log:
        logits = self.nets[0](batch.x)
        logits = logits.to(self.transition)  # not in half precision
        losses = F.cross_entropy(logits, batch.y, reduction="none")
        if t < self.begin2:
            loss = losses.mean()
            self.descend(0, loss)
            return {"loss": loss.detach()}
        revising = t >= self.begin3
        beta = importance(logits, batch.y, self.transition, self.slack if revising else None, self.slack_kind)
        if self.beta_clip:
            beta = beta.clamp(0, self.beta_clip)
        loss = ((beta if revising else beta.detach()) * losses).mean()
        self.descend(int(revising), loss)
        right = beta.detach() * self.transition.diagonal()[batch.y]
        log = {"loss": loss.detach(), "index": batch.index, "weight": right.clamp(0, 1)}
        return log | {"slack": self.slack.detach().abs().max()} if revising else log
